"""Finds the one face of a portrait and the canonical crop around it.

Two of OpenCV's Haar cascades propose boxes (Viola and Jones, 2001; the stricter one first, the other only when it finds
nothing). Their proportions to the canonical crop were fitted on photographs: the crop's side within 6 %, its centre
within 3 % of it. When the model bundle has a face-point network (`aligner`) the crop is then refined by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Landmarker
from engine.errors import FaceTooSmallError, NoFaceError, SeveralFacesError
from engine.portrait.crop import CropBox, canonical_crop
from engine.portrait.paste import cut

MIN_FACE_PX = 64
"""Side of the smallest face that still gives the model something to see."""
RIVAL_SIDE = 0.6
"""A second face this large against the largest one makes the picture ambiguous; smaller ones are bystanders."""

_LOOKING = Lock()
"""A cascade keeps the picture that it is looking at, so it looks at one at a time."""

_SIDE_PER_BOX = 1.82
_SHIFT_X, _SHIFT_Y = 0.008, -0.028
_ALIGN_PASSES = 2
_ALIGN_PX = 128


@dataclass(frozen=True, slots=True)
class _Cascade:
    """A detector and the score from which its boxes were faces on the photographs it was tried on."""

    file: str
    min_score: float
    neighbours: int


_STRICT = _Cascade("haarcascade_frontalface_alt2.xml", min_score=54.8, neighbours=3)
_LENIENT = _Cascade("haarcascade_frontalface_default.xml", min_score=4.0, neighbours=3)


@dataclass(frozen=True, slots=True)
class _Search:
    """One look at the picture: with which detector, at what longer side."""

    cascade: _Cascade
    side_px: int


# The last look finds faces too small to use, so as to say that.
_SEARCHES = (_Search(_STRICT, 640), _Search(_LENIENT, 640), _Search(_STRICT, 1600))


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A detected face in pixels of the picture."""

    left: float
    top: float
    side: float

    def overlaps(self, other: FaceBox) -> bool:
        """Whether their centres lie within a third of a face of each other."""
        reach = min(self.side, other.side) / 3
        gap = (
            self.left - other.left + (self.side - other.side) / 2,
            self.top - other.top + (self.side - other.side) / 2,
        )
        return max(map(abs, gap)) < reach

    def crop(self) -> CropBox:
        side = self.side * _SIDE_PER_BOX
        x = self.left + self.side * (0.5 + _SHIFT_X)
        y = self.top + self.side * (0.5 + _SHIFT_Y)
        return CropBox(x - side / 2, y - side / 2, side)


def find_crop(image: NDArray[np.uint8], aligner: Landmarker | None = None) -> CropBox:
    """Canonical crop of the only, or clearly dominant, face of an RGB picture [H, W, 3].

    Raises NoFaceError, SeveralFacesError or FaceTooSmallError.
    """
    crop = choose_face(find_faces(image)).crop()
    if aligner is None:
        return crop
    for _ in range(_ALIGN_PASSES):
        crop = canonical_crop(crop.to_source(aligner(cut(image, crop, _ALIGN_PX))))
    return crop


def find_faces(image: NDArray[np.uint8]) -> list[FaceBox]:
    """Faces of an RGB picture, largest first; empty when there are none."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    for search in _SEARCHES:
        if faces := _look(grey, search):
            return _confirmed(grey, sorted(faces, key=lambda face: -face.side))
    return []


def choose_face(faces: list[FaceBox]) -> FaceBox:
    """The largest face, if no other one comes near it."""
    if not faces:
        raise NoFaceError(
            "no face was found; use a picture of one person who looks towards the camera, evenly lit, uncovered"
        )
    largest, *others = faces
    rivals = [face for face in others if face.side >= RIVAL_SIDE * largest.side]
    if rivals:
        raise SeveralFacesError(f"{1 + len(rivals)} faces of similar size were found; crop the picture to one person")
    if largest.side < MIN_FACE_PX:
        raise FaceTooSmallError(
            f"the face is about {largest.side:.0f} pixels wide; at least {MIN_FACE_PX} are needed. Use a larger picture"
        )
    return largest


def _confirmed(grey: NDArray[np.uint8], faces: list[FaceBox]) -> list[FaceBox]:
    """Several boxes are rare and mostly folds of cloth: then keep only what the other detector sees as well."""
    if len(faces) < 2:
        return faces
    seen = _look(grey, _Search(_LENIENT, 640))
    return [face for face in faces if any(face.overlaps(other) for other in seen)] or faces[:1]


def _look(grey: NDArray[np.uint8], search: _Search) -> list[FaceBox]:
    scale = min(1.0, search.side_px / max(grey.shape))
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    with _LOOKING:
        boxes, _, scores = _detector(search.cascade.file).detectMultiScale3(
            small, 1.1, search.cascade.neighbours, minSize=(24, 24), outputRejectLevels=True
        )
    pairs = zip(boxes, np.ravel(scores), strict=True) if len(boxes) else ()
    return [
        FaceBox(float(x / scale), float(y / scale), float(side / scale))
        for (x, y, side, _), score in pairs
        if score >= search.cascade.min_score
    ]


@lru_cache(maxsize=2)
def _detector(file: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / file))
