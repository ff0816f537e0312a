"""What a session counts and times, in bounded memory: read it whenever you like, or hand it to a metrics server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

_LEAST_MS, _RATIO, _BUCKETS = 0.1, 1.1, 128
"""Buckets from 0.1 ms, each a tenth wider than the one before; the last ends beyond 5 hours."""


class Histogram:
    """Times in milliseconds by buckets, so an hour takes no more memory than a second; percentiles are right to 5 %."""

    def __init__(self) -> None:
        self.count = 0
        self.total_ms = 0.0
        self.max_ms = 0.0
        self._buckets = [0] * _BUCKETS

    def observe(self, milliseconds: float) -> None:
        value = max(milliseconds, 0.0)
        self.count += 1
        self.total_ms += value
        self.max_ms = max(self.max_ms, value)
        place = 0 if value <= _LEAST_MS else math.ceil(math.log(value / _LEAST_MS, _RATIO))
        self._buckets[min(place, _BUCKETS - 1)] += 1

    def percentile(self, share: float) -> float:
        """The time below which so much of what was observed lies, share from 0 to 1; NaN when there is nothing."""
        if not self.count:
            return math.nan
        left = share * self.count
        for place, count in enumerate(self._buckets):
            left -= count
            if left <= 0 and count:
                # The middle of the bucket, in proportion.
                return float(min(self.max_ms, _LEAST_MS * _RATIO ** (place - 0.5)))
        return self.max_ms

    def snapshot(self) -> dict[str, float]:
        mean = self.total_ms / self.count if self.count else math.nan
        points = {f"p{round(100 * share)}": self.percentile(share) for share in (0.5, 0.95, 0.99)}
        return {"count": self.count, "mean": mean, **points, "max": self.max_ms}


@dataclass(slots=True)
class SessionMetrics:
    """Since the session began. Counts: blocks asked for; changes of plan; frames made and thrown away; frames of an
    open utterance whose sound was late; repeated pictures; lost workers. Times: stages of each block; answer_ms from
    the first sound of an utterance to its first frame; cut_ms from an interrupt to the first frame after it.
    """

    steps: int = 0
    replans: int = 0
    discarded_frames: int = 0
    starved_frames: int = 0
    frozen_frames: int = 0
    workers_lost: int = 0
    wait_ms: Histogram = field(default_factory=Histogram)
    audio_ms: Histogram = field(default_factory=Histogram)
    denoise_ms: Histogram = field(default_factory=Histogram)
    decode_ms: Histogram = field(default_factory=Histogram)
    answer_ms: Histogram = field(default_factory=Histogram)
    cut_ms: Histogram = field(default_factory=Histogram)

    def observe_block(self, timing: Mapping[str, float]) -> None:
        """The timing of a finished block, see engine.worker.base.Pictures."""
        for name in ("wait_ms", "audio_ms", "denoise_ms", "decode_ms"):
            if name in timing:
                getattr(self, name).observe(timing[name])

    def snapshot(self) -> dict[str, int | dict[str, float]]:
        """Counts as numbers, times as count, mean, p50, p95, p99 and max."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v.snapshot() if isinstance(v, Histogram) else v for name, v in values.items()}
