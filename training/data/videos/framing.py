"""The crop that a stretch of film is seen through.

A puppet is drawn in the canonical crop of its portrait, inside which the head moves. A film is treated the same: the
crop is the canonical one of the reference frame and stays put while the face keeps near its place there. Only a face
that wanders further (someone leans in, the camera pans) takes the crop along, softly.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.crop import CropBox, canonical_crop
from engine.portrait.landmarks import INDEX
from engine.portrait.paste import cut
from engine.types import FPS
from training.data.media import Bytes, Floats

ROOM = 0.08
"""How far the face may wander, over the crop's side, before the crop follows: the reach of a head that talks."""
ROOM_SCALE = 0.10
"""The same for its size, as a natural logarithm."""
SOFTNESS_S = 0.6
"""Standard deviation of the smoothing of a crop that follows."""

_STEADY = [
    INDEX[name] for name in ("eye_right_outer", "eye_left_outer", "nose_bridge", "nostril_right", "nostril_left")
]
"""Points that neither jaw, lids nor brows move."""


def crop_path(points: Floats, reference: Floats) -> list[CropBox]:
    """Crops for frames with points [F, 28, 2], given those of the reference [28, 2], all in pixels of the film."""
    home = canonical_crop(reference)
    middle, spread = _place(points)
    home_middle, home_spread = (value[0] for value in _place(reference[None]))
    shift = smooth(beyond((middle - home_middle) / home.side, ROOM))
    growth = smooth(beyond(np.log(spread / home_spread)[:, None], ROOM_SCALE))[:, 0]
    corner = np.array([home.left, home.top]) - home_middle
    path = []
    for moved, grown in zip(shift, np.exp(growth), strict=True):
        left, top = home_middle + moved * home.side + corner * grown
        path.append(CropBox(float(left), float(top), float(home.side * grown)))
    return path


def beyond(values: NDArray[np.floating], room: float) -> Floats:
    """What of vectors [F, n] exceeds the length `room`, in their direction; zero for shorter ones."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return (values * np.maximum(1 - room / np.maximum(length, 1e-9), 0.0)).astype(np.float32)


def smooth(values: Floats, softness_s: float = SOFTNESS_S) -> Floats:
    """Gaussian average of values [F, n] over time; the ends are continued as they are."""
    reach = int(np.ceil(3 * softness_s * FPS))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (softness_s * FPS)) ** 2)
    padded = np.pad(values.astype(np.float64), ((reach, reach), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
    return (windows @ (weights / weights.sum())).astype(np.float32)


def outside_share(crop: CropBox, size: tuple[int, int]) -> float:
    """How far a crop reaches over the edges of a picture of that width and height, over its side."""
    width, height = size
    over = max(-crop.left, -crop.top, crop.left + crop.side - width, crop.top + crop.side - height, 0.0)
    return over / crop.side


def cut_out(image: Bytes, crop: CropBox, size_px: int) -> Bytes:
    """uint8 [size_px, size_px, 3]; beyond the picture's edge its mirror image, so that no streaks teach the codec."""
    return cut(image, crop, size_px, border=cv2.BORDER_REFLECT_101)


def _place(points: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle [F, 2] of the steady points and their spread [F]."""
    steady = points[:, _STEADY].astype(np.float64)
    middle = steady.mean(1)
    return middle, np.sqrt(np.square(steady - middle[:, None]).sum(-1).mean(1))
