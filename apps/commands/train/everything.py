"""`visavis train all`: every stage, from drawing clips to the student."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from apps.commands.train.given import needs_training


def register(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `all`."""
    parser = stages.add_parser("all", help="every stage, from drawing clips to the student")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of everything; the same command continues an interrupted run")
    add("--size", default="nano", choices=("tiny", "nano", "base"), help="model size (default %(default)s)")
    add("--assets", type=Path, help="folder with portraits, skins and hair; without it plain heads only")
    add("--clips", type=int, default=800, help="training clips to make (default %(default)s)")
    add("--seconds", type=float, default=4.0, help="length of a clip (default %(default)s)")
    add("--hours", type=float, default=2.0, help="hours of speech for the audio encoder (default %(default)s)")
    add("--workers", type=int, default=2, help="processes that draw and speak (default %(default)s)")
    add("--minutes", type=float, default=120.0, help="training time, shared by the stages (default %(default)s)")
    add("--batch", type=int, default=24, help="batch per process (default %(default)s)")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Train everything. Raises AvatarError."""
    try:
        from training.pipeline import PipelineConfig, train_all
    except ImportError as error:
        raise needs_training(error) from error

    names = ("out", "size", "assets", "clips", "seconds", "workers", "hours", "minutes", "batch", "seed", "device")
    config = PipelineConfig(**{name: getattr(args, name) for name in names})
    student = train_all(config, lambda stage: print(f"stage: {stage}", file=sys.stderr))
    print(f"student: {student}\nnext: visavis export onnx {student} -o assets/models/{config.size}")
    return 0
