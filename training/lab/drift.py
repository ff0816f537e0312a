"""Whether a face stays itself over ten minutes of rolling on, with an EMA-Sink, with a static one, in latents.

Nobody recorded ten minutes, so what is heard are held-out clips one after the other, each person keeping their own
portrait; nothing that is drawn is ever set right from outside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.model.avatar import AvatarModel
from engine.types import FPS
from training.evaluate.frechet import distance_to
from training.generate import SamplingConfig, generate
from training.lab.figures import readings
from training.latents import LatentClips, SequenceBatches
from training.objectives.blocks import conditions, encode_voices
from training.run import Batch, autocast

PIECE = 64
"""Frames of a clip that are heard before the next one."""


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of a roll-out beside its first. away: how far the mean of what the probe reads has gone, in spreads of
    the first minute; energy: of its motion, over the first minute's; frechet: distance of its frames from true ones of
    the same people.
    """

    minute: int
    away: float
    energy: float
    frechet: float


def long_batch(clips: LatentClips, people: int, frames: int, seed: int = 0) -> Batch:
    """Sequences of `frames` frames: each of so many people hears piece after piece of all clips."""
    pieces = SequenceBatches(clips, PIECE, people, seed, augment=False)
    drawn = [pieces.draw() for _ in range(-(-frames // PIECE))]
    whole = {k: torch.cat([batch[k] for batch in drawn], 1)[:, :frames] for k in ("state", "expression", "pose")}
    for name in ("windows", "partner_windows"):
        whole[name] = torch.cat([batch[name] for batch in drawn], 1)[:, :frames]
    return whole | {k: drawn[0][k] for k in ("reference", "latent")}


@torch.no_grad()
def drift(
    model: AvatarModel, clips: LatentClips, how: SamplingConfig, sink_decay: float, minutes: int = 10, people: int = 4
) -> list[Minute]:
    """Figures of every minute. sink_decay: see engine.diffusion.rollout.Cache.append; 1 is the static sink, which the
    portrait's own keys and values are; with 0 the frame that leaves takes its place, which is a window and no sink.
    """
    per_minute = 60 * FPS
    batch = long_batch(clips, people, minutes * per_minute)
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in batch.items()}
    with autocast(device):
        given = conditions(model.denoiser, *encode_voices(model.audio, batch), batch, None)
        free = replace(
            given, expression_given=torch.zeros_like(given.expression_given), pose_given=given.pose_given * 0
        )
        motion = generate(model.denoiser, free, batch["reference"], replace(how, sink_decay=sink_decay))
    read = readings(model, (motion.float() * model.codec.latent_scale).cpu())
    true = readings(model, (batch["latent"] - batch["reference"][:, None]).float().cpu())
    by_minute = list(read.split(per_minute, 1))
    return [_minute(i + 1, part, by_minute[0], true) for i, part in enumerate(by_minute)]


def _minute(number: int, part: Tensor, first: Tensor, true: Tensor) -> Minute:
    spread = first.std(1).clamp_min(1e-6)
    away = ((part.mean(1) - first.mean(1)) / spread).square().mean().sqrt()

    def energy(x: Tensor) -> Tensor:
        return torch.diff(x, dim=1).square().mean()

    frechet = distance_to(list(true.numpy()), list(part.numpy()))
    return Minute(number, float(away), float(energy(part) / energy(first)), frechet)
