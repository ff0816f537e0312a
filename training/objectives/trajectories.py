"""A student's or a teacher's way from noise to a clip, state by state, and one step of it with a gradient.

Methods that judge a deterministic sampler between its steps (TDM, Phased DMD, AccVideo) need the states of Euler's
method at each of its times. They are drawn block by block without a gradient, as the engine draws them; a single step
is then taken again for all blocks at once, given the clean frames that were drawn before each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.diffusion.flow import timesteps, to_time
from engine.diffusion.rollout import Cache, generate_block
from engine.diffusion.sampler import Velocity
from engine.model.denoiser import Conditions, Denoiser
from training.objectives.blocks import per_block, without_voice


def euler_times(steps: int, shift: float) -> list[float]:
    """The times of an Euler sampler with so many steps, 1 and 0 included."""
    return [*timesteps(steps, shift), 0.0]


@torch.no_grad()
def trajectories(
    denoiser: Denoiser, c: Conditions, reference: Tensor, blocks: Tensor, times: Sequence[float], noise: Tensor,
    guidance: float = 1.0,
) -> Tensor:  # fmt: skip
    """States [len(times), B, F, C, G, G] at each of the falling times, the first of them noise [B, F, C, G, G].

    Each block is drawn given what was drawn before it. guidance: as in training.generate, for a teacher.
    """
    cfg = denoiser.config
    start = Cache.start(*denoiser.prefill_reference(reference), cfg.context_frames * cfg.frame_tokens)
    caches, conditions = [start], [c]
    if guidance != 1.0:
        caches, conditions = [start, start], [c, without_voice(denoiser, c)]
    out, first = [], 0
    for length in torch.bincount(blocks).tolist():
        here = [given.slice(first, first + length) for given in conditions]
        x, states = noise[:, first : first + length], []
        bound = [_bound(denoiser, given, cache) for given, cache in zip(here, caches, strict=True)]

        def velocity(x: Tensor, t: float, bound: list[Velocity] = bound) -> Tensor:
            v: Tensor = bound[0](x, t)
            if len(bound) > 1:
                base = bound[1](x, t)
                v = base + guidance * (v - base)
            return v

        for t, s in zip(times, times[1:], strict=False):
            states.append(x)
            x = to_time(x, velocity(x, t), t, s)
        out.append(torch.stack([*states, x]))
        caches = [_append(denoiser, given, cache, x) for given, cache in zip(here, caches, strict=True)]
        first += length
    return torch.cat(out, 2)


def _bound(denoiser: Denoiser, given: Conditions, cache: Cache) -> Velocity:
    def velocity(x: Tensor, t: float) -> Tensor:
        times = torch.full(x.shape[:2], float(t), device=x.device)
        return denoiser.stream(x, times, given, cache.keys, cache.values, cache.valid)[0]

    return velocity


def _append(denoiser: Denoiser, given: Conditions, cache: Cache, x: Tensor) -> Cache:
    def model(x: Tensor, t: float, keys: Tensor, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        times = torch.full(x.shape[:2], float(t), device=x.device)
        return denoiser.stream(x, times, given, keys, values, valid)

    return generate_block(model, lambda velocity, noise, times: noise, x, (), cache)[1]


def pick(states: Tensor, times: Sequence[float], index: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each block the state that its index names, and the times there and one step on.

    states [K + 1, B, F, ...]; index int64 [B, blocks], below K. Returns [B, F, C, G, G], [B, F], [B, F].
    """
    grid = torch.tensor(list(times), device=states.device)
    of_frame = per_block(index, blocks)
    x = states.gather(0, of_frame[None, ..., None, None, None].expand(1, *states.shape[1:]))[0]
    return x, grid[of_frame], grid[of_frame + 1]
