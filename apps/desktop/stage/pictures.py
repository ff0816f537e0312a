"""Pictures as other programs want them: without holes, framed for a call, or as a file that says what it is."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apps.desktop.stage.contract import Pixels, Shown
from apps.media import film_metadata
from engine.errors import OutputFolderMissingError, OutputNotWritableError

BEHIND = (32, 33, 36)
"""Colour behind a person who was cut out, and beside one in a wide picture: dark and without a tint."""


def without_holes(shown: Shown) -> Pixels:
    """RGB uint8 [H, W, 3]: who was cut out stands before one colour."""
    if shown.alpha is None:
        return shown.image
    opacity = shown.alpha[..., None].astype(np.uint16)
    behind = np.array(BEHIND, np.uint16) * (255 - opacity)
    return ((shown.image * opacity + behind + 127) // 255).astype(np.uint8)


def framed(image: Pixels, width_px: int, height_px: int) -> Pixels:
    """As large as fits into the middle of [height_px, width_px, 3]."""
    scale = min(width_px / image.shape[1], height_px / image.shape[0])
    width, height = round(image.shape[1] * scale), round(image.shape[0] * scale)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, top = (width_px - width) // 2, (height_px - height) // 2
    frame = np.empty((height_px, width_px, 3), np.uint8)
    frame[:] = BEHIND
    frame[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=way)
    return frame


def save_picture(shown: Shown, path: Path) -> None:
    """As PNG, with its opacity if it has one. Raises OutputFolderMissingError or OutputNotWritableError."""
    if not path.parent.is_dir():
        raise OutputFolderMissingError(f"the folder {path.parent} does not exist; make it first")
    notes = PngInfo()
    for name, value in film_metadata("picture").items():
        notes.add_text(name, value)
    png = BytesIO()
    Image.fromarray(shown.image if shown.rgba is None else shown.rgba).save(png, "png", pnginfo=notes)
    try:
        path.write_bytes(png.getvalue())
    except OSError as error:
        raise OutputNotWritableError(f"{path} cannot be written: {error.strerror}; choose another folder") from error
