"""Whether someone speaks, window by window as sound arrives."""

from __future__ import annotations

import numpy as np

from engine.audio.buffer import SampleBuffer, Samples
from engine.audio.silero import OFF, ON, WINDOW, Probability, silero

_SILENCE = 1e-4
"""Below this peak, -80 dB, a window is silence, and the network is not asked."""

_KEPT_WINDOWS = 64
"""Windows that stay known behind those that are asked about."""

_LEAD_IN_WINDOWS = 4
"""Windows that are judged before those that are asked about, after sound that was thrown away: 128 ms, for the network
to find its feet.
"""


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
        self._skip_to(start // WINDOW)
        for index in range(self._known, last):
            self._add(self._chance(self._buffer.read(index * WINDOW, (index + 1) * WINDOW)))
        first = max(start // WINDOW, self._first)
        return any(self._active[i - self._first] for i in range(first, last))

    def forget(self, before: int) -> None:
        gone = min(before // WINDOW - self._first, len(self._active))
        if gone > _KEPT_WINDOWS:
            del self._active[:gone]
            self._first += gone

    @property
    def _known(self) -> int:
        return self._first + len(self._active)

    def _skip_to(self, first: int) -> None:
        """Sound that was thrown away unheard is not judged."""
        if first > self._known + _LEAD_IN_WINDOWS:
            self._first, self._active = first - _LEAD_IN_WINDOWS, []

    def _chance(self, window: Samples) -> float:
        if np.abs(window).max() < _SILENCE:
            return 0.0
        if self._probability is None:
            self._probability = silero()
        return self._probability(window)

    def _add(self, chance: float) -> None:
        active_before = bool(self._active and self._active[-1])
        self._active.append(chance >= (OFF if active_before else ON))
