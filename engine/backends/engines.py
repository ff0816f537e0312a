"""Compiled engines, kept between runs: found by their origin, verified, built once, and bounded in size.

An entry is an artefact in a folder named after its origin's key. It is built aside and moved into place when complete,
so a reader never meets half of one; a lock only keeps two processes from doing the same work. The system holds it while
its process lives, so a crash leaves none behind, and who has waited long enough builds for itself.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep, time
from typing import BinaryIO

from engine.backends.artefacts import MANIFEST, Artefact, Origin, read_artefact, write_artefact
from engine.backends.cache import cache_folder
from engine.backends.notices import NoticeKind, tell
from engine.errors import ArtefactCorruptError

FOLDER = "engines"
LIMIT_VARIABLE = "VISAVIS_CACHE_MB"
"""Environment variable with the most that kept engines may take, in 10^6 bytes."""
LIMIT_MB = 4_000
"""That, when the variable is unset. After each build the entries that were not used for longest go."""
WAIT_S = 900.0
"""How long one process waits for another that builds the same: longer than any build should take."""

_ASIDE = ".new-"
_LOCKS = ".locks"
_ABANDONED_S = 24 * 3600.0
"""Age at which something half-made belongs to nobody any more."""
_POLL_S, _PATIENCE_S = 0.05, 2.0

Build = Callable[[Path], None]
"""Writes an artefact's files into an empty folder."""


@contextmanager
def obtained(origin: Origin, build: Build, what: str, *, quick: bool = False, wait_s: float = WAIT_S) -> Iterator[Path]:
    """The folder of a verified artefact of this origin, kept or built now; load it inside the block.

    what: for the line that tells of a build, as in "TensorRT engines of nano". quick: a first build is not worth a
    line; one that replaces something kept is, with what is wrong with that. Whatever `build` raises is raised.
    """
    folder = cache_folder(FOLDER)
    artefact = _from_cache(folder, origin, build, what, quick, wait_s) if folder else None
    if artefact is not None:
        yield artefact.root
        return
    with tempfile.TemporaryDirectory(prefix="visavis-", ignore_cleanup_errors=True) as scratch:
        _announce(what, "", quick)
        yield _make(origin, build, Path(scratch)).root


def discard(origin: Origin, what: str, why: str) -> None:
    """Forget a sound entry that the library refuses all the same, so that it is built again; told in a line."""
    folder = cache_folder(FOLDER)
    if folder is not None and (folder / origin.key).exists():
        reason = why.strip().rpartition("\n")[2]
        tell(NoticeKind.BUILDING, f"{what} for this machine, since what was kept is refused: {reason}")
        shutil.rmtree(folder / origin.key, ignore_errors=True)


def _from_cache(folder: Path, origin: Origin, build: Build, what: str, quick: bool, wait_s: float) -> Artefact | None:
    """None when the folder cannot be used, as on a full disk."""
    found, _ = _kept(folder, origin)
    try:
        return found or _build_once(folder, origin, build, what, quick, wait_s)
    except OSError as error:
        tell(NoticeKind.BUILDING, f"{what} cannot be kept in {folder}: {error}")
        return None


def _kept(folder: Path, origin: Origin) -> tuple[Artefact | None, str]:
    """The sound entry of this origin, or why there is none: empty when nothing like it was ever kept."""
    place = folder / origin.key
    if not place.exists():
        return None, _outdated(folder, origin)
    try:
        artefact = read_artefact(place)
        artefact.verify()
    except ArtefactCorruptError as error:
        return None, str(error).partition(";")[0]
    if wrong := artefact.origin.differences(origin):
        return None, "; ".join(wrong)
    with suppress(OSError):
        os.utime(place / MANIFEST)
    return artefact, ""


def _outdated(folder: Path, origin: Origin) -> str:
    """What has changed on this machine since the same was built, if it was: library, device or driver."""
    for manifest in folder.glob(f"*/{MANIFEST}"):
        with suppress(ArtefactCorruptError):
            other = read_artefact(manifest.parent).origin
            here = replace(other, library_version=origin.library_version, device=origin.device, driver=origin.driver)
            if here == origin:
                return "; ".join(other.differences(origin))
    return ""


def _build_once(folder: Path, origin: Origin, build: Build, what: str, quick: bool, wait_s: float) -> Artefact:
    with _locked(folder, origin.key, wait_s, what):
        found, why = _kept(folder, origin)
        if found:  # By another process, while this one waited.
            return found
        _announce(what, why, quick)
        with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=folder, ignore_cleanup_errors=True) as scratch:
            made = _make(origin, build, Path(scratch))
            _put(made.root, folder / origin.key, Path(scratch))
        prune(folder, keep=origin.key)
        return read_artefact(folder / origin.key)


def _make(origin: Origin, build: Build, scratch: Path) -> Artefact:
    place = scratch / "artefact"
    place.mkdir()
    build(place)
    return write_artefact(place, origin)


def _put(new: Path, place: Path, scratch: Path) -> None:
    """Move a complete entry into place; what is unsound there goes with the scratch folder."""
    if place.exists():
        place.rename(scratch / "old")
    try:
        new.rename(place)
    except OSError:
        if not (place / MANIFEST).is_file():  # Else another process was quicker, and its entry is as good.
            raise


def _announce(what: str, why: str, quick: bool) -> None:
    if why or not quick:
        tell(NoticeKind.BUILDING, f"{what} for this machine" + (f", since {why}" if why else ""))


def prune(folder: Path, keep: str = "", limit: int | None = None) -> None:
    """Remove what was not used for longest until the rest is within the limit, and what was abandoned half-made."""
    limit = limit_bytes() if limit is None else limit
    for aside in folder.glob(f"{_ASIDE}*"):
        with suppress(OSError):
            if time() - aside.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(aside, ignore_errors=True)
    entries = sorted((m.parent for m in folder.glob(f"*/{MANIFEST}")), key=_last_use)
    sizes = {entry: folder_bytes(entry) for entry in entries}
    total = sum(sizes.values())
    for entry in entries:
        if total <= limit:
            break
        if entry.name != keep:
            shutil.rmtree(entry, ignore_errors=True)
            total -= sizes[entry]


def _last_use(entry: Path) -> float:
    try:
        return (entry / MANIFEST).stat().st_mtime
    except OSError:  # Another process has just removed it.
        return 0.0


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder."""
    sizes = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # Another process may remove it meanwhile.
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return sum(sizes)


def limit_bytes() -> int:
    given = os.environ.get(LIMIT_VARIABLE, "")
    return int(given if given.isdecimal() else LIMIT_MB) * 1_000_000


@contextmanager
def _locked(folder: Path, key: str, wait_s: float, what: str) -> Iterator[None]:
    """Hold the lock of a key, or go on without it after wait_s.

    The first digit of the key names the lock, so there are at most 16 files.
    """
    locks = folder / _LOCKS
    locks.mkdir(exist_ok=True)
    with (locks / key[:1]).open("a+b") as file:
        began, told = monotonic(), False
        while not _try_lock(file) and monotonic() - began < wait_s:
            if not told and monotonic() - began > _PATIENCE_S:
                tell(NoticeKind.BUILDING, f"waiting for another process, which builds {what}")
                told = True
            sleep(_POLL_S)
        yield


def _try_lock(file: BinaryIO) -> bool:
    """Whether the lock is ours now, until the file is closed. True as well where files cannot be locked."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # Some network folders have no locks; two may then build, which costs time only.
        return True
    return True
