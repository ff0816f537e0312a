"""What a speaker played, beside what was said into the microphone."""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from apps.bench.desktop.sound import Ear
from engine.errors import AvatarError
from engine.types import SAMPLE_RATE_HZ

LONGEST_LAG_S = 1.0
WARM_UP_S = 3.0
"""A null sink that nobody used gathers two seconds before it gives the first, and cannot tell how late it is."""

_HEAD_START_S = 0.2
_MARK_EVERY_S = 1.0
_HOP = SAMPLE_RATE_HZ // 100
_GONE_DB = -60.0
"""Below full scale: surely nothing."""

_ALIKE = 0.3
"""Correlation above which a second of sound is taken to be the one that was said; another one gives a tenth."""


class Tape:
    """Keeps what a speaker plays, from a thread: float32 at 16 kHz, and when it began."""

    def __init__(self, ear: Ear) -> None:
        assert ear.rate_hz == SAMPLE_RATE_HZ
        self._ear, self._sound = ear, array("f")
        self._open = True
        self._marks: list[tuple[float, int]] = []
        """Moments, and how many samples had been heard until then: a device that loses some shifts what follows."""
        self._thread = threading.Thread(target=self._run, name="bench-tape", daemon=True)

    def __enter__(self) -> Tape:
        self._thread.start()
        time.sleep(WARM_UP_S + _HEAD_START_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._thread.join()
        self._ear.close()

    def heard(self, from_s: float, seconds: float) -> NDArray[np.float32]:
        """A stretch of it, shorter where it has none; it begins when the device has warmed up."""
        at = max(0, bisect(self._marks, (from_s, 0)) - 1)
        moment_s, samples = self._marks[at] if self._marks else (from_s, 0)
        start = max(0, samples + round((from_s - moment_s) * SAMPLE_RATE_HZ))
        return np.array(self._sound[start : start + round(seconds * SAMPLE_RATE_HZ)], np.float32)

    def _run(self) -> None:
        try:
            ready_s = time.monotonic() + WARM_UP_S
            while time.monotonic() < ready_s:
                self._ear.read()
            while self._open:
                self._sound.extend(self._ear.read().tolist())
                if not self._marks or time.monotonic() - self._marks[-1][0] > _MARK_EVERY_S:
                    self._marks.append((time.monotonic() - self._ear.latency_us() / 1e6, len(self._sound)))
        except AvatarError:
            self._open = False


def lag_of(said: NDArray[np.float32], heard: NDArray[np.float32]) -> int | None:
    """Samples into `heard` at which a second begins; None when it is not in there."""
    if len(heard) < len(said) + round(LONGEST_LAG_S * SAMPLE_RATE_HZ) or not heard.any():
        return None
    size = len(said) + len(heard)
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)), size)[
        : round(LONGEST_LAG_S * SAMPLE_RATE_HZ)
    ]
    lag = int(np.argmax(product))
    part = heard[lag : lag + len(said)]
    likeness = float(product[lag]) / (float(np.linalg.norm(said) * np.linalg.norm(part)) + 1e-9)
    return lag if likeness > _ALIKE else None


def gone(said: NDArray[np.float32], loud: NDArray[np.bool_], heard: NDArray[np.float32], lag: int | None) -> int:
    """How many of the steps of 10 ms that are loud, [N // 160], were not heard at all."""
    if lag is None:
        return int(loud.sum())
    return int((loud & (level_db(heard[lag : lag + len(said)])[: len(loud)] < _GONE_DB)).sum())


def level_db(pcm: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N // 160]: of each 10 ms, below full scale."""
    steps = pcm[: len(pcm) // _HOP * _HOP].reshape(-1, _HOP).astype(np.float64)
    return np.asarray(10 * np.log10(np.square(steps).mean(1) + 1e-12))
