"""The one block loop: denoise a block against the cache, then write its clean keys and values.

Runtime (numpy), training roll-outs and parity tests (torch) all call `generate_block`, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from engine.diffusion.arrays import namespace
from engine.diffusion.flow import to_x0
from engine.diffusion.sampler import Sampler, Velocity


class BlockModel(Protocol):
    """The denoiser bound to a block's conditions: see engine.model.denoiser.Denoiser.stream for shapes."""

    def __call__(self, latents: Any, t: float, keys: Any, values: Any, valid: Any) -> tuple[Any, Any, Any]: ...


@dataclass(frozen=True, slots=True)
class Manner:
    """How blocks are drawn and joined, beside sampler and steps.

    context_time: the noise level that the clean pass claims, the same as in training. noise_scale: below 1, samples lie
    nearer to what is likeliest ("temperature"); a young model's noise shows as trembling. easing: see Cache.ease.
    sink_decay: see Cache.append. speech, stress: see `articulate`.
    """

    context_time: float = 0.0
    noise_scale: float = 1.0
    easing: float = 0.0
    sink_decay: float = 1.0
    speech: Any = None
    stress: float = 1.0


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values [L, B, heads, S, head_width] and valid [B, S]; S = reference slots, then context, newest last.

    recent: latents [B, context frames, C, G, G] of the context, newest last, None before there is any; where valid is
    0, they are 0. Immutable: `append` returns the next one, so an interrupted block leaves nothing behind.
    """

    keys: Any
    values: Any
    valid: Any
    reference_slots: int
    recent: Any = None

    @staticmethod
    def start(keys: Any, values: Any, context_slots: int) -> Cache:
        """From the reference's keys and values; the context is empty."""
        xp = namespace(keys)
        reference_slots = int(keys.shape[3])
        hole = xp.zeros_like(keys[:, :, :, :1]).repeat(*_repeats(xp, context_slots))
        valid = xp.concatenate([xp.ones_like(keys[0, :, 0, :, 0]), xp.zeros_like(hole[0, :, 0, :, 0])], axis=1)
        return Cache(
            xp.concatenate([keys, hole], axis=3), xp.concatenate([values, hole], axis=3), valid, reference_slots
        )

    def append(self, keys: Any, values: Any, latents: Any = None, sink_decay: float = 1.0) -> Cache:
        """Push a block's keys and values [L, B, heads, F * tokens, head_width] and its latents [B, F, C, G, G]; the
        oldest context leaves.

        sink_decay: below 1, what leaves is not lost but averaged into the reference's slots, which then are an EMA-Sink
        (Reward Forcing, arXiv 2512.04678): sink = decay sink + (1 - decay) leaving, once a frame.
        """
        sunk = self if sink_decay == 1.0 else self._sink(int(keys.shape[3]), sink_decay)
        return sunk._push(keys, values, latents)

    def ease(self, latents: Any, share: float) -> Any:
        """A block whose first frame is nearer to the one before it, by that share of the distance, and the frames after
        it by its powers: what differs from block to block then comes in over some frames and not in one.
        """
        if self.recent is None or share == 0:
            return latents
        xp = namespace(latents)
        jump = (latents[:, :1] - self.recent[:, -1:]) * self.valid[:, -1][:, None, None, None, None]
        frames = [latents[:, i : i + 1] - jump * share ** (i + 1) for i in range(int(latents.shape[1]))]
        return xp.concatenate(frames, axis=1)

    def _sink(self, leaving: int, decay: float) -> Cache:
        r = self.reference_slots
        leaving = min(leaving, int(self.keys.shape[3]) - r)
        frames = leaving // r

        def blend(old: Any, index: int) -> Any:
            share = (1 - decay) * self.valid[:, r * (1 + index) : r * (2 + index)][None, :, None, :, None]
            return old[:, :, :, :r] * (1 - share) + old[:, :, :, r * (1 + index) : r * (2 + index)] * share

        xp, keys, values = namespace(self.keys), self.keys, self.values
        for index in range(frames):
            keys = xp.concatenate([blend(keys, index), keys[:, :, :, r:]], axis=3)
            values = xp.concatenate([blend(values, index), values[:, :, :, r:]], axis=3)
        return Cache(keys, values, self.valid, r, self.recent)

    def _push(self, keys: Any, values: Any, latents: Any) -> Cache:
        xp, r, new = namespace(self.keys), self.reference_slots, int(keys.shape[3])
        context = int(self.keys.shape[3]) - r

        def push(old: Any, fresh: Any) -> Any:
            kept = xp.concatenate([old[:, :, :, r:], fresh], axis=3)[:, :, :, -context:]
            return xp.concatenate([old[:, :, :, :r], kept], axis=3)

        filled = xp.concatenate([self.valid[:, r:], xp.ones_like(keys[0, :, 0, :, 0])], axis=1)[:, -context:]
        assert new > 0
        valid = xp.concatenate([self.valid[:, :r], filled], axis=1)
        return Cache(push(self.keys, keys), push(self.values, values), valid, r, self._newest(latents, context // r))

    def _newest(self, latents: Any, frames: int) -> Any:
        if latents is None:
            return self.recent
        xp, recent = namespace(latents), self.recent
        if recent is None:
            recent = xp.concatenate([xp.zeros_like(latents[:, :1])] * frames, axis=1)
        return xp.concatenate([recent, latents], axis=1)[:, -frames:]

    def take_back(self, slots: int) -> Cache:
        """Without its newest `slots` of context, for frames that were made but never shown. What they had pushed out is
        gone, so the context is shorter until it fills again.
        """
        xp, r = namespace(self.keys), self.reference_slots
        context = int(self.keys.shape[3]) - r
        kept = context - min(slots, context)

        def shift(old: Any) -> Any:
            hole = xp.zeros_like(old[:, :, :, r + kept :])
            return xp.concatenate([old[:, :, :, :r], hole, old[:, :, :, r : r + kept]], axis=3)

        hole = xp.zeros_like(self.valid[:, r + kept :])
        valid = xp.concatenate([self.valid[:, :r], hole, self.valid[:, r : r + kept]], axis=1)
        recent, frames = self.recent, (context - kept) // r
        if recent is not None:
            hole = xp.zeros_like(recent[:, recent.shape[1] - frames :])
            recent = xp.concatenate([hole, recent[:, : recent.shape[1] - frames]], axis=1)
        return Cache(shift(self.keys), shift(self.values), valid, r, recent)

    @staticmethod
    def join(caches: Sequence[Cache]) -> Cache:
        """Caches of several sessions as one batch; all have the same shape."""
        xp = namespace(caches[0].keys)
        known = next((c.recent for c in caches if c.recent is not None), None)
        recent = None
        if known is not None:
            rows = [xp.zeros_like(known[:1]) if c.recent is None else c.recent for c in caches]
            recent = xp.concatenate(rows, axis=0)
        return Cache(
            xp.concatenate([c.keys for c in caches], axis=1),
            xp.concatenate([c.values for c in caches], axis=1),
            xp.concatenate([c.valid for c in caches], axis=0),
            caches[0].reference_slots,
            recent,
        )

    def split(self) -> list[Cache]:
        """Inverse of join: one cache for each row of the batch."""
        return [
            Cache(
                self.keys[:, i : i + 1],
                self.values[:, i : i + 1],
                self.valid[i : i + 1],
                self.reference_slots,
                None if self.recent is None else self.recent[i : i + 1],
            )
            for i in range(len(self.valid))
        ]


def _repeats(xp: ModuleType, slots: int) -> tuple[Any, ...]:
    # numpy's repeat takes (count, axis); torch's takes a count per axis.
    return (slots, 3) if xp.__name__ == "numpy" else (1, 1, 1, slots, 1)


def generate_block(
    model: BlockModel,
    sampler: Sampler,
    noise: Any,
    times: Sequence[float],
    cache: Cache,
    manner: Manner | None = None,
) -> tuple[Any, Cache]:
    """One block of latents [B, F, C, G, G] from noise of that shape, and the cache that includes it.

    times: descending diffusion times, see engine.diffusion.flow.timesteps.
    """
    manner = manner or Manner()

    def velocity(x: Any, t: float) -> Any:
        return model(x, t, cache.keys, cache.values, cache.valid)[0]

    latents = sampler(velocity, noise * manner.noise_scale, times)
    if manner.speech is not None:
        latents = articulate(latents, velocity, times[0], manner.speech, manner.stress)
    latents = cache.ease(latents, manner.easing)
    _, keys, values = model(latents, manner.context_time, cache.keys, cache.values, cache.valid)
    return latents, cache.append(keys, values, latents, manner.sink_decay)


def articulate(latents: Any, velocity: Velocity, t: float, speech: Any, stress: float) -> Any:
    """A block [B, F, C, G, G] whose mouth says what the voice says, without what chance adds to it.

    Chance in a head's turn is variety, in a mouth it is error. The likeliest mouth is that of one step from no noise at
    all; along the directions that part lips and leave the head where it is, it takes the place of the drawn one.
    speech [2, K, C * G * G]: what reads these K directions out of latents, and what a unit of each moves there, see
    training.speech. stress: gain of the likeliest mouth, since the mean of all that a voice leaves open moves less than
    any one mouth. t: time of pure noise.
    """
    still = namespace(latents).zeros_like(latents)
    likeliest = to_x0(still, velocity(still, t), t)
    change = (stress * likeliest - latents).reshape(*latents.shape[:2], -1)
    reads, moves = speech[0], speech[1]
    return latents + ((change @ reads.T) @ moves).reshape(latents.shape)
