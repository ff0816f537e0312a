"""`visavis bench`: the parts of the benchmark one after the other, as one document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apps.bench.capacity import TRIAL_S, measure_capacity, memory_per_session_mb
from apps.bench.floor import measure_floor
from apps.bench.latency import measure_latency
from apps.bench.report import PARTS, document
from apps.bench.script import Floats
from apps.bench.setup import Rig, Settings, measure_cold, open_rig, read_voice
from apps.bench.stages import Stages, measure_unpaced, rows
from apps.bench.sustain import measure_sustained

Say = Callable[[str], None]
"""Told what is measured next."""


async def run_bench(settings: Settings, part: str, say: Say, import_ms: float) -> dict[str, Any]:
    """part: `all`, `latency`, `sustain`, `stages` or `capacity`. Raises AvatarError."""
    found: dict[str, Any] = dict.fromkeys(PARTS)
    say("loading the model")
    voice = read_voice(settings)
    async with open_rig(settings, voice, import_ms=import_ms) as rig:
        info, promised = rig.worker.info, rig.worker.capacity
        found["cold"] = await measure_cold(rig)
        if part in ("all", "capacity"):
            say("measuring memory")
            found["memory_per_session_mb"] = await memory_per_session_mb(rig)
        if part in ("all", "latency"):
            say(f"answers, interrupts and states, {settings.repeats} times")
            found["latency"] = await measure_latency(rig.worker, rig.face, voice, settings.repeats)
        if part in ("all", "sustain", "stages"):
            await _converse(rig, settings, part, say, found)
    if part in ("all", "capacity"):
        found["capacity"] = await _capacity(settings, voice, promised, say)
    return document("bench", settings, info, **found)


async def _converse(rig: Rig, settings: Settings, part: str, say: Say, found: dict[str, Any]) -> None:
    """The conversation, and what its blocks and those of an unpaced run took."""
    say(f"a conversation of {settings.seconds:g} s")
    found["sustained"], found["av_drift"], blocks = await measure_sustained(
        rig.worker, rig.face, rig.voice, settings.seconds
    )
    if part == "sustain":
        return
    say("stages and floor")
    unpaced = await measure_unpaced(rig.worker, rig.face, rig.voice)
    found["stages"] = stages = Stages(rows(blocks), unpaced)
    info = rig.worker.info
    usual = next((row for row in stages.by_block_length if row.block_frames == info.block_frames), None)
    decode_ms = unpaced.decode_ms / unpaced.block_frames
    denoise_ms = usual.denoise_ms if usual else None
    found["floor"] = measure_floor(rig.model_config, info, denoise_ms, decode_ms, bool(rig.sampling.stress))


async def _capacity(settings: Settings, voice: Floats, promised: int, say: Say) -> Any:
    """With a worker of its own, which has as many places as may be tried."""
    say("sessions at once")
    async with open_rig(settings, voice, capacity=settings.sessions) as rig:
        seconds = min(TRIAL_S, settings.seconds)
        return await measure_capacity(rig.worker, rig.face, voice, seconds, promised)
