"""`visavis export pipeline`: what stages on places of their own would bring, here and on N devices."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ArgumentError

if TYPE_CHECKING:
    from apps.bench.pipeline import Case, CaseReport, Studio
    from apps.bench.setup import Settings
    from engine.pipeline.plan import Plan
    from export.pipeline.costs import Costs

_EXAMPLE = """examples:
  visavis export pipeline --save two-cores.json       and then      visavis talk --pipeline two-cores.json ...
  visavis export pipeline --devices 1 2 4 --sessions 1 8 --json
"""
_MOST_DEVICES, _MOST_SESSIONS = 64, 64
_COST_FILMS = 3


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export pipeline`."""
    pipeline = commands.add_parser(
        "pipeline",
        help="plan stages on core sets and devices: predicted frame rate and latency",
        description="Measures what each stage costs on half of the cores, and simulates plans from that.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pipeline.add_argument("--model", default="auto", metavar="NAME|PATH", help="model bundle (default %(default)s)")
    pipeline.add_argument("--backend", default="auto", help="as of talk (default %(default)s)")
    pipeline.add_argument("--portrait", type=Path, metavar="FILE", help="whom to show (default: a shipped portrait)")
    pipeline.add_argument("--voice", type=Path, metavar="FILE", help="what is said (default: a shipped recording)")
    pipeline.add_argument("--size", type=int, default=512, help="side of the pictures (default %(default)s)")
    pipeline.add_argument(
        "--encoder", default="h264", choices=("jpeg", "h264", "none"), help="where pictures go (default %(default)s)"
    )
    pipeline.add_argument(
        "--devices", type=int, nargs="+", default=[1, 2, 3, 4], metavar="N", help="devices to simulate (default 1 to 4)"
    )
    pipeline.add_argument(
        "--sessions", type=int, nargs="+", default=[1, 4], metavar="N", help="sessions at once (default 1 and 4)"
    )
    pipeline.add_argument(
        "--hand-over-ms", type=float, default=0.2, metavar="X", help="of latents between devices (default %(default)s)"
    )
    pipeline.add_argument(
        "--cache-ms", type=float, default=1.0, metavar="X", help="of a block's keys and values (default %(default)s)"
    )
    pipeline.add_argument("--measure", type=int, metavar="N", help="also run the plans of this machine, in N turns")
    pipeline.add_argument("--save", type=Path, metavar="FILE", help="write the best plan of two core sets")
    pipeline.add_argument("--json", action="store_true", help="report as one JSON document")
    pipeline.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, simulate, report. Raises AvatarError."""
    _check(arguments)
    from apps.bench.pipeline import Case, core_sets, open_studio
    from apps.bench.pipeline_report import document_of
    from apps.bench.setup import Settings
    from apps.bench.tidy import tidy
    from engine.pipeline.plan import Place, save_plan
    from export.pipeline.layouts import candidates

    settings = Settings(
        arguments.model, arguments.backend, arguments.portrait, arguments.voice, arguments.size,
        repeats=arguments.measure or 0,
    )  # fmt: skip
    case, (first, second) = Case(arguments.size, arguments.encoder), core_sets()
    plans = candidates(first, second)
    places = (first, second, Place()) if arguments.measure else (first,)
    with open_studio(settings, places) as studio:
        costs, cases = _measure(studio, case, plans, settings)
    rows = _predict(plans, costs)
    best = max(rows[1:], key=lambda row: row["predicted_fps"])
    report = tidy(
        document_of(
            settings,
            cases,
            costs=asdict(costs),
            core_sets=rows,
            best=best["plan"],
            devices=_devices(arguments, costs),
            bound=[{"devices": n, "session_fps": _session_fps(costs, n)} for n in arguments.devices],
        )
    )
    if arguments.save:
        plan = next(plan for plan in plans if str(plan) == best["plan"])
        save_plan(plan, arguments.save, {"size_px": case.size_px, "encoder": case.encoder, **tidy(best)})
    _print(report, arguments)
    return 0


def _measure(studio: Studio, case: Case, plans: list[Plan], settings: Settings) -> tuple[Costs, list[CaseReport]]:
    from apps.bench.pipeline import costs_of, measure_case

    if settings.repeats:
        report = measure_case(studio, case, plans, None, settings.repeats)
        return report.costs, [report]
    studio.fingerprint(case, plans[0])  # The first film sets things up.
    return costs_of([studio.film(case, plans[0]) for _ in range(_COST_FILMS)], studio.engine(plans[0])), []


def _predict(plans: list[Plan], costs: Costs) -> list[dict[str, Any]]:
    from apps.bench.pipeline import predict_fps

    found = [(plan, *predict_fps(plan, costs)) for plan in plans]
    one_fps = found[0][1]
    return [
        {"plan": str(plan), "predicted_fps": fps, "to_one": fps / one_fps, "busy": busy} for plan, fps, busy in found
    ]


def _devices(arguments: argparse.Namespace, costs: Costs) -> list[dict[str, Any]]:
    from dataclasses import replace

    from export.pipeline.outlook import look_ahead

    handed = replace(costs, hand_over_ms=arguments.hand_over_ms, cache_ms=arguments.cache_ms)
    return [asdict(row) for row in look_ahead(handed, arguments.devices, arguments.sessions)]


def _session_fps(costs: Costs, devices: int) -> float:
    from export.pipeline.outlook import session_fps

    return session_fps(costs, devices)


def _check(arguments: argparse.Namespace) -> None:
    for name, most in (("devices", _MOST_DEVICES), ("sessions", _MOST_SESSIONS)):
        if not all(1 <= value <= most for value in getattr(arguments, name)):
            raise ArgumentError(f"--{name} must lie between 1 and {most}")
    if min(arguments.hand_over_ms, arguments.cache_ms) < 0:
        raise ArgumentError("--hand-over-ms and --cache-ms must not be negative")
    if arguments.measure is not None and not 1 <= arguments.measure <= 1_000:
        raise ArgumentError(f"--measure must lie between 1 and 1000, not {arguments.measure}")


def _print(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json:
        sys.stdout.write(json.dumps(report, allow_nan=False) + "\n")
        return
    from rich.console import Console

    from apps.bench.pipeline_report import print_cases, print_outlook

    console = Console()
    print_outlook(report, console)
    print_cases(report, console)
    if arguments.save:
        console.print(f"{arguments.save}: {report['best']}", highlight=False)
