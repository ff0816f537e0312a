"""`visavis data make`: talking people with exact truth, or clips of films, as shards."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands.data.given import check_assets, needs_training

if TYPE_CHECKING:
    from training.data.make import MakeReport
    from training.data.videos import VideosReport

_MAKE_EXAMPLE = "example: visavis data make -o clips --clips 1200 --seconds 4 --size 128 --workers 2 --assets ../assets"
_VIDEOS_EXAMPLE = "         visavis data make --from-videos films -o clips --models models --workers 2"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `make`."""
    make = commands.add_parser(
        "make",
        help="make talking people with exact truth, or clips of films, as shards",
        epilog=f"{_MAKE_EXAMPLE}\n{_VIDEOS_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    make.add_argument("-o", "--out", type=Path, required=True, help="folder for the shards; continued if it holds some")
    make.add_argument("--clips", type=int, default=160, help="number of clips (default %(default)s)")
    make.add_argument("--seconds", type=float, default=4.0, help="length of a clip (default %(default)s)")
    make.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default %(default)s)")
    make.add_argument("--seed", type=int, default=0, help="another seed gives other clips (default %(default)s)")
    make.add_argument("--split", choices=("train", "test"), default="train", help="people and voices of the two differ")
    make.add_argument("--assets", type=Path, help="folder with portraits, skins and hair; without it plain heads only")
    make.add_argument("--cache", type=Path, help="folder with prepared voices")
    make.add_argument("--workers", type=int, default=1, help="processes, best one per core (default %(default)s)")
    make.add_argument(
        "--truth-stride", type=int, default=4, help="dense truth on every n-th frame (default %(default)s)"
    )
    make.add_argument("--puppets", type=float, default=0.7, help="share of photo puppets, 0 to 1 (default %(default)s)")
    make.add_argument("--json", action="store_true", help="report as one JSON document")
    films = make.add_argument_group("real footage instead of drawn people")
    films.add_argument("--from-videos", type=Path, metavar="DIR", help="folder of films; a subfolder is a person")
    films.add_argument("--models", type=Path, help="folder with mediapipe's face landmark model (.task)")
    films.add_argument(
        "--split-share", type=float, default=0.1, help="share of people held out in OUT/test (default %(default)s)"
    )
    make.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the clips. Raises AvatarError."""
    check_assets(arguments)
    if arguments.from_videos:
        return _run_videos(arguments)
    try:
        from training.data.make import make_clips
    except ImportError as error:
        raise needs_training(error) from error
    report = make_clips(
        arguments.out,
        arguments.clips,
        arguments.seconds,
        arguments.size,
        arguments.seed,
        arguments.split,
        arguments.assets,
        arguments.workers,
        arguments.truth_stride,
        {"puppet": arguments.puppets, "head": 1.0 - arguments.puppets},
        cache=arguments.cache,
        show_progress=not arguments.json,
    )
    sys.stdout.write(json.dumps(report.as_json()) + "\n" if arguments.json else _text(report))
    return 0


def _run_videos(arguments: argparse.Namespace) -> int:
    try:
        from training.data.videos import VideoConfig, make_from_videos
    except ImportError as error:
        raise needs_training(error) from error
    report = make_from_videos(
        arguments.from_videos,
        arguments.out,
        VideoConfig(arguments.seconds, arguments.size, arguments.split_share, arguments.truth_stride),
        models=arguments.models,
        assets=arguments.assets,
        workers=arguments.workers,
        show_progress=not arguments.json,
    )
    if arguments.json:
        sys.stdout.write(json.dumps(report.as_json()) + "\n")
    else:
        _print_films(report)
    return 0


def _text(report: MakeReport) -> str:
    kept = f", {report.skipped_shards} shards were there" if report.skipped_shards else ""
    replaced = f", {report.failures} subjects replaced (failures.jsonl)" if report.failures else ""
    return (
        f"{report.clips} clips, {report.frames} frames in {report.seconds_wall:.0f} s "
        f"({report.fps:.0f} fps){kept}{replaced}\n"
    )


def _print_films(report: VideosReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("minutes", "of film")
    table.add_row(f"{report.minutes_in:.2f}", "in")
    table.add_row(f"{report.minutes_kept:.2f}", "kept")
    for reason, minutes in report.minutes_rejected.items():
        table.add_row(f"{minutes:.2f}", f"rejected: {reason.replace('_', ' ')}")
    console = Console()
    console.print(table)
    states = ", ".join(f"{name} {minutes:.2f}" for name, minutes in report.minutes_by_state.items())
    console.print(
        f"{report.films} films ({report.skipped} done before, {report.unreadable} unreadable); clips: "
        f"{report.clips['train']} train, {report.clips['test']} test; minutes {states}; "
        f"{report.seconds_wall:.0f} s ({report.frames_per_second:.0f} frames/s). Why not the rest: rejected.jsonl"
    )
