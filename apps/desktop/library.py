"""The people to choose from: those that come with visavis, and the user's own pictures.

Own pictures are copied into a folder, upright and without what cameras write beside the pixels (place, time, device).
Faces for the list are found once and kept in the user's cache. All methods may take a while: not for a window's thread.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from apps.desktop.examination import LIMITS, Doubt, Examination, Pixels, examine
from apps.desktop.folders import config_folder
from apps.desktop.points import FacePoints, shipped_points
from engine.backends.base import Landmarker
from engine.backends.cache import cache_folder
from engine.bundle import shipped_models
from engine.errors import ArgumentError, AvatarError, BackendError, FileMissingError, OutputNotWritableError
from engine.portrait.loading import ImageSource, load_image

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
THUMBNAIL_PX = 96
MOST_OWN = 200
MOST_BYTES = 1 << 30
"""Of one's own pictures."""

_LONGEST_NAME = 60
_JPEG_QUALITY = 95
_LOOK = 1
"""Rises when thumbnails or warnings are made in another way, so that kept ones are made again."""
_MOST_KEPT = 2 * MOST_OWN
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
"""Names that Windows takes for devices."""

_log = logging.getLogger("visavis.desktop")


class LibraryFullError(AvatarError):
    """There is no room for another portrait."""

    code = "library_full"


@dataclass(frozen=True, slots=True)
class Card:
    """One person of the list. thumbnail: uint8 [96, 96, 3]. own: the user's, so that it can be removed."""

    name: str
    path: Path
    thumbnail: Pixels
    warnings: tuple[Doubt, ...]
    own: bool


class PortraitLibrary:
    """Shipped portraits and those of a folder; of two of one name the own one counts."""

    def __init__(self, folder: Path | None = None, aligner: Landmarker | None = None) -> None:
        """folder: of the user's pictures, made when the first one is added; the usual one if None. aligner: the
        model's own, if it has one. Raises RuntimeError when the folder is None and the user has no home folder.
        """
        self.folder = config_folder() / "portraits" if folder is None else folder
        self._aligner = aligner
        self._points: Landmarker | None = None
        self._points_sought = False
        # Networks and face finder take one picture at a time.
        self._looking = Lock()

    def names(self) -> list[str]:
        """In order: one's own first. Quick."""
        return list(self._files())

    def path(self, name: str) -> Path:
        """Of a picture by name; the first one for an empty name. Raises FileMissingError."""
        files = self._files()
        name = name or next(iter(files), "")
        if name not in files:
            raise FileMissingError(f"there is no portrait named {name!r}; there are: {', '.join(files) or 'none'}")
        return files[name]

    def cards(self) -> Iterator[Card]:
        """Each as soon as it is ready, a tenth of a second or so where it was not seen before. Pictures that cannot be
        used are left out, with a line in the log.
        """
        for name in self.names():
            try:
                yield self.card(name)
            except AvatarError as error:
                _log.warning("portrait %s is left out: %s: %s", name, error.code, error)

    def card(self, name: str) -> Card:
        """Raises FileMissingError, PortraitError or FileError."""
        path = self.path(name)
        thumbnail, warnings = self._look(path)
        return Card(name, path, thumbnail, warnings, path.parent == self.folder)

    def examine(self, source: ImageSource) -> Examination:
        """What a picture would look like, and what speaks against it. Raises PortraitError or FileError."""
        with self._looking:
            return examine(source, self._find_points(), self._aligner)

    def add(self, source: ImageSource, name: str = "") -> Card:
        """Take a picture in, under a name made from `name` or its file's. Raises PortraitError when it cannot be used,
        FileError, LibraryFullError or OutputNotWritableError.
        """
        self._check_room()
        self.examine(source)
        pixels = load_image(source, LIMITS)
        wanted = name or (Path(os.fspath(source)).stem if isinstance(source, str | os.PathLike) else "")
        free = self._free_name(_plain(wanted))
        path = self.folder / f"{free}.jpg"
        _write_jpeg(pixels, path)
        return self.card(free)

    def remove(self, name: str) -> None:
        """Delete one of the user's own. Raises FileMissingError, ArgumentError or OutputNotWritableError."""
        path = self.path(name)
        if path.parent != self.folder:
            raise ArgumentError(f"{name} comes with visavis and cannot be removed")
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputNotWritableError(f"{path} cannot be removed: {error}") from error

    def _files(self) -> dict[str, Path]:
        shipped = shipped_models().parent / "portraits"
        own = _pictures(self.folder)[:MOST_OWN]
        files = {path.stem: path for path in own}
        return files | {path.stem: path for path in _pictures(shipped) if path.stem not in files}

    def _check_room(self) -> None:
        own = _pictures(self.folder)
        with suppress(OSError):
            if len(own) < MOST_OWN and sum(path.stat().st_size for path in own) < MOST_BYTES:
                return
        raise LibraryFullError(f"there is room for {MOST_OWN} portraits of {MOST_BYTES >> 30} GB in all; remove some")

    def _free_name(self, wanted: str) -> str:
        taken = {name.casefold() for name in self._files()}
        free, number = wanted, 2
        while free.casefold() in taken:
            free, number = f"{wanted} {number}", number + 1
        return free

    def _find_points(self) -> Landmarker | None:
        """The network, opened once; None in an installation that lacks it."""
        if not self._points_sought:
            self._points_sought = True
            try:
                self._points = FacePoints(shipped_points())
            except BackendError as error:
                _log.warning("portraits are examined without face points: %s", error)
        return self._points

    def _look(self, path: Path) -> tuple[Pixels, tuple[Doubt, ...]]:
        """Thumbnail and warnings, kept or found now."""
        kept = _kept_path(path)
        if kept is not None and (found := _recall(kept)) is not None:
            return found
        seen = self.examine(path)
        thumbnail = np.asarray(cv2.resize(seen.preview, (THUMBNAIL_PX,) * 2, interpolation=cv2.INTER_AREA), np.uint8)
        if kept is not None:
            _keep(kept, thumbnail, seen.warnings)
        return thumbnail, seen.warnings


