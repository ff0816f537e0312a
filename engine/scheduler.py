"""Which queued steps run next, and how many sessions a machine can bear. Pure: no threads, no clock.

Slots take turns: in a round each slot that has something queued gets one step, the earliest deadline first, so that a
greedy session delays the others by at most one step each. Steps of equal shape share one call of the denoiser.
Deadlines are only compared with one another, so any clock does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from engine.errors import SlotBusyError
from engine.types import FPS
from engine.worker.base import STEPS_PER_SLOT, Step, WorkerInfo

MAX_BATCH = 8
"""Most sessions in one denoiser call. More would gain little and make the first of them wait for the last."""

SAFE_SHARE = 0.45
"""How much of the time sessions may take together. Listeners get short blocks, which cost more a frame, and the event
loop and an encoder want their part: on two cores three sessions are in time where the costs alone would allow eight.
"""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A queued step. order: rises with every step added. arrived_s: for the caller's own accounts."""

    slot: int
    step: Step
    order: int
    arrived_s: float


class Scheduler:
    """The steps that wait, by slot. At most STEPS_PER_SLOT a slot, so its size is bounded by the number of slots."""

    def __init__(self, max_batch: int = MAX_BATCH) -> None:
        self.max_batch = max_batch
        self._queues: dict[int, deque[Ticket]] = {}
        self._served: set[int] = set()
        """Slots that have had their step in this round."""
        self._added = 0

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def add(self, slot: int, step: Step, arrived_s: float = 0.0) -> None:
        """Queue a step behind the slot's others. Raises SlotBusyError when STEPS_PER_SLOT wait already."""
        queue = self._queues.setdefault(slot, deque())
        if len(queue) >= STEPS_PER_SLOT:
            raise SlotBusyError(f"{STEPS_PER_SLOT} steps of this session wait already; submit the next one after them")
        queue.append(Ticket(slot, step, self._added, arrived_s))
        self._added += 1

    def drop(self, slot: int, before: int | None = None) -> None:
        """Forget the slot's steps of generations earlier than `before`, or all about it when that is None."""
        kept = deque(t for t in self._queues.pop(slot, ()) if before is not None and t.step.generation >= before)
        if kept:
            self._queues[slot] = kept
        if before is None:
            self._served.discard(slot)

    def next_batch(self) -> list[Ticket]:
        """Take the steps to run in one call: one a slot, all of one shape, earliest deadline first."""
        heads = [queue[0] for queue in self._queues.values()]
        turn = [ticket for ticket in heads if ticket.slot not in self._served]
        if not turn:
            self._served.clear()
            turn = heads
        turn.sort(key=lambda ticket: (ticket.step.deadline_us, ticket.order))
        batch = [ticket for ticket in turn if _shape(ticket) == _shape(turn[0])][: self.max_batch]
        for ticket in batch:
            self._take(ticket)
        return batch

    def _take(self, ticket: Ticket) -> None:
        queue = self._queues[ticket.slot]
        queue.popleft()
        if not queue:
            del self._queues[ticket.slot]
        self._served.add(ticket.slot)


def _shape(ticket: Ticket) -> tuple[int, int]:
    return ticket.step.frames, ticket.step.denoising_steps


def predicted_denoise_ms(info: WorkerInfo, frames: int, denoising_steps: int) -> float:
    """Time of one block's denoising: a call for each step, and one to write its keys and values."""
    longer = [length for length in sorted(info.denoise_ms) if length >= frames]
    call_ms = info.denoise_ms[longer[0]] if longer else info.denoise_ms[max(info.denoise_ms)]
    return info.fixed_ms + (denoising_steps + 1) * call_ms


def predicted_decode_ms(info: WorkerInfo, pictures: int, picture_px: int) -> float:
    """Time to decode so many pictures of a side of picture_px; no less than measured when they are smaller."""
    return pictures * info.decode_ms * max(1.0, (picture_px / info.picture_px) ** 2)


def sustained_sessions(info: WorkerInfo, share: float = SAFE_SHARE) -> int:
    """How many sessions at 25 fps can run at once for good, at least 1.

    As if the stages ran one after the other, which on a CPU whose cores each of them fills they do; and as if every
    session were alone in its denoiser calls.
    """
    block_ms = predicted_denoise_ms(info, info.block_frames, info.steps)
    block_ms += predicted_decode_ms(info, info.block_frames, info.picture_px)
    return max(1, int(share * info.block_frames * 1_000 / FPS / block_ms))
