"""`visavis evaluate --data`: every candidate on the same held-out clips."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands.evaluate.asked import Asked, command_line
from apps.commands.evaluate.terminal import progress, show

if TYPE_CHECKING:
    from training.evaluate.run import EvaluateConfig


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of held-out clips, and those that every part understands."""
    command.add_argument("--data", type=Path, help="held-out clips: `visavis data make --split test`")
    command.add_argument(
        "--model",
        action="append",
        default=[],
        help="model bundle by name or path, run as users run it; may be repeated",
    )
    command.add_argument("--backend", default="auto", help="what runs the bundle (default %(default)s)")
    command.add_argument(
        "--checkpoint", type=Path, action="append", default=[], help="a torch checkpoint of any stage; may be repeated"
    )
    command.add_argument("--clips", type=int, default=24, help="how many clips (default %(default)s)")
    command.add_argument(
        "--steps", help="denoising steps, such as 1,2,4 for three rows each (default: the model's own)"
    )
    command.add_argument("--teacher-steps", type=int, default=30, help="the same of a teacher (default %(default)s)")
    command.add_argument("--size", type=int, help="side of the bundle's pictures (default: that of the clips)")
    command.add_argument(
        "--codec-people", type=int, default=0, help="people to render at 256 px for the codec; 0: use the clips"
    )
    command.add_argument("--assets", type=Path, help="folder of photographs to render from, too")
    command.add_argument(
        "--compare", nargs="+", default=[], metavar="MODEL",
        help="bundles and checkpoints; each is held against the first, with intervals",
    )  # fmt: skip
    command.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="also stream so long and look for drift (default %(default)s: do not)",
    )
    command.add_argument("--people", type=int, default=1, help="how many people to stream (default %(default)s)")
    command.add_argument("--instruments", type=Path, help="folder with the probe (default: the shipped one)")
    command.add_argument("--seed", type=int, default=0, help="of the noise (default %(default)s)")
    command.add_argument("--out", type=Path, help="folder for tables, contact sheets and curves")
    command.add_argument("--json", action="store_true", help="figures as one JSON document")


def run(asked: Asked) -> int:
    """Measure and report. Raises AvatarError."""
    from training.evaluate.report import markdown, write
    from training.evaluate.run import evaluate

    arguments = asked.arguments
    config = _config(asked)
    with progress(quiet=arguments.json) as tell:
        evaluation = evaluate(config, tell)
    if arguments.out:
        write(evaluation, arguments.out)
    show(evaluation.as_json(), markdown(evaluation), arguments.json)
    return 0


def _config(asked: Asked) -> EvaluateConfig:
    from training.evaluate.run import EvaluateConfig, shipped_instruments

    arguments = asked.arguments
    return EvaluateConfig(
        data=arguments.data,
        instruments=arguments.instruments or shipped_instruments(),
        models=asked.models,
        backend=arguments.backend,
        checkpoints=asked.checkpoints,
        clips=arguments.clips,
        steps=asked.steps,
        teacher_steps=arguments.teacher_steps,
        codec_people=arguments.codec_people,
        assets=arguments.assets,
        work=arguments.out,
        size_px=arguments.size,
        seed=arguments.seed,
        minutes=arguments.minutes,
        people=arguments.people,
        command=command_line(arguments),
    )
