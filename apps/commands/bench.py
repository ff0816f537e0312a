"""`visavis bench`: latency, frame rate, cost and capacity on this machine."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.errors import ArgumentError, ExtraMissingError, OutputFolderMissingError, OutputNotWritableError

if TYPE_CHECKING:
    from apps.bench.run import Say
    from apps.bench.setup import Settings

_PARTS = {
    "all": "everything but gpu, pipeline, soak, server, desktop and conformance",
    "latency": "answers to a voice, interrupts, switches of state",
    "sustain": "a conversation: frame rate, late frames, drift of picture and sound",
    "stages": "that, and where the time of a block goes, beside what the machine can do",
    "capacity": "sessions at 25 frames a second, and memory of each",
    "gpu": "every way to compute the model, on CPU and GPU, one session and many, in one table",
    "pipeline": "stages on core sets of their own beside one worker on half the cores, predicted and measured",
    "soak": "a long conversation: drift of the picture, seams, memory; writes drift.png and soak.json",
    "server": "through `visavis serve` beside the engine alone; sessions held at once, and the refusal of one more",
    "desktop": "the app on a screen and sound devices of its own: voice to picture, a long talk, a lost microphone",
    "conformance": "a server at URL against the promises of docs/protocol.md",
}
_PARTS_HELP = "\n".join(f"  {name:11} {what}" for name, what in _PARTS.items())
_EXAMPLES = """examples:
  visavis bench
  visavis bench latency --backend openvino --repeats 100
  visavis bench -o before.json      and later      visavis bench --compare before.json
  visavis bench --backend mock --seconds 2 --repeats 2 --sessions 1      the engine without a model, in seconds
  visavis bench gpu --checkpoint runs/student/model.safetensors --json
  visavis bench soak --minutes 10 --fast --out soak
  visavis bench server --backend mock --sessions 8 --hold-minutes 10
  visavis bench desktop --backend mock --minutes 10
  visavis bench conformance ws://127.0.0.1:8765 --json
