"""A portrait that is ready to be animated: the picture and where its face is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Landmarker
from engine.portrait.crop import CropBox
from engine.portrait.detect import find_crop
from engine.portrait.loading import ImageSource, load_image
from engine.portrait.paste import cut, paste_back


@dataclass(frozen=True, slots=True)
class Portrait:
    """source: RGB uint8 [H, W, 3]. box: the canonical crop in its pixels."""

    source: NDArray[np.uint8]
    box: CropBox

    def crop(self, side_px: int) -> NDArray[np.uint8]:
        """The canonical crop, uint8 [side_px, side_px, 3]."""
        return cut(self.source, self.box, side_px)

    def paste(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The whole picture with an animated crop in its place."""
        return paste_back(frame, self.source, self.box)


def open_portrait(source: ImageSource | Portrait, aligner: Landmarker | None = None) -> Portrait:
    """Read a picture and find its face. Raises the PortraitError and FileError subclasses of engine.errors."""
    if isinstance(source, Portrait):
        return source
    pixels = load_image(source)
    return Portrait(pixels, find_crop(pixels, aligner))
