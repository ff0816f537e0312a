"""Samples by absolute position: what arrives at one end, is read anywhere, and is forgotten at the other end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

_SMALLEST = 16_384


class SampleBuffer:
    """Float32 samples from position `start` to position `end`; room grows with what is kept, by doubling."""

    def __init__(self) -> None:
        self._data = np.zeros(_SMALLEST, np.float32)
        self.start = 0
        self.end = 0

    def append(self, pcm: Samples) -> None:
        kept = self.end - self.start
        if kept + len(pcm) > len(self._data):
            grown = np.zeros(max(2 * len(self._data), kept + len(pcm)), np.float32)
            grown[:kept] = self._data[:kept]
            self._data = grown
        self._data[kept : kept + len(pcm)] = pcm
        self.end += len(pcm)

    def read(self, start: int, stop: int) -> Samples:
        """Samples [stop - start]; zero where nothing has arrived or all is forgotten."""
        out = np.zeros(stop - start, np.float32)
        first, last = max(start, self.start), min(stop, self.end)
        if first < last:
            out[first - start : last - start] = self._data[first - self.start : last - self.start]
        return out

    def forget(self, before: int) -> None:
        """Drop what lies before a position. Moves memory only when half of what is kept goes, so it is cheap to call
        often.
        """
        gone = min(before, self.end) - self.start
        if gone <= 0 or 2 * gone < self.end - self.start:
            return
        kept = self.end - self.start - gone
        size = max(_SMALLEST, len(self._data) // 2 if 4 * kept < len(self._data) else len(self._data))
        data = np.zeros(size, np.float32) if size != len(self._data) else self._data
        data[:kept] = self._data[gone : gone + kept].copy()
        self._data = data
        self.start += gone
