"""The figures as one JSON document, and as tables for people.

Document, format 1: {"format", "kind": "bench" or "soak", "machine", "settings", and the parts, null where they were not
run}. Fields are those of the classes in this package, whose docstrings say what they mean; they are only ever added to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from apps.bench.machine import machine_facts
from apps.bench.setup import Settings
from engine.worker.base import WorkerInfo

FORMAT = 1
PARTS = (
    "cold", "latency", "sustained", "av_drift", "stages", "floor", "capacity", "memory_per_session_mb",
)  # fmt: skip
_PERCENTILES = ("p50", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the document. path: its keys, with dots between; `spread` ones hold percentiles. better: `lower`,
    `higher`, or empty where neither is.
    """

    path: str
    title: str
    better: str = "lower"
    spread: bool = False


FIGURES = (
    Figure("latency.latency_realtime_ms", "voice in real time to frame, ms", spread=True),
    Figure("latency.latency_burst_ms", "voice at once to frame, ms", spread=True),
    Figure("latency.interrupt_to_state_ms", "interrupt to closing mouth, ms", spread=True),
    Figure("latency.interrupt_to_silence_ms", "interrupt to silence, ms", spread=True),
    Figure("latency.state_switch_ms", "state switch, ms", spread=True),
    Figure("latency.state_switch_frames", "state switch, frames", spread=True),
    Figure("sustained.interval_ms", "frame interval, ms", spread=True),
    Figure("av_drift.skew_ms", "skew of picture and time, ms", spread=True),
    Figure("cold.import_ms", "import, ms"),
    Figure("cold.load_ms", "load, ms"),
    Figure("cold.portrait_ms", "portrait, ms"),
    Figure("cold.warm_up_ms", "warm up, ms"),
    Figure("cold.first_frame_ms", "first session to first frame, ms"),
    Figure("cold.total_ms", "from nothing to first frame, ms"),
    Figure("cold.first_answer_ms", "first voice to frame, ms"),
    Figure("sustained.fps", "frames a second", "higher"),
    Figure("sustained.late_share", "late frames, share"),
    Figure("sustained.slips", "slips of the clock"),
    Figure("sustained.dropped_frames", "dropped frames"),
    Figure("sustained.frozen_frames", "frozen frames"),
    Figure("sustained.starved_frames", "starved frames"),
    Figure("sustained.degraded_share", "frames of lower quality, share"),
    Figure("sustained.event_loop_share", "event loop, CPU share"),
    Figure("av_drift.slope_ms_per_hour", "drift of picture and time, ms/h", ""),
    Figure("stages.unpaced.audio_ms", "audio, ms a block"),
    Figure("stages.unpaced.denoise_ms", "denoise, ms a block"),
    Figure("stages.unpaced.decode_ms", "decode, ms a block"),
    Figure("stages.unpaced.engine_ms", "engine, ms a block"),
    Figure("stages.unpaced.speech_ms", "speech detection in it, ms"),
    Figure("stages.unpaced.overhead_share", "engine's share"),
    Figure("stages.unpaced.realtime_factor", "unpaced, times real time", "higher"),
    Figure("stages.unpaced.encode_jpeg_ms", "JPEG, ms a frame"),
    Figure("floor.matmul_gflop_per_s", "floor: matrix product, GFLOP/s", ""),
    Figure("floor.copy_gb_per_s", "floor: copy, GB/s", ""),
    Figure("floor.denoise_to_floor", "denoise to its floor"),
    Figure("floor.decode_to_floor", "decode to its floor"),
    Figure("capacity.promised_sessions", "sessions promised", "higher"),
    Figure("capacity.sessions_at_25fps", "sessions at 25 fps", "higher"),
    Figure("capacity.sessions_at_full_quality", "of these at full quality", "higher"),
    Figure("memory_per_session_mb", "memory a session, MB"),
    Figure("soak.frames", "frames", ""),
    Figure("soak.realtime_factor", "times real time", "higher"),
    Figure("soak.looks.colour.slope_per_10min", "colour, slope in 10 min", ""),
    Figure("soak.looks.sharpness.slope_per_10min", "sharpness, slope in 10 min", ""),
    Figure("soak.looks.likeness.slope_per_10min", "likeness, slope in 10 min", ""),
    Figure("soak.looks.likeness.min", "likeness, least", "higher"),
    Figure("soak.reanchored", "drift corrected"),
    Figure("soak.seam.total.ratio", "seam ratio"),
    Figure("soak.seam.speaking.ratio", "seam ratio, speaking"),
    Figure("soak.seam.listening.ratio", "seam ratio, listening"),
    Figure("soak.seam.idle.ratio", "seam ratio, idle"),
    Figure("soak.memory_mb.last", "memory, MB"),
    Figure("soak.memory_mb.slope_per_10min", "memory, MB in 10 min"),
    Figure("soak.sustained.late_share", "late frames, share"),
    Figure("soak.av_drift.slope_ms_per_hour", "drift of picture and time, ms/h", ""),
)


