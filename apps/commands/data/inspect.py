"""`visavis data inspect`: sheets, curves, a film and figures of shards."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands.data.given import needs_training
from engine.errors import FileMissingError

if TYPE_CHECKING:
    from training.data.inspect import Statistics

_EXAMPLE = "example: visavis data inspect clips -o look"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `inspect`."""
    inspect = commands.add_parser("inspect", help="sheets, curves, a film and figures", epilog=_EXAMPLE)
    inspect.add_argument("shards", type=Path, nargs="+", help="tar shards, or folders of them")
    inspect.add_argument("-o", "--out", type=Path, required=True, help="folder for the pictures and films")
    inspect.add_argument("--films", type=int, default=2, help="clips to write as MP4 (default %(default)s)")
    inspect.add_argument("--json", action="store_true", help="figures as one JSON document")
    inspect.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the pictures and print the figures. Raises AvatarError."""
    missing = [str(path) for path in arguments.shards if not path.exists()]
    if missing:
        raise FileMissingError(f"there is no {', '.join(missing)}")
    try:
        from training.data.inspect import inspect
        from training.data.shards import list_shards
    except ImportError as error:
        raise needs_training(error) from error
    figures = inspect(
        [shard for path in arguments.shards for shard in list_shards(path)], arguments.out, films=arguments.films
    )
    if arguments.json:
        sys.stdout.write(json.dumps(figures.as_json()) + "\n")
    else:
        _print_table(figures)
    return 0


def _print_table(figures: Statistics) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value")
    for name, value in figures.as_json().items():
        if name == "voices":
            value = f"{len(figures.voices)} voices"
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {number:g}" for key, number in value.items())
        elif isinstance(value, list):
            value = "\n".join(value)
        table.add_row(name, str(value))
    Console().print(table)
