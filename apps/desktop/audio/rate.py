"""Sound of one rate to another without losing track of its times."""

from __future__ import annotations

import numpy as np
import soxr

from apps.desktop.audio.source import Samples
from engine.audio.resample import Resampler

_TAPS = 97
"""Of the quick filter: 1 ms of delay at 48 kHz, and 60 dB down a sixth above its edge."""

_EDGE = 0.9
"""Where the quick filter begins to fall, as a share of the lower rate's half."""


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
        out = self._convert(samples)
        self._in_samples += len(samples)
        self._out_samples += len(out)
        return out, at_us - held_us

    def _convert(self, samples: Samples) -> Samples:
        return self._resampler.push(samples)


class QuickRateChange(RateChange):
    """For microphones: gives at once what Resampler would hold back for 20 to 100 ms. A short windowed sinc at the
    higher of both rates, and cubic interpolation, which is good enough between samples that lie so close.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Raises AudioFormatError."""
        super().__init__(from_hz, to_hz)
        self._stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="QQ")
        self._taps = _low_pass(_EDGE * min(from_hz, to_hz) / max(from_hz, to_hz))
        self._past = np.zeros(_TAPS - 1, np.float32)
        self._delay_us = (_TAPS - 1) / 2 * 1e6 / max(from_hz, to_hz)

    def push(self, samples: Samples, at_us: float) -> tuple[Samples, float]:
        if self.from_hz == self.to_hz:
            return np.nan_to_num(samples), at_us
        out, begins_us = super().push(np.nan_to_num(samples), at_us)
        return out, begins_us - self._delay_us

    def _convert(self, samples: Samples) -> Samples:
        if self.from_hz > self.to_hz:
            return np.asarray(self._stream.resample_chunk(self._filter(samples)), np.float32)
        return self._filter(np.asarray(self._stream.resample_chunk(samples), np.float32))

    def _filter(self, samples: Samples) -> Samples:
        joined = np.concatenate((self._past, samples))
        self._past = joined[len(joined) - len(self._past) :]
        if not len(samples):
            return samples
        filtered: Samples = np.convolve(joined, self._taps, "valid").astype(np.float32)
        return filtered


def _low_pass(edge: float) -> Samples:
    """A windowed sinc of unit gain; edge: as a share of half the rate."""
    n = np.arange(_TAPS) - (_TAPS - 1) / 2
    taps = np.sinc(edge * n) * np.blackman(_TAPS)
    return np.asarray(taps / taps.sum(), np.float32)
