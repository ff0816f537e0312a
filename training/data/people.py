"""Where people and performances come from: photographs as puppets, heads from seeds, speech played by heart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.data.truth import Performance, Subject

Kind = Literal["puppet", "head"]

FACES, VOICES = "faces", "voices"
"""Folders of the cache: fitted photographs, and speech prepared by training.data.voice_cache."""


@dataclass(frozen=True, slots=True)
class SubjectPlan:
    """Which person to set up. portrait: the photograph of a puppet, None for a head."""

    kind: Kind
    seed: int
    portrait: Path | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """Where people and performances come from; functions must be importable by name, since workers are spawned.

    open_subject: (plan, size in pixels, assets, cache). perform: (seed, seconds, split, cache).
    portraits: (assets, split, cache) to the usable photographs.
    """

    open_subject: Callable[[SubjectPlan, int, Path | None, Path], Subject]
    perform: Callable[[int, float, str, Path], Performance]
    portraits: Callable[[Path, str, Path], Sequence[Path]]


def default_sources() -> Sources:
    """Photo puppets, anny heads and the performances of training.data.performance."""
    return Sources(open_person, _perform, _list_portraits)


def open_person(wanted: SubjectPlan, size: int, assets: Path | None, cache: Path) -> Subject:
    """Set up a puppet or a head."""
    if wanted.portrait is not None and assets is not None:
        from training.data.puppets import PuppetSubject

        return PuppetSubject(wanted.portrait, size, assets, wanted.seed, cache / FACES)
    from training.data.heads.subject import HeadSubject

    parts = assets / "heads" if assets else None
    return HeadSubject(wanted.seed, size, parts if parts and parts.is_dir() else None)


def _perform(seed: int, seconds: float, split: str, cache: Path) -> Performance:
    from training.data.performance import perform

    voices = cache / VOICES
    return perform(seed, seconds, split, voices if voices.is_dir() else None)


def _list_portraits(assets: Path, split: str, cache: Path) -> Sequence[Path]:
    from training.data.puppets.portraits import list_portraits

    return list_portraits(assets, "test" if split == "test" else "train", cache / FACES)
