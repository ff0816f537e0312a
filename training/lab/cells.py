"""One cell of the laboratory's table: a method with a seed, trained for its budget and measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from engine.model.avatar import load_model
from training.denoising import test_batch, train_consistency
from training.distilling import EULER, train_matching
from training.duel import CriticConfig
from training.generate import STUDENT_SAMPLING, TEACHER_SAMPLING, SamplingConfig
from training.lab.figures import measure
from training.latents import LatentClips
from training.objectives.consistency import ConsistencyConfig
from training.objectives.dmd import MatchingConfig
from training.objectives.selfroll import Rolling
from training.objectives.tile_distillation import TileConfig
from training.probing import ensure_probe
from training.run import RunConfig
from training.tiling import train_tiles

TEACHER, START, START_EULER = "teacher", "undistilled", "undistilled-euler"
UNTRAINED = (TEACHER, START, START_EULER)
"""The teacher with its guidance; and its weights drawn as students are, which is what every student begins as."""

RATES = {"dmd": 5e-5, "reward": 3e-5, "mogan": 5e-5, "vdot": 5e-5, "tdm": 3e-5, "phased": 5e-5}
"""Learning rates of methods that go too far in the same time with the usual one: more updates, or larger ones."""

GUIDED = ("asd", "accvideo")
"""Methods that aim at the guided teacher, too: one is too short of updates to reach it, the other shows it as it is."""

DAMAGE = 0.01
"""What tiles left out may change of a layer; with 0.03 a student of so few updates trembles (jerk 2.8 of the truth)."""

BLOCK = 8
BEST = 30
"""Steps of the teacher at its best."""


@dataclass(frozen=True, slots=True)
class LabConfig:
    """The same for every cell. minutes: of training, whatever the method spends them on; clips: held-out ones.

    Every student starts from the teacher's weights. steps: that students are drawn with. critic: of the methods that
    have one; on short budgets the student gets more of the updates than papers give it. guidance: of the teacher's
    steps that consistency follows, far from their end as it stays; aim: of the teacher that others match or copy, who
    get all of what guidance overdoes (but for GUIDED).
    """

    out: Path
    teacher: Path
    minutes: float = 4.0
    batch: int = 8
    lr: float = 1e-4
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: tuple[int, ...] = (1, 2, 4)
    clips: int = 40
    threads: int = 1
    guidance: float = 1.5
    aim: float = 1.0
    critic: CriticConfig = field(default_factory=lambda: CriticConfig(steps=2, warmup=5))


def train(config: LabConfig, method: str, seed: int, clips: LatentClips, held_out: LatentClips) -> Path:
    """The student of a cell; a cell that was trained already is left alone."""
    out = config.out / method / f"seed{seed}"
    run = RunConfig(
        out=out, minutes=config.minutes, batch=config.batch, lr=RATES.get(method, config.lr), warmup=10, ema=0.98,
        seed=seed, threads=config.threads, sample_every=1_000_000, save_every_minutes=1e9,
    )  # fmt: skip
    if method == "consistency":
        return train_consistency(clips, held_out, run, config.teacher, ConsistencyConfig(guidance=config.guidance))
    if method == "vdit":
        how = ConsistencyConfig(guidance=config.guidance, segments=2)
        return train_tiles(clips, held_out, run, config.teacher, how, TileConfig(damage=DAMAGE))
    matching = matching_of(method, config.guidance if method in GUIDED else config.aim)
    return train_matching(clips, held_out, run, config.teacher, method, matching, critic=config.critic)


def matching_of(method: str, guidance: float) -> MatchingConfig:
    """What a method is told beside the common settings."""
    rolling = Rolling(steps=4, first_steps=4) if method == "asd" else Rolling(steps=2)
    return MatchingConfig(rolling=rolling, guidance=guidance, blocks=(BLOCK,))


def is_euler(method: str) -> bool:
    """Whether a method's students are drawn by Euler's method."""
    return method in EULER or method in ("vdit", START_EULER)


def sampling_of(method: str, steps: int) -> SamplingConfig | None:
    """How a student is drawn with so many steps; None where it cannot be. All alike, and with all the noise and no
    easing, so that what differs is the method.
    """
    if method == TEACHER:
        return replace(TEACHER_SAMPLING, steps=steps, block=BLOCK)
    if method in ("accvideo", "phased", "vdit") and steps != 2:
        return None
    plain = replace(STUDENT_SAMPLING, steps=steps, block=BLOCK, noise_scale=1.0, easing=0.0)
    return replace(plain, sampler="euler") if is_euler(method) else plain


def run_cell(config: LabConfig, method: str, seed: int, clips: LatentClips, held_out: LatentClips) -> dict[str, Any]:
    """Train, measure, and keep what came of it as cell.json, which a second call returns."""
    folder = config.out / method / f"seed{seed}"
    path = folder / "cell.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = config.teacher if method in UNTRAINED else train(config, method, seed, clips, held_out)
    model, _ = load_model(checkpoint)
    ensure_probe(model, clips)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    batch = test_batch(held_out, config.clips)
    numbers: Sequence[int] = (*config.steps, BEST) if method == TEACHER else config.steps
    rows = {}
    for steps in numbers:
        how = sampling_of(method, steps)
        if how is not None:
            rows[str(steps)] = measure(model, batch, how, seed).as_json()
    cell = {"method": method, "seed": seed, "steps": rows, "cost": _cost(folder)}
    path.write_text(json.dumps(cell, indent=1), encoding="utf-8")
    return cell


def _cost(folder: Path) -> dict[str, float]:
    """Updates of the student and minutes that they took, over all runs of the cell."""
    updates, seconds = 0, 0.0
    for log in sorted(folder.rglob("log.jsonl")):
        last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        updates, seconds = updates + last["step"], seconds + last["seconds"]
    return {"updates": updates, "minutes": round(seconds / 60, 2)}
