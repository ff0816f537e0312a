"""What the stage counts: when the sound of a frame was captured, and how regularly pictures come."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from apps.desktop.stage.contract import StageStats
from apps.desktop.stage.house import PersonFigures
from engine.clock import MICROSECONDS
from engine.types import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

WINDOW_US = 10 * MICROSECONDS
"""Figures are of so long a time."""

_REMEMBERED = 4096
"""Packets whose capture is remembered: 80 s of 20 ms each."""


def clock_us() -> int:
    """Monotonic microseconds, in any thread; a usual event loop's engine.clock.now_us is the same."""
    return round(time.monotonic() * MICROSECONDS)


@dataclass(frozen=True, slots=True)
class _Captured:
    turn_id: int
    first: float
    captured_us: int


class CaptureTimes:
    """When each sample of an utterance was captured, from the packets that were pushed."""

    def __init__(self) -> None:
        self._packets: deque[_Captured] = deque(maxlen=_REMEMBERED)
        self._turn_id, self._samples = 0, 0.0

    def add(self, turn_id: int, samples: int, rate_hz: int, captured_us: int) -> None:
        """A packet that became the next part of a turn."""
        if turn_id != self._turn_id:
            self._turn_id, self._samples = turn_id, 0.0
        self._packets.append(_Captured(turn_id, self._samples, captured_us))
        self._samples += samples * SAMPLE_RATE_HZ / rate_hz

    def of_frame(self, turn_id: int, turn_samples: int) -> int | None:
        """Of the first sample of a frame that ends at this position, see VideoFrame; frames come in order."""
        first = max(0, turn_samples - SAMPLES_PER_FRAME)
        found: _Captured | None = None
        while self._packets and (packet := self._packets[0]).turn_id <= turn_id:
            if packet.turn_id == turn_id and packet.first > first:
                break
            found = packet if packet.turn_id == turn_id else found
            self._packets.popleft()
        if found is None:
            return None
        # A frame may be the last of its packet; the next one may begin within it, too.
        self._packets.appendleft(found)
        return found.captured_us + round((first - found.first) * MICROSECONDS / SAMPLE_RATE_HZ)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A picture that was given to the listener. delay_us: since its sound was captured."""

    moment_us: int
    delay_us: int | None
    drift_us: int | None


class Figures:
    """Gathered in the stage's thread, read in any."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: deque[_Seen] = deque()
        self._asked_us: int | None = None
        self._first_frame_ms = math.nan
        self._gone = PersonFigures(0.0, 0, 0)
        self._now = PersonFigures(0.0, 0, 0)

    def asked(self) -> None:
        """Somebody else is wanted on stage from now on."""
        with self._lock:
            self._asked_us = clock_us()

    def entered(self) -> None:
        """The first picture of who was asked for came; counts of who left are kept."""
        with self._lock:
            self._gone = PersonFigures(0.0, self._gone.late + self._now.late, self._gone.dropped + self._now.dropped)
            self._now = PersonFigures(0.0, 0, 0)
            if self._asked_us is not None:
                self._first_frame_ms = (clock_us() - self._asked_us) / 1000
                self._asked_us = None

    def shown(self, captured_us: int | None, drift_us: int | None, person: PersonFigures) -> None:
        """A picture was given to the listener. drift_us: how far the sound that is heard was ahead of it."""
        now_us = clock_us()
        with self._lock:
            self._now = person
            self._seen.append(_Seen(now_us, None if captured_us is None else now_us - captured_us, drift_us))
            while self._seen[0].moment_us < now_us - WINDOW_US:
                self._seen.popleft()

    def stats(self, lost_packets: int) -> StageStats:
        now_us = clock_us()
        with self._lock:
            seen = [one for one in self._seen if one.moment_us >= now_us - WINDOW_US]
            delays_ms = [one.delay_us / 1000 for one in seen if one.delay_us is not None]
            drifts_ms = [one.drift_us / 1000 for one in seen if one.drift_us is not None]
            intervals_ms = [(b.moment_us - a.moment_us) / 1000 for a, b in zip(seen, seen[1:], strict=False)]
            return StageStats(
                first_frame_ms=self._first_frame_ms,
                # Up to now, so that a picture that stands still is told.
                fps=len(seen) * MICROSECONDS / max(1, now_us - seen[0].moment_us) if seen else math.nan,
                interval_p95_ms=_percentile(intervals_ms, 95),
                drift_ms=sum(drifts_ms) / len(drifts_ms) if drifts_ms else math.nan,
                buffered_ms=self._now.buffered_ms,
                late=self._gone.late + self._now.late,
                dropped=self._gone.dropped + self._now.dropped,
                lost_packets=lost_packets,
                microphone_to_shown_p50_ms=_percentile(delays_ms, 50),
                microphone_to_shown_p95_ms=_percentile(delays_ms, 95),
            )


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else math.nan
