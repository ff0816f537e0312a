"""`visavis data`: make training clips and look at them, make a cast and measure how fast it is drawn."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ExtraMissingError, FileMissingError

if TYPE_CHECKING:
    from training.data.bench import BenchReport
    from training.data.cast.bake import CastReport
    from training.data.inspect import Statistics
    from training.data.make import MakeReport
    from training.data.videos import VideosReport

_MAKE_EXAMPLE = "example: visavis data make -o clips --clips 1200 --seconds 4 --size 128 --workers 2 --assets ../assets"
_VIDEOS_EXAMPLE = "         visavis data make --from-videos films -o clips --models models --workers 2"
_VOICES_EXAMPLE = "example: visavis data voices --cache cache --minutes 20 --assets ../assets --workers 2"
_INSPECT_EXAMPLE = "example: visavis data inspect clips -o look"
_CAST_EXAMPLE = "example: visavis data cast -o cast --assets ../assets --people 80 --voices-minutes 24"
_BENCH_EXAMPLE = "example: visavis data bench --cast cast --seconds 20 --workers 1 2 --json"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `data` and its commands."""
    data = subparsers.add_parser("data", help="make training clips, look at them; make a cast")
    commands = data.add_subparsers(dest="data_command", required=True, metavar="make|voices|inspect|cast|bench")
    _register_make(commands)
    _register_voices(commands)
    _register_inspect(commands)
    _register_cast(commands)
    _register_bench(commands)


