"""`visavis bench soak`: minutes or hours of one conversation, and what they do to picture, memory and time."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from apps.bench.chart import draw, new_figure
from apps.bench.drift import Looks, Recorder, Trend
from apps.bench.machine import resident_mb
from apps.bench.report import document
from apps.bench.script import converse_fast
from apps.bench.setup import Rig, Settings, open_rig, read_voice
from apps.bench.stats import AvDrift, Seam, av_drift
from apps.bench.sustain import Sustained, summarise, talk
from apps.bench.tidy import tidy
from apps.bench.viewer import Viewer, on_screen
from engine.errors import OutputNotWritableError
from engine.session import SessionConfig
from engine.types import FPS


@dataclass(frozen=True, slots=True)
class Soak:
    """One long session. fast: unpaced, so minutes are those of the video, and what live viewers meet is null: sustained
    (see sustain.Sustained) and av_drift (see stats.AvDrift). looks: see drift.Looks. reanchored: how often the watchdog
    started from the portrait again; slopes are those with its help. seam: how much more the middle of the picture
    changes across the edges of blocks than inside them, by state and in total. memory_mb: resident, of all processes of
    the engine; our own notes are some 5 MB an hour of it. realtime_factor: seconds of video per second.
    """

    minutes: float
    fast: bool
    frames: int
    wall_s: float
    realtime_factor: float
    looks: Looks
    reanchored: int
    workers_lost: int
    seam: dict[str, Seam]
    memory_mb: Trend
    sustained: Sustained | None
    av_drift: AvDrift | None


async def run_soak(settings: Settings, minutes: float, fast: bool, folder: Path) -> dict[str, Any]:
    """Run, write drift.png and soak.json into the folder, and return what soak.json holds. Raises AvatarError."""
    figure = new_figure()
    _make(folder)
    voice = read_voice(settings)
    async with open_rig(settings, voice, capacity=1) as rig:
        recorder = Recorder(lambda: resident_mb(rig.pids()))
        soak = await soak_in(rig, recorder, minutes, fast)
        report = document("soak", settings, rig.worker.info, soak=soak)
        title = f"{rig.worker.info.model}, {rig.worker.info.backend}, {settings.size_px} pixels"
    draw(figure, recorder.notes(), title, folder / "drift.png")
    _write(folder / "soak.json", report)
    return report


async def soak_in(rig: Rig, recorder: Recorder, minutes: float, fast: bool) -> Soak:
    """The session itself. Raises AvatarError."""
    began, cpu_s = perf_counter(), thread_time()
    async with on_screen(rig.worker, rig.face, SessionConfig(paced=not fast), look=recorder.look) as viewer:
        if fast:
            await converse_fast(viewer, rig.voice, round(60 * FPS * minutes))
        else:
            await talk(viewer, rig.voice, 60 * minutes)
        return _result(viewer, recorder, minutes, fast, perf_counter() - began, thread_time() - cpu_s)


def _result(viewer: Viewer, recorder: Recorder, minutes: float, fast: bool, wall_s: float, cpu_s: float) -> Soak:
    notes, session = recorder.notes(), viewer.session
    return Soak(
        minutes=minutes,
        fast=fast,
        frames=viewer.frames,
        wall_s=wall_s,
        realtime_factor=viewer.frames / FPS / wall_s,
        looks=notes.looks(),
        reanchored=session.watchdog.anchored,
        workers_lost=session.metrics.workers_lost,
        seam=notes.seams(),
        memory_mb=notes.memory(),
        sustained=None if fast else summarise(viewer, wall_s, cpu_s),
        av_drift=None if fast else av_drift(viewer.taken()),
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputNotWritableError(f"the folder {folder} cannot be made: {error}") from error
    if not os.access(folder, os.W_OK):
        raise OutputNotWritableError(f"the folder {folder} may not be written to; check its permissions")


def _write(path: Path, report: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(tidy(report), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputNotWritableError(f"{path} cannot be written: {error}") from error
