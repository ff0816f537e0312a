"""Sound of one rate to another without losing track of its times."""

from __future__ import annotations

from apps.desktop.audio.source import Samples
from engine.audio.resample import Resampler


class RateChange:
    """Mono sound from one rate to another. A filter holds samples back, so what comes out is older than what went in
    last; `push` tells how old.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Raises AudioFormatError."""
        self.from_hz, self.to_hz = from_hz, to_hz
        self._resampler = Resampler(from_hz, to_hz)
        self._in_samples = self._out_samples = 0

    def push(self, samples: Samples, at_us: float) -> tuple[Samples, float]:
        """float32 [N] at from_hz and when its first sample is, to float32 [M] at to_hz and when that begins."""
        held_us = (self._in_samples / self.from_hz - self._out_samples / self.to_hz) * 1e6
        out = self._resampler.push(samples)
        self._in_samples += len(samples)
        self._out_samples += len(out)
        return out, at_us - held_us
