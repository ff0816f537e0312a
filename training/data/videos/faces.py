"""Faces in single pictures: mediapipe's Face Landmarker with expression scores and head pose.

Every picture is looked at by itself (IMAGE mode). The VIDEO mode is faster, but it smooths over time, which delays the
lips by a frame.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from training.data.media import Bytes, Floats
from training.data.truth import UNIT
from training.data.videos.errors import FaceModelMissing

MODEL_FILES: tuple[str, ...] = ("face_landmarker_v2_with_blendshapes.task", "face_landmarker.task")
MODEL_VARIABLE = "VISAVIS_FACE_MODELS"
MODEL_PAGE = "https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker"

POINTS = 478
_MOST_FACES = 3
_LOOK_PX = 960
"""Longer side of the picture that is searched: a face of 64 px in a film of 1080 lines is still 32."""


@dataclass(frozen=True, slots=True)
class Face:
    """points: [478, 2] in pixels of the picture. scores: [52] in the order of ARKIT_UNITS, in [0, 1].

    turn: [3, 3], rotation of the head, for column vectors in a y-up frame that looks along +z at the viewer.
    """

    points: Floats
    scores: Floats
    turn: Floats

    @property
    def width_px(self) -> float:
        """Longer side of the box around the points."""
        return float(np.ptp(self.points, axis=0).max())

    @property
    def centre_px(self) -> Floats:
        return (self.points.min(0) + self.points.max(0)) / 2


Finder: TypeAlias = Callable[[Bytes], list[Face]]
"""All faces in a picture, uint8 [H, W, 3] RGB."""


def find_model(models: Path | None = None, assets: Path | None = None) -> Path:
    """The landmark model's file: in `models` (a folder or the file itself), in $VISAVIS_FACE_MODELS, in assets/models.

    Raises FaceModelMissing, which says what to get and where to put it; nothing is ever downloaded.
    """
    named = os.environ.get(MODEL_VARIABLE)
    places = [models, Path(named) if named else None, assets / "models" if assets else None]
    for place in filter(None, places):
        if place.is_file():
            return place
        for name in MODEL_FILES:
            if (place / name).is_file():
                return place / name
    looked = ", ".join(str(place) for place in places if place) or "no folder, since none was named"
    raise FaceModelMissing(
        f"the face landmark model is missing (looked in: {looked}). Download {MODEL_FILES[1]} (4 MB, Apache-2.0, "
        f"the bundle with blendshapes) from {MODEL_PAGE}, put it into ASSETS/models, or into a folder that "
        f"--models or ${MODEL_VARIABLE} names"
    )


def open_finder(model: Path) -> Finder:
    """Load the model. Raises FaceModelMissing when mediapipe is absent or refuses the file."""
    try:
        import mediapipe
        from mediapipe.tasks import python as tasks
        from mediapipe.tasks.python import vision
    except ImportError as error:
        raise FaceModelMissing("mediapipe is not installed; run: pip install 'visavis[train]'") from error
    options = vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(model)),
        num_faces=_MOST_FACES,
        output_face_blendshapes=True,
        output_facial_transformation_matrixes=True,
    )
    try:
        landmarker = vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError, OSError) as error:
        raise FaceModelMissing(f"{model} is not a Face Landmarker model ({error}); get it from {MODEL_PAGE}") from error

    def find(image: Bytes) -> list[Face]:
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=_small(image))
        result = landmarker.detect(picture)
        size = np.array(image.shape[1::-1], np.float32)
        parts = zip(result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True)
        return [
            Face(np.array([(p.x, p.y) for p in points], np.float32) * size, _scores(shapes), _rotation(matrix))
            for points, shapes, matrix in parts
        ]

    return find


def _small(image: Bytes) -> Bytes:
    longer = max(image.shape[:2])
    if longer <= _LOOK_PX:
        return np.ascontiguousarray(image)
    size = (round(image.shape[1] * _LOOK_PX / longer), round(image.shape[0] * _LOOK_PX / longer))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _scores(shapes: list[object]) -> Floats:
    scores = np.zeros(len(UNIT), np.float32)
    for shape in shapes:
        place = UNIT.get(getattr(shape, "category_name", ""))
        if place is not None:
            scores[place] = getattr(shape, "score", 0.0)
    return scores


def _rotation(matrix: Floats) -> Floats:
    """The rotation nearest to the upper left of a transformation [4, 4], which also holds the face's size."""
    left, _, right = np.linalg.svd(np.asarray(matrix, np.float64)[:3, :3])
    return (left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right).astype(np.float32)
