"""Run one stage of a published run: `visavis train recipe NAME --stage STAGE`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import ArgumentError
from engine.model.avatar import AvatarModel
from engine.model.config import SIZES
from training.codec import PROBE_OUTPUTS
from training.data.cast import Cast
from training.data.stream import OpenPeople, People, StreamSettings
from training.run import RunConfig
from training.speed import use_fast_kernels
from training.staged.plan import STAGES, RunRecipe, Stage
from training.staged.product import Folders, load_products


@dataclass(frozen=True, slots=True)
class StageRun:
    """Everything a stage's function needs. start: model with the weights of earlier stages, on the CPU."""

    recipe: RunRecipe
    stage: Stage
    cast: Cast
    folders: Folders
    device: torch.device
    start: AvatarModel
    meta: dict[str, Any]
    continued: bool
    say: Callable[[str], None]
    people: OpenPeople

    @property
    def out(self) -> Path:
        return self.folders.of(self.stage)

    def stream(self) -> StreamSettings:
        """The stream of this stage's takes."""
        plan = self.recipe.plan(self.stage)
        seed = self.recipe.seed + 1000 * STAGES.index(self.stage)
        return StreamSettings(self.cast.folder, plan.take, self.recipe.workers, seed=seed, people=self.people)

    def config(self) -> RunConfig:
        """The training loop's settings."""
        plan = self.recipe.plan(self.stage)
        return RunConfig(
            out=self.folders.work / self.stage, steps=plan.steps, minutes=plan.minutes, batch=plan.batch, lr=plan.lr,
            warmup=plan.warmup, ema=plan.ema, seed=self.recipe.seed, sample_every=plan.sample_every,
            save_every_minutes=plan.save_every_minutes, device=str(self.device), log_every=10,
        )  # fmt: skip


def run_stage(
    recipe: RunRecipe,
    stage: Stage,
    cast: Path,
    out: Path,
    before: Path | None = None,
    work: Path | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda text: None,
    people: OpenPeople = People,
) -> dict[str, Any]:
    """Train one stage and leave its product in out/STAGE; returns its figures.

    before: folder of an earlier run, asked for stages that out lacks. Weights of this very stage, if either folder has
    them, are trained further with a fresh optimiser. work: folder for what only a stop in the middle of the stage
    needs. people: who is drawn, the cast's own by default.
    Raises CastDamagedError, FileMissingError, WeightsDamagedError, StreamLostError.
    """
    if stage not in STAGES:
        raise ArgumentError(f"there is no stage {stage!r}: use {', '.join(STAGES)}")
    from training.staged.codec import train_codec_stage
    from training.staged.denoiser import train_student_stage, train_teacher_stage

    opened = Cast.open(cast)
    folders = Folders(out, before, work or _work_folder(out))
    chosen = RunConfig(out=out, device=device).resolve_device()
    if chosen.type == "cuda":
        use_fast_kernels()
    start, meta, continued = _start(recipe, stage, folders)
    context = StageRun(recipe, stage, opened, folders, chosen, start, meta, continued, say, people)
    train = {"codec": train_codec_stage, "teacher": train_teacher_stage, "student": train_student_stage}[stage]
    return train(context)


def _start(recipe: RunRecipe, stage: Stage, folders: Folders) -> tuple[AvatarModel, dict[str, Any], bool]:
    """The model to go on from, and whether this very stage has been trained before."""
    config = SIZES[recipe.size]
    earlier = STAGES[: STAGES.index(stage)]
    continued = folders.find(stage) is not None
    needed = (*earlier, stage) if continued else earlier
    if not needed:
        return AvatarModel(config, PROBE_OUTPUTS), {}, False
    model, meta = load_products(folders, needed, config)
    return model, meta, continued


def _work_folder(out: Path) -> Path:
    """A folder for this run beside the system's temporary files, so that `out` holds nothing but the product."""
    mark = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"visavis-recipe-{os.getuid()}-{mark}"
