"""`visavis evaluate --real`: photographs and voices of real people, where there is no truth to compare with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands.evaluate.asked import Asked, command_line
from apps.commands.evaluate.terminal import progress, show
from engine.errors import ArgumentError, FileMissingError

if TYPE_CHECKING:
    from training.evaluate.real import RealVoice
    from training.evaluate.real_run import RealRequest

_SOUNDS = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the real section to `evaluate`."""
    group = command.add_argument_group("real photographs and voices")
    add = group.add_argument
    add(
        "--real",
        action="store_true",
        help="measure instead on held-out photographs and voices of --assets; with --checkpoint, its codec",
    )
    add("--portraits", type=Path, help="folder of pictures to use instead")
    add("--voices", type=Path, help="folder of recordings to use instead, a speaker a file")
    add("--takes", type=int, default=10, help="pairs of portrait and voice (default %(default)s)")
    add("--second", type=Path, help="model file of mediapipe's face landmarker, as a second instrument")
    add("--cache", type=Path, help="where fitted photographs are kept (default: below --out)")


def run(asked: Asked) -> int:
    """Measure and report. Raises AvatarError."""
    from training.evaluate.real_report import markdown, write
    from training.evaluate.real_run import run_real

    arguments = asked.arguments
    request = _request(asked)
    with progress(quiet=arguments.json) as tell:
        evaluation = run_real(request, tell)
    if arguments.out:
        write(evaluation, arguments.out)
    show(evaluation.as_json(), markdown(evaluation), arguments.json)
    return 0


def _request(asked: Asked) -> RealRequest:
    from training.evaluate.real import RealConfig
    from training.evaluate.real_run import RealRequest
    from training.evaluate.run import shipped_instruments

    arguments = asked.arguments
    if len(asked.models) != 1:
        raise ArgumentError("--real needs one bundle: --model NAME")
    if arguments.takes < 1:
        raise ArgumentError("--takes must be at least 1")
    return RealRequest(
        model=asked.models[0],
        backend=arguments.backend,
        instruments=arguments.instruments or shipped_instruments(),
        assets=arguments.assets,
        portraits=arguments.portraits,
        voices=read_voices(arguments.voices) if arguments.voices else (),
        second=arguments.second,
        cache=arguments.cache or (arguments.out / "cache" if arguments.out else None),
        checkpoint=asked.checkpoints[0] if asked.checkpoints else None,
        command=command_line(arguments),
        how=RealConfig(takes=arguments.takes, size_px=arguments.size or 256, seed=arguments.seed),
    )


def read_voices(folder: Path) -> tuple[RealVoice, ...]:
    """Every recording of a folder as a speaker of its name. Raises FileMissingError and what reading sound raises."""
    from apps.media import read_sound
    from training.evaluate.real import RealVoice

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SOUNDS) if folder.is_dir() else []
    if not paths:
        raise FileMissingError(f"there are no recordings in {folder}; give --voices a folder with .wav or .flac files")
    return tuple(RealVoice(path.stem, read_sound(path).pcm) for path in paths)
