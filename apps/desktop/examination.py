"""What a picture is worth as a portrait, before it is used: the crop that will be seen, and what speaks against it.

Light, sharpness and size are read from the pixels of the canonical crop; turn, tilt and mouth from its face
points. The bounds were set on 197 portraits (docs/lab-notes.md): they name what clearly harms, not what is not perfect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Landmarker
from engine.portrait.crop import CROP_SCALE, CropBox, canonical_crop
from engine.portrait.detect import choose_face, find_faces
from engine.portrait.landmarks import INDEX
from engine.portrait.loading import ImageSource, PictureLimits, load_image
from engine.portrait.paste import cut

Pixels = NDArray[np.uint8]
Points = NDArray[np.float32]

PREVIEW_PX = 256
LIMITS = PictureLimits(max_bytes=48 << 20)
"""What telephones make, and no more."""

_SMALL_PX = 256
"""Side of a crop below which the picture is visibly soft."""
_OUTSIDE = 0.15
"""Share of the crop that may lie outside the picture."""
_DARK, _BRIGHT, _CLIPPED = 95, 250, 0.12
"""The brightest twentieth of a well lit face of any colour is above the first; this much of it may be above the second.
"""
_ONE_SIDED = 3.0
"""How much brighter one half of the face may be than the other."""
_BLURRED = 1.0
"""Least spread of the Laplacian, in spreads of the face's own grey values, at 128 pixels a crop."""
_TURNED, _TILTED_DEG = 0.19, 15.0
"""How far the nose may lie from the middle of the cheeks, in widths of the face."""
_OPEN = 0.105
"""How far the lips may be apart, in heights of the face."""
_ALIGN_PASSES = 2


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that speaks against a portrait. code: stable. text: one sentence, with what would help."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Examination:
    """crop: what will be seen, in pixels of the picture as engine.portrait.loading reads it. preview: that, uint8
    [256, 256, 3]. warnings: the gravest first; none for a good portrait.
    """

    crop: CropBox
    preview: Pixels
    warnings: tuple[Doubt, ...]


@dataclass(frozen=True, slots=True)
class _Seen:
    """preview: uint8 [256, 256, 3]; points [28, 2] in fractions of a crop that fits, None where none were found out."""

    crop: CropBox
    preview: Pixels
    picture_px: tuple[int, int]
    faces: int
    points: Points | None


def examine(source: ImageSource, points: Landmarker | None = None, aligner: Landmarker | None = None) -> Examination:
    """Look at a picture. points: for what only face points tell; aligner: the model's own, if it has one, so that the
    crop is the very one that it will show. Raises PortraitError, FileError or BackendError.
    """
    picture = load_image(source, LIMITS)
    faces = find_faces(picture)
    crop = choose_face(faces).crop()
    if aligner is not None:
        crop = _aligned(picture, crop, aligner)
    found = None
    if points is not None:
        found = points(cut(picture, _aligned(picture, crop, points), PREVIEW_PX))
    preview = cut(picture, crop, PREVIEW_PX)
    height, width = picture.shape[:2]
    return Examination(crop, preview, tuple(_doubts(_Seen(crop, preview, (width, height), len(faces), found))))


def _aligned(picture: Pixels, crop: CropBox, points: Landmarker) -> CropBox:
    for _ in range(_ALIGN_PASSES):
        crop = canonical_crop(crop.to_source(points(cut(picture, crop, PREVIEW_PX))))
    return crop


def _doubts(seen: _Seen) -> Iterator[Doubt]:
    for find in _FINDERS:
        doubt = find(seen)
        if doubt is not None:
            yield doubt


def _turned(seen: _Seen) -> Doubt | None:
    if seen.points is None:
        return None
    nose, right, left = (seen.points[INDEX[name]] for name in ("nose_tip", "cheek_right", "cheek_left"))
    width = float(np.linalg.norm(left - right))
    if abs(float(nose[0] - (left[0] + right[0]) / 2)) <= _TURNED * width:
        return None
    return Doubt("turned", "The face looks turned to the side; one that looks into the camera moves much better.")


