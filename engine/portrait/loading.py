"""From a picture file to upright RGB pixels, with limits checked before anything is decoded."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
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

MIN_SIDE_PX = 64


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What is refused before anything is decoded. working_side_px: larger pictures are reduced to this; a face needs
    no more, and memory stays bounded.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 64_000_000
    max_side_px: int = 65_535
    working_side_px: int = 4096


USUAL = PictureLimits()

MAX_JPEG_SCANS = 100
"""Encoders make a dozen. Each passes over the whole picture, and thousands fit into a small file, which is then decoded
for minutes. libtiff has the same limit for JPEG inside TIFF."""

_GREY = 128
"""What transparent parts are shown on: neither a bright nor a dark halo."""

# Pillow also opens formats that start other programs (EPS) or that nobody keeps portraits in; those stay shut.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")


def load_image(source: ImageSource, limits: PictureLimits = USUAL) -> Pixels:
    """RGB pixels uint8 [H, W, 3] of a file, its bytes, or an array; EXIF rotation applied, alpha on neutral grey.

    An animated picture gives its first frame. limits: stricter ones for pictures of strangers. Raises the PortraitError
    and FileError subclasses of engine.errors.
    """
    if isinstance(source, np.ndarray):
        return _check_array(source, limits)
    data = source if isinstance(source, bytes) else _read(Path(source), limits)
    name = "the picture" if isinstance(source, bytes) else str(source)
    _check_bytes(len(data), name, limits)
    try:
        Image.init()
        with Image.open(io.BytesIO(data), formats=[kind for kind in _FORMATS if kind in Image.OPEN]) as image:
            _check_size(*image.size, name, limits)
            _check_scans(image, data, name)
            return _to_rgb(image, limits.working_side_px)
    except UnidentifiedImageError as error:
        raise NotAnImageError(f"{name} is not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF picture") from error
    except Image.DecompressionBombError as error:
        limit = f"{limits.max_pixels / 1e6:g} MP"
        raise ImageTooLargeError(f"{name} has too many pixels; the limit is {limit}") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise NotAnImageError(f"{name} is damaged: {error}. Open it in an editor and save it again") from error


def _read(path: Path, limits: PictureLimits) -> bytes:
    try:
        if not path.exists():
            raise FileMissingError(f"there is no file {path}")
        if not path.is_file():
            raise UnreadableFileError(f"{path} is not a file; give a picture")
        _check_bytes(path.stat().st_size, str(path), limits)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{path} cannot be opened: {error}") from error


def _check_bytes(size_bytes: int, name: str, limits: PictureLimits) -> None:
    if size_bytes > limits.max_bytes:
        raise ImageTooLargeError(f"{name} has {size_bytes / 2**20:.1f} MB; the limit is {limits.max_bytes >> 20} MB")


def _check_size(width: int, height: int, name: str, limits: PictureLimits) -> None:
    if width * height > limits.max_pixels or max(width, height) > limits.max_side_px:
        limit = f"{limits.max_pixels / 1e6:g} MP and {limits.max_side_px} pixels a side"
        raise ImageTooLargeError(f"{name} is {width} x {height} pixels; the limit is {limit}. Reduce it first")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageTooSmallError(f"{name} is {width} x {height} pixels; at least {MIN_SIDE_PX} a side are needed")


def _check_scans(image: Image.Image, data: bytes, name: str) -> None:
    # Inside a scan 0xff is always followed by 0x00 or a restart, so this finds the heads of scans, and few others.
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise ImageTooLargeError(f"{name} is a JPEG of more than {MAX_JPEG_SCANS} scans; save it again")


def _check_array(pixels: NDArray[np.uint8], limits: PictureLimits) -> Pixels:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise NotAnImageError(f"a picture array must be uint8 [H, W, 3] RGB, not {pixels.dtype} {list(pixels.shape)}")
    _check_size(pixels.shape[1], pixels.shape[0], "the picture array", limits)
    return pixels


def _to_rgb(image: Image.Image, side_px: int) -> Pixels:
    image.draft("RGB", (side_px, side_px))
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
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
