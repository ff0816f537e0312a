"""Log-mel front end: what the audio encoder hears, 100 frames a second.

Power spectrogram with a periodic Hann window of 25 ms every 10 ms, 80 mel bands of M. Slaney's Auditory Toolbox (1998;
area-normalised triangles, linear below 1 kHz), natural logarithm with a floor. Equal to librosa's
`feature.melspectrogram(center=True, pad_mode="constant", htk=False, norm="slaney")` to 1e-4, without needing it.

Frame k is centred on sample 160 * k and can be computed once sample 160 * k + 199 has arrived: look-ahead 200 samples.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.types import SAMPLE_RATE_HZ

N_MELS = 80
N_FFT = 512
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
F_MIN_HZ = 0.0
F_MAX_HZ = 8_000.0
POWER_FLOOR = 1e-5
LOG_FLOOR = float(np.log(POWER_FLOOR))
"""Value of a log-mel bin in silence, and of frames before and after the signal."""

LOOK_AHEAD_SAMPLES = WINDOW_SAMPLES // 2

_BATCH_FRAMES = 2048
"""Frames transformed at once; bounds the working memory of hour-long files to some 25 MB."""


def log_mel(pcm: NDArray[np.floating]) -> NDArray[np.float32]:
    """Log-mel frames [N // 160, 80] of mono samples [N] at 16 kHz; zeros are assumed before and after the signal."""
    frames = len(pcm) // HOP_SAMPLES
    padded = np.zeros(frames * HOP_SAMPLES + WINDOW_SAMPLES, np.float64)
    kept = min(len(pcm), len(padded) - LOOK_AHEAD_SAMPLES)
    padded[LOOK_AHEAD_SAMPLES : LOOK_AHEAD_SAMPLES + kept] = pcm[:kept]
    return _transform(padded, frames)


class StreamingLogMel:
    """The same frames from chunks of any size; the concatenation of all outputs equals `log_mel` of the whole."""

    def __init__(self) -> None:
        self._pending = np.zeros(LOOK_AHEAD_SAMPLES, np.float64)
        self._samples_in = 0
        self._frames_out = 0

    @property
    def frames_out(self) -> int:
        """Frames given so far, which is the index of the next one."""
        return self._frames_out

    def push(self, pcm: NDArray[np.floating]) -> NDArray[np.float32]:
        """Take samples [n]; return the frames [m, 80] that they complete, m >= 0."""
        self._samples_in += len(pcm)
        self._pending = np.concatenate([self._pending, pcm])
        return self._emit(max(0, (len(self._pending) - WINDOW_SAMPLES) // HOP_SAMPLES + 1))

    def flush(self) -> NDArray[np.float32]:
        """End of the signal: return the frames that were waiting for look-ahead, taking silence as their future."""
        missing = self._samples_in // HOP_SAMPLES - self._frames_out
        needed = max(0, (missing - 1) * HOP_SAMPLES + WINDOW_SAMPLES - len(self._pending)) if missing else 0
        self._pending = np.concatenate([self._pending, np.zeros(needed)])
        return self._emit(missing)

    def reset(self) -> None:
        """Forget everything, as if newly made."""
        self._pending = np.zeros(LOOK_AHEAD_SAMPLES, np.float64)
        self._samples_in = self._frames_out = 0

    def _emit(self, frames: int) -> NDArray[np.float32]:
        mel = _transform(self._pending, frames)
        self._pending = self._pending[frames * HOP_SAMPLES :]
        self._frames_out += frames
        return mel


def _transform(padded: NDArray[np.float64], frames: int) -> NDArray[np.float32]:
    """Frames [frames, 80]; frame i is made from padded[160 * i : 160 * i + 400]."""
    out = np.empty((frames, N_MELS), np.float32)
    if not frames:
        return out
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    for start in range(0, frames, _BATCH_FRAMES):
        stop = min(start + _BATCH_FRAMES, frames)
        # float64 throughout: in float32 a loud vowel's rounding noise lies above the floor of the quiet bands.
        spectrum = np.fft.rfft(windows[start:stop] * _hann(), N_FFT)
        power = spectrum.real**2 + spectrum.imag**2
        out[start:stop] = np.log(np.maximum(_to_mel(power), POWER_FLOOR))
    return out


def _to_mel(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """power [m, 257] @ mel_filters().T, by sums over segments. A matrix product would start the threads of the linear
    algebra library some thirty times a second, which on a busy machine takes a hundred times as long as the sums.
    """
    up, down, starts, segments = _mel_segments()
    bands = np.zeros((len(power), N_MELS + 2))
    bands[:, segments] = np.add.reduceat(power * up, starts, axis=1)
    shifted = np.zeros((len(power), N_MELS + 2))
    shifted[:, segments] = np.add.reduceat(power * down, starts, axis=1)
    return bands[:, :N_MELS] + shifted[:, 1 : N_MELS + 1]


@lru_cache(maxsize=1)
def _mel_segments() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """The filters by bin: a bin between corners j and j + 1 lies on the rising side of band j and the falling side of
    band j - 1. Weights [257] of either, where the segments that hold bins start, and their numbers.
    """
    filters = mel_filters()
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, N_FFT // 2 + 1)
    corners_hz = _mel_to_hz(np.linspace(_hz_to_mel(F_MIN_HZ), _hz_to_mel(F_MAX_HZ), N_MELS + 2))
    segment = np.clip(np.searchsorted(corners_hz, bins_hz, "right") - 1, 0, N_MELS + 1)
    every = np.arange(len(bins_hz))
    up = np.where(segment < N_MELS, filters[np.minimum(segment, N_MELS - 1), every], 0)
    down = np.where((segment > 0) & (segment <= N_MELS), filters[np.clip(segment - 1, 0, N_MELS - 1), every], 0)
    segments, starts = np.unique(segment, return_index=True)
    return up, down, starts, segments


@lru_cache(maxsize=1)
def _hann() -> NDArray[np.float64]:
    phase = 2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES
    return 0.5 - 0.5 * np.cos(phase)


@lru_cache(maxsize=1)
def mel_filters() -> NDArray[np.float64]:
    """Triangular filters [80, 257] on the power spectrum, each of unit area over frequency."""
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, N_FFT // 2 + 1)
    corners_hz = _mel_to_hz(np.linspace(_hz_to_mel(F_MIN_HZ), _hz_to_mel(F_MAX_HZ), N_MELS + 2))
    rising = (bins_hz - corners_hz[:-2, None]) / np.diff(corners_hz)[:-1, None]
    falling = (corners_hz[2:, None] - bins_hz) / np.diff(corners_hz)[1:, None]
    area = 2.0 / (corners_hz[2:] - corners_hz[:-2])
    filters: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * area[:, None]
    return filters


_LINEAR_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1_000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = mel * _LINEAR_HZ_PER_MEL
    return np.where(mel < _BREAK_MEL, linear, _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))
