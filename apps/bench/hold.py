"""So many sessions through a server for so long, all of them talking; and the refusal of one more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from apps.bench.stats import LATE_US, Spread, Taken, lateness_us, spread
from apps.conformance.line import Line, RefusedError
from engine.clock import MICROSECONDS
from engine.types import FRAME_US

REFUSALS = 20
_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """late_share: pictures that came more than 10 ms after their moment (see stats.lateness_us) or never, of those that
    25 a second make; of all sessions, and of the worst one. missing: pictures that never came. interval_ms: between
    pictures as they came, of all sessions. lost: sessions whose connection ended.
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


def summarise(taken: Sequence[Taken], lost: int, began_us: int, ended_us: int) -> Held:
    """Of the pictures between two moments; one Taken for each session."""
    late: list[float] = []
    intervals: list[float | None] = []
    missing = 0
    # One less, since the moments of a session's frames lie anywhere.
    due = max(1, (ended_us - began_us) // FRAME_US - 1)
    for one in taken:
        counted = one.since(began_us) & (one.moment_us < ended_us)
        absent = max(0, due - int(counted.sum()))
        missing += absent
        late.append(min(due, absent + int((lateness_us(one)[counted] > LATE_US).sum())) / due)
        intervals.extend(np.diff(one.moment_us[counted]) / 1e3)
    seconds = (ended_us - began_us) / MICROSECONDS
    return Held(len(taken), seconds, float(np.mean(late)), float(max(late)), missing, spread(intervals), lost)


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
