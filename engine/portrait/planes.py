"""Pictures as networks take them, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_planes(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [H, W, C] to float32 [1, C, H, W] in [-1, 1]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)


def to_pixels(planes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 [C, H, W] in [-1, 1] to uint8 [H, W, C], rounded; what lies beyond is cut off."""
    pixels: NDArray[np.uint8] = np.clip(planes * 127.5 + 128, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))
