"""Pictures of one person: frames beside the portrait that they are to be made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError, ExtraMissingError, PortraitError
from training.data.truth import Drawn, Floats, FramePose, Performance, Subject
from training.data.videos.faces import find_model, open_finder
from training.data.videos.people import SUFFIXES

PICTURE_PX = 256

Bytes = NDArray[np.uint8]


class PersonUnusable(PortraitError):
    """A portrait or film cannot teach the decoder this person; the message says what to give instead."""

    code = "person_unusable"


class NotGainedError(DataError):
    """Adapting made nothing better, or something worse; nothing is written."""

    code = "not_gained"


@dataclass(frozen=True, slots=True)
class Truth:
    """What a renderer knows of N frames on the 64 x 64 grid: see training.data.truth.Drawn."""

    flow: Floats
    known: Floats
    mouth: Floats


@dataclass(frozen=True, slots=True)
class PersonPairs:
    """reference uint8 [S, S, 3]: the canonical crop that talks. frames uint8 [N, S, S, 3] in the same crop.

    landmarks [N, 28, 2]: fractions. groups int [N]: frames of one group follow each other, so held-out groups are not
    seen in training. truth: for drawn frames. portrait: the whole picture of `reference`, where it came from a film.
    """

    source: Path
    reference: Bytes
    frames: Bytes
    landmarks: Floats
    groups: NDArray[np.int64]
    truth: Truth | None = None
    portrait: Bytes | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def part(self, rows: NDArray[np.int64]) -> PersonPairs:
        """The named frames only."""
        truth = self.truth and Truth(self.truth.flow[rows], self.truth.known[rows], self.truth.mouth[rows])
        return PersonPairs(
            self.source, self.reference, self.frames[rows], self.landmarks[rows], self.groups[rows], truth,
            self.portrait,
        )  # fmt: skip

    def split(self, held_out: float = 0.25) -> tuple[PersonPairs, PersonPairs]:
        """Training and held-out frames; whole groups, the last ones held out. Raises PersonUnusable."""
        groups = np.unique(self.groups)
        kept_back = groups[len(groups) - max(1, round(held_out * len(groups))) :]
        if len(groups) < 2:
            raise PersonUnusable(f"{self.source} shows too little; give a film of at least 10 s, or more films")
        out = np.isin(self.groups, kept_back)
        return self.part(np.flatnonzero(~out)), self.part(np.flatnonzero(out))


def pairs_of(source: Path, assets: Path | None, clips: int = 12, size_px: int = PICTURE_PX) -> PersonPairs:
    """Pairs of a film's own frames, or of a puppet made of one portrait.

    Raises PersonUnusable or VideoUnusable, and ExtraMissingError, FaceModelMissing, AssetsMissing or
    GraphicsUnavailable when what is needed to see or draw is not there.
    """
    if assets is None:
        raise PersonUnusable(
            "personalising needs a face finder and, for a portrait, a face model; pass --assets with a folder that"
            " holds models/face_landmarker_v2_with_blendshapes.task and ict/"
        )
    if find_spec("mediapipe") is None:
        raise ExtraMissingError("personalising needs mediapipe; install visavis[train]")
    if source.suffix.lower() in SUFFIXES:
        from training.personal.film import pairs_of_film

        return pairs_of_film(source, open_finder(find_model(assets=assets)), size_px)
    return _pairs_of_puppet(source, assets, clips, size_px)


def _pairs_of_puppet(source: Path, assets: Path, clips: int, size_px: int) -> PersonPairs:
    from training.data.performance import perform
    from training.data.puppets import PuppetSubject
    from training.data.puppets.portraits import why_unusable

    if reason := why_unusable(source, assets):
        raise PersonUnusable(
            f"{source} cannot be made to move ({reason}); give a film of the person, or another portrait"
        )
    subject = PuppetSubject(source, size_px, assets)
    try:
        return drawn_pairs(subject, [perform(seed, 4.0) for seed in range(clips)], source)
    finally:
        subject.close()


def drawn_pairs(subject: Subject, performances: Sequence[Performance], source: Path, every: int = 8) -> PersonPairs:
    """Every n-th frame of performances, drawn by a subject at rest in its reference, with the truth about it."""
    reference = subject.set_reference(None)
    poses = [
        (group, FramePose.of(performance, frame))
        for group, performance in enumerate(performances)
        for frame in range(0, len(performance), every)
    ]
    drawn = [subject.draw(pose, truth=True) for _, pose in poses]
    return PersonPairs(
        source,
        reference.image,
        np.stack([d.image for d in drawn]),
        np.stack([d.landmarks for d in drawn]).astype(np.float32),
        np.array([group for group, _ in poses]),
        _truth(drawn),
    )


def _truth(drawn: list[Drawn]) -> Truth:
    maps = [(d.flow, d.known, d.mouth) for d in drawn if d.flow is not None]
    flow, known, mouth = (np.stack(part).astype(np.float32) for part in zip(*maps, strict=True))
    return Truth(flow, known, mouth)
