"""`visavis bench server`: what the server costs on top of the engine, and how many sessions it holds.

What the server adds: server, engine and client share one process, one event loop and one worker, so engine and server
are measured by the same clock in the same minutes, attempt by attempt in turn; what the client costs is in the server's
figures. What it holds: the clients are in a process of their own, see `crowd`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from apps.bench.caller import Caller, is_picture, says
from apps.bench.caller import within as hear_within
from apps.bench.crowd import SlipLog, crowd
from apps.bench.hold import Held, Refused, refuse, summarise
from apps.bench.machine import machine_facts
from apps.bench.report import FORMAT, shown
from apps.bench.script import Floats, part, say, speak_live
from apps.bench.setup import PICTURES, Settings, read_voice, shipped
from apps.bench.stats import Spread, spread
from apps.bench.viewer import ANSWER_S, Viewer, on_screen, within
from apps.conformance.line import Heard
from apps.server.app import AvatarServer, share_fairly
from apps.server.config import ServeConfig
from apps.server.limits import Limits
from engine.clock import MICROSECONDS, now_us
from engine.types import FRAME_US
from engine.worker.base import Face, Worker

BURST_S = 2.0
REST_S = 0.6
_PHASES_S = 8 * FRAME_US / MICROSECONDS

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Beside:
    """The same measure, in milliseconds, of the engine alone and through the server, and what lies between their
    percentiles.
    """

    engine: Spread
    server: Spread
    added_p50_ms: float | None
    added_p95_ms: float | None
    added_p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Added:
    """connect_ms: from opening a session, or a connection, to the first frame. burst_ms: 2 s of voice at once, to the
    first frame with them. live_ms: a voice in packets of 20 ms, from when its first sample exists, to the first frame
    with it. interrupt_ms: from `interrupt` to the first frame after it. ack_ms: to the answer `interrupted`, which the
    engine gives at once.
    """

    connect_ms: Beside
    burst_ms: Beside
    live_ms: Beside
    interrupt_ms: Beside
    ack_ms: Spread


@dataclass(slots=True)
class _Notes:
    """Milliseconds of one side, None for what was missed."""

    connect: list[float | None]
    burst: list[float | None]
    live: list[float | None]
    interrupt: list[float | None]
    ack: list[float | None]


async def run_server_bench(settings: Settings, sessions: int | None, hold_minutes: float, say: Say) -> dict[str, Any]:
    """sessions: held at once, None for what this machine sustains. Raises AvatarError."""
    say("loading the model")
    share_fairly()
    voice = read_voice(settings)
    async with serving(settings, sessions) as server:
        info = server.worker.info
        facts = {
            "format": FORMAT,
            "kind": "server",
            "machine": asdict(machine_facts()),
            "settings": {
                "model": info.model,
                "backend": info.backend,
                "size_px": settings.size_px,
                "repeats": settings.repeats,
                "sessions": server.gate.places,
                "hold_minutes": hold_minutes,
            },
        }
        added = await measure_added(server, voice, settings.repeats, say)
        held, refused = await _hold(server, voice, 60 * hold_minutes, say)
    return {**facts, "added": asdict(added), "held": asdict(held), "refused": asdict(refused)}


@asynccontextmanager
async def serving(settings: Settings, sessions: int | None) -> AsyncIterator[AvatarServer]:
    """A server of this process on a free port of the loopback. Raises AvatarError."""
    config = ServeConfig(
        portraits=shipped(settings.portrait, "portraits", PICTURES).parent,
        port=0,
        model=settings.model,
        backend=settings.backend,
        size_px=settings.size_px,
        limits=replace(Limits(), sessions=sessions),
    )
    server = AvatarServer(config)
    try:
        await server.start()
        yield server
    finally:
        await server.aclose()


async def measure_added(server: AvatarServer, voice: Floats, repeats: int, say: Say, seed: int = 0) -> Added:
    """Engine and server in turn, each attempt from rest and at a random phase of the 40 ms frames."""
    random = np.random.default_rng(seed)
    alone, through = (_Notes([], [], [], [], []) for _ in range(2))
    worker, size_px = server.worker, server.config.size_px
    face = await server.house.desk.face(server.house.desk.choose(None), size_px, seed=0)
    for number in range(repeats):
        say(f"engine and server, {number + 1} of {repeats}")
        await _rest(random)
        await _try_engine(worker, face, voice, random, alone)
        await _rest(random)
        await _try_server(server, voice, random, through)
    return Added(
        connect_ms=beside(alone.connect, through.connect),
        burst_ms=beside(alone.burst, through.burst),
        live_ms=beside(alone.live, through.live),
        interrupt_ms=beside(alone.interrupt, through.interrupt),
        ack_ms=spread(through.ack),
    )


def beside(engine: list[float | None], server: list[float | None]) -> Beside:
    """Percentiles of both, and their differences."""
    one, two = spread(engine), spread(server)

    def added(name: str) -> float | None:
        low, high = getattr(one, name), getattr(two, name)
        return None if low is None or high is None else float(high - low)

    return Beside(one, two, added("p50"), added("p95"), added("p99"))


def print_server(report: dict[str, Any], console: Console) -> None:
    """For people."""
    settings = report["settings"]
    console.print(f"{settings['model']} on {settings['backend']}, {settings['size_px']} pixels", highlight=False)
    table = Table("ms", "side", "n", "p50", "p95", "p99", "max")
    for name in ("connect_ms", "burst_ms", "live_ms", "interrupt_ms"):
        both = report["added"][name]
        for side in ("engine", "server"):
            values = both[side]
            table.add_row(name.removesuffix("_ms"), side, str(values["n"]), *_percentiles(values))
        table.add_row("", "added", "", *(shown(both[f"added_{p}_ms"]) for p in ("p50", "p95", "p99")), "")
    acks = report["added"]["ack_ms"]
    table.add_row("ack", "server", str(acks["n"]), *_percentiles(acks))
    refusals = report["refused"]["refusal_ms"]
    table.add_row("refusal", "server", str(refusals["n"]), *_percentiles(refusals))
    console.print(table)
    held = report["held"]
    console.print(
        f"{held['sessions']} sessions held {held['seconds']:.0f} s: {held['late_share']:.2%} of the pictures late or "
        f"missing, {held['worst_late_share']:.2%} of the worst session; {held['lost']} lost",
        highlight=False,
    )


async def _hold(server: AvatarServer, voice: Floats, seconds: float, say: Say) -> tuple[Held, Refused]:
    say(f"{server.gate.places} sessions for {seconds:g} s")
    slips = SlipLog(lambda: {seat.id: seat.session.avatar.presenter for seat in server.house.seats.all})
    noting = asyncio.create_task(slips.run(), name="bench-slips")
    try:
        async with crowd(url_of(server), server.gate.places, server.config.size_px, voice, seconds) as callers:
            seen = await callers.visits()
            say("refusals")
            refused = await refuse(url_of(server))
    finally:
        noting.cancel()
        await asyncio.gather(noting, return_exceptions=True)
    taken = [slips.joined(visit) for visit in seen.visits]
    return summarise(taken, sum(visit.lost for visit in seen.visits), seen.began_us, seen.ended_us), refused


@asynccontextmanager
async def calling(server: AvatarServer) -> AsyncIterator[Caller]:
    """A client of its own, in a session."""
    caller = await Caller.open(url_of(server), server.config.size_px)
    try:
        yield caller
    finally:
        await caller.aclose()


def url_of(server: AvatarServer) -> str:
    return f"ws://127.0.0.1:{server.port}/v1/avatar"


async def _try_engine(worker: Worker, face: Face, voice: Floats, random: np.random.Generator, notes: _Notes) -> None:
    began_us = now_us()
    async with on_screen(worker, face) as viewer:
        await viewer.reach(1)
        notes.connect.append((now_us() - began_us) / 1e3)
        await _rest(random)
        notes.live.append(await _engine_answer(viewer, lambda pcm: speak_live(viewer.session.push_audio, pcm), voice))
        viewer.session.interrupt()
        await _rest(random)
        notes.burst.append(await _engine_answer(viewer, lambda pcm: _burst(viewer, pcm), voice))
        await asyncio.sleep(random.uniform(0.2, 0.6))
        cut_us = now_us()
        viewer.session.interrupt()
        after = await within(viewer.expect(lambda frame: not frame.turn_id))
        notes.interrupt.append((after.moment_us - cut_us) / 1e3 if after else None)


async def _engine_answer(viewer: Viewer, speak: Callable[[Floats], Awaitable[None]], voice: Floats) -> float | None:
    """From the first sample to the first frame of an utterance that has not begun yet."""
    began_us = now_us()
    answer = viewer.expect(lambda frame: frame.turn_id != 0)
    speaking = asyncio.ensure_future(speak(part(voice, 0, BURST_S)))
    sighting = await within(answer)
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    return (sighting.moment_us - began_us) / 1e3 if sighting else None


async def _burst(viewer: Viewer, pcm: Floats) -> None:
    say(viewer.session, pcm)


async def _try_server(server: AvatarServer, voice: Floats, random: np.random.Generator, notes: _Notes) -> None:
    began_s = monotonic()
    async with calling(server) as caller:
        notes.connect.append(await _milliseconds(caller.expect(is_picture), began_s))
        await _rest(random)
        notes.live.append(await _server_answer(caller, caller.speak_live, voice))
        await caller.interrupt()
        await _rest(random)
        notes.burst.append(await _server_answer(caller, caller.speak, voice))
        await asyncio.sleep(random.uniform(0.2, 0.6))
        epoch, cut_s = caller.epoch + 1, monotonic()
        ack = caller.expect(says("interrupted"))
        after = caller.expect(lambda heard: is_picture(heard) and heard.epoch == epoch)
        await caller.interrupt()
        notes.ack.append(await _milliseconds(ack, cut_s))
        notes.interrupt.append(await _milliseconds(after, cut_s))


async def _server_answer(
    caller: Caller, speak: Callable[[Floats, int], Awaitable[None]], voice: Floats
) -> float | None:
    utterance, began_s = caller.next_utterance(), monotonic()
    answer = caller.expect(lambda heard: is_picture(heard) and heard.utterance == utterance)
    speaking = asyncio.ensure_future(speak(part(voice, 0, BURST_S), utterance))
    found = await _milliseconds(answer, began_s)
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    return found


async def _milliseconds(future: asyncio.Future[Heard | None], began_s: float) -> float | None:
    heard = await hear_within(future, ANSWER_S)
    return 1e3 * (heard.moment_s - began_s) if heard else None


async def _rest(random: np.random.Generator) -> None:
    await asyncio.sleep(REST_S + random.uniform(0, _PHASES_S))


def _percentiles(values: dict[str, Any]) -> list[str]:
    return [shown(values[name]) for name in ("p50", "p95", "p99", "max")]
