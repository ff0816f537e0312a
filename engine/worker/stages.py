"""The two threads that compute: one denoises block n + 1 while the other decodes block n. A plan may keep each on cores
of its own, put the denoiser into another process, or give the decoder's networks a third thread.

Everything here may be called from any thread and returns at once; what comes of it goes to a Sink. Between the threads
lie at most as many blocks as one batch makes (at least 2); when there are more, denoising waits. A step of an earlier
generation is dropped wherever it is met: in the queue, between two calls of the denoiser, after it, and between groups
of pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread, current_thread
from time import monotonic, perf_counter
from typing import Any, Protocol

import numpy as np

from engine.ahead import run_ahead
from engine.errors import AvatarError, BackendFailedError, SlotBusyError, StageLostError
from engine.pipeline.placing import keep_on
from engine.pipeline.plan import Place
from engine.scheduler import Scheduler, Ticket, predicted_decode_ms, predicted_denoise_ms
from engine.types import FRAME_US
from engine.worker.base import Face, Floats, Pictures, Step, WorkerInfo
from engine.worker.blocks import Denoised, UnwantedError
from engine.worker.line import Line
from engine.worker.slots import SlotState
from engine.worker.warmup import DECODE_GROUP, Warm, warm_up

DESK_BLOCKS = 2
"""Fewest places for denoised blocks that wait for the decoder; a batch of more slots has as many as it makes."""


class Sink(Protocol):
    """Whoever is told, from the stages' threads. Slots are known by number."""

    def ready(self, info: WorkerInfo) -> None:
        """Warm, and measured."""
        ...

    def opened(self, slot: int) -> None:
        """The slot takes steps."""
        ...

    def pictures(self, slot: int, pictures: Pictures) -> None: ...

    def lost(self, slot: int, error: AvatarError) -> None:
        """The slot has failed and is gone; the others go on."""
        ...

    def broken(self, error: AvatarError) -> None:
        """The stages have failed and have ended."""
        ...


@dataclass(slots=True)
class _Block:
    """A denoised step on its way through the decoder."""

    slot: SlotState
    step: Step
    latents: Floats
    timing: dict[str, float]
    shown: int = 0
    """Frames whose pictures have left."""
    pictures: int = 0
    """Of these, how many were decoded."""
    decode_ms: float = 0.0

    @property
    def wanted(self) -> bool:
        return self.slot.wants(self.step)

    @property
    def due_us(self) -> int:
        return self.step.deadline_us + self.shown * FRAME_US

    def final_timing(self) -> dict[str, float]:
        counts = {"frames": float(self.step.frames), "pictures": float(self.pictures)}
        return {**self.timing, "decode_ms": self.decode_ms, **counts}


@dataclass(frozen=True, slots=True)
class _Group:
    """Some frames of a block, from `first` on, on their way from the decoder's networks to pictures of full size."""

    block: _Block
    first: int
    frames: int
    predicted: Any

    @property
    def last(self) -> bool:
        return self.first + self.frames == self.block.step.frames


