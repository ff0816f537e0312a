"""Streamed generation with the torch model, block by block, as the engine does it: for samples and measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from engine.backends.base import Sampling
from engine.diffusion.flow import timesteps
from engine.diffusion.rollout import Cache, Manner, generate_block
from engine.diffusion.sampler import SAMPLERS
from engine.model.denoiser import Conditions, Denoiser
from training.objectives.blocks import without_voice


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How to draw: teacher 30 Euler steps with guidance, student 2 consistency steps without."""

    sampler: str = "euler"
    steps: int = 30
    shift: float = 1.5
    guidance: float = 1.5
    block: int = 8
    noise_scale: float = 1.0
    easing: float = 0.0
    sink_decay: float = 1.0


TEACHER_SAMPLING = SamplingConfig()
STUDENT_SAMPLING = SamplingConfig(sampler="consistency", steps=2, guidance=1.0, noise_scale=0.9, easing=0.35)


def student_sampling(meta: Mapping[str, Any]) -> SamplingConfig:
    """How a student is drawn, by the meta of its checkpoint: as it says, else as students are."""
    if "sampling" not in meta:
        return STUDENT_SAMPLING
    own = Sampling.from_dict(meta["sampling"])
    return replace(
        STUDENT_SAMPLING, sampler=own.sampler, steps=own.steps, shift=own.time_shift, noise_scale=own.noise_scale,
        easing=own.easing,
    )  # fmt: skip


@torch.no_grad()
def generate(denoiser: Denoiser, c: Conditions, reference: Tensor, how: SamplingConfig, seed: int = 0) -> Tensor:
    """Motion latents [B, F, C, G, G] for conditions of F frames; reference [B, C, G, G]."""
    cfg = denoiser.config
    size, frames = c.state.shape
    generator = torch.Generator().manual_seed(seed)
    keys, values = denoiser.prefill_reference(reference)
    cache = Cache.start(keys, values, cfg.context_frames * cfg.frame_tokens)
    blind = without_voice(denoiser, c)
    blind_cache = cache
    out, first = [], 0
    while first < frames:
        length = min(how.block, frames - first)
        noise = torch.randn(
            size, length, cfg.latent_channels, cfg.latent_grid, cfg.latent_grid, generator=generator
        ).to(reference.device)
        given, null = c.slice(first, first + length), blind.slice(first, first + length)
        blind_at = blind_cache

        def model(x: Tensor, t: float, k: Tensor, v: Tensor, valid: Tensor, given: Conditions = given,
                  null: Conditions = null, blind_at: Cache = blind_at) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
            times = torch.full(x.shape[:2], float(t), device=x.device)
            out, keys, values = denoiser.stream(x, times, given, k, v, valid)
            if how.guidance != 1.0 and t > 0:
                base = denoiser.stream(x, times, null, blind_at.keys, blind_at.values, blind_at.valid)[0]
                out = base + how.guidance * (out - base)
            return out, keys, values

        manner = Manner(noise_scale=how.noise_scale, easing=how.easing, sink_decay=how.sink_decay)
        times = timesteps(how.steps, how.shift)
        latents, cache = generate_block(model, SAMPLERS[how.sampler], noise, times, cache, manner)
        if how.guidance != 1.0:
            zero = torch.zeros(size, length, device=reference.device)
            _, k, v = denoiser.stream(latents, zero, null, blind_at.keys, blind_at.values, blind_at.valid)
            blind_cache = blind_cache.append(k, v)
        out.append(latents)
        first += length
    return torch.cat(out, 1)
