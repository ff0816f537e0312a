"""How many people one machine shows at once, and what each of them costs in memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from apps.bench.machine import resident_mb
from apps.bench.script import Floats, part, say
from apps.bench.setup import Rig
from apps.bench.stats import LATE_US, lateness_us
from apps.bench.viewer import Viewer, on_screen
from engine.clock import now_us
from engine.types import FRAME_US
from engine.worker.base import Face, Worker

TRIAL_S = 6.0
MOST_LATE_SHARE = 0.005

_SETTLE_S = 1.0
"""All sessions begin at once, which they do not when they are people; it is not counted."""
_APART_S = 1.7
"""They begin at different places of the voice."""
_ATTEMPTS = 2
"""The better one counts: one frame that some other program made late would fail a trial."""
_MEMORY_SESSIONS = 4
_MEMORY_S = 2.0


@dataclass(frozen=True, slots=True)
class Trial:
    """So many sessions that all speak. late_share: frames that were late, see stats.lateness_us, or missing, of those
    that 25 fps make. degraded_share: frames while the engine gave up quality to keep up.
    """

    sessions: int
    late_share: float
    degraded_share: float

    @property
    def in_time(self) -> bool:
        return self.late_share <= MOST_LATE_SHARE


@dataclass(frozen=True, slots=True)
class Capacity:
    """promised_sessions: what the worker admits when it is left to itself. sessions_at_25fps: the most that all speak
    with at most 0.5 % of their frames late or missing; sessions_at_full_quality: and without giving up quality.
    limit_sessions: more were not tried. A number that fails is tried twice.
    """

    promised_sessions: int
    sessions_at_25fps: int
    sessions_at_full_quality: int
    limit_sessions: int
    trials: list[Trial]


async def measure_capacity(worker: Worker, face: Face, voice: Floats, seconds: float, promised: int) -> Capacity:
    """Up to the worker's own capacity. Raises AvatarError."""
    trials: dict[int, Trial] = {}

    async def bears(sessions: int) -> bool:
        for _ in range(_ATTEMPTS):
            trial = await try_sessions(worker, face, voice, sessions, seconds)
            trials[sessions] = min(trials.get(sessions, trial), trial, key=lambda t: t.late_share)
            if trial.in_time:
                break
        return trials[sessions].in_time

    most = await largest(bears, worker.capacity)
    full = [t.sessions for t in trials.values() if t.in_time and not t.degraded_share]
    ordered = [trials[sessions] for sessions in sorted(trials)]
    return Capacity(promised, most, max(full, default=0), worker.capacity, ordered)


async def largest(bears: Callable[[int], Awaitable[bool]], limit: int) -> int:
    """The largest number up to `limit` that `bears`, which must fail for all numbers beyond one that fails; 0 for none.

    Doubles until it fails, then halves the gap, so that a hundred takes a dozen attempts.
    """
    good, bad = 0, limit + 1
    while bad - good > 1:
        attempt = min(max(1, 2 * good), limit) if bad > limit else (good + bad) // 2
        if await bears(attempt):
            good = attempt
        else:
            bad = attempt
    return good


async def try_sessions(worker: Worker, face: Face, voice: Floats, sessions: int, seconds: float) -> Trial:
    """Raises AvatarError."""
    async with AsyncExitStack() as stack:
        viewers = await _open(stack, worker, face, voice, sessions, seconds)
        await asyncio.sleep(_SETTLE_S)
        began_us = now_us()
        before = [(viewer.frames, viewer.degraded) for viewer in viewers]
        await asyncio.sleep(seconds)
        # One less, since the moments of a session's frames lie anywhere.
        due = (now_us() - began_us) // FRAME_US - 1
        late = sum(_late_or_missing(viewer, began_us, due) for viewer in viewers)
        degraded = sum(viewer.degraded - was for viewer, (_, was) in zip(viewers, before, strict=True))
        taken = sum(viewer.frames - was for viewer, (was, _) in zip(viewers, before, strict=True))
    return Trial(sessions, late / (due * sessions), degraded / max(1, taken))


def _late_or_missing(viewer: Viewer, began_us: int, due: int) -> int:
    taken = viewer.taken()
    counted = taken.since(began_us)
    late = int((lateness_us(taken)[counted] > LATE_US).sum())
    return min(due, late + max(0, due - int(counted.sum())))


async def memory_per_session_mb(rig: Rig) -> float | None:
    """Resident memory with some sessions that speak, less that before the first session of all, by their number, in
    10^6 bytes; None where the system does not tell. With a child process, of both.
    """
    sessions = min(_MEMORY_SESSIONS, rig.worker.capacity)
    async with AsyncExitStack() as stack:
        await _open(stack, rig.worker, rig.face, rig.voice, sessions, _MEMORY_S)
        await asyncio.sleep(_MEMORY_S)
        gc.collect()
        used_mb = resident_mb(rig.pids())
    return (used_mb - rig.idle_mb) / sessions if used_mb is not None and rig.idle_mb is not None else None


async def _open(
    stack: AsyncExitStack, worker: Worker, face: Face, voice: Floats, sessions: int, seconds: float
) -> list[Viewer]:
    """Sessions that speak for at least so long."""
    viewers = [await stack.enter_async_context(on_screen(worker, face)) for _ in range(sessions)]
    for number, viewer in enumerate(viewers):
        say(viewer.session, part(voice, number * _APART_S, seconds + 2 * _SETTLE_S))
    return viewers
