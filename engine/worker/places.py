"""The event loop's half of a worker: who holds a place, what each has under way, and whom to call back.

It is the same whether the stages are threads of this process or of another one: a Port leads there, and what comes back
is handed to the methods of engine.worker.stages.Sink, in the loop's thread. Nothing stale gets past this point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from engine.errors import AvatarError, EngineFullError, SlotBusyError, WorkerLostError
from engine.scheduler import sustained_sessions
from engine.worker.base import STEPS_PER_SLOT, Face, Listener, Pictures, Step, WorkerInfo

T = TypeVar("T")


class Port(Protocol):
    """The way to the stages; see engine.worker.stages.Stages. Every call returns at once."""

    def open(self, slot: int, face: Face) -> None: ...

    def submit(self, slot: int, step: Step) -> None: ...

    def cancel(self, slot: int, generation: int) -> None: ...

    def remove(self, slot: int) -> None: ...


class PlacedSlot:
    """A Slot. Counts its steps under way: those that were not cancelled and whose last pictures have not come."""

    def __init__(self, number: int, listener: Listener, port: Port, leave: Callable[[int], None]) -> None:
        self.number = number
        self._listener, self._port, self._leave = listener, port, leave
        self._generation = 0
        self._under_way: list[int] = []
        """Generation of each step, oldest first."""
        self._gone = ""

    def submit(self, step: Step) -> None:
        if self._gone:
            raise WorkerLostError(f"this session has no place in the worker any more: {self._gone}; open another one")
        assert step.generation >= self._generation, "a step of a generation that was cancelled"
        if len(self._under_way) >= STEPS_PER_SLOT:
            raise SlotBusyError(f"{STEPS_PER_SLOT} steps of this session are under way; submit the next one after them")
        self._port.submit(self.number, step)
        self._under_way.append(step.generation)

    def cancel(self, generation: int) -> None:
        if self._gone or generation <= self._generation:
            return
        self._generation = generation
        self._under_way = [g for g in self._under_way if g >= generation]
        self._port.cancel(self.number, generation)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the place back at once; the stages let go of it after the call that they are in."""
        if not self._gone:
            self._end("it was closed")
            self._port.remove(self.number)

    def deliver(self, pictures: Pictures) -> None:
        """Pictures from the stages, in order."""
        if self._gone or pictures.generation < self._generation:
            return
        if pictures.last:
            self._under_way.pop(0)
        _call_back(self._listener.on_pictures, pictures)

    def lose(self, error: AvatarError) -> None:
        """The stages have let go of the slot."""
        if not self._gone:
            self._end(str(error))
            _call_back(self._listener.on_lost, error)

    def _end(self, reason: str) -> None:
        self._gone = reason or "it was lost"
        self._under_way.clear()
        self._leave(self.number)


def _call_back(call: Callable[[T], None], value: T) -> None:
    """A listener's own fault must not keep the others from being told."""
    try:
        call(value)
    except Exception as error:
        loop = asyncio.get_running_loop()
        loop.call_exception_handler(
            {"message": f"{getattr(call, '__qualname__', call)} of a session failed", "exception": error}
        )


class Places:
    """Admission, and the way back to each listener. Used in the event loop's thread only."""

    def __init__(self, port: Port, capacity: int | None = None) -> None:
        self._port, self._capacity = port, capacity
        self._info: WorkerInfo | None = None
        self._slots: dict[int, PlacedSlot] = {}
        self._openings: dict[int, asyncio.Future[None]] = {}
        self._numbers = 0
        """Slots opened so far; a number is never used twice, so that nothing late meets a new session."""
        self._error: AvatarError | None = None
        self._settled = asyncio.Event()

    @property
    def info(self) -> WorkerInfo:
        """Raises WorkerLostError before the worker is warm."""
        if self._info is None:
            raise WorkerLostError("the worker is not warm yet; start it, and wait until it is ready")
        return self._info

    @property
    def capacity(self) -> int:
        """0 when it was not given and has not been measured yet."""
        return self._capacity or 0

    @property
    def is_ready(self) -> bool:
        return self._info is not None and self._error is None

    @property
    def opening(self) -> bool:
        return bool(self._openings)

    def __len__(self) -> int:
        return len(self._slots)

    async def settle(self) -> WorkerInfo:
        """Wait for the end of the warm-up. Raises what went wrong in it."""
        await self._settled.wait()
        if self._error is not None:
            raise self._error
        return self.info

    async def open(self, face: Face, listener: Listener) -> PlacedSlot:
        """See Worker.open; the place is taken before anything is waited for."""
        if not self.is_ready:
            raise WorkerLostError(str(self._error or "the worker is not warm yet"))
        if len(self._slots) >= self.capacity:
            raise EngineFullError(f"all {self.capacity} places are taken; try again later")
        slot = PlacedSlot(self._numbers, listener, self._port, self._leave)
        self._numbers += 1
        self._slots[slot.number] = slot
        opened = asyncio.get_running_loop().create_future()
        self._openings[slot.number] = opened
        try:
            self._port.open(slot.number, face)
            await opened
        except BaseException:
            slot.close()
            raise
        finally:
            del self._openings[slot.number]
        return slot

    def lose_all(self, error: AvatarError) -> None:
        """No call back comes after this one; opening fails from now on. Idempotent."""
        if self._error is None:
            self._error = error
        self._settled.set()
        for slot in list(self._slots):
            self.lost(slot, error)

    def close(self) -> None:
        """Take every place back without a word, and open none any more."""
        for slot in list(self._slots.values()):
            slot.close()
        self.lose_all(WorkerLostError("the worker was closed"))

    def _leave(self, slot: int) -> None:
        self._slots.pop(slot, None)

    # What comes back from the stages.

    def ready(self, info: WorkerInfo) -> None:
        self._info = info
        if self._capacity is None:
            self._capacity = sustained_sessions(info)
        self._settled.set()

    def opened(self, slot: int) -> None:
        opened = self._openings.get(slot)
        if opened is not None and not opened.done():
            opened.set_result(None)

    def pictures(self, slot: int, pictures: Pictures) -> None:
        if placed := self._slots.get(slot):
            placed.deliver(pictures)

    def lost(self, slot: int, error: AvatarError) -> None:
        opened = self._openings.get(slot)
        if opened is not None and not opened.done():
            opened.set_exception(error)
        elif placed := self._slots.get(slot):
            placed.lose(error)

    def broken(self, error: AvatarError) -> None:
        self.lose_all(error)
