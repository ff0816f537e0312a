"""From a picture file to upright RGB pixels, with limits checked before anything is decoded."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.errors import (
    FileMissingError,
    ImageTooLargeError,
    ImageTooSmallError,
    NotAnImageError,
    UnreadableFileError,
)

Pixels: TypeAlias = NDArray[np.uint8]
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8]

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
MIN_SIDE_PX = 64
WORKING_SIDE_PX = 4096
"""Larger pictures are reduced to this; a face needs no more, and memory stays bounded."""

_GREY = 128
"""What transparent parts are shown on: neither a bright nor a dark halo."""

# Pillow also opens formats that start other programs (EPS) or that nobody keeps portraits in; those stay shut.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")


def load_image(source: ImageSource) -> Pixels:
    """RGB pixels uint8 [H, W, 3] of a file, its bytes, or an array; EXIF rotation applied, alpha on neutral grey.

    An animated picture gives its first frame. Raises the PortraitError and FileError subclasses of engine.errors.
    """
    if isinstance(source, np.ndarray):
        return _check_array(source)
    data = source if isinstance(source, bytes) else _read(Path(source))
    name = "the picture" if isinstance(source, bytes) else str(source)
    if len(data) > MAX_BYTES:
        raise ImageTooLargeError(f"{name} has {len(data) >> 20} MB; the limit is {MAX_BYTES >> 20} MB")
    try:
        Image.init()
        with Image.open(io.BytesIO(data), formats=[kind for kind in _FORMATS if kind in Image.OPEN]) as image:
            _check_size(*image.size, name)
            return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise NotAnImageError(f"{name} is not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF picture") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{name} has too many pixels; the limit is {MAX_PIXELS // 1_000_000} MP") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise NotAnImageError(f"{name} is damaged: {error}. Open it in an editor and save it again") from error


def _read(path: Path) -> bytes:
    try:
        if not path.exists():
            raise FileMissingError(f"there is no file {path}")
        if not path.is_file():
            raise UnreadableFileError(f"{path} is not a file; give a picture")
        if path.stat().st_size > MAX_BYTES:
            raise ImageTooLargeError(f"{path} has {path.stat().st_size >> 20} MB; the limit is {MAX_BYTES >> 20} MB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{path} cannot be opened: {error}") from error


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} MP"
        raise ImageTooLargeError(f"{name} is {width} x {height} pixels; the limit is {limit}. Reduce it first")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageTooSmallError(f"{name} is {width} x {height} pixels; at least {MIN_SIDE_PX} a side are needed")


def _check_array(pixels: NDArray[np.uint8]) -> Pixels:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise NotAnImageError(f"a picture array must be uint8 [H, W, 3] RGB, not {pixels.dtype} {list(pixels.shape)}")
    _check_size(pixels.shape[1], pixels.shape[0], "the picture array")
    return pixels


def _to_rgb(image: Image.Image) -> Pixels:
    image.draft("RGB", (WORKING_SIDE_PX, WORKING_SIDE_PX))
    image.thumbnail((WORKING_SIDE_PX, WORKING_SIDE_PX), Image.Resampling.LANCZOS, reducing_gap=2.0)
    upright = ImageOps.exif_transpose(_flatten_depth(image))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, (_GREY, _GREY, _GREY, 255)), rgba)
    return np.asarray(upright.convert("RGB"))


def _flatten_depth(image: Image.Image) -> Image.Image:
    """Pillow clips deep greys to white when it converts them; scale them by hand."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, np.float64)
    full = 65_535.0 if values.max() > 255 else 255.0 if values.max() > 1 else 1.0
    flat = Image.fromarray(np.clip(values * (255 / full), 0, 255).astype(np.uint8))
    flat.getexif().update(image.getexif())
    return flat
