"""What was asked of `visavis evaluate`: the candidates and their settings, refused early where they make no sense."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ArgumentError, FileMissingError

_CHECKPOINT = ".safetensors"
_MOST_MINUTES = 120
_FEWEST_COMPARED = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """models, checkpoints: what to measure, those of --compare first. steps: empty for each model's own number."""

    arguments: argparse.Namespace
    models: tuple[str, ...]
    checkpoints: tuple[Path, ...]
    steps: tuple[int, ...]


def read(arguments: argparse.Namespace) -> Asked:
    """Raises ArgumentError or FileMissingError before anything is loaded."""
    models, checkpoints = _candidates(arguments)
    _check(arguments, models, checkpoints)
    return Asked(arguments, models, checkpoints, _parse_steps(arguments.steps))


def _candidates(arguments: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Bundles and checkpoints that were asked for, those of --compare first."""
    checkpoints = [Path(name) for name in arguments.compare if name.endswith(_CHECKPOINT)]
    models = [name for name in arguments.compare if not name.endswith(_CHECKPOINT)]
    return (*models, *arguments.model), (*checkpoints, *arguments.checkpoint)


def _check(arguments: argparse.Namespace, models: Sequence[str], checkpoints: Sequence[Path]) -> None:
    """Refuse before anything is measured what cannot be measured."""
    for path in (arguments.data, arguments.assets, arguments.instruments, *checkpoints):
        if path is not None and not path.exists():
            raise FileMissingError(f"there is no {path}")
    if min(arguments.clips, arguments.teacher_steps, arguments.people) < 1:
        raise ArgumentError("--clips, --teacher-steps and --people must be at least 1")
    if not 0 <= arguments.minutes <= _MOST_MINUTES:
        raise ArgumentError(f"--minutes must lie between 0 and {_MOST_MINUTES}, not {arguments.minutes:g}")
    if arguments.minutes and not models:
        raise ArgumentError("--minutes streams a bundle as users run it: name one with --model")
    if arguments.compare and len(models) + len(checkpoints) < 2:
        raise ArgumentError("--compare needs two or more bundles or checkpoints")
    if arguments.compare and arguments.clips < _FEWEST_COMPARED:
        raise ArgumentError(f"--compare needs --clips of at least {_FEWEST_COMPARED}; more tell more")


def _parse_steps(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1:
        raise ArgumentError(f"--steps must be whole numbers above 0 with commas between, not {text!r}")
    return steps


def command_line(arguments: argparse.Namespace) -> str:
    """What to type to run this again, with every setting that has a value; where the report goes does not matter."""
    words = ["visavis", "evaluate"]
    passed_over = ("handler", "command", "out", "json", *(() if arguments.real else ("takes",)))
    for name, value in vars(arguments).items():
        if name in passed_over or value in (None, [], False):
            continue
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif name == "compare":
            words += [flag, *value]
        elif isinstance(value, list):
            words += [word for item in value for word in (flag, str(item))]
        else:
            words += [flag, str(value)]
    return shlex.join(words)
