"""A worker whose stages are threads of this process: quickest to start, and lost with the process when it crashes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from engine.backends.base import Backend
from engine.errors import AvatarError
from engine.worker.base import Face, Listener, Pictures, Slot, WorkerInfo
from engine.worker.line import Line
from engine.worker.places import Places
from engine.worker.stages import Stages

CLOSE_S = 5.0
"""How long closing waits for the calls that the threads are in."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


class ThreadWorker:
    """A Worker over a model, which it owns: a backend of this process, or a line whose stages have places.

    picture_px: side of the pictures that are measured; any other works as well. capacity: places, None for as many as
    the machine sustains at 25 frames a second.
    """

    def __init__(
        self, model: Backend | Line, model_name: str, picture_px: int = 512, capacity: int | None = None
    ) -> None:
        self._line = model if isinstance(model, Line) else Line.of(model)
        self._inbox = _Inbox()
        self._stages = Stages(self._line, model_name, picture_px, self._inbox, capacity)
        self._places = Places(self._stages, capacity)
        self._closed = False

    @property
    def info(self) -> WorkerInfo:
        return self._places.info

    @property
    def capacity(self) -> int:
        return self._places.capacity

    @property
    def ready(self) -> bool:
        return self._places.is_ready

    async def start(self) -> None:
        """Warm up and measure; call it once. Raises what the backend does, as an AvatarError."""
        self._inbox.lead_to(self._places, asyncio.get_running_loop())
        self._stages.start()
        await self._places.settle()

    async def open(self, face: Face, listener: Listener) -> Slot:
        return await self._places.open(face, listener)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._places.close()
        if await in_thread("visavis close", lambda: self._stages.close(CLOSE_S)):
            self._line.close()
        else:
            # A thread is still inside the model, which would not survive being freed.
            _log.warning("a stage of the worker did not end within %g s and was left behind", CLOSE_S)


class _Inbox:
    """What the stages tell, taken over into the event loop. A loop that has ended needs no news."""

    def __init__(self) -> None:
        self._places: Places | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def lead_to(self, places: Places, loop: asyncio.AbstractEventLoop) -> None:
        self._places, self._loop = places, loop

    def ready(self, info: WorkerInfo) -> None:
        self._post(lambda places: places.ready(info))

    def opened(self, slot: int) -> None:
        self._post(lambda places: places.opened(slot))

    def pictures(self, slot: int, pictures: Pictures) -> None:
        self._post(lambda places: places.pictures(slot, pictures))

    def lost(self, slot: int, error: AvatarError) -> None:
        self._post(lambda places: places.lost(slot, error))

    def broken(self, error: AvatarError) -> None:
        self._post(lambda places: places.broken(error))

    def _post(self, news: Callable[[Places], None]) -> None:
        assert self._places is not None and self._loop is not None
        try:
            self._loop.call_soon_threadsafe(news, self._places)
        except RuntimeError:
            if not self._loop.is_closed():
                raise


async def in_thread(name: str, call: Callable[[], T]) -> T:
    """Run a call that blocks in a thread of its own, which ends with it. The call must not raise."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T) -> None:
        if not result.done():
            result.set_result(value)

    def run() -> None:
        value = call()
        loop.call_soon_threadsafe(settle, value)

    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    value = await result
    thread.join()
    return value
