"""Denoising the steps of several slots in one go, and never letting a number that is not finite get further."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from engine.audio.features import LOG_FLOOR
from engine.backends.base import Backend
from engine.diffusion.flow import timesteps
from engine.diffusion.rollout import Cache, generate_block
from engine.diffusion.sampler import SAMPLERS
from engine.worker.base import Floats, Step
from engine.worker.slots import SlotState

Wanted = Callable[[], bool]


class UnwantedError(Exception):
    """Nobody waits for the batch any more, so it was left off. Never leaves the worker."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What steers the frames of a block, in the arguments of Backend.denoise: [B, F, ...]."""

    audio: Floats
    listening: Floats
    state: NDArray[np.int64]
    expression: Floats
    expression_given: Floats
    pose: Floats
    pose_given: Floats


@dataclass(frozen=True, slots=True)
class BoundDenoiser:
    """The denoiser with a batch's conditions filled in, as engine.diffusion.rollout calls it."""

    backend: Backend
    conditions: Conditions
    wanted: Wanted

    def __call__(
        self, latents: Floats, t: float, keys: Floats, values: Floats, valid: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Raises UnwantedError, so that a cancelled batch ends within one call."""
        if not self.wanted():
            raise UnwantedError
        c = self.conditions
        return self.backend.denoise(
            latents=latents,
            timestep=np.full(len(latents), t, np.float32),
            audio=c.audio,
            listening=c.listening,
            state=c.state,
            expression=c.expression,
            expression_given=c.expression_given,
            pose=c.pose,
            pose_given=c.pose_given,
            cache_keys=keys,
            cache_values=values,
            cache_valid=valid,
        )


@dataclass(frozen=True, slots=True)
class Denoised:
    """One slot's part of a batch. latents [F, C, G, G], all finite; cache includes the block, None when it is kept
    where the block was made. The times are this slot's share of the batch's. restarted: what came first was not finite,
    so the block starts from the reference alone.
    """

    latents: Floats
    cache: Cache | None
    audio_ms: float
    denoise_ms: float
    restarted: bool


def denoise_batch(
    backend: Backend, slots: Sequence[SlotState], steps: Sequence[Step], wanted: Wanted
) -> list[Denoised]:
    """Run one step of each slot; all have one length and one number of denoising steps. Changes no slot.

    Raises UnwantedError, and whatever the backend raises.
    """
    began = perf_counter()
    conditions = hear(backend, steps)
    heard = perf_counter()
    caches = [slot.context_for(step) for slot, step in zip(slots, steps, strict=True)]
    blocks = _generate(backend, conditions, slots, steps, caches, wanted)
    sound = [_is_sound(latents, cache) for latents, cache in blocks]
    for i in [i for i, ok in enumerate(sound) if not ok]:
        blocks[i] = _restart(backend, slots[i], steps[i], wanted)
    share = 1e3 / len(steps)
    audio_ms, denoise_ms = share * (heard - began), share * (perf_counter() - heard)
    return [Denoised(*block, audio_ms, denoise_ms, not ok) for block, ok in zip(blocks, sound, strict=True)]


def hear(backend: Backend, steps: Sequence[Step]) -> Conditions:
    """Encode both parties' voices of all steps in one call, and stack what else steers them."""
    windows = _audible(np.stack([step.windows for step in steps] + [step.partner_windows for step in steps]))
    embeddings = backend.encode_audio(windows.reshape(-1, *windows.shape[2:]))
    own, partner = embeddings.reshape(2, len(steps), steps[0].frames, -1)
    return Conditions(
        audio=own,
        listening=partner,
        state=np.stack([step.state for step in steps]),
        expression=np.stack([step.expression for step in steps]),
        expression_given=np.stack([step.expression_given for step in steps]),
        pose=np.stack([step.pose for step in steps]),
        pose_given=np.stack([step.pose_given for step in steps]),
    )


def _audible(windows: Floats) -> Floats:
    """Sound that is not a number is silence."""
    finite = np.isfinite(windows)
    return windows if finite.all() else np.where(finite, windows, np.float32(LOG_FLOOR))


def _generate(
    backend: Backend,
    conditions: Conditions,
    slots: Sequence[SlotState],
    steps: Sequence[Step],
    caches: Sequence[Cache],
    wanted: Wanted,
) -> list[tuple[Floats, Cache]]:
    sampling = backend.sampling
    latents, cache = generate_block(
        BoundDenoiser(backend, conditions, wanted),
        SAMPLERS[sampling.sampler],
        np.concatenate([slot.noise_for(step) for slot, step in zip(slots, steps, strict=True)]),
        timesteps(steps[0].denoising_steps, sampling.time_shift),
        Cache.join(caches),
        backend.manner,
    )
    rows = cache.split() if len(steps) > 1 else [cache]
    return [(block, _detach(row) if len(rows) > 1 else row) for block, row in zip(latents, rows, strict=True)]


def _detach(row: Cache) -> Cache:
    """A copy, since a view would keep the caches of the whole batch alive."""
    recent = None if row.recent is None else row.recent.copy()
    return Cache(row.keys.copy(), row.values.copy(), row.valid.copy(), row.reference_slots, recent)


def _is_sound(latents: Floats, cache: Cache) -> bool:
    """Whether a block and what it wrote into the cache can be built upon."""
    return all(bool(np.isfinite(array).all()) for array in (latents, cache.keys, cache.values))


def _restart(backend: Backend, slot: SlotState, step: Step, wanted: Wanted) -> tuple[Floats, Cache]:
    """The block without context; and if that is no better, the portrait at rest, which is the latents' origin."""
    latents, cache = _generate(backend, hear(backend, [step]), [slot], [step], [slot.start], wanted)[0]
    if _is_sound(latents, cache):
        return latents, cache
    return np.zeros_like(latents), slot.start
