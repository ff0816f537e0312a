"""`visavis evaluate`: figures of quality against held-out people whose every frame is known."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apps.real import add_options, run_real
from engine.errors import ArgumentError, ExtraMissingError, FileMissingError

if TYPE_CHECKING:
    from training.evaluate.report import Evaluation
    from training.evaluate.run import EvaluateConfig

_EXAMPLE = "example: visavis evaluate --model base --checkpoint teacher.safetensors --data clips/test --out report"

_CHECKPOINT = ".safetensors"
_MOST_MINUTES = 120
_FEWEST_COMPARED = 4


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `evaluate`."""
    command = subparsers.add_parser("evaluate", help="measure lip sync, states and pictures", epilog=_EXAMPLE)
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
        "--listening", type=int, default=0, metavar="N",
        help="measure instead, on N portraits, whether the bundle reacts to whom it listens to",
    )  # fmt: skip
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
    add_options(command)
    command.set_defaults(handler=run_evaluate)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Measure and report. Raises AvatarError."""
    models, checkpoints = _candidates(arguments)
    _check(arguments, models, checkpoints)
    steps = _parse_steps(arguments.steps)
    try:
        from training.evaluate.report import markdown, write
        from training.evaluate.run import EvaluateConfig, shipped_instruments
    except ImportError as error:
        raise ExtraMissingError(f"`visavis evaluate` needs {error.name}: pip install 'visavis[eval]'") from error
    instruments = arguments.instruments or shipped_instruments()
    if arguments.real:
        return run_real(arguments, instruments)
    if arguments.data is None:
        raise ArgumentError("say what to measure on: --data FOLDER with held-out clips, or --real")
    config = EvaluateConfig(
        data=arguments.data,
        instruments=instruments,
        models=models,
        backend=arguments.backend,
        checkpoints=checkpoints,
        clips=arguments.clips,
        steps=steps,
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
    if arguments.listening:
        return _listening(config, arguments.listening, arguments.out)
    evaluation = _evaluate(config, quiet=arguments.json)
    if arguments.out:
        write(evaluation, arguments.out)
    sys.stdout.write(json.dumps(evaluation.as_json()) + "\n" if arguments.json else markdown(evaluation))
    return 0


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


def _listening(config: EvaluateConfig, clips: int, out: Path | None) -> int:
    from engine.engine import load
    from training.evaluate.reactions import measure_reactions
    from training.evaluate.run import choose_clips
    from training.instruments.probe import Probe

    if not config.models:
        raise ArgumentError("--listening needs a bundle: --model NAME")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    probe = Probe.load(config.instruments / "probe.safetensors")
    with load(config.models[0], config.backend) as engine:
        chosen = choose_clips(config.data, clips)
        film = out / "listening.gif" if out else None
        figures = measure_reactions(engine, probe, chosen, config.size_px or 256, film)
    sys.stdout.write(json.dumps(figures.as_json()) + "\n")
    return 0


def _candidates(arguments: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Bundles and checkpoints that were asked for, those of --compare first."""
    checkpoints = [Path(name) for name in arguments.compare if name.endswith(_CHECKPOINT)]
    models = [name for name in arguments.compare if not name.endswith(_CHECKPOINT)]
    return (*models, *arguments.model), (*checkpoints, *arguments.checkpoint)


def command_line(arguments: argparse.Namespace) -> str:
    """What to type to run this again, with every setting that has a value; where the report goes does not matter."""
    words = ["visavis", "evaluate"]
    for name, value in vars(arguments).items():
        if name in ("handler", "command", "out", "json", "takes") or value in (None, [], False):
            continue
        flag = "--" + name.replace("_", "-")
        if name == "compare":
            words += [flag, *value]
        elif isinstance(value, list):
            words += [word for item in value for word in (flag, str(item))]
        else:
            words += [flag, str(value)]
    return shlex.join(words)


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


def _evaluate(config: EvaluateConfig, quiet: bool) -> Evaluation:
    from rich.console import Console
    from rich.progress import Progress

    from training.evaluate.run import evaluate

    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        return evaluate(config, lambda what, done: bar.update(task, description=what, completed=done))
