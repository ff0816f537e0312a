"""What a published run consists of. The runs themselves are files of training.recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal, cast

from engine.errors import ArgumentError
from training.data.takes import TakeSettings

Stage = Literal["codec", "teacher", "student"]
STAGES: tuple[Stage, ...] = ("codec", "teacher", "student")


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage. It ends at `minutes` of training or `steps`, whichever comes first.

    take, places: what is drawn, and how many takes are held on the device. fill: takes before the first step.
    test_takes: takes of people and voices that are never trained on. frames: of a sequence in a batch.
    """

    minutes: float
    batch: int
    lr: float
    take: TakeSettings
    places: int
    fill: int
    test_takes: int
    steps: int = 1_000_000
    warmup: int = 200
    ema: float = 0.999
    frames: int = 32
    sample_every: int = 1000
    save_every_minutes: float = 2.5


@dataclass(frozen=True, slots=True)
class RunRecipe:
    """size: of the model (engine.model.config). audio_minutes, audio_batch, audio_lr: the audio encoder's own training
    at the begin of the codec's stage, while the first takes are drawn. guidance: baked into the student.
    articulation: see FlowMatchingConfig and ConsistencyConfig. compile: torch.compile on a GPU."""

    name: str
    size: str
    workers: int
    codec: StagePlan
    teacher: StagePlan
    student: StagePlan
    audio_minutes: float = 0.75
    audio_batch: int = 4096
    audio_lr: float = 2e-3
    audio_steps: int = 1_000_000
    guidance: float = 1.5
    articulation: tuple[float, float] = (0.0, 0.0)
    compile: bool = True
    seed: int = 0

    def plan(self, stage: Stage) -> StagePlan:
        return cast(StagePlan, getattr(self, stage))


def load_recipe(name: str) -> RunRecipe:
    """`RECIPE` of the module training.recipes.NAME. Raises ArgumentError for an unknown name."""
    import training.recipes

    known = sorted(module.name for module in iter_modules(training.recipes.__path__))
    if name not in known:
        raise ArgumentError(f"there is no recipe {name!r}: use {' or '.join(known)}")
    return cast(RunRecipe, import_module(f"training.recipes.{name}").RECIPE)


_REHEARSED: Mapping[Stage, tuple[int, int, TakeSettings]] = {
    "codec": (12, 8, TakeSettings("pairs", 128, 8)),
    "teacher": (12, 4, TakeSettings("sequences", 128, 40)),
    "student": (6, 4, TakeSettings("sequences", 128, 40)),
}
"""Steps, batch and take of each stage of a rehearsal."""


def rehearsal(recipe: RunRecipe, size: str = "tiny", workers: int = 1) -> RunRecipe:
    """The same run in about a minute on a processor: every step of the way, no quality."""
    stages = {}
    for stage, (steps, batch, take) in _REHEARSED.items():
        stages[stage] = replace(
            recipe.plan(stage), steps=steps, batch=batch, take=take, places=4, fill=2, test_takes=1, minutes=3.0,
            warmup=3, sample_every=steps, ema=0.9,
        )  # fmt: skip
    return replace(
        recipe, size=size, workers=workers, audio_steps=8, audio_batch=256, audio_minutes=1.0, compile=False, **stages
    )
