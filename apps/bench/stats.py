"""The arithmetic of the benchmark: plain arrays in, figures out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.types import FPS, FRAME_US

LATE_US = 10_000
"""A frame that is taken so much after its due moment is late."""

US_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of n values, in the unit of the field that holds them. missed: attempts that gave no value."""

    n: int
    missed: int
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


def spread(values: Sequence[float | None]) -> Spread:
    """None is an attempt that was missed. Percentiles are interpolated: p99 of few values is nearly their maximum."""
    known = [value for value in values if value is not None]
    if not known:
        return Spread(0, len(values), None, None, None, None)
    p50, p95, p99 = (float(p) for p in np.percentile(known, [50, 95, 99]))
    return Spread(len(known), len(values) - len(known), p50, p95, p99, float(max(known)))


def slope(x: ArrayLike, y: ArrayLike) -> float | None:
    """Of the least-squares line; None when fewer than two different x are given."""
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(across) < 2 or np.ptp(across) == 0:
        return None
    centred = across - across.mean()
    return float((centred * (up - up.mean())).sum() / np.square(centred).sum())


@dataclass(frozen=True, slots=True)
class Taken:
    """Frames in the order in which a viewer took them, int64 [N] each. moment_us: when. index: the frame's number.
    slipped_us: by how much the presenter had moved its clock back by then, this frame included.
    """

    moment_us: NDArray[np.int64]
    index: NDArray[np.int64]
    slipped_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.moment_us)

    def since(self, moment_us: int) -> NDArray[np.bool_]:
        """[N]: which of them were taken at that moment or later."""
        return np.asarray(self.moment_us >= moment_us, np.bool_)

    def intervals_us(self) -> NDArray[np.int64]:
        """[N - 1]"""
        return np.diff(self.moment_us)


def lateness_us(taken: Taken) -> NDArray[np.int64]:
    """[N]: how long after its due moment each frame was taken.

    Due moments are 40 ms apart from the first frame on. A frame that comes too late for the presenter moves its clock,
    and with it the grid of later frames: it counts as late once, and as a slip.
    """
    if not len(taken):
        return np.zeros(0, np.int64)
    offset_us = taken.moment_us - taken.index * FRAME_US
    slipped_before = np.concatenate([taken.slipped_us[:1], taken.slipped_us[:-1]])
    # No frame leaves before it is due, so the least late one shows the grid; the first may have been taken late.
    late: NDArray[np.int64] = offset_us - slipped_before - (offset_us - taken.slipped_us).min()
    return late


def frames_per_second(taken: Taken) -> float | None:
    """None for fewer than two frames."""
    if len(taken) < 2:
        return None
    return float((len(taken) - 1) * 1e6 / (taken.moment_us[-1] - taken.moment_us[0]))


@dataclass(frozen=True, slots=True)
class AvDrift:
    """How the moments at which frames are taken run away from their presentation times; sound comes with its picture.

    slope_ms_per_hour: least squares of (moment - pts) over the moment. skew_ms: |moment - pts|, less what it was at the
    beginning, which is its least value in the first second. Time that the presenter's clock slipped is in both, since a
    sound card does not slip.
    """

    slope_ms_per_hour: float | None
    skew_ms: Spread


def av_drift(taken: Taken) -> AvDrift:
    offset_us = taken.moment_us - taken.index * FRAME_US
    per_us = slope(taken.moment_us, offset_us)
    skew_ms = np.abs(offset_us - offset_us[:FPS].min(initial=np.iinfo(np.int64).max)) / 1e3
    return AvDrift(None if per_us is None else per_us * US_PER_HOUR / 1e3, spread(list(skew_ms)))


@dataclass(frozen=True, slots=True)
class Seam:
    """Change from one picture to the next: the mean of |difference|, in grey levels of 255.

    edges: pairs with a block's edge between them. ratio: their mean change to that inside blocks; 1 is seamless.
    """

    edges: int
    edge_change: float | None
    inside_change: float | None
    ratio: float | None


def block_of(frames: int, ends: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Which block each of `frames` frames [N] is of, -1 for one that is not known to belong to a whole block.

    ends: place of a block's last frame and its length, rising. A block that was cut short has no end, so its frames are
    unknown.
    """
    blocks = np.full(frames, -1, np.int64)
    for number, (end, length) in enumerate(ends):
        blocks[max(0, end - length + 1) : end + 1] = number
    return blocks


def seam(change: NDArray[np.float32], blocks: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Seam:
    """change [N - 1]: between frames i and i + 1; NaN is left out. blocks [N]: see block_of. chosen [N - 1]: which
    pairs count. A pair is on an edge when its frames are of different blocks, one of them known.
    """
    before, after = blocks[:-1], blocks[1:]
    counts = chosen & ~np.isnan(change)
    edge = change[counts & (before != after)]
    inside = change[counts & (before == after) & (before >= 0)]
    edge_change = float(edge.mean()) if len(edge) else None
    inside_change = float(inside.mean()) if len(inside) else None
    ratio = edge_change / inside_change if edge_change is not None and inside_change else None
    return Seam(len(edge), edge_change, inside_change, ratio)


def pooled(seams: Sequence[Seam]) -> Seam:
    """Of several states together: inside_change is weighed as the edges are spread, since blocks are shorter in some
    states, and the person moves less. States without both kinds of pairs are left out.
    """
    edges = np.array([s.edges for s in seams if s.edge_change is not None and s.inside_change is not None])
    known = [s for s in seams if s.edge_change is not None and s.inside_change is not None]
    if not known:
        return Seam(0, None, None, None)
    edge_change, inside_change = (
        float(np.average([getattr(s, name) for s in known], weights=edges)) for name in ("edge_change", "inside_change")
    )
    return Seam(int(edges.sum()), edge_change, inside_change, edge_change / inside_change if inside_change else None)
