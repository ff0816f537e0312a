"""Where a film's sound is speech: Silero VAD, window by window, brought onto video frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.audio.silero import OFF, ON, WINDOW
from engine.audio.silero import silero as detector
from engine.types import SAMPLES_PER_FRAME
from training.data.media import Floats

_BEFORE_FRAMES, _AFTER_FRAMES = 3, 5
"""Lips part before the sound and close after it."""

Listener: TypeAlias = Callable[[Floats], Floats]
"""Probability of speech [N] in each whole window of 512 samples of a recording at 16 kHz."""


def silero(samples: Floats) -> Floats:
    """Silero's probabilities for a whole recording, with a state of its own."""
    probability = detector()
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return np.array([probability(window) for window in windows], np.float32)


def speech_by_frame(probability: Floats, frames: int) -> Floats:
    """Probability of speech [frames] at the middle of each video frame, from that of windows [N]."""
    if not len(probability):
        return np.zeros(frames, np.float32)
    frame_at = (np.arange(frames) + 0.5) * SAMPLES_PER_FRAME
    window_at = (np.arange(len(probability)) + 0.5) * WINDOW
    return np.interp(frame_at, window_at, probability, right=0.0).astype(np.float32)


def spoken(probability: Floats) -> NDArray[np.bool_]:
    """Whether someone speaks, per frame [F]: hysteresis on the probability, widened by what lips do around a sound."""
    active = np.zeros(len(probability), bool)
    on = False
    for i, p in enumerate(probability):
        on = bool(p >= (OFF if on else ON))
        active[i] = on
    padded = np.pad(active, (_AFTER_FRAMES, _BEFORE_FRAMES))
    reach = np.lib.stride_tricks.sliding_window_view(padded, _AFTER_FRAMES + 1 + _BEFORE_FRAMES)
    return np.asarray(reach.any(1), np.bool_)
