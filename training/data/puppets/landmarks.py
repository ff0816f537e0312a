"""Where the face is on a photograph: a thin wrapper around mediapipe's FaceLandmarker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.data.puppets.errors import AssetsMissing
from training.data.truth import UNIT

if TYPE_CHECKING:
    from mediapipe.tasks.python.vision import FaceLandmarker

MODEL_FILE = "face_landmarker_v2_with_blendshapes.task"


@dataclass(frozen=True, slots=True)
class FoundFace:
    """points: float32 [478, 2] source pixels. scores: float32 [52] in the order of ARKIT_UNITS."""

    points: NDArray[np.float32]
    scores: NDArray[np.float32]


def find_faces(image: NDArray[np.uint8], assets: Path) -> list[FoundFace]:
    """All faces (at most 3) in an RGB picture. Raises AssetsMissing when the model or mediapipe is not there."""
    import mediapipe

    picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
    result = _landmarker(Path(assets)).detect(picture)
    size = np.array(image.shape[1::-1], np.float32)
    faces = []
    for points, shapes in zip(result.face_landmarks, result.face_blendshapes, strict=True):
        scores = np.zeros(len(UNIT), np.float32)
        for shape in shapes:
            if shape.category_name in UNIT:
                scores[UNIT[shape.category_name]] = shape.score
        faces.append(FoundFace(np.array([(p.x, p.y) for p in points], np.float32) * size, scores))
    return faces


@lru_cache(maxsize=1)
def _landmarker(assets: Path) -> FaceLandmarker:
    model = assets / "models" / MODEL_FILE
    if not model.is_file():
        raise AssetsMissing(f"{model} is missing; pass --assets with a folder that holds models/{MODEL_FILE}")
    try:
        from mediapipe.tasks import python as tasks
        from mediapipe.tasks.python import vision
    except ImportError as error:
        raise AssetsMissing("mediapipe is not installed; run: pip install 'visavis[train]'") from error
    return vision.FaceLandmarker.create_from_options(
        vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(model)), num_faces=3, output_face_blendshapes=True
        )
    )
