"""The canonical crop: a square about twice the face, so that the mouth gets pixels.

The box is spanned by forehead, chin and cheeks of `engine.portrait.landmarks`; its longer side is 1/CROP_SCALE of the
crop's side, and the crop's centre lies a little above the box's, which leaves room for hair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import INDEX

CROP_SCALE = 1.9
CROP_LIFT = 0.06
"""Fraction of the crop's side by which its centre lies above the centre of the face box."""

_BOX = [INDEX[n] for n in ("forehead", "chin", "cheek_right", "cheek_left")]


@dataclass(frozen=True, slots=True)
class CropBox:
    """A square in pixels of the source picture; may reach over its edges."""

    left: float
    top: float
    side: float

    def to_crop(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Source pixels [..., 2] to fractions of the crop."""
        return ((np.asarray(points, np.float32) - (self.left, self.top)) / self.side).astype(np.float32)

    def to_source(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Fractions of the crop [..., 2] to source pixels."""
        return (np.asarray(points, np.float32) * self.side + (self.left, self.top)).astype(np.float32)

    def on_pixels(self, step_px: int) -> CropBox:
        """The nearest square of whole source pixels, its side a multiple of step_px: nothing is resampled when a frame
        of that side is cut from it or pasted into it.
        """
        side = step_px * max(1, round(self.side / step_px))
        shift = (self.side - side) / 2
        return CropBox(float(round(self.left + shift)), float(round(self.top + shift)), float(side))


def canonical_crop(landmarks_px: NDArray[np.floating]) -> CropBox:
    """Crop for landmarks [28, 2] given in pixels of the source picture."""
    box = np.asarray(landmarks_px, np.float64)[_BOX]
    low, high = box.min(0), box.max(0)
    side = float(CROP_SCALE * (high - low).max())
    centre = (low + high) / 2 - (0, CROP_LIFT * side)
    return CropBox(left=float(centre[0] - side / 2), top=float(centre[1] - side / 2), side=side)
