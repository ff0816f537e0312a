"""Figures of one clip, from curves and pictures; numpy only. Curves are per frame at 25 fps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import INDEX
from engine.types import FPS, AvatarState
from training.data.truth import UNIT, Floats

_EYE_RIGHT = [INDEX["eye_right_outer"], INDEX["eye_right_inner"]]
_EYE_LEFT = [INDEX["eye_left_outer"], INDEX["eye_left_inner"]]
_SMALLEST_EYE_DISTANCE = 0.05
"""Fraction of the picture; keeps a ratio finite when a face is seen from the side."""

LAG_REACH_FRAMES = 10
SETTLING_FRAMES = 6
"""Frames around a change of state that belong to neither: mouths need time to close."""

_BLINK_ON, _BLINK_OFF = 0.4, 0.2


def mouth_opening(landmarks: Floats) -> Floats:
    """Distance between the inner lips over the distance between the eyes, [F] from landmarks [F, 28, 2]."""
    lips = landmarks[:, INDEX["lip_lower_inner"]] - landmarks[:, INDEX["lip_upper_inner"]]
    eyes = landmarks[:, _EYE_LEFT].mean(1) - landmarks[:, _EYE_RIGHT].mean(1)
    distance = np.maximum(np.linalg.norm(eyes, axis=-1), _SMALLEST_EYE_DISTANCE)
    return (np.linalg.norm(lips, axis=-1) / distance).astype(np.float32)


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson's r; 0 when either does not vary."""
    x, y = np.asarray(a, np.float64) - np.mean(a), np.asarray(b, np.float64) - np.mean(b)
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale > 1e-12 else 0.0


def lag_scores(
    seen: NDArray[np.floating],
    truth: NDArray[np.floating],
    chosen: NDArray[np.bool_] | None = None,
    reach: int = LAG_REACH_FRAMES,
) -> NDArray[np.float64]:
    """Correlation of seen[t + d] with truth[t] for d = -reach..reach, [2 reach + 1]; chosen [F] limits the t used."""
    n = len(truth)
    at = np.flatnonzero(np.ones(n, bool) if chosen is None else chosen)
    at = at[(at >= reach) & (at < n - reach)]
    return np.array([correlation(seen[at + d], truth[at]) for d in range(-reach, reach + 1)])


def lag_of(scores: NDArray[np.floating]) -> tuple[float, float]:
    """(lag in ms, correlation there) of lag scores: how much later `seen` does what `truth` does; negative is early.

    A parabola through the best score and its neighbours gives the fraction of a frame.
    """
    reach, best = len(scores) // 2, int(np.argmax(scores))
    offset = 0.0
    if 0 < best < len(scores) - 1:
        before, peak, after = scores[best - 1 : best + 2]
        bend = before - 2 * peak + after
        offset = float(0.5 * (before - after) / bend) if bend < -1e-12 else 0.0
    return (best - reach + offset) * 1000.0 / FPS, float(scores[best])


def settled(state: NDArray[np.integer], margin: int = SETTLING_FRAMES) -> NDArray[np.bool_]:
    """bool [F]: no change of state within `margin` frames."""
    changes = np.flatnonzero(np.diff(state)) + 1
    frames = np.arange(len(state))
    return np.array([not len(changes) or np.abs(changes - f).min() >= margin for f in frames])


def spread(curve: NDArray[np.floating], state: NDArray[np.integer], speaking: bool) -> tuple[float, int]:
    """(sum of squared deviations, frames) of the curve while speaking, or while not; around each stretch's own mean."""
    chosen = settled(state) & ((state == AvatarState.SPEAKING) == speaking)
    total, count = 0.0, 0
    for stretch in np.split(np.arange(len(state)), np.flatnonzero(np.diff(state)) + 1):
        part = curve[stretch[chosen[stretch]]]
        if len(part) > 1:
            total, count = total + float(((part - part.mean()) ** 2).sum()), count + len(part)
    return total, count


def silence_ratio(curves: list[tuple[Floats, NDArray[np.integer]]]) -> float:
    """Variance of the mouth's opening while listening or idle over that while speaking, pooled over clips.

    curves: (opening [F], state [F]) of each clip. NaN when one of the two never occurs.
    """
    still, busy = ([spread(c, s, speaking) for c, s in curves] for speaking in (False, True))
    still_n, busy_n = sum(n for _, n in still), sum(n for _, n in busy)
    if not still_n or not busy_n:
        return float("nan")
    busy_variance = sum(v for v, _ in busy) / busy_n
    return (sum(v for v, _ in still) / still_n) / max(busy_variance, 1e-12)


def motion_energy(landmarks: Floats) -> float:
    """Mean squared landmark velocity, in (picture sides per second)^2."""
    return float((np.diff(landmarks, axis=0) ** 2).sum(-1).mean()) * FPS**2


def blink_curve(units: Floats) -> Floats:
    """Closing of both lids above the clip's usual level, [F] from units [F, 52]."""
    lids = units[:, [UNIT["eyeBlinkLeft"], UNIT["eyeBlinkRight"]]].mean(1)
    return (lids - np.median(lids)).astype(np.float32)


def count_blinks(closing: NDArray[np.floating]) -> int:
    """Number of times the lids close; they must open again in between."""
    blinks, closed = 0, False
    for value in closing:
        if not closed and value > _BLINK_ON:
            blinks, closed = blinks + 1, True
        elif closed and value < _BLINK_OFF:
            closed = False
    return blinks


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], weight: NDArray[np.floating] | None = None) -> float:
    """dB of pictures uint8 [..., H, W, 3]; weight [..., H, W] restricts it to a region. 99 when equal."""
    error = (a.astype(np.float32) - b.astype(np.float32)) ** 2
    mse = error.mean() if weight is None else (error.mean(-1) * weight).sum() / max(float(weight.sum()), 1e-6)
    return float(min(99.0, 10 * np.log10(255.0**2 / max(float(mse), 1e-9))))


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity of two pictures uint8 [H, W, 3] in grey (Wang et al. 2004, Gaussian window, sigma 1.5)."""
    x, y = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float64) for p in (a, b))

    def blur(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(p, (11, 11), 1.5), np.float64)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    score = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(score.mean())


def mouth_weight(landmarks: Floats, side: int) -> Floats:
    """Mask [F, side, side] of the mouth: its landmark box grown by 35 % of its width; landmarks [F, 28, 2]."""
    names = ("mouth_right", "mouth_left", "lip_upper_outer", "lip_lower_outer")
    points = landmarks[:, [INDEX[n] for n in names]]
    low, high = points.min(1), points.max(1)
    grow = 0.35 * (high[:, :1] - low[:, :1])
    low, high = low - grow, high + grow
    line = (np.arange(side) + 0.5) / side
    inside = (line >= low[:, :, None]) & (line <= high[:, :, None])
    return (inside[:, 1, :, None] & inside[:, 0, None, :]).astype(np.float32)
