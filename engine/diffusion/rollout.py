"""The one block loop: denoise a block against the cache, then write its clean keys and values.

Runtime (numpy), training roll-outs and parity tests (torch) all call `generate_block`, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from engine.diffusion.arrays import namespace
from engine.diffusion.sampler import Sampler


class BlockModel(Protocol):
    """The denoiser bound to a block's conditions: see engine.model.denoiser.Denoiser.stream for shapes."""

    def __call__(self, latents: Any, t: float, keys: Any, values: Any, valid: Any) -> tuple[Any, Any, Any]: ...


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values [L, B, heads, S, head_width] and valid [S]; S = reference slots, then context, newest last.

    Immutable: `append` returns the next one, so an interrupted block leaves nothing behind.
    """

    keys: Any
    values: Any
    valid: Any
    reference_slots: int

    @staticmethod
    def start(keys: Any, values: Any, context_slots: int) -> Cache:
        """From the reference's keys and values; the context is empty."""
        xp = namespace(keys)
        reference_slots = int(keys.shape[3])
        hole = xp.zeros_like(keys[:, :, :, :1]).repeat(*_repeats(xp, context_slots))
        valid = xp.concatenate([xp.ones_like(keys[0, 0, 0, :, 0]), xp.zeros_like(hole[0, 0, 0, :, 0])])
        return Cache(
            xp.concatenate([keys, hole], axis=3), xp.concatenate([values, hole], axis=3), valid, reference_slots
        )

    def append(self, keys: Any, values: Any) -> Cache:
        """Push a block's keys and values [L, B, heads, F * tokens, head_width]; the oldest context leaves."""
        xp, r, new = namespace(self.keys), self.reference_slots, int(keys.shape[3])
        context = int(self.keys.shape[3]) - r

        def push(old: Any, fresh: Any) -> Any:
            kept = xp.concatenate([old[:, :, :, r:], fresh], axis=3)[:, :, :, -context:]
            return xp.concatenate([old[:, :, :, :r], kept], axis=3)

        filled = xp.concatenate([self.valid[r:], xp.ones_like(keys[0, 0, 0, :, 0])])[-context:]
        assert new > 0
        return Cache(push(self.keys, keys), push(self.values, values), xp.concatenate([self.valid[:r], filled]), r)


def _repeats(xp: ModuleType, slots: int) -> tuple[Any, ...]:
    # numpy's repeat takes (count, axis); torch's takes a count per axis.
    return (slots, 3) if xp.__name__ == "numpy" else (1, 1, 1, slots, 1)


def generate_block(
    model: BlockModel, sampler: Sampler, noise: Any, times: Sequence[float], cache: Cache, context_time: float = 0.0
) -> tuple[Any, Cache]:
    """One block of latents [B, F, C, G, G] from noise of that shape, and the cache that includes it.

    times: descending diffusion times, see engine.diffusion.flow.timesteps. context_time: the noise level the clean
    pass claims, the same as in training.
    """

    def velocity(x: Any, t: float) -> Any:
        return model(x, t, cache.keys, cache.values, cache.valid)[0]

    latents = sampler(velocity, noise, times)
    _, keys, values = model(latents, context_time, cache.keys, cache.values, cache.valid)
    return latents, cache.append(keys, values)
