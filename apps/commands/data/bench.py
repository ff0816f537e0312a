"""`visavis data bench`: how fast a cast is drawn on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands.data.given import needs_training

if TYPE_CHECKING:
    from training.data.bench import BenchReport

_EXAMPLE = "example: visavis data bench --cast cast --seconds 20 --workers 1 2 --json"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench`."""
    bench = commands.add_parser("bench", help="how fast a cast is drawn here", epilog=_EXAMPLE)
    add = bench.add_argument
    add("--cast", type=Path, required=True, help="folder of a cast (visavis data cast)")
    add("--seconds", type=float, default=20.0, help="for each setting (default %(default)s)")
    add("--workers", type=int, nargs="+", default=[1, 2], help="processes to try (default 1 2)")
    add("--sizes", type=int, nargs="+", default=[128, 256], help="sides of pictures to try (default 128 256)")
    kinds = ("pairs", "sequences")
    add("--kinds", choices=kinds, nargs="+", default=list(kinds), help="with dense truth, or frames in a row")
    add("--json", action="store_true", help="report as one JSON document")
    bench.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw and report. Raises AvatarError."""
    try:
        from training.data.bench import bench
    except ImportError as error:
        raise needs_training(error) from error
    report = bench(arguments.cast, arguments.seconds, arguments.workers, arguments.sizes, arguments.kinds)
    sys.stdout.write(json.dumps(report.as_json()) + "\n" if arguments.json else _text(report))
    return 0


def _text(report: BenchReport) -> str:
    lines = [f"{report.renderer} ({'graphics card' if report.gpu else 'processor'})"]
    for row in report.rows:
        lines.append(
            f"{row.kind:9s} {row.size:4d} px, {row.workers} workers: {row.fps:7.1f} fps, "
            f"{row.cpu_ms_per_frame:.1f} ms of processor time a frame, first take after {row.first_take_s:.1f} s"
        )
    return "\n".join(lines) + "\n"
