"""A picture at twice its size, such that bilinear sampling of it stands for cubic sampling of the picture.

Cubic convolution (Keys, IEEE Trans. ASSP 29, 1981, with a = -0.75 as in torch) looks at 16 pixels for each that it
makes, bilinear sampling at 4. A kernel of straight pieces with a knot every half pixel is what bilinear sampling of a
doubled picture amounts to; of all of these the one taken here is nearest to the cubic kernel in the least squares'
sense (Unser, "Splines: a perfect fit", IEEE Signal Processing Magazine 16, 1999). So a portrait that is moved thousands
of times is filtered once.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Floats

SCALE = 2
_A = -0.75
_REACH = 4
"""Pixels; further away the nearest kernel is below 1e-4."""
_GAUSS = np.polynomial.legendre.leggauss(3)
"""Exact up to degree five; a cubic times a straight line has four."""


def enlarge(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] to [2H, 2W, 3]: row and column 2i show what lies at i."""
    height, width = picture.shape[:2]
    out = np.empty((height, SCALE, width, SCALE, 3), np.uint8)
    for row, vertical in enumerate(_taps()):
        for column, horizontal in enumerate(_taps()):
            out[:, row, :, column] = cv2.sepFilter2D(
                picture, cv2.CV_8U, horizontal, vertical, borderType=cv2.BORDER_REPLICATE
            )
    return out.reshape(SCALE * height, SCALE * width, 3)


@lru_cache(maxsize=1)
def _taps() -> tuple[Floats, Floats]:
    """Weights of the pixels -4 to 4 steps away, for places on a pixel and half a pixel after it."""
    reach = SCALE * (_REACH + 4)
    knots = np.arange(-reach, reach + 1) / SCALE
    near = (
        np.diag(np.full(len(knots), 4.0)) + np.diag(np.ones(len(knots) - 1), 1) + np.diag(np.ones(len(knots) - 1), -1)
    )
    heights = np.linalg.solve(near / (6 * SCALE), [_overlap(knot) for knot in knots])
    steps = np.arange(-_REACH, _REACH + 1)
    phases = [np.interp(phase / SCALE - steps, knots, heights) for phase in range(SCALE)]
    on, between = ((weights / weights.sum()).astype(np.float32) for weights in phases)
    return on, between


def _overlap(knot: float) -> float:
    """Integral of the cubic kernel times the hat over a knot."""
    half = 1 / SCALE
    places = knot + half / 2 * np.concatenate([_GAUSS[0] - 1, _GAUSS[0] + 1])
    hat = 1 - np.abs(places - knot) / half
    return float(half / 2 * np.sum(np.tile(_GAUSS[1], 2) * hat * _cubic(places)))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    d = np.abs(x)
    inner = ((_A + 2) * d - (_A + 3)) * d * d + 1
    outer = _A * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))