class Stages:
    """Owns the threads and every slot's state, but not the line."""

    def __init__(self, line: Line, model: str, picture_px: int, sink: Sink, capacity: int | None = None) -> None:
        self._line, self._sink = line, sink
        self._warm_up: Callable[[], Warm] = lambda: warm_up(line, model, picture_px, capacity)
        self._warm: Warm | None = None
        self._changed = Condition()
        # Guarded by _changed:
        self._slots: dict[int, SlotState] = {}
        self._openings: deque[SlotState] = deque()
        self._scheduler = Scheduler()
        self._desk: list[_Block] = []
        self._closing = False
        # Each key is written by one thread only.
        self._running: dict[str, tuple[float, float]] = {}
        self._threads = [
            Thread(target=self._guard, args=(loop,), name=f"visavis {name}", daemon=True)
            for name, loop in (("denoise", self._denoise_loop), ("decode", self._decode_loop))
        ]

    def start(self) -> None:
        """Begin to warm up; Sink.ready or Sink.broken tells how that went."""
        for thread in self._threads:
            thread.start()

    def open(self, slot: int, face: Face) -> None:
        """Take a new slot; Sink.opened or Sink.lost answers."""
        with self._changed:
            state = SlotState(slot, face, self._line.back.config)
            self._slots[slot] = state
            self._openings.append(state)
            self._changed.notify_all()

    def submit(self, slot: int, step: Step) -> None:
        """Queue a step; one for a slot that is gone is ignored. Too many are Sink.lost."""
        with self._changed:
            if slot not in self._slots:
                return
            try:
                self._scheduler.add(slot, step, perf_counter())
                self._changed.notify_all()
                return
            except SlotBusyError as error:
                busy = error
        self._lose(slot, busy)

    def cancel(self, slot: int, generation: int) -> None:
        """Drop the slot's steps of earlier generations."""
        with self._changed:
            if state := self._slots.get(slot):
                state.generation = max(state.generation, generation)
                self._scheduler.drop(slot, state.generation)
                self._changed.notify_all()

    def remove(self, slot: int) -> None:
        """Forget a slot; nothing is told about it after the call in progress."""
        with self._changed:
            if state := self._slots.pop(slot, None):
                state.closed = True
                self._scheduler.drop(slot)
                self._line.front.forget(slot)
                self._changed.notify_all()

    def close(self, timeout_s: float) -> bool:
        """End the threads after the calls that they are in; whether they ended in time. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until = monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None and thread is not current_thread():
                thread.join(max(0.0, until - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def overdue(self) -> tuple[float, float]:
        """Milliseconds that the call furthest beyond its prediction has taken, and the prediction; 0 if none runs."""
        now = perf_counter()
        calls = [(1e3 * (now - began), predicted) for began, predicted in list(self._running.values())]
        return max(calls, key=lambda call: call[0] - call[1], default=(0.0, 0.0))

    # The threads.

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # This ends the stages; whoever waits for them must hear of it.
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._sink.broken(_failure(current_thread().name, error))

    @contextmanager
    def _call(self, stage: str, predicted_ms: float) -> Iterator[None]:
        self._running[stage] = (perf_counter(), predicted_ms)
        try:
            yield
        finally:
            del self._running[stage]

    def _lose(self, slot: int, error: AvatarError) -> None:
        known = slot in self._slots
        self.remove(slot)
        if known:
            self._sink.lost(slot, error)

    def _place_of(self, work: str) -> Place:
        return self._line.plan.place_of(work) if self._line.plan else Place()

    def _denoise_loop(self) -> None:
        keep_on(self._place_of("denoise"))
        self._warm = self._warm_up()
        self._scheduler.max_batch = self._warm.max_batch
        self._sink.ready(self._warm.info)
        while work := self._next_work():
            if isinstance(work, SlotState):
                self._open(work)
            else:
                self._denoise([(self._slots.get(ticket.slot), ticket) for ticket in work])

    def _next_work(self) -> SlotState | list[Ticket] | None:
        with self._changed:
            while not self._closing:
                if self._openings:
                    return self._openings.popleft()
                if batch := self._scheduler.next_batch():
                    return batch
                self._changed.wait()
        return None

    def _open(self, slot: SlotState) -> None:
        assert self._warm is not None
        if slot.closed:
            return
        try:
            with self._call("reference", self._warm.reference_ms):
                slot.adopt(self._line.back.encode_reference(slot.take_reference_image()))
            self._line.front.adopt(slot)
        except StageLostError:
            raise
        except Exception as error:
            self._lose(slot.number, _failure("reference stage", error))
        else:
            self._sink.opened(slot.number)

    def _denoise(self, tickets: Sequence[tuple[SlotState | None, Ticket]]) -> None:
        """Run a batch; when it fails, each step of it alone, so that only the slot at fault is lost."""
        work = [(slot, ticket) for slot, ticket in tickets if slot is not None and slot.wants(ticket.step)]
        if not work:
            return
        began = perf_counter()
        try:
            done = self._denoise_batch([slot for slot, _ in work], [ticket.step for _, ticket in work])
        except UnwantedError:
            return
        except StageLostError:
            raise  # No other step would fare better.
        except Exception as error:
            if len(work) == 1:
                self._lose(work[0][0].number, _failure("denoise stage", error))
            for pair in work if len(work) > 1 else ():
                self._denoise([pair])
            return
        for (slot, ticket), part in zip(work, done, strict=True):
            self._hand_over(slot, ticket.step, part, 1e3 * (began - ticket.arrived_s))

    def _denoise_batch(self, slots: list[SlotState], steps: list[Step]) -> list[Denoised]:
        def wanted() -> bool:
            return not self._closing and any(slot.wants(step) for slot, step in zip(slots, steps, strict=True))

        assert self._warm is not None
        call_ms = predicted_denoise_ms(self._warm.info, steps[0].frames, steps[0].denoising_steps)
        with self._call("denoise", len(steps) * call_ms):
            return self._line.front.denoise(slots, steps, wanted)

    def _hand_over(self, slot: SlotState, step: Step, part: Denoised, wait_ms: float) -> None:
        """Commit what is still wanted, and put it on the decoder's desk once there is room."""
        timing = {"wait_ms": wait_ms, "audio_ms": part.audio_ms, "denoise_ms": part.denoise_ms}
        block = _Block(slot, step, part.latents, timing | ({"restarted": 1.0} if part.restarted else {}))
        with self._changed:
            if not block.wanted:
                return
            slot.commit(step, part.cache)
            while len(self._desk) >= max(DESK_BLOCKS, self._scheduler.max_batch) and self._still(block):
                self._changed.wait()
            if self._still(block):
                self._desk.append(block)
                self._changed.notify_all()

    def _still(self, block: _Block) -> bool:
        return block.wanted and not self._closing

    def _decode_loop(self) -> None:
        keep_on(self._place_of("compose"))
        with closing(self._predicted()) as groups:
            for group in groups:
                try:
                    pictures = self._compose(group)
                except Exception as error:
                    self._lose(group.block.slot.number, _failure("decode stage", error))
                    continue
                if group.block.wanted:
                    self._sink.pictures(group.block.slot.number, pictures)

    def _predicted(self) -> Generator[_Group]:
        """Groups in the order of `_next_block`, made by a thread of its own where the plan has one for it."""
        plan = self._line.plan
        if plan is None or plan.stage_of("decode") == plan.stage_of("compose"):
            return self._predict_all()
        return run_ahead(self._predict_all(), plan.depth, partial(keep_on, self._place_of("decode")))

    def _predict_all(self) -> Generator[_Group]:
        while block := self._next_block():
            try:
                group = self._predict(block)
            except Exception as error:
                self._lose(block.slot.number, _failure("decode stage", error))
                continue
            yield group

    def _next_block(self) -> _Block | None:
        """The block whose next picture is due first; of each slot only its oldest, so that pictures stay in order."""
        with self._changed:
            while not self._closing:
                self._tidy_desk()
                oldest: dict[int, _Block] = {}
                for block in self._desk:
                    oldest.setdefault(block.slot.number, block)
                if oldest:
                    return min(oldest.values(), key=lambda block: block.due_us)
                self._changed.wait()
        return None

    def _tidy_desk(self) -> None:
        kept = [block for block in self._desk if block.wanted and block.shown < block.step.frames]
        if len(kept) < len(self._desk):
            self._desk = kept
            self._changed.notify_all()

    def _predict(self, block: _Block) -> _Group:
        assert self._warm is not None
        every, first = block.step.picture_every, block.shown
        chosen = block.latents[first : first + DECODE_GROUP * every : every]
        began = perf_counter()
        with self._call("decode", predicted_decode_ms(self._warm.info, len(chosen), block.slot.picture.shape[-1])):
            predicted = self._line.predict(chosen, block.slot)
        block.decode_ms += 1e3 * (perf_counter() - began)
        block.pictures += len(chosen)
        frames = min(every * len(chosen), block.step.frames - first)
        block.shown += frames
        return _Group(block, first, frames, predicted)

    def _compose(self, group: _Group) -> Pictures:
        assert self._warm is not None
        block, step = group.block, group.block.step
        began, count = perf_counter(), -(-group.frames // step.picture_every)
        with self._call("compose", predicted_decode_ms(self._warm.info, count, block.slot.picture.shape[-1])):
            images = self._line.compose(group.predicted, block.slot)
        block.decode_ms += 1e3 * (perf_counter() - began)
        if step.picture_every > 1:
            images = np.repeat(images, step.picture_every, axis=0)[: group.frames]
        timing = block.final_timing() if group.last else {}
        return Pictures(step.generation, step.start_frame + group.first, images, group.last, timing)


def _failure(where: str, error: BaseException) -> AvatarError:
    """Whatever was raised as an error that says where; the libraries' own share no base class."""
    return error if isinstance(error, AvatarError) else BackendFailedError(f"the {where} failed: {error!r}")
