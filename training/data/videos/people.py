"""Which films there are, who is in them, and who is held out for test."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.videos.errors import NoVideosError

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"})

_NAME_LETTERS = 24


@dataclass(frozen=True, slots=True)
class Film:
    """path: where it lies. name: relative to the folder given. person: who is in it. split: `train` or `test`."""

    path: Path
    name: str
    person: str
    split: str

    @property
    def key(self) -> str:
        """A name for its shards and clips: readable, and different for every film of the folder."""
        readable = re.sub(r"[^a-z0-9]+", "-", Path(self.name).stem.lower()).strip("-")[:_NAME_LETTERS]
        return f"{readable or 'film'}-{hashlib.sha256(self.name.encode()).hexdigest()[:10]}"


def list_films(folder: Path, split_share: float, settled: Mapping[str, str] | None = None) -> list[Film]:
    """All films below a folder, by name, each with its person's split; `settled` keeps splits of earlier runs.

    Films in one subfolder show one person; those that lie in the folder itself one person each. Raises NoVideosError.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise NoVideosError(
            f"{folder} holds no films; put MP4, MOV, MKV or WebM files there, those of one person into one subfolder"
        )
    people = {path: person_of(path.relative_to(folder)) for path in paths}
    splits = split_people(set(people.values()), split_share, settled or {})
    return [Film(path, path.relative_to(folder).as_posix(), who, splits[who]) for path, who in people.items()]


def person_of(name: Path) -> str:
    """Who a film shows, from its place below the folder."""
    return name.parts[0] if len(name.parts) > 1 else name.stem


def split_people(people: set[str], share: float, settled: Mapping[str, str]) -> dict[str, str]:
    """`train` or `test` per person, from the person's name alone, so that more films change nothing for the others.

    Of several people at least one is held out when a share is asked for: training needs somebody to be measured on.
    """
    splits = {who: settled.get(who, "test" if _draw(who) < share else "train") for who in people}
    if share > 0 and len(people) > 1 and "test" not in splits.values():
        unsettled = [who for who in people if who not in settled]
        if unsettled:
            splits[min(unsettled, key=_draw)] = "test"
    return splits


def _draw(person: str) -> float:
    """A number in [0, 1) that only the name decides."""
    return int.from_bytes(hashlib.sha256(person.encode()).digest()[:8]) / 2**64