def _pictures(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    except OSError:
        return []


def _plain(name: str) -> str:
    """A name that every system takes for a file's."""
    letters = (c if c.isalnum() or c in " -_" else " " for c in unicodedata.normalize("NFC", name))
    plain = " ".join("".join(letters).split())[:_LONGEST_NAME].strip()
    return f"{plain} portrait".strip() if plain.casefold() in _RESERVED | {""} else plain


def _write_jpeg(pixels: Pixels, path: Path) -> None:
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            Image.fromarray(pixels).save(temporary, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputNotWritableError(
            f"the portrait cannot be kept in {path.parent}: {error}; free some space"
        ) from error


def _kept_path(path: Path) -> Path | None:
    """Where what was seen of a picture is kept, by what tells whether the picture has changed."""
    folder = cache_folder("portraits")
    try:
        state = path.stat()
    except OSError:
        return None
    facts = f"{_LOOK} {path.resolve()} {state.st_size} {state.st_mtime_ns}"
    return folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.png" if folder else None


def _recall(kept: Path) -> tuple[Pixels, tuple[Doubt, ...]] | None:
    try:
        with Image.open(kept, formats=["PNG"]) as image:
            if image.size != (THUMBNAIL_PX, THUMBNAIL_PX) or not isinstance(image, PngImagePlugin.PngImageFile):
                return None
            pixels = np.asarray(image.convert("RGB"))
            warnings = tuple(Doubt(str(code), str(text)) for code, text in json.loads(image.text["warnings"]))
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return None
    return pixels, warnings


def _keep(kept: Path, thumbnail: Pixels, warnings: tuple[Doubt, ...]) -> None:
    """A thumbnail with the warnings in its text; without room it will be made again."""
    text = PngImagePlugin.PngInfo()
    text.add_text("warnings", json.dumps([[doubt.code, doubt.text] for doubt in warnings]))
    temporary = kept.with_name(f"{kept.stem}.{os.getpid()}.part")
    with suppress(OSError):
        try:
            Image.fromarray(thumbnail).save(temporary, "PNG", pnginfo=text)
            temporary.replace(kept)
        finally:
            temporary.unlink(missing_ok=True)
        for old in sorted(kept.parent.glob("*.png"), key=lambda path: path.stat().st_mtime)[:-_MOST_KEPT]:
            old.unlink(missing_ok=True)
