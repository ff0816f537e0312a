"""The part of `visavis evaluate` that has no truth to compare with: `--real`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apps.media import read_sound
from engine.errors import ArgumentError, FileMissingError

if TYPE_CHECKING:
    from training.evaluate.real import RealEvaluation, RealVoice
    from training.evaluate.real_run import RealRequest

_SOUNDS = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the real section to `evaluate`."""
    group = command.add_argument_group("real photographs and voices")
    add = group.add_argument
    add(
        "--real",
        action="store_true",
        help="measure instead on held-out photographs and voices of --assets; with --checkpoint its codec, too",
    )
    add("--portraits", type=Path, help="folder of pictures to use instead")
    add("--voices", type=Path, help="folder of recordings to use instead, a speaker a file")
    add("--takes", type=int, default=10, help="pairs of portrait and voice (default %(default)s)")
    add("--second", type=Path, help="model file of mediapipe's face landmarker, as a second instrument")
    add("--cache", type=Path, help="where fitted photographs are kept (default: below --out)")


def run_real(arguments: argparse.Namespace, instruments: Path) -> int:
    """Measure and report. Raises AvatarError."""
    from training.evaluate.real import RealConfig
    from training.evaluate.real_report import markdown, write
    from training.evaluate.real_run import RealRequest

    if len(arguments.model) != 1:
        raise ArgumentError("--real needs one bundle: --model NAME")
    if arguments.takes < 1:
        raise ArgumentError("--takes must be at least 1")
    request = RealRequest(
        model=arguments.model[0],
        backend=arguments.backend,
        instruments=instruments,
        assets=arguments.assets,
        portraits=arguments.portraits,
        voices=read_voices(arguments.voices) if arguments.voices else (),
        second=arguments.second,
        cache=arguments.cache or (arguments.out / "cache" if arguments.out else None),
        checkpoint=arguments.checkpoint[0] if arguments.checkpoint else None,
        how=RealConfig(takes=arguments.takes, size_px=arguments.size or 256, seed=arguments.seed),
    )
    evaluation = _measured(request, quiet=arguments.json)
    if arguments.out:
        write(evaluation, arguments.out)
    sys.stdout.write(json.dumps(evaluation.as_json()) + "\n" if arguments.json else markdown(evaluation))
    return 0


def read_voices(folder: Path) -> tuple[RealVoice, ...]:
    """Every recording of a folder as a speaker of its name. Raises FileMissingError and what reading sound raises."""
    from training.evaluate.real import RealVoice

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SOUNDS) if folder.is_dir() else []
    if not paths:
        raise FileMissingError(f"there are no recordings in {folder}; give --voices a folder with .wav or .flac files")
    return tuple(RealVoice(path.stem, read_sound(path).pcm) for path in paths)


def _measured(request: RealRequest, quiet: bool) -> RealEvaluation:
    from rich.console import Console
    from rich.progress import Progress

    from training.evaluate.real_run import run_real

    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        return run_real(request, lambda what, done: bar.update(task, description=what, completed=done))