def _register_make(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    make.set_defaults(handler=run_make)


def _register_voices(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    voices = commands.add_parser(
        "voices", help="prepare slow voices and recorded speech for `data make --cache`", epilog=_VOICES_EXAMPLE
    )
    voices.add_argument("--cache", type=Path, required=True, help="folder to fill, as for `data make`")
    voices.add_argument(
        "--split", choices=("train", "test"), default="train", help="people and voices of the two differ"
    )
    voices.add_argument(
        "--minutes", type=float, default=20.0, help="of Kokoro speech, 0 for none (default %(default)s)"
    )
    voices.add_argument("--languages", action="store_true", help="a third of it in other languages than English")
    voices.add_argument("--assets", type=Path, help="folder whose `voices` are recorded speech to find the phones of")
    voices.add_argument("--workers", type=int, default=1, help="processes (default %(default)s)")
    voices.set_defaults(handler=run_voices)


def _register_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inspect = commands.add_parser("inspect", help="sheets, curves, a film and figures", epilog=_INSPECT_EXAMPLE)
    inspect.add_argument("shards", type=Path, nargs="+", help="tar shards, or folders of them")
    inspect.add_argument("-o", "--out", type=Path, required=True, help="folder for the pictures and films")
    inspect.add_argument("--films", type=int, default=2, help="clips to write as MP4 (default %(default)s)")
    inspect.add_argument("--json", action="store_true", help="figures as one JSON document")
    inspect.set_defaults(handler=run_inspect)


def _register_cast(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cast = commands.add_parser("cast", help="people and performances in one small folder", epilog=_CAST_EXAMPLE)
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
    cast.set_defaults(handler=run_cast)


def _register_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser("bench", help="how fast a cast is drawn here", epilog=_BENCH_EXAMPLE)
    add = bench.add_argument
    add("--cast", type=Path, required=True, help="folder of a cast (visavis data cast)")
    add("--seconds", type=float, default=20.0, help="for each setting (default %(default)s)")
    add("--workers", type=int, nargs="+", default=[1, 2], help="processes to try (default 1 2)")
    add("--sizes", type=int, nargs="+", default=[128, 256], help="sides of pictures to try (default 128 256)")
    kinds = ("pairs", "sequences")
    add("--kinds", choices=kinds, nargs="+", default=list(kinds), help="with dense truth, or frames in a row")
    add("--json", action="store_true", help="report as one JSON document")
    bench.set_defaults(handler=run_bench)


def run_make(arguments: argparse.Namespace) -> int:
    """Make the clips. Raises AvatarError."""
    if arguments.assets and not arguments.assets.is_dir():
        raise FileMissingError(f"the assets folder {arguments.assets} does not exist")
    if arguments.from_videos:
        return _run_videos(arguments)
    try:
        from training.data.make import make_clips
    except ImportError as error:
        raise _needs_training(error) from error
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
    sys.stdout.write(_make_json(report) if arguments.json else _make_text(report))
    return 0


def _run_videos(arguments: argparse.Namespace) -> int:
    try:
        from training.data.videos import VideoConfig, make_from_videos
    except ImportError as error:
        raise _needs_training(error) from error
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


def run_voices(arguments: argparse.Namespace) -> int:
    """Fill the cache with speech. Raises AvatarError."""
    if arguments.assets and not arguments.assets.is_dir():
        raise FileMissingError(f"the assets folder {arguments.assets} does not exist")
    try:
        from training.data.recipe import VOICES
        from training.data.voice_cache import prepare_recorded, prewarm
    except ImportError as error:
        raise _needs_training(error) from error
    folder, split, workers = arguments.cache / VOICES, arguments.split, arguments.workers
    if arguments.minutes > 0:
        held = prewarm(folder, split, arguments.minutes, workers, arguments.languages)
        sys.stdout.write(f"{held:.1f} minutes of synthetic speech\n")
    if arguments.assets:
        held = prepare_recorded(arguments.assets, folder, split, workers)
        sys.stdout.write(f"{held:.1f} minutes of recorded speech\n")
    return 0


def run_inspect(arguments: argparse.Namespace) -> int:
    """Write the pictures and print the figures. Raises AvatarError."""
    missing = [str(path) for path in arguments.shards if not path.exists()]
    if missing:
        raise FileMissingError(f"there is no {', '.join(missing)}")
    try:
        from training.data.inspect import inspect
        from training.data.shards import list_shards
    except ImportError as error:
        raise _needs_training(error) from error
    figures = inspect(
        [shard for path in arguments.shards for shard in list_shards(path)], arguments.out, films=arguments.films
    )
    if arguments.json:
        sys.stdout.write(json.dumps(figures.as_json()) + "\n")
    else:
        _print_table(figures)
    return 0


def run_cast(arguments: argparse.Namespace) -> int:
    """Make the cast. Raises AvatarError."""
    if arguments.assets and not arguments.assets.is_dir():
        raise FileMissingError(f"the assets folder {arguments.assets} does not exist")
    try:
        from training.data.cast.bake import CastSettings, bake_cast
        from training.data.cast.photos import PhotoSettings
    except ImportError as error:
        raise _needs_training(error) from error
    settings = CastSettings(
        people=arguments.people, voices_minutes=arguments.voices_minutes, head_share=arguments.heads,
        seed=arguments.seed, photos=PhotoSettings(texture_px=arguments.texture),
    )  # fmt: skip
    report = bake_cast(
        arguments.out, settings, arguments.assets, arguments.cache, arguments.workers,
        say=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    sys.stdout.write(json.dumps(report.as_json()) + "\n" if arguments.json else _cast_text(report))
    return 0


def run_bench(arguments: argparse.Namespace) -> int:
    """Draw and report. Raises AvatarError."""
    try:
        from training.data.bench import bench
    except ImportError as error:
        raise _needs_training(error) from error
    report = bench(arguments.cast, arguments.seconds, arguments.workers, arguments.sizes, arguments.kinds)
    sys.stdout.write(json.dumps(report.as_json()) + "\n" if arguments.json else _bench_text(report))
    return 0


def _cast_text(report: CastReport) -> str:
    megabytes = (report.people_bytes + report.performance_bytes) / 1e6
    skipped = f"no face in: {', '.join(report.skipped)}\n" if report.skipped else ""
    return (
        f"{report.photos['train']} photographs and {report.minutes['train']:.0f} minutes to train with, "
        f"{report.photos['test']} and {report.minutes['test']:.0f} to test with; {megabytes:.1f} MB in {report.out}\n"
        f"{skipped}next: visavis data bench --cast {report.out}\n"
    )


def _bench_text(report: BenchReport) -> str:
    lines = [f"{report.renderer} ({'graphics card' if report.gpu else 'processor'})"]
    for row in report.rows:
        lines.append(
            f"{row.kind:9s} {row.size:4d} px, {row.workers} workers: {row.fps:7.1f} fps, "
            f"{row.cpu_ms_per_frame:.1f} ms of processor time a frame, first take after {row.first_take_s:.1f} s"
        )
    return "\n".join(lines) + "\n"


def _needs_training(error: ImportError) -> ExtraMissingError:
    return ExtraMissingError(f"`visavis data` needs {error.name}: pip install 'visavis[train]'")


def _make_json(report: MakeReport) -> str:
    return json.dumps(report.as_json()) + "\n"


def _make_text(report: MakeReport) -> str:
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