"""
_SOAK_MINUTES, _SOAK_FOLDER = 10.0, Path("soak")
_TALK_MINUTES = 1.0
_REPEATS, _PIPELINE_REPEATS = 30, 5
_SESSIONS = 64


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench`."""
    bench = subparsers.add_parser(
        "bench",
        help="measure latency, frame rate, cost and capacity on this machine",
        description=f"Prints tables, and one JSON document as the last line.\n\nPART is one of\n{_PARTS_HELP}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("part", nargs="?", default="all", choices=_PARTS, metavar="PART", help="default: all")
    bench.add_argument("url", nargs="?", metavar="URL", help="conformance only: of the server")
    bench.add_argument("--model", default="auto", metavar="NAME|PATH", help="model bundle (default %(default)s)")
    bench.add_argument(
        "--backend", default="auto", help="auto, or one that `visavis doctor` lists (default %(default)s)"
    )
    bench.add_argument("--portrait", type=Path, metavar="FILE", help="whom to show (default: a shipped portrait)")
    bench.add_argument("--voice", type=Path, metavar="FILE", help="what is said (default: a shipped recording)")
    bench.add_argument(
        "--size", type=int, default=256, help="side of the square pictures in pixels (default %(default)s)"
    )
    bench.add_argument("--seconds", type=float, default=60.0, help="length of the conversation (default %(default)g)")
    bench.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help=f"attempts of each latency (default {_REPEATS}), or turns of a pipeline (default {_PIPELINE_REPEATS})",
    )
    bench.add_argument(
        "--process", action="store_true", help="run the model in a supervised child process, as servers do"
    )
    bench.add_argument(
        "--sessions",
        type=int,
        metavar="N",
        help=f"try no more sessions at once (default {_SESSIONS}); server: hold so many (default: what it promises)",
    )
    bench.add_argument("--compare", type=Path, metavar="FILE", help="print the changes since an earlier report")
    bench.add_argument("-o", "--report", type=Path, metavar="FILE", help="write the JSON document to a file, too")
    bench.add_argument("--json", action="store_true", help="print the JSON document and no tables")
    bench.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help=f"soak: of video (default {_SOAK_MINUTES:g}); desktop: of talk (default {_TALK_MINUTES:g})",
    )
    soak = bench.add_argument_group("soak only")
    soak.add_argument("--out", type=Path, metavar="DIR", help=f"folder for its files (default {_SOAK_FOLDER})")
    soak.add_argument("--fast", action="store_true", help="as fast as it goes, instead of in real time")
    gpu = bench.add_argument_group("gpu only")
    gpu.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights for the rows of torch")
    gpu.add_argument("--sizes", type=int, nargs="+", default=[256, 512], metavar="PX", help="of the pictures")
    gpu.add_argument(
        "--batches", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="sessions that share a call"
    )
    gpu.add_argument("--timing-seconds", type=float, default=3.0, metavar="N", help="each timing (default %(default)s)")
    server = bench.add_argument_group("server only")
    server.add_argument("--hold-minutes", type=float, default=1.0, metavar="N", help="(default %(default)g)")
    conformance = bench.add_argument_group("conformance only")
    conformance.add_argument("--token", metavar="TOKEN", help="of the server")
    conformance.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these transcripts")
    conformance.add_argument("--slow", action="store_true", help="those, too, that take a minute")
    conformance.add_argument("--patience", type=float, default=1.0, metavar="X", help="times every limit of time")
    bench.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and report. Raises AvatarError."""
    began = perf_counter()
    _check(arguments)
    if arguments.part == "gpu":
        return _run_gpu(arguments)
    if arguments.part == "conformance":
        return _run_conformance(arguments)
    if arguments.part == "server":
        return _run_server(arguments)
    if arguments.part == "desktop":
        return _run_desktop(arguments)
    from rich.console import Console

    from apps.bench.compare import print_comparison, read_report
    from apps.bench.pipeline_report import print_cases
    from apps.bench.report import print_tables
    from apps.bench.tidy import tidy

    earlier = read_report(arguments.compare) if arguments.compare else None
    with _progress(quiet=arguments.json) as say:
        report = tidy(_measure(arguments, say, began))
    line = json.dumps(report, allow_nan=False) + "\n"
    if not arguments.json:
        (print_cases if arguments.part == "pipeline" else print_tables)(report, Console())
        if earlier is not None:
            print_comparison(earlier, report, Console())
    if arguments.report:
        _write(arguments.report, line)
    sys.stdout.write(line)
    return 0


def _run_gpu(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from apps.bench.gpu import Case, measure_gpu
    from apps.bench.gpu_table import print_gpu
    from apps.bench.tidy import tidy
    from engine.bundle import find_bundle

    sizes, batches = tuple(arguments.sizes), tuple(sorted({1, *arguments.batches}))
    case = Case(find_bundle(arguments.model), arguments.checkpoint, sizes, batches, arguments.timing_seconds)
    with _progress(quiet=arguments.json) as say:
        report = tidy(measure_gpu(case, say))
    line = json.dumps(report, allow_nan=False) + "\n"
    if not arguments.json:
        print_gpu(report, Console())
    if arguments.report:
        _write(arguments.report, line)
    sys.stdout.write(line)
    return 0


def _run_conformance(arguments: argparse.Namespace) -> int:
    """1 when a promise was broken."""
    from rich.console import Console

    with _extra("server"):
        from apps.conformance.play import Target
        from apps.conformance.run import document_of, full_url, print_outcomes, run_conformance

    target = Target(full_url(arguments.url), arguments.token, arguments.patience)
    with _progress(quiet=arguments.json) as say:
        outcomes = asyncio.run(run_conformance(target, arguments.only, arguments.slow, say))
    report = document_of(target, outcomes)
    if not arguments.json:
        print_outcomes(outcomes, Console())
    _print(arguments, report)
    return int(bool(report["failed"]))


def _run_server(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    with _extra("server"):
        from apps.bench.server import print_server, run_server_bench
    from apps.bench.setup import Settings
    from apps.bench.tidy import tidy

    with _progress(quiet=arguments.json) as say:
        settings = _settings(arguments, Settings)
        report = tidy(asyncio.run(run_server_bench(settings, arguments.sessions, arguments.hold_minutes, say)))
    if not arguments.json:
        print_server(report, Console())
    _print(arguments, report)
    return 0


def _run_desktop(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from apps.bench.desktop.run import measure_desktop, print_desktop
    from apps.bench.setup import Settings
    from apps.bench.tidy import tidy

    minutes = _TALK_MINUTES if arguments.minutes is None else arguments.minutes
    with _progress(quiet=arguments.json) as say:
        report = tidy(measure_desktop(_settings(arguments, Settings), minutes, say))
    if not arguments.json:
        print_desktop(report, Console())
    _print(arguments, report)
    return 0


def _print(arguments: argparse.Namespace, report: dict[str, Any]) -> None:
    line = json.dumps(report, allow_nan=False) + "\n"
    if arguments.report:
        _write(arguments.report, line)
    sys.stdout.write(line)


def _measure(arguments: argparse.Namespace, say: Say, began: float) -> dict[str, Any]:
    """began: when nothing was imported yet."""
    from apps.bench.run import run_bench
    from apps.bench.setup import Settings
    from apps.bench.soak import run_soak

    import_ms = 1e3 * (perf_counter() - began)
    settings = _settings(arguments, Settings)
    if arguments.part == "pipeline":
        from apps.bench.pipeline import measure_pipeline
        from apps.bench.pipeline_report import document_of

        return document_of(settings, measure_pipeline(settings, settings.repeats, say))
    if arguments.part != "soak":
        return asyncio.run(run_bench(settings, arguments.part, say, import_ms))
    minutes = _SOAK_MINUTES if arguments.minutes is None else arguments.minutes
    say(f"a conversation of {minutes:g} min")
    return asyncio.run(run_soak(settings, minutes, arguments.fast, arguments.out or _SOAK_FOLDER))


def _settings(arguments: argparse.Namespace, kind: type[Settings]) -> Settings:
    return kind(
        model=arguments.model,
        backend=arguments.backend,
        portrait=arguments.portrait,
        voice=arguments.voice,
        size_px=arguments.size,
        seconds=arguments.seconds,
        repeats=arguments.repeats or (_PIPELINE_REPEATS if arguments.part == "pipeline" else _REPEATS),
        process=arguments.process,
        sessions=arguments.sessions or _SESSIONS,
    )


def _check(arguments: argparse.Namespace) -> None:
    """Whatever can be known before anything is loaded. Raises ArgumentError or FileError."""
    for name, least in (("repeats", 1), ("sessions", 1), ("seconds", 1)):
        if getattr(arguments, name) is None:
            continue
        if not least <= getattr(arguments, name) <= 1e6:
            raise ArgumentError(f"--{name} must be at least {least}, not {getattr(arguments, name)}")
    if arguments.part != "soak" and (arguments.out or arguments.fast):
        raise ArgumentError("--out and --fast belong to `visavis bench soak`")
    if arguments.part not in ("soak", "desktop") and arguments.minutes is not None:
        raise ArgumentError("--minutes belongs to `visavis bench soak` and `visavis bench desktop`")
    if arguments.minutes is not None and not 0.05 <= arguments.minutes <= 1e5:
        raise ArgumentError(f"--minutes must be at least 0.05, not {arguments.minutes}")
    if (arguments.part == "conformance") is not (arguments.url is not None):
        raise ArgumentError(
            "`visavis bench conformance URL` needs an address, as ws://127.0.0.1:8765; no other part does"
        )
    if arguments.report and not arguments.report.parent.is_dir():
        raise OutputFolderMissingError(f"the folder {arguments.report.parent} does not exist; make it first")


def _write(path: Path, line: str) -> None:
    try:
        path.write_text(line, encoding="utf-8")
    except OSError as error:
        raise OutputNotWritableError(f"{path} cannot be written: {error}") from error


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """What is imported inside needs packages of an extra. Raises ExtraMissingError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExtraMissingError(f"this needs {error.name}; pip install 'visavis[{name}]'") from error


@contextmanager
def _progress(quiet: bool) -> Iterator[Say]:
    """A line on the terminal that says what is measured."""
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
    with console.status("starting") as status:
        yield status.update
