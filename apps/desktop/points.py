"""Where eyes, mouth and outline of a face lie: the 28 points of engine.portrait.landmarks, by a small network.

The network is the measuring instrument's (see training/instruments/points.py), run by OpenCV, so that nothing but the
default install is needed.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.bundle import shipped_models
from engine.errors import BackendFailedError
from engine.portrait.planes import to_planes

SIDE_PX = 128
FILE = "points.onnx"


class FacePoints:
    """A Landmarker of engine.backends.base. One call at a time; 8 ms on one core of 2020."""

    def __init__(self, path: Path) -> None:
        """Raises BackendFailedError when the file is absent or damaged."""
        try:
            self._net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise BackendFailedError(f"{path} cannot be read ({error.err}); install visavis again") from error

    def __call__(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Points [28, 2], fractions of a canonical crop uint8 [P, P, 3]. Raises BackendFailedError."""
        small = cv2.resize(crop, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
        try:
            self._net.setInput(to_planes(np.asarray(small, np.uint8)))
            points = self._net.forward()[0]
        except cv2.error as error:
            raise BackendFailedError(f"OpenCV cannot run {FILE} ({error.err}); install visavis again") from error
        return np.asarray(points, np.float32)


def shipped_points() -> Path:
    """The network's file, which may be absent."""
    return shipped_models().parent / "instruments" / FILE
