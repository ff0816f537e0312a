"""Expression, pose and gaze by frame: cues on channels, each fading from wherever the channel stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.types import FPS

Floats = NDArray[np.float32]

MOST_CUES = 256
"""Cues that wait on one track; beyond it the oldest future ones give way."""

KEPT_FRAMES = 64
"""How far back values may be asked for."""


def frames_of(milliseconds: float) -> int:
    return round(milliseconds * FPS / 1000)


@dataclass(frozen=True, slots=True)
class Cue:
    """From frame `start`, channels move to `targets` within `fade` frames. given: whether the track steers at all."""

    start: int
    fade: int
    targets: Mapping[int, float]
    given: bool = True


class CueTrack:
    """Values [channels] and whether they are given, as a function of the frame."""

    def __init__(self, channels: int) -> None:
        self._base = np.zeros(channels, np.float32)
        self._given = False
        self._cues: list[Cue] = []

    def add(self, cue: Cue) -> None:
        """A cue takes over its channels from its start on; cues for them that begin later still do."""
        later = next((i for i, other in enumerate(self._cues) if other.start > cue.start), len(self._cues))
        self._cues.insert(later, cue)
        if len(self._cues) > MOST_CUES:
            del self._cues[-2 if later == len(self._cues) - 1 else -1]

    def values(self, first: int, frames: int) -> tuple[Floats, Floats]:
        """Values [frames, channels] and given [frames], for frames first onwards."""
        self._settle(first - KEPT_FRAMES)
        out = np.stack([self._at(first + i) for i in range(frames)])
        given = np.array([self._is_given(first + i) for i in range(frames)], np.float32)
        return out, given

    def _at(self, frame: int) -> Floats:
        value, cues = self._base.copy(), self._cues
        for i, cue in enumerate(cues):
            if cue.start > frame:
                break
            for channel, target in cue.targets.items():
                # A later cue on the channel stops this one's fade where it then stands.
                until = next((c.start for c in cues[i + 1 :] if channel in c.targets and c.start <= frame), frame)
                value[channel] += (target - value[channel]) * _share(until - cue.start, cue.fade)
        return value

    def _is_given(self, frame: int) -> bool:
        given = self._given
        for cue in self._cues:
            # Letting go takes effect when the fade is over.
            if cue.start + (0 if cue.given else cue.fade) <= frame:
                given = cue.given
        return given

    def _settle(self, frame: int) -> None:
        """Fold cues whose fades were over by then into the base."""
        while self._cues and self._cues[0].start + self._cues[0].fade <= frame:
            cue = self._cues.pop(0)
            for channel, target in cue.targets.items():
                self._base[channel] = target
            self._given = cue.given


def _share(elapsed: int, fade: int) -> float:
    """How much of a fade is done; a raised cosine, so that nothing starts or stops with a jerk."""
    if elapsed >= fade:
        return 1.0
    return float(0.5 - 0.5 * np.cos(np.pi * elapsed / fade))
