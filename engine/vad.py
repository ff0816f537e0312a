"""Who is talking, by energy: the automatic choice between speaking, listening and idle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.types import SAMPLES_PER_FRAME, AvatarState

_MARGIN_DB = 8.0
"""How far speech stands above the room's noise."""
_RANGE_DB = 35.0
"""How far quiet syllables may fall below the loudest ones."""
_LOWEST_DB, _HIGHEST_DB = -55.0, -30.0
"""Bounds of the threshold, in dB of full scale: below is never speech, above is always something."""
_BEFORE_FRAMES = 3
"""Lips part before the sound starts (120 ms)."""
_AFTER_FRAMES = 8
"""Pauses between words are still speaking (320 ms)."""


def frame_count(pcm: NDArray[np.float32]) -> int:
    """Video frames that show all of the sound; the last one may be part silence."""
    return -(-len(pcm) // SAMPLES_PER_FRAME)


def level_db(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Power of each video frame's sound in dB of full scale, [F]."""
    frames = frame_count(pcm)
    padded = np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
    padded[: len(pcm)] = pcm
    power = (padded.reshape(frames, SAMPLES_PER_FRAME) ** 2).mean(1)
    level: NDArray[np.float32] = (10 * np.log10(power + 1e-12)).astype(np.float32)
    return level


def voice_activity(pcm: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each video frame [F] of a recording (16 kHz) belongs to an utterance."""
    level = level_db(pcm)
    if not len(level):
        return np.zeros(0, bool)
    floor, peak = np.percentile(level, [10, 95])
    threshold = np.clip(max(floor + _MARGIN_DB, peak - _RANGE_DB), _LOWEST_DB, _HIGHEST_DB)
    return _widen(level > threshold)


def automatic_states(voice: NDArray[np.float32], partner: NDArray[np.float32] | None = None) -> NDArray[np.int8]:
    """State of each video frame [F]: speaking with the own voice, else listening with the partner's, else idle."""
    states = np.full(frame_count(voice), AvatarState.IDLE, np.int8)
    if partner is not None:
        heard = voice_activity(partner)[: len(states)]
        states[: len(heard)][heard] = AvatarState.LISTENING
    states[voice_activity(voice)] = AvatarState.SPEAKING
    return states


def _widen(active: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(active, (_AFTER_FRAMES, _BEFORE_FRAMES))
    reach = np.lib.stride_tricks.sliding_window_view(padded, _AFTER_FRAMES + 1 + _BEFORE_FRAMES)
    return np.asarray(reach.any(1), np.bool_)
