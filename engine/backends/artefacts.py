"""Artefacts: what a library made of a model, and of what, by what and for what, so that nothing stale is ever run.

A folder with artefact.json, format 1, beside the files that it names:
    {"format": 1, "created": "2026-01-31T12:00:00Z", "created_by": "visavis 0.1.0", "origin": {Origin},
     "files": {"denoise.blob": {"sha256": "...", "bytes": 123}, ...}}
The hashes find damage and mix-ups. They are no signature: who may write the files may write the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import engine
from engine.bundle import Bundle, opened_manifest, sha256_of
from engine.errors import ArtefactCorruptError, BundleCorruptError

FORMAT = 1
MANIFEST = "artefact.json"
ORIGIN_KEY = "origin"
"""Key of the origin in this manifest, and in that of a bundle, whose graphs are an artefact too."""
ANY_DEVICE = "any"

_DIGITS = 32
_GRAPH_ENDINGS = (".onnx", ".xml", ".bin")

_TEXTS = ("library", "library_version", "device", "driver")
_TABLES = ("precisions", "sources", "settings")

Setting = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Origin:
    """All that decides whether an artefact fits. Two that differ anywhere are two artefacts.

    device: the hardware it runs on, as closely as the library tells, or ANY_DEVICE; driver: its driver's version.
    precisions: by stage. sources: sha256 of what it was made of, by name. settings: whatever else the library was told.
    """

    library: str
    library_version: str
    device: str = ANY_DEVICE
    driver: str = ""
    precisions: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A name for the artefact: equal for equal origins."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:_DIGITS]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Origin:
        """Unknown and missing keys, and values of another type, are a TypeError."""
        origin = Origin(**values)
        for name in _TEXTS:
            if not isinstance(getattr(origin, name), str):
                raise TypeError(f"{name} is no text")
        for name in _TABLES:
            if not isinstance(getattr(origin, name), Mapping):
                raise TypeError(f"{name} is no table")
        return origin

    def differences(self, wanted: Origin) -> list[str]:
        """What keeps an artefact of this origin from being the wanted one, a few words each."""
        found = []
        for name in (f.name for f in fields(Origin)):
            have, want = getattr(self, name), getattr(wanted, name)
            if have != want:
                found.append(f"its {name.replace('_', ' ')} {_contrast(have, want)}")
        return found


def _contrast(have: Any, want: Any) -> str:
    if isinstance(have, Mapping) and isinstance(want, Mapping):
        names = sorted(name for name in {*have, *want} if have.get(name) != want.get(name))
        return f"differ in {', '.join(names)}"
    return f"is {have or 'unknown'}, not {want or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Artefact:
    """An artefact whose manifest has been read; files are verified when they are asked for."""

    root: Path
    origin: Origin
    files: Mapping[str, str]
    """File name to sha256."""
    created: str
    created_by: str

    def file(self, name: str) -> Path:
        """Path of a verified file. Raises ArtefactCorruptError when it is not in the manifest, absent or altered."""
        path = self.root / name
        if name not in self.files or not path.is_file():
            raise ArtefactCorruptError(f"artefact {self.root} lacks {name}; export or build it again")
        if sha256_of(path) != self.files[name]:
            raise ArtefactCorruptError(f"{path} is not the file its manifest describes; export or build it again")
        return path

    def verify(self) -> None:
        """Check every file. Raises ArtefactCorruptError."""
        for name in self.files:
            self.file(name)


def write_artefact(folder: Path, origin: Origin) -> Artefact:
    """Write the manifest over the files that lie in the folder."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {
        "format": FORMAT,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "created_by": created_by(),
        ORIGIN_KEY: origin.to_dict(),
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return read_artefact(folder)


def read_artefact(root: Path) -> Artefact:
    """Read and check the manifest of an artefact's folder. Raises ArtefactCorruptError."""
    again = "export or build the artefact again"
    with opened_manifest(root / MANIFEST, FORMAT, ArtefactCorruptError, again) as (manifest, files):
        origin = Origin.from_dict(manifest[ORIGIN_KEY])
        return Artefact(root, origin, files, str(manifest["created"]), str(manifest["created_by"]))


def graph_hashes(bundle: Bundle) -> dict[str, str]:
    """Hashes of a bundle's graphs and weights: the sources of what is made of them."""
    return {name: digest for name, digest in sorted(bundle.files.items()) if name.endswith(_GRAPH_ENDINGS)}


def origin_of(bundle: Bundle) -> Origin | None:
    """Where a bundle's graphs come from; None in bundles of before this was written down. Raises BundleCorruptError."""
    told = bundle.manifest.get(ORIGIN_KEY)
    if told is None:
        return None
    try:
        return Origin.from_dict(told)
    except TypeError as error:
        raise BundleCorruptError(
            f"the manifest of {bundle.root} says nothing sensible of its origin ({error}); copy or export it again"
        ) from error


def created_by() -> str:
    """This program and its version."""
    return f"visavis {engine.__version__}"
