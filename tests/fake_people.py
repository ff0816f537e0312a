"""People for streams and stages without GL: coloured ellipses that perform, and casts written by hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from fake_subjects import FakeSubject, fake_performance
from safetensors.numpy import save_file

from training.data.cast.archive import pack_folder
from training.data.cast.cast import PEOPLE, PERFORMANCES, SPLITS, VERSION, CastIndex, digest
from training.data.cast.played import Played, pack
from training.data.truth import Subject


def some_played(count: int = 2, seconds: float = 2.0) -> Played:
    return Played.of([fake_performance(seed, seconds) for seed in range(count)])


class FakePeople:
    """As training.data.stream.People."""

    def __init__(self, folder: Path, split: str) -> None:
        self.played = some_played()

    def next(self, rng: np.random.Generator, size: int) -> Subject:
        return FakeSubject(int(rng.integers(2**31)), size)


class NobodyComes(FakePeople):
    def next(self, rng: np.random.Generator, size: int) -> Subject:
        raise ValueError("no face fits")


class AllDie(FakePeople):
    def next(self, rng: np.random.Generator, size: int) -> Subject:
        os._exit(11)


def write_cast(folder: Path) -> Path:
    """A cast with performances and nobody in it."""
    (folder / "nobody").mkdir(parents=True)
    (folder / "nobody" / "note.txt").write_text("nobody is here\n")
    pack_folder(folder / "nobody", folder / PEOPLE)
    arrays = {f"{split}.{name}": array for split in SPLITS for name, array in pack(some_played(2, 4.0)).items()}
    save_file(arrays, folder / PERFORMANCES)
    digests = {name: digest(folder / name) for name in (PEOPLE, PERFORMANCES)}
    CastIndex(VERSION, {split: () for split in SPLITS}, 1.0, digests).write(folder)
    return folder
