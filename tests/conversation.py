"""A session and its viewer in virtual time, for tests that script a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from engine.events import EventKind, SessionEvent
from engine.session import AvatarSession, SessionConfig
from engine.types import FRAME_US, VideoFrame
from engine.watchdog import DriftBounds
from tests.fake_worker import FakeWorker, face
from tests.virtual_time import run_virtual

F_S = FRAME_US / 1e6


CALM = DriftBounds(colour=1e9, sharpness=1e9, likeness=-2)


def loud(window: np.ndarray) -> float:
    return 1.0 if np.abs(window).max() > 0.05 else 0.0


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).uniform(0.1, 0.5, round(16_000 * seconds))).astype(np.float32)


@dataclass
class Viewer:
    """Takes every frame at once and notes when."""

    session: AvatarSession
    seen: list[tuple[float, VideoFrame]] = field(default_factory=list)
    events: list[tuple[float, SessionEvent]] = field(default_factory=list)

    async def watch(self) -> None:
        async for frame in self.session.frames():
            self.seen.append((now(), frame))

    def after(self, moment: float) -> Iterator[tuple[float, VideoFrame]]:
        return ((t, f) for t, f in self.seen if t > moment)

    def gaps(self) -> np.ndarray:
        return np.diff([t for t, _ in self.seen])

    def of_kind(self, kind: EventKind) -> list[SessionEvent]:
        return [event for _, event in self.events if event.kind == kind]


def now() -> float:
    return asyncio.get_running_loop().time()


def converse(
    script: Callable[[AvatarSession, Viewer], Awaitable[None]],
    worker: FakeWorker | None = None,
    config: SessionConfig | None = None,
) -> Viewer:
    """Run a script in virtual time beside a viewer; returns what the viewer saw."""

    async def main() -> Viewer:
        noted: list[tuple[float, SessionEvent]] = []
        session = AvatarSession(
            worker or FakeWorker(),
            face(),
            config or SessionConfig(drift=CALM),
            on_event=lambda event: noted.append((now(), event)),
            speech=loud,
        )
        viewer = Viewer(session, events=noted)
        async with session:
            watching = asyncio.get_running_loop().create_task(viewer.watch())
            await script(session, viewer)
        await watching
        return viewer

    return run_virtual(main())


def heard(viewer: Viewer, turn_id: int) -> np.ndarray:
    return np.concatenate([f.audio for _, f in viewer.seen if f.turn_id == turn_id] or [np.zeros(0, np.float32)])
