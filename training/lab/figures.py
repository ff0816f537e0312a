"""How well a denoiser moves people, read in latents: quick enough to be asked of every run, seed and number of steps.

Pictures are judged by `visavis evaluate`, which takes minutes for a row; what these figures are about (the mouth
against the voice, how much and how evenly faces move, how like real motion it is) is decided in the latents already.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from engine.model.avatar import AvatarModel
from training.codec import correlation
from training.denoising import opening_of, readers, true_opening
from training.evaluate.frechet import distance_to, films
from training.evaluate.metrics import lag_of, lag_scores
from training.generate import SamplingConfig, generate
from training.objectives.blocks import conditions, encode_voices
from training.run import Batch, autocast

_LEAST_SPEAKING = 0.6


@dataclass(frozen=True, slots=True)
class Figures:
    """Of motion drawn for held-out clips, with nothing told of pose and expression.

    r: correlation of the mouth's opening with the truth's, mean over clips that speak. lag_ms: how late it is. opening:
    its spread over the truth's. energy, jerk: of what the probe reads, over the truth's (squares of first and third
    differences). seam: change from frame to frame at a block's edge over inside, the truth being 1. frechet_frame,
    frechet_film: Fréchet distances of the probe's readings, of frames and of films (see evaluate.frechet); smaller is
    nearer.
    """

    r: float
    lag_ms: float
    opening: float
    energy: float
    jerk: float
    seam: float
    frechet_frame: float
    frechet_film: float

    def as_json(self) -> dict[str, float]:
        return {k: round(float(v), 5) for k, v in asdict(self).items()}


@torch.no_grad()
def draw(model: AvatarModel, batch: Batch, how: SamplingConfig, seed: int) -> Tensor:
    """Motion [B, F, C, G, G] for a batch of held-out clips, in the latents' own units."""
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in batch.items()}
    with autocast(device):
        given = conditions(model.denoiser, *encode_voices(model.audio, batch), batch, None)
        free = type(given)(
            given.audio, given.listening, given.state, given.expression, given.expression_given * 0,
            given.pose, given.pose_given * 0,
        )  # fmt: skip
        motion = generate(model.denoiser, free, batch["reference"], how, seed)
    return (motion.float() * model.codec.latent_scale).cpu()


def measure(model: AvatarModel, batch: Batch, how: SamplingConfig, seed: int) -> Figures:
    """Draw and measure; see Figures."""
    moved = draw(model, batch, how, seed)
    true = (batch["latent"] - batch["reference"][:, None]).float().cpu()
    return figures_of(model, moved, true, batch, how.block)


@torch.no_grad()
def figures_of(model: AvatarModel, moved: Tensor, true: Tensor, batch: Batch, block: int) -> Figures:
    """moved, true: latents minus the reference's [B, F, C, G, G]; block: frames that were drawn at once."""
    probe = model.codec.probe
    assert probe is not None
    probe = probe.cpu()
    points = batch["reference_landmarks"]
    truth, opened = true_opening(batch["landmarks"]), opening_of(probe, moved, points)
    speaking = [i for i in range(len(truth)) if float((batch["state"][i] == 0).float().mean()) > _LEAST_SPEAKING]
    lags = np.mean([lag_scores(opened[i].numpy(), truth[i].numpy()) for i in speaking], 0)
    read, wanted = readings(model, moved), readings(model, true)
    return Figures(
        r=float(np.mean([correlation(opened[i], truth[i]) for i in speaking])),
        lag_ms=lag_of(lags)[0],
        opening=float(opened[speaking].std() / truth[speaking].std()),
        energy=float(_change(read, 1) / _change(wanted, 1)),
        jerk=float(_change(read, 3) / _change(wanted, 3)),
        seam=_seam(moved, block) / _seam(true, block),
        frechet_frame=distance_to(list(wanted.numpy()), list(read.numpy())),
        frechet_film=distance_to([films(clip) for clip in wanted.numpy()], [films(clip) for clip in read.numpy()]),
    )


def readings(model: AvatarModel, moved: Tensor) -> Tensor:
    """[B, F, K]: what the probe reads, by what counts when people talk."""
    weight = readers(model)[0].weight.cpu() / float(model.codec.latent_scale)
    return moved.flatten(2) @ weight.T


def _change(x: Tensor, order: int) -> Tensor:
    return torch.diff(x, n=order, dim=1).square().mean()


def _seam(moved: Tensor, block: int) -> float:
    change = (moved[:, 1:] - moved[:, :-1]).abs().mean((0, 2, 3, 4))
    edge = torch.arange(1, moved.shape[1]) % block == 0
    return float(change[edge].mean() / change[~edge].mean())
