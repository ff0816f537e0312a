"""Which clips a data set consists of, and how one shard of them is made in the calling process.

What a clip holds depends on the recipe's seed and the clip's index only: not on the number of workers, nor on what was
made before. One shard holds several clips of each of its subjects, since setting a subject up costs as much as many
frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from engine.errors import DataSettingsError, ShardDamagedError, SubjectsFailedError
from engine.types import FPS
from training.data.clips import Clip, render_clip
from training.data.people import Kind, Sources, SubjectPlan, default_sources
from training.data.shards import ShardWriter, shard_keys

CLIPS_PER_SUBJECT = 4
SUBJECTS_PER_SHARD = 4
CLIPS_PER_SHARD = CLIPS_PER_SUBJECT * SUBJECTS_PER_SHARD

MAX_ATTEMPTS = 8
"""Subjects tried for one slot before the set-up itself is taken to be wrong."""

DEFAULT_MIX: Mapping[Kind, float] = {"puppet": 0.7, "head": 0.3}
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a worker needs to make any shard of a data set. puppet_share: of the subjects, in [0, 1]."""

    out: Path
    clips: int
    seconds: float
    size: int
    seed: int
    split: str
    assets: Path | None
    cache: Path
    truth_stride: int
    puppet_share: float
    portraits: tuple[Path, ...]
    sources: Sources

    @property
    def shards(self) -> int:
        return -(-self.clips // CLIPS_PER_SHARD)

    @property
    def frames_per_clip(self) -> int:
        return round(self.seconds * FPS)

    def shard_path(self, shard: int) -> Path:
        return self.out / f"{self.split}-{shard:05d}.tar"

    def shard_clips(self, shard: int) -> range:
        return range(shard * CLIPS_PER_SHARD, min((shard + 1) * CLIPS_PER_SHARD, self.clips))

    def key(self, clip: int) -> str:
        return f"{self.split}-{clip:07d}"

    def rng(self, *path: int) -> np.random.Generator:
        """A stream of its own for each split, seed and path of numbers."""
        return np.random.default_rng([crc32(self.split.encode()), self.seed, *path])

    def is_complete(self, shard: int) -> bool:
        """Whether the shard is there, readable, and has all its clips."""
        path = self.shard_path(shard)
        try:
            return path.exists() and set(map(self.key, self.shard_clips(shard))) <= set(shard_keys(path))
        except ShardDamagedError:
            return False


@dataclass(frozen=True, slots=True)
class Failure:
    """A subject that could not be drawn and was replaced by another."""

    slot: int
    attempt: int
    kind: str
    subject: str
    error: str


def plan(
    out: Path,
    clips: int,
    seconds: float,
    size: int,
    seed: int,
    split: str,
    assets: Path | None,
    truth_stride: int,
    mix: Mapping[Kind, float],
    cache: Path,
    sources: Sources | None,
) -> Recipe:
    """The recipe of a data set; finds the portraits. Raises DataSettingsError on figures that cannot be."""
    if clips < 1 or seconds * FPS < 1 or size < 16 or truth_stride < 1 or sum(mix.values()) <= 0:
        raise DataSettingsError("clips, seconds, size (16 or more), truth stride and mix must be positive")
    chosen = sources or default_sources()
    share = mix.get("puppet", 0.0) / sum(mix.values()) if assets else 0.0
    portraits = tuple(chosen.portraits(assets, split, cache)) if assets and share > 0 else ()
    return Recipe(
        out=out,
        clips=clips,
        seconds=seconds,
        size=size,
        seed=seed,
        split=split,
        assets=assets,
        cache=cache,
        truth_stride=truth_stride,
        puppet_share=share if portraits else 0.0,
        portraits=portraits,
        sources=chosen,
    )


def subject_plan(recipe: Recipe, slot: int, attempt: int) -> SubjectPlan:
    """Who fills a slot. Kinds follow the golden ratio, portraits a permutation, so that any prefix of the data set
    has the mix asked for and every portrait comes once before any comes twice."""
    rng = recipe.rng(slot, attempt, 1)
    seed = int(rng.integers(2**31))
    if not _is_puppet(recipe, slot):
        return SubjectPlan("head", seed)
    count = len(recipe.portraits)
    turn = sum(_is_puppet(recipe, earlier) for earlier in range(slot))
    order = recipe.rng(turn // count, 2).permutation(count)
    choice = order[turn % count] if attempt == 0 else rng.integers(count)
    return SubjectPlan("puppet", seed, recipe.portraits[int(choice)])


def _is_puppet(recipe: Recipe, slot: int) -> bool:
    return (slot * _GOLDEN + 0.5 + recipe.seed * _GOLDEN**2) % 1.0 < recipe.puppet_share


def make_shard(recipe: Recipe, shard: int, count_frames: Callable[[int], None] = lambda frames: None) -> list[Failure]:
    """Make one shard in this process; returns the subjects that had to be replaced."""
    failures: list[Failure] = []
    wanted = recipe.shard_clips(shard)
    with ShardWriter(recipe.shard_path(shard)) as writer:
        for first in range(wanted.start, wanted.stop, CLIPS_PER_SUBJECT):
            indices = range(first, min(first + CLIPS_PER_SUBJECT, wanted.stop))
            for clip in _clips_of_slot(recipe, first // CLIPS_PER_SUBJECT, indices, failures, count_frames):
                writer.add(clip)
    return failures


def _clips_of_slot(
    recipe: Recipe, slot: int, indices: range, failures: list[Failure], count_frames: Callable[[int], None]
) -> list[Clip]:
    for attempt in range(MAX_ATTEMPTS):
        wanted = subject_plan(recipe, slot, attempt)
        try:
            clips = list(_draw(recipe, wanted, attempt, indices))
        except Exception as error:  # any fault of one subject must not cost the run; it is logged and replaced
            name = wanted.portrait.name if wanted.portrait else str(wanted.seed)
            failures.append(Failure(slot, attempt, wanted.kind, name, f"{type(error).__name__}: {error}"))
        else:
            count_frames(sum(map(len, clips)))
            return clips
    raise SubjectsFailedError(
        f"{MAX_ATTEMPTS} subjects in a row failed for slot {slot}; the last: {failures[-1].error}. "
        "Check the assets folder and that OpenGL (EGL) works: `visavis doctor`"
    )


def _draw(recipe: Recipe, wanted: SubjectPlan, attempt: int, indices: range) -> Iterator[Clip]:
    subject = recipe.sources.open_subject(wanted, recipe.size, recipe.assets, recipe.cache)
    try:
        for index in indices:
            rng = recipe.rng(index, attempt, 3)
            seed = int(rng.integers(2**31))
            performance = recipe.sources.perform(seed, recipe.seconds, recipe.split, recipe.cache)
            clip = render_clip(subject, performance, truth_stride=recipe.truth_stride, rng=rng, key=recipe.key(index))
            clip.meta.update(split=recipe.split, seed=recipe.seed, slot=index // CLIPS_PER_SUBJECT, attempt=attempt)
            yield clip
    finally:
        subject.close()
