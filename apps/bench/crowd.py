"""Clients of the benchmark in a process of their own, so that what they cost is not the server's.

The child opens sessions one after another, lets them talk, and notes when each picture came, by the clock that all
processes of a machine share. What only the server knows, by how much a session's media clock has slipped by which
picture, is noted beside it by `SlipLog` and joined to that afterwards.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import cast

import numpy as np
from numpy.typing import NDArray

from apps.bench.caller import Caller
from apps.bench.script import Floats
from apps.bench.stats import Taken
from engine.clock import now_us
from engine.errors import AvatarError
from engine.presenter import Presenter
from engine.types import FRAME_US

APART_S = 0.37
"""Of their beginnings, in the mean; people come at any phase of the 40 ms frames, and are at different places of the
script."""
SETTLE_S = 2.0
"""After the last has begun; not counted."""
_POLL_S = 0.01
"""Four times as often as pictures leave."""
_GIVEN_S = 60.0
"""For opening and closing, beyond the time that was asked for."""


class CrowdError(AvatarError):
    """The clients could not do what they were to do."""

    code = "bench_clients"


@dataclass(frozen=True, slots=True)
class Visit:
    """What one client saw: the session's id, its pictures (slipped_us all 0), whether its connection ended early."""

    session: str
    taken: Taken
    lost: bool


@dataclass(frozen=True, slots=True)
class Visits:
    """began_us, ended_us: of the time that counts."""

    began_us: int
    ended_us: int
    visits: tuple[Visit, ...]


@dataclass(frozen=True, slots=True)
class _Errand:
    url: str
    count: int
    size_px: int
    voice: Floats
    seconds: float


class Crowd:
    """So many clients that talk for so long. Opened by `crowd`; the server is full while it stands."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    async def visits(self) -> Visits:
        """Once that time is over. The sessions stay until the crowd is closed. Raises CrowdError."""
        return cast(Visits, await self._answer())

    async def _answer(self) -> object:
        try:
            answer = await asyncio.to_thread(self._line.recv)
        except EOFError as error:
            raise CrowdError("the benchmark's clients ended before their time; see what they wrote above") from error
        if isinstance(answer, str):
            raise CrowdError(f"the benchmark's clients gave up: {answer}")
        return answer


@asynccontextmanager
async def crowd(url: str, count: int, size_px: int, voice: Floats, seconds: float) -> AsyncIterator[Crowd]:
    """voice: float32 [N] at 16 kHz."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    errand = _Errand(url, count, size_px, voice, seconds)
    child = spawn.Process(target=_visit, args=(there, errand), name="visavis-bench-clients", daemon=True)
    child.start()
    there.close()
    try:
        yield Crowd(here)
    finally:
        here.close()
        await asyncio.to_thread(child.join, _GIVEN_S)
        if child.is_alive():
            child.kill()


class SlipLog:
    """By how much the media clocks of a server's sessions had slipped by which picture."""

    def __init__(self, presenters: Callable[[], Mapping[str, Presenter]]) -> None:
        """presenters: of the sessions that there are now, by id."""
        self._presenters = presenters
        self._seen: dict[str, dict[int, int]] = {}

    async def run(self) -> None:
        """Note until cancelled. A picture that is missed while the loop is busy has slipped as the one before."""
        while True:
            self.note()
            await asyncio.sleep(_POLL_S)

    def note(self) -> None:
        for session, presenter in self._presenters().items():
            if presenter.last is not None:
                index = presenter.last.pts_us // FRAME_US
                self._seen.setdefault(session, {}).setdefault(index, presenter.slipped_us)

    def joined(self, visit: Visit) -> Taken:
        """A client's pictures, with the slips."""
        return replace(visit.taken, slipped_us=self._slips(visit.session, visit.taken.index))

    def _slips(self, session: str, index: NDArray[np.int64]) -> NDArray[np.int64]:
        seen = self._seen.get(session)
        if not seen:
            return np.zeros(len(index), np.int64)
        known = np.array(sorted(seen), np.int64)
        slips = np.array([seen[one] for one in known.tolist()], np.int64)
        found: NDArray[np.int64] = slips[(np.searchsorted(known, index, side="right") - 1).clip(min=0)]
        return found


def _visit(line: Connection, errand: _Errand) -> None:
    """The child's life."""
    try:
        asyncio.run(_talk(line, errand))
    except (OSError, TimeoutError, ValueError) as error:
        line.send(f"{type(error).__name__}: {error}")
    finally:
        line.close()


async def _talk(line: Connection, errand: _Errand) -> None:
    loop, random = asyncio.get_running_loop(), np.random.default_rng(errand.count)
    callers, talking = [], []
    for _ in range(errand.count):
        callers.append(caller := await Caller.open(errand.url, errand.size_px))
        talking.append(loop.create_task(caller.converse(errand.voice), name="bench-talk"))
        await asyncio.sleep(random.uniform(0, 2 * APART_S))
    await asyncio.sleep(SETTLE_S)
    began_us = now_us()
    await asyncio.sleep(errand.seconds)
    ended_us = now_us()
    visits = tuple(Visit(caller.session, caller.taken(), caller.closed is not None) for caller in callers)
    line.send(Visits(began_us, ended_us, visits))
    # Until the parent has done with the full server, and closes.
    await asyncio.to_thread(line.poll, errand.seconds + _GIVEN_S)
    for task in talking:
        task.cancel()
    await asyncio.gather(*talking, return_exceptions=True)
    await asyncio.gather(*(caller.aclose() for caller in callers))
