"""Glasses are rigid: skin under their frames moves with the skull alone, while lids move freely inside the lenses.

A puppet is one surface, so its glasses are painted on its skin. What an expression would do to that skin is faded out
where the frames are, and comes back softly above them, below them and towards the eyes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# By file name: how far the frames reach above and below the line through both irises, in distances of the irises.
# Read off the photographs one by one.
FRAMES: dict[str, tuple[float, float]] = {
    "016": (0.24, 0.46),
    "020": (0.27, 0.42),
    "045": (0.20, 0.60),
    "050": (0.20, 0.37),
    "062": (0.12, 0.38),
    "067": (0.24, 0.40),
    "082": (0.28, 0.45),
    "echomimic_v3-176": (0.30, 0.51),
    "echomimic_v3-179": (0.31, 0.46),
    "echomimic_v3-180": (0.31, 0.51),
    "echomimic_v3-181": (0.22, 0.46),
}

_IRISES = (468, 473)
_FADE_UP, _FADE_DOWN = 0.6, 0.4
"""Brows lie close above a frame: a shorter fade stretches them into smears when they rise."""
_LENS_HALF = 0.38
_LID_RISE = 0.17
"""What lids need above the iris; a thick frame may begin right there."""
_FREE, _RIGID = 0.6, 0.95
"""Shares of a lens: up to the first the skin moves freely, from the second on not at all."""


def expression_share(places: Floats, points: Floats, frames: tuple[float, float]) -> Floats:
    """How much of an expression's motion is left [n] at image places [n, 2] of a face that wears glasses.

    points [478, 2]: landmarks in the same unit. frames: a value of FRAMES.
    """
    left, right = sorted((points[i] for i in _IRISES), key=lambda p: float(p[0]))
    distance = float(np.linalg.norm(right - left))
    along = (right - left) / distance
    axes = np.stack([along, np.array([-along[1], along[0]])], 1)
    down = (places - (left + right) / 2) @ axes[:, 1] / distance
    above, below = (-down - frames[0]) / _FADE_UP, (down - frames[1]) / _FADE_DOWN
    share = _smooth(np.maximum(above, below))
    for iris in (left, right):
        x, y = ((places - iris) @ axes / distance).T
        height = np.where(y < 0, _LID_RISE, frames[1])
        radius = np.hypot(x / _LENS_HALF, y / height)
        share = np.maximum(share, _smooth((_RIGID - radius) / (_RIGID - _FREE)))
    return share.astype(np.float32)


def _smooth(x: NDArray) -> NDArray:
    t = np.clip(x, 0, 1)
    return t * t * (3 - 2 * t)
