"""Moves pixels between the whole picture and the canonical crop."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.crop import CropBox

FADE = 0.12
"""Width of the soft edge of a pasted frame, as a fraction of its side."""

Pixels = NDArray[np.uint8]
_Area = tuple[slice, slice]
_Edge = tuple[_Area, NDArray[np.float32], NDArray[np.float32]]


def cut(image: Pixels, crop: CropBox, side_px: int, border: int = cv2.BORDER_REPLICATE) -> Pixels:
    """The crop as uint8 [side_px, side_px, 3], antialiased. Outside the picture its edge is repeated; `border` is any
    of OpenCV's border modes."""
    # Sample at a whole multiple of the size and average, since a plain warp would skip pixels of a large source.
    oversample = max(1, int(np.ceil(crop.side / side_px)))
    scale = side_px * oversample / crop.side
    place = np.array(
        [[scale, 0, (0.5 - crop.left) * scale - 0.5], [0, scale, (0.5 - crop.top) * scale - 0.5]], np.float64
    )
    size = (side_px * oversample, side_px * oversample)
    fine = cv2.warpAffine(image, place, size, flags=cv2.INTER_LINEAR, borderMode=border)
    if oversample == 1:
        return np.asarray(fine, np.uint8)
    return np.asarray(cv2.resize(fine, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8)


def paste_back(frame: Pixels, source: Pixels, crop: CropBox) -> Pixels:
    """A copy of the source picture [H, W, 3] with the frame [S, S, 3] in place of its crop, faded out at the edges."""
    left, top = int(np.floor(max(crop.left, 0))), int(np.floor(max(crop.top, 0)))
    right = int(np.ceil(min(crop.left + crop.side, source.shape[1])))
    bottom = int(np.ceil(min(crop.top + crop.side, source.shape[0])))
    patch = _patch(frame, crop, left, top, right - left, bottom - top)
    out = source.copy()
    place = out[top:bottom, left:right]
    solid, edges = _edges(crop, left, top, right, bottom)
    place[solid] = patch[solid]
    for area, shows, hides in edges:
        place[area] = cv2.blendLinear(patch[area], place[area], shows, hides)
    return out


def _patch(frame: Pixels, crop: CropBox, left: int, top: int, width: int, height: int) -> Pixels:
    """What the frame shows in that rectangle of the source."""
    scale = crop.side / len(frame)
    if scale == 1 and crop.left % 1 == crop.top % 1 == 0:
        row, column = top - int(crop.top), left - int(crop.left)
        return frame[row : row + height, column : column + width]
    # Pixel centres lie at +0.5 in both pictures.
    place = np.array(
        [[scale, 0, crop.left - left + 0.5 * scale - 0.5], [0, scale, crop.top - top + 0.5 * scale - 0.5]], np.float64
    )
    if scale < 1:
        frame, place = _reduce(frame, place, scale)
    patch = cv2.warpAffine(frame, place, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(patch, np.uint8)


def _reduce(frame: Pixels, place: NDArray[np.float64], scale: float) -> tuple[Pixels, NDArray[np.float64]]:
    """Average the frame down to the source's resolution first; a plain warp would alias."""
    side = max(1, round(len(frame) * scale))
    ratio = len(frame) / side
    small = np.asarray(cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    offset = place[:, 2] + (ratio - 1) / 2 * scale
    return small, np.array([[scale * ratio, 0, offset[0]], [0, scale * ratio, offset[1]]])


@lru_cache(maxsize=8)
def _edges(crop: CropBox, left: int, top: int, right: int, bottom: int) -> tuple[_Area, tuple[_Edge, ...]]:
    """Of a rectangle of the source: where the frame alone shows, and strips around that with the weights of frame and
    source.
    """
    down, across = _fade(top, bottom, crop.top, crop), _fade(left, right, crop.left, crop)
    rows, columns = _solid(down), _solid(across)
    height, width = len(down), len(across)
    areas = (
        (slice(0, rows.start), slice(0, width)),
        (slice(rows.stop, height), slice(0, width)),
        (rows, slice(0, columns.start)),
        (rows, slice(columns.stop, width)),
    )
    weights = np.outer(down, across)
    strips = [(area, np.ascontiguousarray(weights[area])) for area in areas]
    return (rows, columns), tuple((area, shows, 1 - shows) for area, shows in strips if shows.size)


def _solid(weights: NDArray[np.float32]) -> slice:
    """Where they are one, which is one stretch."""
    ones = np.flatnonzero(weights == 1)
    return slice(int(ones[0]), int(ones[-1]) + 1) if len(ones) else slice(0, 0)


def _fade(first: int, stop: int, start: float, crop: CropBox) -> NDArray[np.float32]:
    """Weights [stop - first] of pixels first..stop-1 along one axis of a crop that begins at `start`."""
    inside = (np.arange(first, stop) + 0.5 - start) / crop.side
    ramp = np.clip(np.minimum(inside, 1 - inside) / FADE, 0, 1)
    smooth: NDArray[np.float32] = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return smooth
