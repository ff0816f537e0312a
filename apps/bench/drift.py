"""What a long run does to the picture: notes of every frame, a few bytes each, and what they come to."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from apps.bench.stats import Seam, block_of, pooled, seam, slope
from apps.bench.viewer import Viewer
from engine.types import FPS, AvatarState, VideoFrame
from engine.watchdog import CHECK_EVERY_FRAMES

_FRAMES_A_MINUTE = 60 * FPS
_MEMORY_EVERY_FRAMES = 2 * FPS


@dataclass(frozen=True, slots=True)
class Trend:
    """Of a value over the run. slope_per_10min: least squares over the time of the video."""

    first: float | None
    last: float | None
    min: float | None
    max: float | None
    mean: float | None
    slope_per_10min: float | None


def trend(minutes: ArrayLike, values: ArrayLike) -> Trend:
    y = np.asarray(values, np.float64)
    if not len(y):
        return Trend(None, None, None, None, None, None)
    per_minute = slope(minutes, y)
    first, last, low, high, mean = (float(v) for v in (y[0], y[-1], y.min(), y.max(), y.mean()))
    return Trend(first, last, low, high, mean, None if per_minute is None else 10 * per_minute)


@dataclass(frozen=True, slots=True)
class Looks:
    """The watchdog's measures of every 25th frame against the portrait. colour: distance of the face's mean colours in
    CIELAB. sharpness: factor of the energy of fine detail. likeness: correlation of the coarse pictures.
    """

    checks: int
    colour: Trend
    sharpness: Trend
    likeness: Trend


@dataclass(frozen=True, slots=True)
class Notes:
    """All of a run as arrays, for figures and charts. change [N - 1]: see stats.seam; NaN where frames are missing
    between. state, blocks [N]; the watchdog's [K] at check_frame; memory_mb [M] at memory_frame. Frames by number.
    """

    frame: NDArray[np.int64]
    state: NDArray[np.int64]
    change: NDArray[np.float32]
    blocks: NDArray[np.int64]
    check_frame: NDArray[np.int64]
    colour: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    likeness: NDArray[np.float64]
    memory_frame: NDArray[np.int64]
    memory_mb: NDArray[np.float64]

    def looks(self) -> Looks:
        minutes = self.check_frame / _FRAMES_A_MINUTE
        colour, sharpness, likeness = (trend(minutes, y) for y in (self.colour, self.sharpness, self.likeness))
        return Looks(len(self.check_frame), colour, sharpness, likeness)

    def memory(self) -> Trend:
        """Its slope is that of the second half: the first one fills caches and buffers."""
        minutes, half = self.memory_frame / _FRAMES_A_MINUTE, len(self.memory_mb) // 2
        settled = trend(minutes[half:], self.memory_mb[half:])
        return replace(trend(minutes, self.memory_mb), slope_per_10min=settled.slope_per_10min)

    def seams(self) -> dict[str, Seam]:
        """By the state of the later frame, and in `total`."""
        later = self.state[1:]
        by_state = {state.name.lower(): seam(self.change, self.blocks, later == state) for state in AvatarState}
        return {"total": pooled(list(by_state.values())), **by_state}


class Recorder:
    """Shown every frame of a session, in order, by its viewer."""

    def __init__(self, memory_mb: Callable[[], float | None]) -> None:
        self._memory_mb = memory_mb
        self._frames, self._states, self._changes = array("q"), array("b"), array("f")
        self._ends: list[tuple[int, int]] = []
        self._checks: list[tuple[int, float, float, float]] = []
        self._memory: list[tuple[int, float]] = []
        self._before: VideoFrame | None = None

    def look(self, viewer: Viewer, frame: VideoFrame) -> None:
        self._note_block(frame)
        if self._before is not None:
            follows = frame.index == self._before.index + 1 and not frame.frozen and not self._before.frozen
            self._changes.append(face_change(self._before.image, frame.image) if follows else float("nan"))
        self._frames.append(frame.index)
        self._states.append(frame.state)
        self._before = frame
        history = viewer.session.watchdog.history
        if frame.index % CHECK_EVERY_FRAMES == 0 and not frame.frozen and history:
            self._checks.append((frame.index, history[-1].colour, history[-1].sharpness, history[-1].likeness))
        if frame.index % _MEMORY_EVERY_FRAMES == 0 and (used := self._memory_mb()) is not None:
            self._memory.append((frame.index, used))

    def notes(self) -> Notes:
        """Of the frames so far."""
        checks, memory = _columns(self._checks, 4), _columns(self._memory, 2)
        return Notes(
            frame=np.array(self._frames, np.int64),
            state=np.array(self._states, np.int64),
            change=np.array(self._changes, np.float32),
            blocks=block_of(len(self._frames), self._ends),
            check_frame=checks[0].astype(np.int64),
            colour=checks[1],
            sharpness=checks[2],
            likeness=checks[3],
            memory_frame=memory[0].astype(np.int64),
            memory_mb=memory[1],
        )

    def _note_block(self, frame: VideoFrame) -> None:
        """Where a block ends. Its last group of frames shares the timing, so the end moves on with it."""
        timing = frame.timing
        if not timing or "frames" not in timing:
            return
        if self._before is not None and self._before.timing == timing:
            self._ends.pop()
        # Where each picture is shown twice, changes are not those of the model; such a block stays unknown.
        whole = timing["pictures"] == timing["frames"]
        self._ends.append((len(self._frames), round(timing["frames"]) if whole else 0))


def face_change(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Mean of |difference| in the middle half of two pictures [P, P, 3]: the face, without most of the wall."""
    quarter = len(after) // 4
    middle = slice(quarter, len(after) - quarter)
    return float(np.mean(cv2.mean(cv2.absdiff(before[middle, middle], after[middle, middle]))[:3]))


def _columns(rows: Sequence[tuple[float, ...]], count: int) -> list[NDArray[np.float64]]:
    return list(np.array(rows, np.float64).reshape(-1, count).T)
