"""Clip by clip through all rows: what is measured and what is kept; one clip's pictures in memory at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.data.clips import Clip
from training.data.media import Bytes
from training.data.truth import Floats
from training.evaluate.expressions import Shown, is_expressive, shown
from training.evaluate.frechet import Observer
from training.evaluate.identity import describe
from training.evaluate.likeness import person_of
from training.evaluate.measure import ClipFigures, measure_clip
from training.evaluate.motion import block_edges
from training.evaluate.pictures import Person, measure_person
from training.evaluate.sources import CODEC_ROW, Animator, Source
from training.instruments.probe import Reading


@dataclass(frozen=True, slots=True)
class Showing:
    """One clip as every row shows it, for a film: rows uint8 [F, S, S, 3] by name."""

    clip: Clip
    rows: dict[str, Bytes]


class Walk:
    """Collects. expressions: how many clips to generate again with their expression given; films: numbers of
    those to keep whole; people: whether these clips also serve as the codec's section.
    """

    def __init__(
        self, observer: Observer, sources: Sequence[Source], expressions: int, films: Collection[int], people: bool
    ) -> None:
        self._observer, self._sources = observer, sources
        self._expressions, self._films, self._people = expressions, films, people
        self.figures: dict[str, list[ClipFigures]] = {source.name: [] for source in sources}
        self.references: list[Clip] = []
        self.portraits: list[Floats] = []
        self.who: list[str] = []
        self.people: list[Person] = []
        self.expressions: list[Shown] = []
        self.films: list[Showing] = []

    def measure(self, clip: Clip) -> None:
        """One clip through every row."""
        new = person_of(clip) not in self.who
        pictures: dict[str, Bytes] = {}
        for source in self._sources:
            frames = source.frames(clip)
            edges = _edges(source, len(frames))
            self.figures[source.name].append(measure_clip(self._observer, clip, frames, source.paired, edges))
            pictures[source.name] = frames
        if len(self.references) in self._films:
            self.films.append(Showing(clip, pictures))
        if new and self._people and CODEC_ROW in pictures:
            self.people.append(measure_person(clip, pictures[CODEC_ROW]))
        if is_expressive(clip) and len(self.expressions) < self._expressions:
            self._direct(clip)
        self._note(clip)

    def _note(self, clip: Clip) -> None:
        points = self._read(clip, clip.reference[None]).landmarks[0]
        self.portraits.append(describe(clip.reference, points))
        self.who.append(person_of(clip))
        self.references.append(replace(clip, frames=clip.frames[:0]))

    def _direct(self, clip: Clip) -> None:
        rest = self._read(clip, clip.reference[None]).units
        told = {name: figures[-1].units - rest for name, figures in self.figures.items()}
        free: dict[str, Floats] = {}
        for source in self._sources:
            if isinstance(source, Animator):
                free[source.name] = told[source.name]
                told[source.name] = self._read(clip, source.directed(clip)).units - rest
        self.expressions.append(shown(clip, told, free))

    def _read(self, clip: Clip, frames: Bytes) -> Reading:
        return self._observer.read(frames, clip.reference).reading


def _edges(source: Source, frames: int) -> NDArray[np.bool_] | None:
    return None if source.blocks is None else block_edges(frames, *source.blocks)
