"""From nothing to a student in one call: clips, voices, codec, teacher, student. `visavis train all`.

Each stage resumes, so the same call after an interruption goes on where it stopped. Budgets are shares of one number
of minutes; on a GPU the same call trains `base`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.audio import load_or_make, train_audio
from training.codec import train_codec
from training.data.make import make_clips
from training.data.recipe import DEFAULT_MIX
from training.denoising import latents_of, train_consistency, train_teacher
from training.objectives.consistency import ConsistencyConfig
from training.run import RunConfig

SHARES = {"audio": 0.1, "codec": 0.45, "teacher": 0.3, "student": 0.15}
"""Of the training minutes. Making clips is not counted: it needs processor cores, not the trainer's device."""

LEARNING_RATES = {"audio": 1e-3, "codec": 6e-4, "teacher": 8e-4, "student": 2e-4}


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """out: folder of everything. clips: how many of `seconds` each to make for training; a tenth of it is held out.

    batch: per process, of codec, teacher and student. hours: speech for the audio encoder.
    """

    out: Path
    size: str = "nano"
    assets: Path | None = None
    clips: int = 800
    seconds: float = 4.0
    workers: int = 2
    hours: float = 2.0
    minutes: float = 120.0
    batch: int = 24
    seed: int = 0
    device: str = "auto"


def train_all(config: PipelineConfig, report: Callable[[str], None]) -> Path:
    """Run every stage; returns the student's checkpoint. report is told the name of each stage as it starts."""
    shards = {}
    for split, count, seed in (("train", config.clips, config.seed), ("test", max(16, config.clips // 10), 1)):
        report(f"clips ({split})")
        shards[split] = _make(config, split, count, seed)
    cache, start = config.out / "cache", None
    report("audio")
    run = _run(config, "audio", batch=1024)
    bank = load_or_make(run.out / "bank", config.hours, "train", config.workers, None, config.seed)
    held_out = load_or_make(run.out / "bank-test", config.hours / 10, "test", config.workers, None, config.seed)
    start = train_audio(bank, held_out, run, config.size, None)
    report("codec")
    run = _run(config, "codec", batch=config.batch)
    start = train_codec(shards["train"], shards["test"], run, config.size, cache / "pairs", start)
    clips = {split: latents_of(paths, start, cache, split) for split, paths in shards.items()}
    report("teacher")
    start = train_teacher(clips["train"], clips["test"], _run(config, "teacher", batch=config.batch), start)
    report("student")
    run = _run(config, "student", batch=config.batch)
    return train_consistency(clips["train"], clips["test"], run, start, ConsistencyConfig())


def _make(config: PipelineConfig, split: str, count: int, seed: int) -> list[Path]:
    out = config.out / "data" / split
    make_clips(
        out, count, config.seconds, 128, seed, split, config.assets, config.workers, 4, DEFAULT_MIX,
        cache=config.out / "cache", show_progress=True,
    )  # fmt: skip
    return sorted(out.glob("*.tar"))


def _run(config: PipelineConfig, stage: str, batch: int) -> RunConfig:
    return RunConfig(
        out=config.out / stage,
        minutes=config.minutes * SHARES[stage],
        batch=batch,
        lr=LEARNING_RATES[stage],
        seed=config.seed,
        device=config.device,
    )
