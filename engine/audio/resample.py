"""Any rate, any width, any number of channels to mono float32 at one rate, continuously across chunks."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from engine.errors import AudioFormatError
from engine.types import SAMPLE_RATE_HZ

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 384_000
MAX_CHANNELS = 32

_FULL_SCALE = {np.dtype(np.int16): 32_768.0, np.dtype(np.int32): 2_147_483_648.0}


class Resampler:
    """Stateful conversion of one stream; the chunks' joined output equals that of the whole signal at once.

    Samples that are NaN or infinite become 0 and are counted in `bad_samples`.
    """

    def __init__(self, rate_hz: int, to_rate_hz: int = SAMPLE_RATE_HZ) -> None:
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise AudioFormatError(f"a sample rate of {rate_hz} Hz is outside {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
        self.rate_hz = rate_hz
        self.bad_samples = 0
        self._stream = None if rate_hz == to_rate_hz else soxr.ResampleStream(rate_hz, to_rate_hz, 1, dtype="float32")

    def push(self, pcm: NDArray[np.generic]) -> NDArray[np.float32]:
        """Samples [n] or [n, channels] of uint8, int16, int32 or float to mono float32 [m]; m varies."""
        return self._convert(self._mono(np.asarray(pcm)), last=False)

    def flush(self) -> NDArray[np.float32]:
        """The end of the stream: what the filter still holds. The resampler must not be used afterwards."""
        return self._convert(np.zeros(0, np.float32), last=True)

    def _convert(self, mono: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        if self._stream is None:
            return mono
        return np.asarray(self._stream.resample_chunk(mono, last=last), np.float32)

    def _mono(self, pcm: NDArray[np.generic]) -> NDArray[np.float32]:
        samples = to_float(pcm)
        if samples.ndim == 2:
            samples = samples.mean(1)
        good = np.isfinite(samples)
        if not good.all():
            self.bad_samples += int(len(samples) - good.sum())
            samples = np.where(good, samples, np.float32(0)).astype(np.float32)
        return samples


def to_float(pcm: NDArray[np.generic]) -> NDArray[np.float32]:
    """Samples [n] or [n, channels] of any common type to float32 in [-1, 1]. Raises AudioFormatError."""
    if pcm.ndim not in (1, 2) or (pcm.ndim == 2 and not 1 <= pcm.shape[1] <= MAX_CHANNELS):
        raise AudioFormatError(f"audio must be [samples] or [samples, channels], not of shape {list(pcm.shape)}")
    if np.issubdtype(pcm.dtype, np.floating):
        return pcm.astype(np.float32)
    if pcm.dtype == np.uint8:
        return ((pcm.astype(np.float32) - 128) / 128).astype(np.float32)
    if pcm.dtype not in _FULL_SCALE:
        raise AudioFormatError(f"audio of type {pcm.dtype} is not supported; use int16 or float32")
    return (pcm.astype(np.float32) / _FULL_SCALE[pcm.dtype]).astype(np.float32)
