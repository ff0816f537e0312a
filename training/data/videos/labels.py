"""One clip's truth from what was seen: everything that the landmark model can tell, and zeros for what nobody knows."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.crop import CropBox
from engine.types import EXPRESSIONS
from training.data.clips import ClipTruth
from training.data.media import Bytes, Floats
from training.data.sheets import mouth_opening
from training.data.truth import TRUTH_GRID, UNIT
from training.data.videos.pose import gaze_from, head_angles, head_from, units_from
from training.data.videos.shots import Range
from training.data.videos.watch import Seen

UNKNOWN_EXPRESSION = -1.0
"""Strength of an expression that nobody knows; training withholds it (training.objectives.blocks)."""

_FINE = 8
"""Masks are drawn this many times finer than they are kept."""


@dataclass(frozen=True, slots=True)
class Take:
    """One clip to be: its frames, its reference frame, and the face at rest.

    crops: one per frame. neutral [52]: the person's scores at rest. state [F].
    """

    frames: Range
    reference: int
    crops: list[CropBox]
    reference_crop: CropBox
    neutral: Floats
    state: NDArray[np.int8]


def choose_reference(seen: Seen, around: Range) -> int:
    """The frame that would make the best portrait: eyes open, mouth closed, frontal, sharp, and looking ahead."""
    part = slice(*around)
    scores, points = seen.scores[part], seen.points[part]
    angles = np.abs(head_angles(seen.turn[part])) @ (1.0, 0.7, 0.5)
    blink = scores[:, [UNIT["eyeBlinkLeft"], UNIT["eyeBlinkRight"]]].max(1)
    strange = scores[:, [UNIT["mouthPucker"], UNIT["mouthFunnel"], UNIT["jawOpen"]]].sum(1)
    sharpness = seen.sharpness[part] / np.nanmax(seen.sharpness[part])
    cost = 12 * mouth_opening(points) + 3 * blink + 0.5 * strange + angles / 25 - 0.5 * sharpness
    return around[0] + int(np.argmin(cost))


def truth_of(seen: Seen, take: Take, truth_stride: int) -> ClipTruth:
    """All arrays of a clip. Flow is unknown everywhere (`known` is 0), the mouth's inside an outline of its lips."""
    part = slice(*take.frames)
    rest, rest_scores = seen.turn[take.reference], seen.scores[take.reference]
    frames = take.frames[1] - take.frames[0]
    chosen = np.arange(0, frames, truth_stride, dtype=np.int32)
    lips = np.stack([take.crops[i].to_crop(seen.lips[take.frames[0] + i]) for i in chosen])
    grid = (TRUTH_GRID, TRUTH_GRID)
    return ClipTruth(
        units=units_from(seen.scores[part], take.neutral),
        head=head_from(seen.turn[part], rest),
        gaze=gaze_from(seen.scores[part], rest_scores),
        tongue=np.zeros(frames, np.float32),
        state=take.state.astype(np.int8),
        expression=np.full((frames, len(EXPRESSIONS)), UNKNOWN_EXPRESSION, np.float32),
        landmarks=np.stack([c.to_crop(p) for c, p in zip(take.crops, seen.points[part], strict=True)]),
        map_frames=chosen,
        displacement=np.zeros((len(chosen), *grid, 2), np.float16),
        known=np.zeros((len(chosen), *grid), np.uint8),
        mouth=np.stack([mouth_mask(outline) for outline in lips]),
        reference_landmarks=take.reference_crop.to_crop(seen.points[take.reference]),
        reference_units=units_from(rest_scores[None], take.neutral)[0],
        reference_head=np.zeros(3, np.float32),
        reference_gaze=np.zeros(2, np.float32),
    )


def mouth_mask(outline: Floats) -> Bytes:
    """uint8 [64, 64], 255 inside the inner lips [n, 2] (fractions of the crop); nothing while they touch."""
    side = TRUTH_GRID * _FINE
    fine = np.zeros((side, side), np.uint8)
    cv2.fillPoly(fine, [np.round(outline * side - 0.5).astype(np.int32)], 255)
    # A closed outline still draws its own line.
    fine = cv2.erode(fine, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.resize(fine, (TRUTH_GRID, TRUTH_GRID), interpolation=cv2.INTER_AREA), np.uint8)


def opening_of(seen: Seen, frames: Range) -> Floats:
    """[F]: gap of the inner lips over the face's height."""
    return mouth_opening(seen.points[slice(*frames)])
