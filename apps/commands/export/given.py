"""What the subcommands of `visavis export` have in common: their inputs, what they measure on, and their report."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ExtraMissingError, FileMissingError

if TYPE_CHECKING:
    from engine.backends.base import Sampling
    from export.scenes import Scene


def add_scene(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to measure on."""
    parser.add_argument("--portraits", type=Path, nargs="+", default=[], metavar="FILE", help="pictures to measure on")
    parser.add_argument("--voice", type=Path, metavar="FILE", help="recording to measure on")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures (default %(default)s)")


def scenes(arguments: argparse.Namespace, sampling: Sampling, blocks: int) -> list[Scene]:
    """What `add_scene`'s options name, or stand-ins. Raises AvatarError."""
    from apps.media import read_sound
    from engine.portrait.portrait import open_portrait
    from export.scenes import block_lengths, make_scenes

    crops = [open_portrait(path).crop(arguments.size) for path in arguments.portraits]
    pcm = read_sound(arguments.voice).pcm if arguments.voice else None
    return make_scenes(crops, pcm, block_lengths(sampling, blocks), arguments.size)


def need_packages(*names: str, install: str = "'visavis[export]'") -> None:
    """Raise ExtraMissingError unless all can be imported. install: what to give to pip."""
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise ExtraMissingError(f"exporting needs {name} ({error}): pip install {install}") from error


def need_file(path: Path) -> None:
    """Raise FileMissingError unless the checkpoint is there."""
    if not path.is_file():
        raise FileMissingError(f"there is no checkpoint {path}")


def show(report: dict[str, Any], as_json: bool) -> None:
    """Write the report to stdout, as one JSON document or a line for each entry."""
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    for key, value in report.items():
        rows = value if isinstance(value, list) else [value] if not isinstance(value, dict) else value.items()
        sys.stdout.write(f"{key}: " + "\n  ".join(str(row) for row in rows) + "\n")
