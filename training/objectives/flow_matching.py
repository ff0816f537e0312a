"""Flow matching on block-causal sequences (arXiv 2210.02747), the teacher's objective.

Each block has its own time; the context is the clean data, slightly noised, so that the model forgives the errors of
its own roll-outs (noise-augmented context; CausVid, arXiv 2412.07772; LLIA reports the same need).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.diffusion.flow import add_noise, velocity
from engine.model.audio import AudioEncoder
from engine.model.denoiser import Denoiser
from training.objectives.blocks import (
    DropRates,
    LegibleError,
    conditions,
    draw_withheld,
    encode_voices,
    per_block,
    random_blocks,
)
from training.run import Batch


@dataclass(frozen=True, slots=True)
class FlowMatchingConfig:
    time_mean: float = 0.2
    time_spread: float = 1.2
    """Times are sigmoid(N(mean, spread)): the middle of the path, leaning to noise."""
    context_noise: float = 0.15
    """Largest share of noise in the context."""
    legible: float = 2.0
    """Weight of the probe-space error: about a third of the loss once the rest has settled."""
    articulation: float = 0.0
    """Weight of the clean estimate's error in the speech units, at all times alike: a voice says much of them even
    where nothing but noise is seen of the picture. It stresses directions of the regression; its optimum stays."""
    edge: float = 2.0
    """How much more than any other the first frame of a block counts, where a jump shows as a seam."""


class FlowMatching(nn.Module):
    """Trains audio encoder and denoiser together."""

    def __init__(
        self,
        denoiser: Denoiser,
        audio: AudioEncoder,
        legible: LegibleError,
        latent_scale: float,
        config: FlowMatchingConfig | None = None,
        drop: DropRates | None = None,
        articulation: LegibleError | None = None,
    ) -> None:
        """legible: all that the codec's probe reads; articulation: what speech moves, for the term of that name."""
        super().__init__()
        self.denoiser, self.audio = denoiser, audio
        self.legible, self.articulation = legible, articulation
        self.latent_scale = latent_scale
        self.config = config or FlowMatchingConfig()
        self.drop = drop or DropRates()

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        c = self.config
        reference = batch["reference"]
        x0 = (batch["latent"] - reference[:, None]) / self.latent_scale
        size, frames = x0.shape[:2]
        block_of = random_blocks(frames, self.denoiser.config.block_lengths).to(x0.device)
        blocks = int(block_of[-1]) + 1
        z = torch.randn(size, blocks, device=x0.device)
        t = per_block(torch.sigmoid(c.time_mean + c.time_spread * z), block_of)
        noise, t5 = torch.randn_like(x0), t[..., None, None, None]
        context = noisy_context(x0, c.context_noise)
        own, partner = encode_voices(self.audio, batch)
        given = conditions(self.denoiser, own, partner, batch, draw_withheld(size, self.drop, x0.device))
        predicted = self.denoiser(add_noise(x0, noise, t5), context, t, given, reference, block_of, torch.zeros_like(t))
        error = predicted - velocity(x0, noise)
        weight = edge_weight(block_of, c.edge)
        flow = (error.square().mean((2, 3, 4)) * weight).mean()
        # The clean estimate errs by t times the velocity's error; near t = 1 it says little, so it counts less.
        legible = (self.legible(t5 * error) * (1 - t) * weight).mean()
        loss = flow + c.legible * legible
        logs = {"flow": float(flow.detach()), "legible": float(legible.detach())}
        if self.articulation is not None and c.articulation:
            articulation = (self.articulation(t5 * error) * weight).mean()
            loss = loss + c.articulation * articulation
            logs["articulation"] = float(articulation.detach())
        return loss, logs


def noisy_context(x0: Tensor, most: float) -> Tensor:
    """x0 with a share of noise drawn per sequence from [0, most]."""
    share = most * torch.rand(len(x0), 1, 1, 1, 1, device=x0.device)
    return add_noise(x0, torch.randn_like(x0), share)


def edge_weight(block_of: Tensor, edge: float) -> Tensor:
    """Weight of each frame's error [F], mean 1: 1 + edge where a block follows another, 1 elsewhere."""
    follows = torch.zeros(len(block_of), device=block_of.device)
    follows[1:] = (block_of[1:] != block_of[:-1]).float()
    weight = 1 + edge * follows
    return weight / weight.mean()
