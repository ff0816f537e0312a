"""engine.scheduler: order, fairness, batches, bounds and admission."""

from __future__ import annotations

from dataclasses import replace

import pytest
from workers import make_step

from engine.errors import SlotBusyError
from engine.scheduler import (
    MAX_BATCH,
    Scheduler,
    predicted_decode_ms,
    predicted_denoise_ms,
    sustained_sessions,
)
from engine.worker.base import STEPS_PER_SLOT, WorkerInfo

INFO = WorkerInfo(
    model="m",
    backend="b",
    block_lengths=(2, 4, 8),
    steps=2,
    first_steps=4,
    first_block_frames=4,
    block_frames=8,
    context_frames=16,
    picture_px=256,
    denoise_ms={2: 3.0, 4: 5.0, 8: 9.0},
    decode_ms=4.0,
    fixed_ms=1.0,
)


def order(scheduler: Scheduler) -> list[list[int]]:
    """The slots of every batch until nothing is left."""
    batches = []
    while batch := scheduler.next_batch():
        batches.append([ticket.slot for ticket in batch])
    return batches


def test_earliest_deadline_first_and_then_the_order_of_arrival() -> None:
    scheduler = Scheduler(max_batch=1)
    for slot, deadline in enumerate([30, 10, 20, 10]):
        scheduler.add(slot, make_step(0, 4, deadline_us=deadline))
    assert order(scheduler) == [[1], [3], [2], [0]]
    assert scheduler.next_batch() == [] and len(scheduler) == 0


def test_a_slots_own_steps_keep_their_order() -> None:
    scheduler = Scheduler()
    scheduler.add(0, make_step(0, 4, deadline_us=9))
    scheduler.add(0, make_step(4, 4, deadline_us=1))
    assert [ticket.step.start_frame for _ in range(2) for ticket in scheduler.next_batch()] == [0, 4]


def test_steps_of_one_shape_share_a_batch() -> None:
    scheduler = Scheduler()
    shapes = {0: (4, 2), 1: (8, 2), 2: (4, 2), 3: (4, 1), 4: (4, 2)}
    for slot, (frames, steps) in shapes.items():
        scheduler.add(slot, make_step(0, frames, denoising_steps=steps, deadline_us=slot))
    assert order(scheduler) == [[0, 2, 4], [1], [3]]


def test_a_batch_has_a_size_limit_and_one_step_a_slot() -> None:
    scheduler = Scheduler()
    for slot in range(MAX_BATCH + 3):
        for start in (0, 4):
            scheduler.add(slot, make_step(start, 4, deadline_us=start))
    assert [len(batch) for batch in order(scheduler)] == [MAX_BATCH, 3, MAX_BATCH, 3]


def test_a_greedy_slot_delays_the_others_by_one_step_at_most() -> None:
    """One slot refills its queue at once, and always with the earliest deadlines."""
    scheduler = Scheduler(max_batch=1)
    frames = {0: 1, 1: 2, 2: 4, 3: 8}
    for slot in (1, 2, 3):
        scheduler.add(slot, make_step(0, frames[slot], deadline_us=1_000_000))
    served = []
    for turn in range(40):
        while True:
            try:
                scheduler.add(0, make_step(turn, 1, deadline_us=turn))
            except SlotBusyError:
                break
        (ticket,) = scheduler.next_batch()
        served.append(ticket.slot)
        if ticket.slot:
            scheduler.add(ticket.slot, make_step(0, frames[ticket.slot], deadline_us=1_000_000 + turn))
    for i in range(0, 40, 4):
        assert sorted(served[i : i + 4]) == [0, 1, 2, 3]


def test_too_many_steps_are_refused_not_queued() -> None:
    scheduler = Scheduler()
    for _ in range(STEPS_PER_SLOT):
        scheduler.add(5, make_step(0, 4))
    with pytest.raises(SlotBusyError):
        scheduler.add(5, make_step(0, 4))
    assert len(scheduler) == STEPS_PER_SLOT
    scheduler.add(6, make_step(0, 4))


def test_drop_forgets_earlier_generations_or_everything() -> None:
    scheduler = Scheduler()
    scheduler.add(0, make_step(0, 4, generation=1))
    scheduler.add(0, make_step(4, 4, generation=2))
    scheduler.add(1, make_step(0, 8, generation=1))
    scheduler.drop(0, 2)
    scheduler.drop(1)
    scheduler.drop(7)
    assert [(t.slot, t.step.generation) for t in scheduler.next_batch()] == [(0, 2)]
    assert len(scheduler) == 0


def test_costs_are_predicted_from_what_was_measured() -> None:
    assert predicted_denoise_ms(INFO, 4, 2) == 1 + 3 * 5
    assert predicted_denoise_ms(INFO, 3, 2) == 1 + 3 * 5, "the next longer length that was measured"
    assert predicted_denoise_ms(INFO, 12, 2) == 1 + 3 * 9
    assert predicted_decode_ms(INFO, 2, 256) == 8
    assert predicted_decode_ms(INFO, 2, 512) == 32


def test_capacity_is_what_the_machine_sustains_but_at_least_one() -> None:
    # A block of 8 frames lasts 320 ms and costs 1 + 3 * 9 + 8 * 4 = 60 ms.
    assert sustained_sessions(INFO, share=1.0) == 5
    assert sustained_sessions(INFO, share=0.7) == 3
    assert sustained_sessions(replace(INFO, decode_ms=1_000.0)) == 1
