"""Watches what is shown for drift from the portrait: colour, sharpness and likeness, a picture now and then.

Generated context feeds on itself; a model that drifts, drifts through it. Beyond the bounds, the next block starts from
the portrait alone (re-anchoring), which is always right and only a little less smooth.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CHECK_EVERY_FRAMES = 25
_SIDE = 64
_AGREEING = 3
"""Checks in a row that must be out of bounds: a turned head or a laugh is not drift."""
_KEPT = 240
_FIRST_CHECKS = 5


@dataclass(frozen=True, slots=True)
class DriftBounds:
    """How far a healthy picture may be from the portrait. The true frames of 64 held-out clips lie, all but one in 200,
    within 3.4 of its colour, within a factor of 1.23 of one sharpness and above 0.91 of likeness; this gives them room.
    """

    colour: float = 8.0
    """Distance of the mean colours of the face in CIELAB."""
    sharpness: float = 1.8
    """Factor, either way, of the energy of fine detail."""
    likeness: float = 0.8
    """Least correlation of the coarse pictures."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One picture: distance from the portrait in CIELAB, sharpness as a factor of the first pictures' (moving pixels
    softens them, which is no drift), correlation of coarse detail with the portrait.
    """

    colour: float
    sharpness: float
    likeness: float


class DriftWatchdog:
    """Drift of one session's pictures; remembers the last four minutes."""

    def __init__(self, portrait: NDArray[np.uint8], bounds: DriftBounds | None = None) -> None:
        """portrait: the crop that is animated, RGB uint8 [P, P, 3]."""
        self.bounds = bounds or DriftBounds()
        self.history: deque[Drift] = deque(maxlen=_KEPT)
        self.anchored = 0
        self._colour, _, self._coarse = _traits(portrait)
        self._first_details: list[float] = []
        self._beyond = 0

    def check(self, picture: NDArray[np.uint8]) -> bool:
        """Measure a picture; True when it is time to start from the portrait again."""
        drift = self.measure(picture)
        self.history.append(drift)
        self._beyond = self._beyond + 1 if self._is_beyond(drift) else 0
        if self._beyond < _AGREEING:
            return False
        self._beyond = 0
        self.anchored += 1
        return True

    def measure(self, picture: NDArray[np.uint8]) -> Drift:
        colour, detail, coarse = _traits(picture)
        if len(self._first_details) < _FIRST_CHECKS:
            self._first_details.append(detail)
        usual = float(np.median(self._first_details))
        return Drift(
            float(np.linalg.norm(colour - self._colour)),
            float((detail + 1e-6) / (usual + 1e-6)),
            float((coarse * self._coarse).mean()),
        )

    def _is_beyond(self, drift: Drift) -> bool:
        b = self.bounds
        blurred_or_noisy = not 1 / b.sharpness <= drift.sharpness <= b.sharpness
        return drift.colour > b.colour or blurred_or_noisy or drift.likeness < b.likeness


def _traits(picture: NDArray[np.uint8]) -> tuple[Floats, float, Floats]:
    """Mean CIELAB colour [3] of the middle half, energy of fine detail, and a coarse grey picture of unit variance."""
    side, picture = len(picture), np.ascontiguousarray(picture[..., :3])
    middle = picture[side // 4 : side - side // 4, side // 4 : side - side // 4]
    lab = cv2.cvtColor(middle.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = float(np.square(cv2.Laplacian(grey, cv2.CV_32F)).mean())
    coarse = cv2.GaussianBlur(cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), (0, 0), 2.0)
    coarse = (coarse - coarse.mean()) / (coarse.std() + 1e-6)
    return lab.mean((0, 1)), detail, coarse
