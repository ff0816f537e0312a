"""A worker in the event loop: takes the time it is told to, stamps what it was asked for into tiny pictures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from engine.errors import EngineFullError, SlotBusyError, WorkerLostError
from engine.worker.base import STEPS_PER_SLOT, Face, Listener, Pictures, Slot, Step, WorkerInfo

SIDE = 32
BLOCKS = (1, 2, 4, 8, 12)


def face(seed: int = 0) -> Face:
    grey = np.zeros((1, 3, SIDE, SIDE), np.float32)
    return Face(np.zeros((1, 3, 128, 128), np.float32), grey, seed)


@dataclass
class Costs:
    """Milliseconds; scale changes how long everything really takes, beside what the worker's info says."""

    fixed: float = 2.0
    call: float = 2.0
    call_per_frame: float = 0.6
    decode: float = 8.0
    scale: float = 1.0


@dataclass
class FakeWorker:
    """Worker protocol. `steps` lists what was submitted, `lengths` what was decoded."""

    costs: Costs = field(default_factory=Costs)
    capacity: int = 4
    ready: bool = True
    steps: list[Step] = field(default_factory=list)
    slots: list[FakeSlot] = field(default_factory=list)

    @property
    def info(self) -> WorkerInfo:
        c = self.costs
        return WorkerInfo(
            model="fake", backend="fake", block_lengths=BLOCKS, steps=2, first_steps=4, first_block_frames=4,
            block_frames=8, context_frames=16, picture_px=SIDE,
            denoise_ms={n: c.call + c.call_per_frame * n for n in BLOCKS}, decode_ms=c.decode, fixed_ms=c.fixed,
        )  # fmt: skip

    async def open(self, face: Face, listener: Listener) -> Slot:
        if not self.ready:
            raise WorkerLostError("the fake worker is down")
        if len([s for s in self.slots if not s.closed]) >= self.capacity:
            raise EngineFullError("the fake worker is full")
        slot = FakeSlot(self, listener)
        self.slots.append(slot)
        return slot

    async def aclose(self) -> None:
        for slot in self.slots:
            await slot.aclose()

    def crash(self) -> None:
        """Every slot is lost."""
        for slot in self.slots:
            if not slot.closed:
                slot.stop()
                slot.listener.on_lost(WorkerLostError("the fake worker crashed"))


class FakeSlot:
    def __init__(self, worker: FakeWorker, listener: Listener) -> None:
        self.worker, self.listener = worker, listener
        self.closed = False
        self.generation = 0
        self.next_frame: int | None = None
        self._waiting: list[Step] = []
        self._task: asyncio.Task[None] | None = None

    def submit(self, step: Step) -> None:
        if self.closed:
            raise WorkerLostError("the slot is closed")
        if len(self._waiting) >= STEPS_PER_SLOT:
            raise SlotBusyError("the slot has all the steps it may have")
        assert self.next_frame is None or step.start_frame <= self.next_frame
        self.next_frame = step.start_frame + step.frames
        self.worker.steps.append(step)
        self._waiting.append(step)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work(), name="fake-slot")

    def cancel(self, generation: int) -> None:
        self.generation = generation
        self._waiting = [s for s in self._waiting if s.generation >= generation]

    def stop(self) -> None:
        self.closed = True
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            step, c = self._waiting[0], self.worker.costs
            denoise = (step.denoising_steps + 1) * (c.call + c.call_per_frame * step.frames)
            await self._spend(c.fixed + denoise)
            decoded = 0
            for first in range(0, step.frames, step.picture_every):
                if step.generation < self.generation:
                    break
                await self._spend(c.decode)
                decoded += 1
                count = min(step.picture_every, step.frames - first)
                if step.generation >= self.generation:
                    if first + count >= step.frames:
                        self._waiting.remove(step)
                    self.listener.on_pictures(_pictures(step, first, count, denoise, c, decoded))
            if step in self._waiting:
                self._waiting.remove(step)

    async def _spend(self, milliseconds: float) -> None:
        await asyncio.sleep(milliseconds * self.worker.costs.scale / 1000)


def _pictures(step: Step, first: int, count: int, denoise: float, c: Costs, decoded: int) -> Pictures:
    loudness = step.windows[first : first + count].mean((1, 2))
    images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    images[:, :, :, 0] = np.clip(20 * (loudness + 12), 0, 255).astype(np.uint8)[:, None, None]
    images[:, :, :, 1] = (80 * step.state[first : first + count]).astype(np.uint8)[:, None, None]
    images[:, :, :, 2] = np.clip(255 * step.expression[first : first + count].max(1), 0, 255)[:, None, None]
    last = first + count >= step.frames
    timing = {"denoise_ms": denoise * c.scale, "decode_ms": decoded * c.decode * c.scale, "pictures": decoded}
    return Pictures(step.generation, step.start_frame + first, images, last, timing if last else {})
