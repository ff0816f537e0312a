"""So many sessions through a server for so long, all of them talking; and the refusal of one more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from apps.bench.caller import Caller
from apps.bench.script import Floats
from apps.bench.stats import LATE_US, Spread, spread
from apps.conformance.line import Line, RefusedError
from engine.clock import MICROSECONDS
from engine.types import FRAME_US

SETTLE_S = 2.0
"""All begin at once, which people do not; not counted."""
APART_S = 0.37
"""They talk at different places of the script."""
REFUSALS = 50
_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """late_share: pictures that came more than 10 ms after their moment, or never, of those that 25 a second make; of
    all sessions, and of the worst one. A session's moments are a grid of 40 ms from its earliest picture on; what it
    slipped because a block was late stays late, so one slip of the clock would count for all later frames: it is moved
    after 1 s. interval_ms: between pictures as they came, of all sessions. lost: sessions whose connection ended.
    """

    sessions: int
    seconds: float
    late_share: float
    worst_late_share: float
    missing: int
    interval_ms: Spread
    lost: int


@dataclass(frozen=True, slots=True)
class Refused:
    """refusal_ms: from connecting to a full server to its answer. statuses: how often each HTTP status was given; 101
    is an upgrade, which none should be.
    """

    refusal_ms: Spread
    statuses: Mapping[str, int]


async def hold(callers: Sequence[Caller], voice: Floats, seconds: float) -> Held:
    """All of them talk. Returns after that time."""
    talking = []
    for caller in callers:
        talking.append(asyncio.get_running_loop().create_task(caller.converse(voice), name="bench-talk"))
        await asyncio.sleep(APART_S)
    await asyncio.sleep(SETTLE_S)
    began_us = round(monotonic() * MICROSECONDS)
    await asyncio.sleep(seconds)
    ended_us = round(monotonic() * MICROSECONDS)
    for task in talking:
        task.cancel()
    await asyncio.gather(*talking, return_exceptions=True)
    return summarise(callers, began_us, ended_us)


def summarise(callers: Sequence[Caller], began_us: int, ended_us: int) -> Held:
    """Of the pictures between two moments."""
    late: list[float] = []
    intervals: list[float | None] = []
    missing = 0
    # One less, since the moments of a session's frames lie anywhere.
    due = max(1, (ended_us - began_us) // FRAME_US - 1)
    for caller in callers:
        moments, indices = (np.array(notes, np.int64) for notes in (caller.moments_us, caller.indices))
        counted = (moments >= began_us) & (moments < ended_us)
        absent = max(0, due - int(counted.sum()))
        missing += absent
        late.append(min(due, absent + late_frames(moments[counted], indices[counted])) / due)
        intervals.extend(np.diff(moments[counted]) / 1e3)
    lost = sum(caller.closed is not None for caller in callers)
    seconds = (ended_us - began_us) / MICROSECONDS
    return Held(len(callers), seconds, float(np.mean(late)), float(max(late)), missing, spread(intervals), lost)


def late_frames(moments_us: NDArray[np.int64], indices: NDArray[np.int64]) -> int:
    """How many came more than LATE_US after their moment, which is 40 ms after that of the frame before. The grid is
    that of the earliest frames of the second around, since the media clock may slip.
    """
    if not len(moments_us):
        return 0
    offsets = moments_us - indices * FRAME_US
    late = 0
    for start in range(0, len(offsets), 25):
        near = offsets[max(0, start - 25) : start + 50]
        late += int((offsets[start : start + 25] - near.min() > LATE_US).sum())
    return late


async def refuse(url: str) -> Refused:
    """Connect to a full server again and again."""
    times: list[float | None] = []
    statuses: dict[str, int] = {}
    for _ in range(REFUSALS):
        began_s = monotonic()
        try:
            line = await Line.open(url, timeout_s=_WITHIN_S)
        except RefusedError as error:
            times.append(1e3 * (monotonic() - began_s))
            status = str(error.status)
        except (OSError, TimeoutError):
            times.append(None)
            status = "none"
        else:
            await line.drop()
            times.append(None)
            status = "101"
        statuses[status] = statuses.get(status, 0) + 1
        await asyncio.sleep(0.05)
    return Refused(spread(times), statuses)
