"""Whoever looks at a session: takes each frame as soon as it is offered, and notes when."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from apps.bench.stats import Taken
from engine.audio.silero import Probability
from engine.clock import now_us
from engine.controller import LEVELS
from engine.events import EventKind, SessionEvent
from engine.session import AvatarSession, SessionConfig
from engine.types import VideoFrame
from engine.worker.base import Face, Worker

ANSWER_S = 5.0
"""How long a frame is waited for before the attempt counts as missed."""

_KEPT_BLOCKS = 1000

Matches = Callable[[VideoFrame], bool]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A frame that was waited for: when it was taken, and as which one, counted from 1."""

    moment_us: int
    number: int


class Viewer:
    """Notes of one session, a few bytes a frame. session: set before the first frame comes."""

    session: AvatarSession

    def __init__(self, look: Callable[[Viewer, VideoFrame], None] | None = None) -> None:
        """look: shown every frame once it is noted."""
        self._look = look
        self._moments, self._indices, self._slips = array("q"), array("q"), array("q")
        self._waiting: list[tuple[Matches, asyncio.Future[Sighting | None]]] = []
        self._ended = False
        self.last: VideoFrame | None = None
        self.degraded = 0
        """Frames taken while the engine gave up quality to keep up."""
        self._level = LEVELS[0]
        self.blocks: deque[dict[str, float]] = deque(maxlen=_KEPT_BLOCKS)
        """Timing of the newest blocks that were made to their end."""

    @property
    def frames(self) -> int:
        return len(self._moments)

    @property
    def ended(self) -> bool:
        return self._ended

    def taken(self) -> Taken:
        """All frames so far."""
        return Taken(*(np.array(notes, np.int64) for notes in (self._moments, self._indices, self._slips)))

    def expect(self, matches: Matches) -> asyncio.Future[Sighting | None]:
        """The next frame that matches, from now on; None when the session ends before it comes."""
        future: asyncio.Future[Sighting | None] = asyncio.get_running_loop().create_future()
        if self._ended:
            future.set_result(None)
        else:
            self._waiting.append((matches, future))
        return future

    async def reach(self, frames: int) -> None:
        """Return once so many frames were taken, or the session has ended."""
        while not self._ended and self.frames < frames:
            await self.expect(lambda _: self.frames >= frames)

    async def watch(self) -> None:
        """Take frames until the session ends. Raises what `frames` does."""
        try:
            async for frame in self.session.frames():
                self._note(frame)
        finally:
            self._ended = True
            for _, future in self._waiting:
                if not future.done():
                    future.set_result(None)

    def on_event(self, event: SessionEvent) -> None:
        """The session's own call back."""
        if event.kind == EventKind.QUALITY:
            self._level = event.detail

    def _note(self, frame: VideoFrame) -> None:
        moment_us = now_us()
        self._moments.append(moment_us)
        self._indices.append(frame.index)
        self._slips.append(self.session.presenter.slipped_us)
        self.degraded += self._level != LEVELS[0]
        # The frames of a block's last group share its timing.
        if frame.timing and (self.last is None or frame.timing != self.last.timing):
            self.blocks.append(frame.timing)
        self.last = frame
        self._answer(Sighting(moment_us, len(self._moments)), frame)
        if self._look is not None:
            self._look(self, frame)

    def _answer(self, sighting: Sighting, frame: VideoFrame) -> None:
        waiting = [pair for pair in self._waiting if not pair[1].done()]
        for matches, future in waiting:
            if matches(frame):
                future.set_result(sighting)
        self._waiting = [pair for pair in waiting if not pair[1].done()]


async def within(sighting: asyncio.Future[Sighting | None], seconds: float = ANSWER_S) -> Sighting | None:
    """What was expected, or None when it does not come in time."""
    try:
        return await asyncio.wait_for(sighting, seconds)
    except TimeoutError:
        return None


@asynccontextmanager
async def on_screen(
    worker: Worker,
    face: Face,
    config: SessionConfig | None = None,
    *,
    speech: Probability | None = None,
    look: Callable[[Viewer, VideoFrame], None] | None = None,
) -> AsyncIterator[Viewer]:
    """An open session with a viewer before it. Raises what opening it does, and at the end what ended it early."""
    viewer = Viewer(look)
    viewer.session = AvatarSession(worker, face, config, viewer.on_event, speech)
    async with viewer.session:
        watching = asyncio.get_running_loop().create_task(viewer.watch(), name="bench-viewer")
        try:
            yield viewer
        finally:
            await viewer.session.aclose()
            await asyncio.gather(watching, return_exceptions=True)
    watching.result()
