"""Denoisers that share the way from noise to a clip among them, each on its own stretch of time (Phased DMD,
arXiv 2510.27684; the experts of Wan 2.2 split theirs alike).

To whoever calls it this is one denoiser whose cache holds every expert's keys and values, one after the other.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from engine.model.config import ModelConfig
from engine.model.denoiser import Conditions, Denoiser


class Experts(nn.Module):
    """Expert i takes times above config.phases[i] (the last one all below), of those that no earlier one took.

    Only the pass at time 0, which feeds the cache, makes every expert's keys and values; other calls leave zeros for
    the experts that they do not ask. So it must be drawn with a context time of 0.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if not config.phases or any(a <= b for a, b in zip(config.phases, config.phases[1:], strict=False)):
            raise ValueError(f"phases must fall, and be at least one: {config.phases}")
        self.config = config
        alone = replace(config, phases=())
        self.experts = nn.ModuleList(Denoiser(alone) for _ in range(len(config.phases) + 1))

    @property
    def null_audio(self) -> Tensor:
        """The last expert's."""
        return self.experts[-1].null_audio

    def expert_of(self, t: Tensor) -> Tensor:
        """int64, of the shape of t."""
        edges = torch.tensor(self.config.phases, device=t.device, dtype=t.dtype)
        return (t[..., None] <= edges + 1e-6).sum(-1)

    def prefill_reference(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        """See Denoiser; layers of all experts."""
        pairs = [expert.prefill_reference(reference) for expert in self.experts]
        return torch.cat([keys for keys, _ in pairs]), torch.cat([values for _, values in pairs])

    def stream(
        self, latents: Tensor, t: Tensor, c: Conditions, keys: Tensor, values: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Denoiser.stream; keys and values of all experts' layers."""
        chosen, depth = self.expert_of(t), self.config.depth
        # What depends on a value cannot be traced, so a graph asks everybody.
        everybody = torch.compiler.is_compiling() or bool((t == 0).all())
        velocity, new = None, []
        for i, expert in enumerate(self.experts):
            mine = (chosen == i)[..., None, None, None]
            if not everybody and not bool(mine.any()):
                new.append(None)
                continue
            layers = slice(i * depth, (i + 1) * depth)
            v, k, w = expert.stream(latents, t, c, keys[layers], values[layers], valid)
            new.append((k, w))
            velocity = v if velocity is None else torch.where(mine, v, velocity)
        known = next(pair for pair in new if pair is not None)
        filled = [pair or tuple(torch.zeros_like(x) for x in known) for pair in new]
        return velocity, torch.cat([k for k, _ in filled]), torch.cat([w for _, w in filled])

    def forward(
        self, noisy: Tensor, clean: Tensor, t: Tensor, c: Conditions, reference: Tensor, block_of: Tensor,
        t_clean: Tensor,
    ) -> Tensor:  # fmt: skip
        """See Denoiser.forward; every block at times of one expert."""
        chosen = self.expert_of(t)
        velocity = None
        for i, expert in enumerate(self.experts):
            mine = chosen == i
            if bool(mine.any()):
                v = expert(noisy, clean, t, c, reference, block_of, t_clean)
                velocity = v if velocity is None else torch.where(mine[..., None, None, None], v, velocity)
        return velocity


def make_denoiser(config: ModelConfig) -> Denoiser | Experts:
    """What the config asks for."""
    return Experts(config) if config.phases else Denoiser(config)
