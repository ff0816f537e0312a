"""Folders as one zip file and back: pictures stored, text and meshes under LZMA, everything with a check sum."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from engine.errors import CastDamagedError, ExtraMissingError

_PICTURES = (".jpg", ".png")
_SAME_TIME = (1980, 1, 1, 0, 0, 0)


def pack_folder(folder: Path, archive: Path) -> None:
    """Every file below a folder, in order of name; equal folders give equal bytes."""
    partial = archive.with_suffix(".part")
    with zipfile.ZipFile(partial, "w") as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _SAME_TIME)
            info.compress_type = zipfile.ZIP_STORED if path.suffix in _PICTURES else zipfile.ZIP_LZMA
            file.writestr(info, path.read_bytes())
    partial.replace(archive)


def unpack_folder(archive: Path, folder: Path) -> None:
    """Raises CastDamagedError for a damaged archive and for members that would leave the folder."""
    try:
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                place = PurePosixPath(name)
                if place.is_absolute() or ".." in place.parts:
                    raise CastDamagedError(f"{archive} holds {name!r}, which lies outside; get the cast again")
            file.extractall(folder)
    except RuntimeError as error:  # what zipfile says when Python was built without a compressor
        raise ExtraMissingError(f"{archive} needs Python's lzma module ({error}); use a Python that has it") from error
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise CastDamagedError(f"{archive} cannot be unpacked ({error}); get the cast again") from error


def loosen(path: Path, target: Path) -> None:
    """An .npz without compression of its own, which the archive's LZMA makes smaller by a quarter."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with np.load(path, allow_pickle=False) as arrays:
        np.savez(target, **dict(arrays))