def document(kind: str, settings: Settings, info: WorkerInfo, **parts: Any) -> dict[str, Any]:
    """parts: dataclasses, numbers, or None for what was not run."""
    return {
        "format": FORMAT,
        "kind": kind,
        "machine": asdict(machine_facts()),
        "settings": {
            "model": info.model,
            "backend": info.backend,
            "steps": info.steps,
            "size_px": settings.size_px,
            "seconds": settings.seconds,
            "repeats": settings.repeats,
            "process": settings.process,
        },
        **{
            name: asdict(part) if is_dataclass(part) and not isinstance(part, type) else part
            for name, part in parts.items()
        },
    }


def at(report: Mapping[str, Any], path: str) -> Any:
    """The value under a path; None where the document has none."""
    value: Any = report
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def print_tables(report: Mapping[str, Any], console: Console) -> None:
    """What was run, for people."""
    machine, settings = report["machine"], report["settings"]
    console.print(
        f"{settings['model']} on {settings['backend']}, {settings['size_px']} pixels, {settings['steps']} steps; "
        f"{', '.join([machine['cpu'], *machine['gpus']])}, {machine['cores']} cores",
        highlight=False,
    )
    for table in (_spreads(report), _scalars(report), _lengths(report)):
        if table.row_count:
            console.print(table)


def _spreads(report: Mapping[str, Any]) -> Table:
    table = _table("", "n", *_PERCENTILES)
    for figure in FIGURES:
        if figure.spread and (values := at(report, figure.path)) is not None:
            count = str(values["n"]) + (f" (-{values['missed']})" if values["missed"] else "")
            table.add_row(figure.title, count, *(shown(values[name]) for name in _PERCENTILES))
    return table


def _scalars(report: Mapping[str, Any]) -> Table:
    table = _table("", "value")
    for figure in FIGURES:
        if not figure.spread and (value := at(report, figure.path)) is not None:
            table.add_row(figure.title, shown(value))
    return table


def _lengths(report: Mapping[str, Any]) -> Table:
    table = _table("frames a block", "blocks", "audio ms", "denoise ms", "decode ms", "wait ms")
    for row in at(report, "stages.by_block_length") or ():
        names = ("block_frames", "blocks", "audio_ms", "denoise_ms", "decode_ms", "wait_ms")
        table.add_row(*(shown(row[name]) for name in names))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first)
    for title in others:
        table.add_column(title, justify="right")
    return table


def shown(value: float | None) -> str:
    """Three or four digits; a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def flat(report: Mapping[str, Any]) -> Iterator[tuple[Figure, str, float]]:
    """Each number that can be compared, with its figure and its name."""
    for figure in FIGURES:
        value = at(report, figure.path)
        for name, number in (value or {}).items() if figure.spread else [("", value)]:
            if isinstance(number, int | float) and name not in ("n", "missed", "max"):
                yield figure, f"{figure.title} {name}".rstrip(), float(number)
