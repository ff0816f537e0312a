"""What a person in a film is doing, frame by frame, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.types import SAMPLES_PER_FRAME, AvatarState
from training.data.media import Floats
from training.data.videos.gates import runs

MOVING = 0.0085
"""Spread of the mouth's opening (over the face's height, within 0.5 s) of a mouth that talks. In 8 clips of rendered
people the median is 0.014 to 0.026 while they speak and 0.0003 to 0.007 while they do not."""

_WINDOW = 13
_PAUSE_FRAMES = 12
"""A mouth that rests this long between two words is still speaking."""
_SHORTEST_FRAMES = 5
_FADE = 160
"""Samples over which the sound changes hands, 10 ms."""


@dataclass(frozen=True, slots=True)
class States:
    """state [F]: AvatarState. sure [F]: in [0, 1], 0 where a hair decided. moving [F]: whether the mouth is."""

    state: NDArray[np.int8]
    sure: Floats
    moving: NDArray[np.bool_]


def mouth_motion(opening: Floats) -> Floats:
    """Spread of the mouth's opening [F] (over the face's height) within half a second."""
    padded = np.pad(opening, _WINDOW // 2, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, _WINDOW).std(1).astype(np.float32)


def label(opening: Floats, probability: Floats, speech: NDArray[np.bool_]) -> States:
    """speaking where voice and mouth move, listening where a voice is heard and the mouth rests, else idle.

    opening [F]: over the face's height. probability [F]: of speech; speech [F]: the same decided.
    """
    motion = mouth_motion(opening)
    moving = _without_short(motion > MOVING, speech)
    state = np.full(len(opening), AvatarState.IDLE, np.int8)
    state[speech & moving] = AvatarState.SPEAKING
    state[speech & ~moving] = AvatarState.LISTENING
    by_mouth = np.abs(np.log2(np.maximum(motion, 1e-5) / MOVING)) / 2
    by_voice = np.abs(probability - 0.5) * 2
    # Without a voice the mouth does not matter: the person is idle either way.
    sure = np.where(speech, np.minimum(by_mouth, 1.0), 1.0) * np.clip(by_voice, 0.0, 1.0)
    return States(state, sure.astype(np.float32), moving)


def silent_talk(states: States, speech: NDArray[np.bool_]) -> float:
    """Share of frames in which the mouth moves although nobody speaks."""
    return float((states.moving & ~speech).mean())


def split_voices(voice: Floats, states: NDArray[np.int8]) -> tuple[Floats, Floats]:
    """(own, partner) [F * 640]: what is heard while the person listens is the other party's, all else their own."""
    theirs = np.repeat((states == AvatarState.LISTENING).astype(np.float32), SAMPLES_PER_FRAME)
    kernel = np.ones(_FADE) / _FADE
    share = np.convolve(np.pad(theirs, _FADE // 2, mode="edge"), kernel, mode="same")[_FADE // 2 : -(_FADE // 2)]
    partner = (voice * share).astype(np.float32)
    return voice - partner, partner


def _without_short(moving: NDArray[np.bool_], speech: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Short rests within speech count as moving, and short twitches as rest."""
    kept = moving.copy()
    for first, stop in runs(~kept):
        inside = first > 0 and stop < len(kept) and speech[first:stop].all()
        if inside and stop - first <= _PAUSE_FRAMES:
            kept[first:stop] = True
    for first, stop in runs(kept):
        if stop - first < _SHORTEST_FRAMES:
            kept[first:stop] = False
    return kept
