"""What one session's `metrics` message is made of, and what it adds to the server's figures."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np

from apps.server.health import Figures
from engine.clock import MICROSECONDS
from engine.metrics import Histogram, SessionMetrics

_MOST = 1_000
"""Values of one second that are kept; there are 25 frames in one."""

_LATE_US = 10_000
"""From the engine to the transport; what takes longer counts as late."""


class _Second:
    """Milliseconds seen within the current second."""

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, microseconds: int) -> None:
        if len(self._values) < _MOST:
            self._values.append(microseconds / 1000)

    def take(self) -> dict[str, float | None]:
        values, self._values = np.array(self._values), array("d")
        if not len(values):
            return {"p50": None, "p95": None}
        p50, p95 = np.percentile(values, (50, 95))
        return {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}


class Stats:
    """Counts since the session began, whatever connections it had; times of the last second."""

    def __init__(self, hello_us: int, figures: Figures) -> None:
        """hello_us: when the client said hello. figures: of the server."""
        self._hello_us, self._figures = hello_us, figures
        self.first_frame_ms: float | None = None
        self.frames = self.dropped = self.bytes = 0
        self.pts_us = 0
        self._frames_before = 0
        self._last_us: int | None = None
        self._began_us = hello_us
        self._cut_us: int | None = None
        self._intervals, self._encodes, self._sends = _Second(), _Second(), _Second()
        figures.sessions.add()

    def encoded(self, took_us: int) -> None:
        self._encodes.add(took_us)

    def dropped_picture(self) -> None:
        self.dropped += 1
        self._figures.dropped.add()

    def transmitted(self, size_bytes: int) -> None:
        self.bytes += size_bytes
        self._figures.sent.add(size_bytes)

    def sent(self, moment_us: int, took_us: int, frozen: bool) -> None:
        """A picture was handed to the transport; took_us: since it left the engine."""
        if self.first_frame_ms is None:
            self.first_frame_ms = (moment_us - self._hello_us) / 1000
            self._figures.first_frame.observe(self.first_frame_ms / 1000)
        if self._last_us is not None:
            self._intervals.add(moment_us - self._last_us)
        if self._cut_us is not None:
            self._figures.interrupt.observe((moment_us - self._cut_us) / MICROSECONDS)
        self._last_us, self._cut_us = moment_us, None
        self._sends.add(took_us)
        self.frames += 1
        self._figures.frames.add()
        self._figures.late.add(took_us > _LATE_US)
        self._figures.frozen.add(frozen)

    def heard_sound(self, ear: str, seconds: float) -> None:
        """ear: voice or listening."""
        self._figures.audio.add(seconds, ear)

    def answered(self, took_us: int) -> None:
        """From the first sound of an utterance to its first frame."""
        self._figures.answer.observe(took_us / MICROSECONDS)

    def interrupted(self, moment_us: int) -> None:
        self._cut_us = moment_us
        self._figures.interrupts.add()

    def lost_worker(self) -> None:
        self._figures.workers_lost.add()

    def complained(self, code: str) -> None:
        self._figures.errors.add(label=code)

    def ended(self, moment_us: int) -> None:
        self._figures.duration.observe((moment_us - self._hello_us) / MICROSECONDS)

    def take(self, moment_us: int) -> dict[str, Any]:
        """The fields that this counts; a new second begins."""
        seconds = (moment_us - self._began_us) / MICROSECONDS
        fps = (self.frames - self._frames_before) / seconds if seconds > 0 else 0.0
        self._began_us, self._frames_before = moment_us, self.frames
        return {
            "pts_us": self.pts_us,
            "fps": round(fps, 1),
            "frame_interval_ms": self._intervals.take(),
            "first_frame_ms": None if self.first_frame_ms is None else round(self.first_frame_ms, 1),
            "encode_ms": self._encodes.take(),
            "send_ms": self._sends.take(),
            "frames_sent": self.frames,
            "frames_dropped": self.dropped,
            "sent_bytes": self.bytes,
        }


def engine_fields(metrics: SessionMetrics) -> dict[str, Any]:
    """What the engine counts and times, since the session began."""
    stages = {"wait": metrics.wait_ms, "audio": metrics.audio_ms}
    stages |= {"denoise": metrics.denoise_ms, "decode": metrics.decode_ms}
    return {
        "answer_ms": {"p50": _percentile(metrics.answer_ms, 0.5), "p95": _percentile(metrics.answer_ms, 0.95)},
        "stages_ms": {name: _percentile(times, 0.5) for name, times in stages.items()},
        "frames_frozen": metrics.frozen_frames,
    }


def _percentile(times: Histogram, share: float) -> float | None:
    value = times.percentile(share)
    return None if math.isnan(value) else round(value, 2)
