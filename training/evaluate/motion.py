"""How a face moves, beyond the mouth: smoothness, seams between blocks, head movement by state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.types import FPS, AvatarState
from training.data.media import Bytes
from training.data.truth import Floats
from training.evaluate.metrics import correlation

_SMOOTHED_FRAMES = 5
"""Readings of the head are averaged over so many frames, so that the probe's noise counts little."""


@dataclass(frozen=True, slots=True)
class Seam:
    """Sums of the change from picture to picture (see `changes`), across the edges of blocks and inside blocks."""

    edges: int = 0
    edge_sum: float = 0.0
    insides: int = 0
    inside_sum: float = 0.0


@dataclass(frozen=True, slots=True)
class HeadSpeed:
    """Sum over frames of the squared speed of yaw and pitch in (deg/s)^2, and the frames, by state [3] each."""

    total: NDArray[np.float64]
    frames: NDArray[np.int64]


def jerkiness(landmarks: Floats) -> float:
    """Mean squared third difference of landmarks [F, 28, 2] over the mean squared first one; 0 when nothing moves.

    White noise on still points gives 10, motion of constant speed 0.
    """
    if len(landmarks) < 4:
        return 0.0
    speed = float((np.diff(landmarks.astype(np.float64), axis=0) ** 2).mean())
    jerk = float((np.diff(landmarks.astype(np.float64), n=3, axis=0) ** 2).mean())
    return jerk / speed if speed > 1e-14 else 0.0


def changes(frames: Bytes) -> NDArray[np.float64]:
    """Mean of |difference| of neighbouring pictures uint8 [F, S, S, 3] in grey levels, [F - 1]: the middle half only,
    which is the face without most of the wall.
    """
    quarter = frames.shape[1] // 4
    middle = frames[:, quarter : frames.shape[1] - quarter, quarter : frames.shape[2] - quarter]
    pairs = zip(middle[:-1], middle[1:], strict=True)
    return np.array([np.mean(cv2.mean(cv2.absdiff(a, b))[:3]) for a, b in pairs])


def block_edges(frames: int, first: int, length: int) -> NDArray[np.bool_]:
    """bool [frames - 1]: whether a block of `length` frames (the first: `first`) ends between frames i and i + 1."""
    after = np.arange(1, frames)
    return (after >= first) & ((after - first) % length == 0)


def seam(frames: Bytes, edges: NDArray[np.bool_]) -> Seam:
    """Of one clip, uint8 [F, S, S, 3]; edges bool [F - 1]."""
    change = changes(frames)
    return Seam(int(edges.sum()), float(change[edges].sum()), int((~edges).sum()), float(change[~edges].sum()))


def seam_ratio(seams: Sequence[Seam]) -> float:
    """How much more the picture changes across the edges of blocks than inside them; 1 is seamless, NaN: no edges."""
    edges, insides = sum(s.edges for s in seams), sum(s.insides for s in seams)
    inside = sum(s.inside_sum for s in seams)
    if not edges or not insides or inside <= 0:
        return float("nan")
    return (sum(s.edge_sum for s in seams) / edges) / (inside / insides)


def smooth(curves: Floats) -> Floats:
    """Running mean over 5 frames of curves [F, C], [F - 4, C]."""
    kernel = np.full(_SMOOTHED_FRAMES, 1 / _SMOOTHED_FRAMES)
    return np.stack([np.convolve(column, kernel, "valid") for column in curves.T], 1).astype(np.float32)


def head_speed(head: Floats, state: NDArray[np.integer]) -> HeadSpeed:
    """Of head [F, 3] (degrees: yaw, pitch, roll) while in each state [F]."""
    speed = np.square(np.diff(smooth(head[:, :2]), axis=0) * FPS).sum(1)
    at = state[_SMOOTHED_FRAMES // 2 :][: len(speed)]
    total = np.bincount(at, speed, minlength=len(AvatarState))
    return HeadSpeed(total, np.bincount(at, minlength=len(AvatarState)))


def head_energy(speeds: Sequence[HeadSpeed], truth: Sequence[HeadSpeed]) -> tuple[float, ...]:
    """Mean squared speed of the head over that in the truth, by state; NaN for a state that does not occur."""
    return tuple(
        _mean_speed(speeds, state) / max(_mean_speed(truth, state), 1e-9) if _mean_speed(truth, state) >= 0 else np.nan
        for state in AvatarState
    )


def _mean_speed(speeds: Sequence[HeadSpeed], state: int) -> float:
    frames = sum(int(s.frames[state]) for s in speeds)
    return sum(float(s.total[state]) for s in speeds) / frames if frames else float("nan")


def head_correlation(seen: Floats, truth: Floats) -> float:
    """Mean r of yaw and pitch, head [F, 3] each. Generated heads move freely, so only the codec's row can be high."""
    return float(np.mean([correlation(seen[:, i], truth[:, i]) for i in range(2)]))