def _tilted(seen: _Seen) -> Doubt | None:
    if seen.points is None:
        return None
    x, y = _eye(seen.points, "left") - _eye(seen.points, "right")
    if abs(float(np.degrees(np.arctan2(y, x)))) <= _TILTED_DEG:
        return None
    return Doubt("tilted", "The head is tilted; turn the picture until the eyes are level.")


def _mouth_open(seen: _Seen) -> Doubt | None:
    if seen.points is None:
        return None
    if _span(seen.points, "lip_upper_inner", "lip_lower_inner") <= _OPEN * _span(seen.points, "forehead", "chin"):
        return None
    return Doubt("mouth_open", "The mouth looks open; with closed lips it opens and closes as it should.")


def _small(seen: _Seen) -> Doubt | None:
    if seen.crop.side >= _SMALL_PX:
        return None
    face_px, enough_px = (round(side / CROP_SCALE) for side in (seen.crop.side, _SMALL_PX))
    return Doubt("small", f"The face is only {face_px} pixels tall and will look soft; {enough_px} or more are sharp.")


def _cut_off(seen: _Seen) -> Doubt | None:
    width, height = seen.picture_px
    inside_x = min(width, seen.crop.left + seen.crop.side) - max(0.0, seen.crop.left)
    inside_y = min(height, seen.crop.top + seen.crop.side) - max(0.0, seen.crop.top)
    if 1 - inside_x * inside_y / seen.crop.side**2 <= _OUTSIDE:
        return None
    return Doubt("cut_off", "The picture ends close to the face; leave some room around the head.")


def _blurred(seen: _Seen) -> Doubt | None:
    grey = cv2.cvtColor(cv2.resize(seen.preview, (128, 128), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    edges = _face(np.asarray(cv2.Laplacian(grey, cv2.CV_32F, ksize=3), np.float32))
    if float(edges.std()) >= _BLURRED * (float(_face(grey).std()) + 1):
        return None
    return Doubt("blurred", "The picture is blurred; the avatar will be, too.")


def _dark(seen: _Seen) -> Doubt | None:
    if float(np.percentile(_light(seen), 95)) >= _DARK:
        return None
    return Doubt("dark", "The face is very dark; use a picture with more light.")


def _bright(seen: _Seen) -> Doubt | None:
    if float((_light(seen) > _BRIGHT).mean()) <= _CLIPPED:
        return None
    return Doubt("bright", "Parts of the face are so bright that nothing can be seen there; use one with less light.")


def _one_sided(seen: _Seen) -> Doubt | None:
    left, right = np.array_split(_light(seen), 2, axis=1)
    darker, brighter = sorted(float(np.median(half)) + 1 for half in (left, right))
    if brighter <= _ONE_SIDED * darker:
        return None
    return Doubt("one_sided", "The face is lit from one side; even light looks better in motion.")


def _company(seen: _Seen) -> Doubt | None:
    if seen.faces == 1:
        return None
    return Doubt("company", "There is more than one face; the largest one is taken.")


_FINDERS: tuple[Callable[[_Seen], Doubt | None], ...] = (
    _turned, _small, _blurred, _dark, _bright, _one_sided, _mouth_open, _tilted, _cut_off, _company,
)  # fmt: skip


def _light(seen: _Seen) -> Pixels:
    """Grey values of the face without hair and wall."""
    return np.asarray(_face(cv2.cvtColor(seen.preview, cv2.COLOR_RGB2GRAY)), np.uint8)


def _face(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The middle of a canonical crop [P, P]: brows to chin, between the cheeks."""
    side = len(values)
    return values[round(0.33 * side) : round(0.8 * side), round(0.32 * side) : round(0.68 * side)]


def _eye(points: Points, side: str) -> Points:
    return np.asarray((points[INDEX[f"eye_{side}_inner"]] + points[INDEX[f"eye_{side}_outer"]]) / 2, np.float32)


def _span(points: Points, one: str, other: str) -> float:
    return float(np.linalg.norm(points[INDEX[one]] - points[INDEX[other]]))
