"""Photographs for a cast: cut to what a puppet can show, with the face that was found and fitted beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.crop import CropBox
from training.data.puppets.photo import PhotoFace, analyse_photo, keep_analysis, read_photo

MARGIN = 0.33
"""Kept beyond each edge of the canonical crop, as a share of its side: the puppets' padding, a variant's wider framing
and its shift reach 0.28."""


@dataclass(frozen=True, slots=True)
class PhotoSettings:
    """texture_px: side of the canonical crop in the kept picture, at most. quality: of the JPEG, 1 to 100."""

    texture_px: int = 512
    quality: int = 90


def bake_photo(path: Path, out: Path, faces: Path, assets: Path, cache: Path | None, how: PhotoSettings) -> Path:
    """Write the cut picture under out and what is known about it under faces; returns the picture's path.

    Raises PortraitUnusable when no face is found.
    """
    face = analyse_photo(path, assets, cache)
    image, cut = cut_photo(read_photo(path), face, how.texture_px)
    out.mkdir(parents=True, exist_ok=True)
    kept = out / f"{path.stem}.jpg"
    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        how.quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    cv2.imwrite(str(kept), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    keep_analysis(kept, cut, faces)
    return kept


def cut_photo(image: NDArray[np.uint8], face: PhotoFace, texture_px: int) -> tuple[NDArray[np.uint8], PhotoFace]:
    """The neighbourhood of the canonical crop, never enlarged, and the face as it lies in it."""
    height, width = image.shape[:2]
    crop = face.crop
    low = np.floor(np.array([crop.left, crop.top]) - MARGIN * crop.side)
    high = np.ceil(np.array([crop.left, crop.top]) + (1 + MARGIN) * crop.side)
    left, top = (int(v) for v in np.clip(low, 0, [width - 1, height - 1]))
    right, bottom = (int(v) for v in np.clip(high, 1, [width, height]))
    part = image[top:bottom, left:right]
    share = min(1.0, texture_px / crop.side)
    size = (max(1, round((right - left) * share)), max(1, round((bottom - top) * share)))
    if share < 1.0:
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    scale = part.shape[1] / (right - left)
    box = CropBox((crop.left - left) * scale, (crop.top - top) * scale, crop.side * scale)
    return part, replace(face, crop=box, size=(part.shape[1], part.shape[0]))
