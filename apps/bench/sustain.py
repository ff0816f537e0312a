"""A conversation as it is held, for as long as was asked: does the picture keep its 25 frames a second?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import thread_time

from apps.bench.script import Floats, converse
from apps.bench.stats import LATE_US, AvDrift, Spread, av_drift, frames_per_second, lateness_us, spread
from apps.bench.viewer import Viewer, on_screen
from engine.worker.base import Face, Worker


@dataclass(frozen=True, slots=True)
class Sustained:
    """One session that speaks (4 s bursts), rests, listens (a voice in real time) and is interrupted, in turn.

    fps: frames taken a second. interval_ms: between frames as they are taken. late_frames: taken more than 10 ms after
    their due moment, see stats.lateness_us; late_share: of all. slips, slipped_ms: how often and by how much in all the
    presenter moved its clock back, because no frame was there. dropped_frames: not taken in time by the viewer.
    frozen_frames: repeated for lack of a worker. starved_frames: without sound, since that came late. degraded_share:
    frames while the engine gave up quality to keep up. event_loop_share: CPU time of the event loop's thread per
    second, which bounds the sessions of one process.
    """

    seconds: float
    frames: int
    fps: float | None
    interval_ms: Spread
    late_frames: int
    late_share: float
    slips: int
    slipped_ms: float
    dropped_frames: int
    frozen_frames: int
    starved_frames: int
    degraded_share: float
    event_loop_share: float


async def measure_sustained(
    worker: Worker, face: Face, voice: Floats, seconds: float
) -> tuple[Sustained, AvDrift, list[dict[str, float]]]:
    """Talk for so long; also returns the drift of picture against time, and the timing of the blocks. Raises
    AvatarError.
    """
    async with on_screen(worker, face) as viewer:
        await viewer.reach(1)
        cpu_s = thread_time()
        await talk(viewer, voice, seconds)
        cpu_s = thread_time() - cpu_s
        return summarise(viewer, seconds, cpu_s), av_drift(viewer.taken()), list(viewer.blocks)


async def talk(viewer: Viewer, voice: Floats, seconds: float) -> None:
    """Hold the conversation for so long, or until the session ends."""
    talking = asyncio.get_running_loop().create_task(converse(viewer.session, voice), name="bench-script")
    try:
        await asyncio.wait_for(viewer.expect(lambda _: False), seconds)
    except TimeoutError:
        pass
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


def summarise(viewer: Viewer, seconds: float, cpu_s: float) -> Sustained:
    """Figures of all that the viewer has taken."""
    taken, session = viewer.taken(), viewer.session
    late = int((lateness_us(taken) > LATE_US).sum())
    frames = max(1, len(taken))
    return Sustained(
        seconds=seconds,
        frames=len(taken),
        fps=frames_per_second(taken),
        interval_ms=spread(list(taken.intervals_us() / 1e3)),
        late_frames=late,
        late_share=late / frames,
        slips=session.presenter.late,
        slipped_ms=session.presenter.slipped_us / 1e3,
        dropped_frames=session.presenter.dropped,
        frozen_frames=session.metrics.frozen_frames,
        starved_frames=session.metrics.starved_frames,
        degraded_share=viewer.degraded / frames,
        event_loop_share=cpu_s / seconds,
    )
