"""How long attention takes with tiles and without, side by side: `visavis train tiles`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.model.tiles import tile_sparsity
from training.attention.tiled import tiled_attention


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians in milliseconds of runs that took turns."""

    frames: int
    count: int
    sparsity: float
    dense_ms: float
    tiled_ms: float

    @property
    def speedup(self) -> float:
        return self.dense_ms / self.tiled_ms


def time_tiles(
    frames: Sequence[int], counts: Sequence[int], tokens: int = 256, heads: int = 4, width: int = 64, repeats: int = 7,
    device: str = "cpu",
) -> list[Timing]:  # fmt: skip
    """For each number of frames and of global ones. tokens: of a frame."""
    torch.manual_seed(0)
    timings = []
    for n in frames:
        q, k, v = (torch.randn(1, heads, n * tokens, width, device=device) for _ in range(3))
        for count in counts:
            if count >= n:
                continue
            calls: list[Callable[[], Tensor]] = [
                lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
                lambda q=q, k=k, v=v, n=n, count=count: tiled_attention(q, k, v, n, count),
            ]
            dense, tiled = _medians(calls, repeats, device)
            timings.append(Timing(n, count, tile_sparsity(n, count), 1e3 * dense, 1e3 * tiled))
    return timings


def _medians(calls: Sequence[Callable[[], Tensor]], repeats: int, device: str) -> list[float]:
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, times in zip(calls, taken, strict=True):
            begun = time.perf_counter()
            call()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn:  # The first turn warms up.
                times.append(time.perf_counter() - begun)
    return [statistics.median(times) for times in taken]
