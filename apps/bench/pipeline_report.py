"""The pipeline's figures as a document, and as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from apps.bench.machine import machine_facts
from apps.bench.report import FORMAT, shown
from apps.bench.setup import Settings

if TYPE_CHECKING:
    from apps.bench.pipeline import CaseReport

_WORKS = ("audio_ms", "denoise_ms", "decode_ms", "compose_ms", "encode_ms")


def document_of(settings: Settings, cases: Sequence[CaseReport], **more: Any) -> dict[str, Any]:
    """more: other parts, plain values."""
    return {
        "format": FORMAT,
        "kind": "pipeline",
        "machine": asdict(machine_facts()),
        "settings": {"model": settings.model, "backend": settings.backend, "repeats": settings.repeats},
        "pipeline": [asdict(case) for case in cases],
        **more,
    }


def print_cases(report: Mapping[str, Any], console: Console) -> None:
    for case in report["pipeline"]:
        block = case["costs"]["block"]
        console.print(
            f"{case['size_px']} pixels to {case['encoder']}: a block of {block['frames']} frames on one core set takes "
            f"ms: {_costs(block)}; a worker had {case['cpu_share']:.0%} of a core at the least",
            highlight=False,
        )
        console.print(_plans(case))


def _plans(case: Mapping[str, Any]) -> Table:
    table = _table("plan", "predicted fps", "measured fps", "error", "to one", "first ms", "same")
    for row in case["plans"]:
        error = "-" if row["error_share"] is None else f"{row['error_share']:+.0%}"
        same = {None: "-", True: "yes", False: "NO"}[row["same"]]
        name = f"[bold]{row['plan']}[/bold]" if row["plan"] == case["best"] else row["plan"]
        numbers = (shown(row[key]) for key in ("predicted_fps", "measured_fps"))
        table.add_row(name, *numbers, error, f"{row['fps_to_one']:.2f} x", shown(row["first_ms"]), same)
    return table


def print_outlook(report: Mapping[str, Any], console: Console) -> None:
    """What was predicted: plans of this machine's core sets, then layouts over devices as fast as one of these."""
    block = report["costs"]["block"]
    console.print(f"a block of {block['frames']} frames on one core set, ms: {_costs(block)}", highlight=False)
    plans = _table("plan of two core sets", "predicted fps", "to one")
    for row in report["core_sets"]:
        plans.add_row(row["plan"], shown(row["predicted_fps"]), f"{row['to_one']:.2f} x")
    console.print(plans)
    table = _table("devices as fast as one", "sessions", "layout", "fps", "a session", "first ms", "latency ms", "idle")
    for row in report["devices"]:
        names = ("fps", "fps_a_session", "first_ms", "latency_ms")
        layout = row["layout"] if row["trained"] else f"{row['layout']} (needs another training)"
        numbers = (shown(row[name]) for name in names)
        table.add_row(str(row["devices"]), str(row["sessions"]), layout, *numbers, f"{row['bubble_share']:.0%}")
    console.print(table)
    bounds = ", ".join(f"{row['devices']}: {shown(row['session_fps'])}" for row in report["bound"])
    console.print(f"the most that one session can have, fps by devices: {bounds}", highlight=False)


def _costs(block: Mapping[str, float]) -> str:
    return ", ".join(f"{name.removesuffix('_ms')} {shown(block[name])}" for name in _WORKS)


def _table(first: str, *others: str) -> Table:
    table = Table(first)
    for title in others:
        table.add_column(title, justify="left" if title == "layout" else "right")
    return table
