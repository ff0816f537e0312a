"""`visavis data cast`: people and performances in one small folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands.data.given import check_assets, needs_training

if TYPE_CHECKING:
    from training.data.cast.bake import CastReport

_EXAMPLE = "example: visavis data cast -o cast --assets ../assets --people 80 --voices-minutes 24"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cast`."""
    cast = commands.add_parser("cast", help="people and performances in one small folder", epilog=_EXAMPLE)
    add = cast.add_argument
    add("-o", "--out", type=Path, required=True, help="folder for the cast; one that is there is replaced")
    add("--assets", type=Path, help="folder with portraits, skins and hair; without it plain heads only")
    add("--cache", type=Path, help="folder with fitted photographs and prepared voices")
    add("--people", type=int, default=80, help="photographs, at most; heads have no end (default %(default)s)")
    add("--voices-minutes", type=float, default=24.0, help="minutes of performances (default %(default)s)")
    add("--texture", type=int, default=512, help="pixels across a face's crop, at most (default %(default)s)")
    add("--heads", type=float, default=0.3, help="share of heads among the people drawn, 0 to 1 (default %(default)s)")
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=1, help="processes that speak (default %(default)s)")
    add("--json", action="store_true", help="report as one JSON document")
    cast.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the cast. Raises AvatarError."""
    check_assets(arguments)
    try:
        from training.data.cast.bake import CastSettings, bake_cast
        from training.data.cast.photos import PhotoSettings
    except ImportError as error:
        raise needs_training(error) from error
    settings = CastSettings(
        people=arguments.people, voices_minutes=arguments.voices_minutes, head_share=arguments.heads,
        seed=arguments.seed, photos=PhotoSettings(texture_px=arguments.texture),
    )  # fmt: skip
    report = bake_cast(
        arguments.out, settings, arguments.assets, arguments.cache, arguments.workers,
        say=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    sys.stdout.write(json.dumps(report.as_json()) + "\n" if arguments.json else _text(report))
    return 0


def _text(report: CastReport) -> str:
    megabytes = (report.people_bytes + report.performance_bytes) / 1e6
    skipped = f"no face in: {', '.join(report.skipped)}\n" if report.skipped else ""
    return (
        f"{report.photos['train']} photographs and {report.minutes['train']:.0f} minutes to train with, "
        f"{report.photos['test']} and {report.minutes['test']:.0f} to test with; {megabytes:.1f} MB in {report.out}\n"
        f"{skipped}next: visavis data bench --cast {report.out}\n"
    )
