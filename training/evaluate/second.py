"""The second instrument: mediapipe's FaceLandmarker, trained by others on real people, for a check of the probe.

Needs the package mediapipe and its model file, which are not part of the installation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import ExtraMissingError, FileMissingError
from engine.portrait.landmarks import MEDIAPIPE_INDEX
from training.data.media import Bytes
from training.data.truth import UNIT, Floats

if TYPE_CHECKING:
    from mediapipe.tasks.python.vision import FaceLandmarker

_POINTS = list(MEDIAPIPE_INDEX.values())


class Landmarker:
    """Reads frames one by one, without memory of the last, so that it cannot smooth over trembling."""

    def __init__(self, model: Path) -> None:
        """Raises FileMissingError, or ExtraMissingError without the package."""
        if not model.is_file():
            raise FileMissingError(f"there is no face landmarker model {model}; give the path of a .task file")
        self._detector = _open(model)

    def read(self, frames: Bytes) -> tuple[Floats, Floats]:
        """landmarks [F, 28, 2] and units [F, 52] of frames uint8 [F, S, S, 3]; NaN where it finds no face."""
        import mediapipe

        points = np.full((len(frames), len(_POINTS), 2), np.nan, np.float32)
        units = np.full((len(frames), len(UNIT)), np.nan, np.float32)
        for i, frame in enumerate(frames):
            picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
            result = self._detector.detect(picture)
            if result.face_landmarks:
                found = result.face_landmarks[0]
                points[i] = [(found[at].x, found[at].y) for at in _POINTS]
                scores = {s.category_name: s.score for s in result.face_blendshapes[0]}
                units[i] = [scores.get(name, 0.0) for name in UNIT]
        return points, units

    def close(self) -> None:
        """Free the model."""
        self._detector.close()


def _open(model: Path) -> FaceLandmarker:
    try:
        from mediapipe.tasks import python as tasks
        from mediapipe.tasks.python import vision
    except ImportError as error:
        raise ExtraMissingError("the second instrument needs mediapipe: pip install 'visavis[eval]'") from error
    options = vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(model)), num_faces=1, output_face_blendshapes=True
    )
    return vision.FaceLandmarker.create_from_options(options)
