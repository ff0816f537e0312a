"""Stages on places of their own: the same pictures, in order, bounded, and nothing left when one of them fails."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_backend import CRASH, HANG, RAISE
from workers import SIDE, Remembering, Watcher, make_face, make_step, ordered, run, run_blocks

from engine.backends.base import Floats, Reference, SplitDecoder
from engine.backends.mock import MockBackend
from engine.errors import (
    BackendFailedError,
    BundleMissingError,
    PipelinePlanError,
    StageLostError,
    WorkerError,
    WorkerLostError,
)
from engine.pipeline.chain import Piece, run_chain
from engine.pipeline.placing import check_fits, is_kept, on_cores, usable_cores
from engine.pipeline.plan import Place, Plan
from engine.pipeline.remote import Patience, RemoteFront, front_command
from engine.supervisor import Limits, SupervisedWorker
from engine.worker.blocks import UnwantedError
from engine.worker.line import Line, LocalFront
from engine.worker.slots import SlotState
from engine.worker.thread import ThreadWorker

ROOT = Path(__file__).resolve().parent.parent
LENGTHS = (4, 8, 8, 8, 8)
CORES = usable_cores()
HAS_CORE_SETS = hasattr(os, "sched_setaffinity")
PLANS = (
    "denoise@cpu",
    "denoise@cpu/decode@cpu",
    "denoise@cpu/decode@cpu/compose@cpu",
    "denoise+decode@cpu/compose@cpu",
)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find the modules beside this file."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))


class Split(Remembering):
    """Its decoder comes in two parts; it notes which thread runs what."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: dict[str, set[int]] = {}

    def denoise(self, **inputs: Any) -> tuple[Floats, Floats, Floats]:
        self._note("denoise")
        return super().denoise(**inputs)

    def predict(self, latents: Floats, reference: Reference) -> tuple[Floats, Floats]:
        self._note("decode")
        return latents, latents[:, :1]

    def compose(self, predicted: tuple[Floats, Floats], portrait: Floats) -> np.ndarray:
        self._note("compose")
        return super().decode(predicted[0], {}, portrait)

    def _note(self, work: str) -> None:
        self.ran.setdefault(work, set()).add(threading.get_ident())


def pieces(lengths: tuple[int, ...] = LENGTHS) -> Iterator[Piece]:
    for i, frames in enumerate(lengths):
        yield Piece(make_step(sum(lengths[:i]), frames, denoising_steps=2), frames)


def adopted(line: Line) -> SlotState:
    slot = SlotState(0, make_face(seed=3), line.back.config)
    slot.adopt(line.back.encode_reference(slot.take_reference_image()))
    line.front.adopt(slot)
    return slot


def film(line: Line, lengths: tuple[int, ...] = LENGTHS) -> np.ndarray:
    return np.concatenate([piece.content for piece in run_chain(line, adopted(line), pieces(lengths))])


def line_of(backend: Any, plan: str | None, depth: int = 1) -> Line:
    return Line(LocalFront(backend), backend, Plan.parse(plan, depth) if plan else None)


@contextmanager
def remote(module: str = "remembering_backend", **patience: float) -> Iterator[RemoteFront]:
    """A front in a process, whose end is checked."""
    front = RemoteFront(front_command("mock", "mock", None, module), Place("cpu", (), apart=True), Patience(**patience))
    try:
        yield front
    finally:
        front.close()
        front.close()
        assert front._process.poll() is not None


# The same, in order.


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", [Remembering, Split])
def test_a_pipeline_makes_the_same_pictures(plan: str, kind: type[Remembering]) -> None:
    wanted = film(line_of(Remembering(), None))
    assert len({image.tobytes() for image in wanted}) > 20, "a still picture would prove nothing"
    before = threading.active_count()
    np.testing.assert_array_equal(film(line_of(kind(), plan)), wanted)
    assert threading.active_count() == before


def test_each_stage_has_a_thread_and_latents_alone_go_on() -> None:
    backend = Split()
    assert isinstance(backend, SplitDecoder)
    film(line_of(backend, PLANS[2]))
    assert all(len(names) == 1 for names in backend.ran.values())
    assert len(set.union(*backend.ran.values())) == 3


def test_denoising_goes_on_while_a_block_is_decoded() -> None:
    begun, go = threading.Event(), threading.Event()

    class Slow(Remembering):
        def denoise(self, **inputs: Any) -> tuple[Floats, Floats, Floats]:
            if begun.is_set():
                go.set()  # The second block is being denoised while the first is held in the decoder.
            return super().denoise(**inputs)

        def decode(self, *arguments: Any) -> np.ndarray:
            begun.set()
            assert go.wait(10), "decoding and denoising take turns"
            return super().decode(*arguments)

    assert len(film(line_of(Slow(), PLANS[1]))) == sum(LENGTHS)


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_blocks_than_the_depth_allows_are_under_way(depth: int) -> None:
    drawn, decoding, go = 0, threading.Event(), threading.Event()

    class Held(Remembering):
        def decode(self, *arguments: Any) -> np.ndarray:
            decoding.set()
            assert go.wait(10)
            return super().decode(*arguments)

    def source() -> Iterator[Piece]:
        nonlocal drawn
        for piece in pieces((4,) * 20):
            drawn += 1
            yield piece

    line = line_of(Held(), PLANS[1], depth)
    with closing(run_chain(line, adopted(line), source())) as made:
        taker = threading.Thread(target=next, args=(made,))
        taker.start()
        assert decoding.wait(10)
        # One is decoded, `depth` wait, and one more is made or held.
        settle = threading.Event()
        for _ in range(200):
            if drawn == depth + 2:
                break
            settle.wait(0.02)
        settle.wait(0.1)
        assert drawn == depth + 2
        go.set()
        taker.join()


def test_stopping_early_ends_every_thread() -> None:
    before = threading.active_count()
    line = line_of(Split(), PLANS[2])
    with closing(run_chain(line, adopted(line), pieces((4,) * 50))) as made:
        assert next(made).step.start_frame == 0
    assert threading.active_count() == before


@pytest.mark.parametrize("stage", ["denoise", "decode"])
def test_a_failing_stage_is_raised_after_what_came_before(stage: str) -> None:
    class Failing(Remembering):
        def decode(self, latents: Floats, *others: Any) -> np.ndarray:
            if stage == "decode" and len(latents) == 5:
                raise BackendFailedError("as ordered")
            return super().decode(latents, *others)

        def denoise(self, **inputs: Any) -> tuple[Floats, Floats, Floats]:
            if stage == "denoise" and inputs["latents"].shape[1] == 5:
                raise BackendFailedError("as ordered")
            return super().denoise(**inputs)

    before, line, seen = threading.active_count(), line_of(Failing(), PLANS[2]), []
    with pytest.raises(BackendFailedError, match="as ordered"):
        for piece in run_chain(line, adopted(line), pieces((4, 8, 5, 8))):
            seen.append(piece.step.frames)
    assert seen == [4, 8]
    assert threading.active_count() == before


# Places.


@pytest.mark.skipif(not HAS_CORE_SETS, reason="this system has no core sets")
def test_threads_are_kept_on_their_cores() -> None:
    seen: dict[str, set[int]] = {}

    class Looking(Split):
        def _note(self, work: str) -> None:
            seen[work] = os.sched_getaffinity(0)

    first, last = CORES[0], CORES[-1]
    before = os.sched_getaffinity(0)
    film(line_of(Looking(), f"denoise@cpu:{first}/decode@cpu:{last}/compose@cpu:{first}"))
    assert seen == {"denoise": {first}, "decode": {last}, "compose": {first}}
    assert os.sched_getaffinity(0) == before
    with on_cores(Place("cpu", (last,))):
        assert is_kept() and os.sched_getaffinity(0) == {last}
    assert not is_kept() and os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ("denoise@cpu:4000", "core 4000"),
        ("denoise@cpu/decode@cpu:process", "only denoise"),
        ("denoise+decode@cpu:process/compose@cpu", "only denoise"),
        ("denoise@cuda:1/decode@cuda:0", "process of its own"),
    ],
)
def test_a_plan_that_cannot_be_run_here_is_refused(plan: str, says: str) -> None:
    with pytest.raises(PipelinePlanError, match=says):
        check_fits(Plan.parse(plan))


# A stage in another process.


def test_a_front_in_a_process_makes_the_same_pictures() -> None:
    wanted = film(line_of(Remembering(), None))
    with remote() as front:
        np.testing.assert_array_equal(
            film(Line(front, Remembering(), Plan.parse("denoise@cpu:process/decode@cpu"))), wanted
        )


def test_a_block_that_nobody_kept_was_never_made() -> None:
    """Cancelled within, or thrown away after: the next one is as if it had not been."""
    local = line_of(Remembering(), None)
    slot = adopted(local)
    for step in (make_step(0, 4), make_step(4, 8)):
        block = local.front.denoise([slot], [step], lambda: True)[0]
        slot.commit(step, block.cache)
    with remote() as front:
        line = Line(front, Remembering())
        slot = adopted(line)
        slot.commit(make_step(0, 4), front.denoise([slot], [make_step(0, 4)], lambda: True)[0].cache)
        front.denoise([slot], [make_step(4, 12)], lambda: True)
        with pytest.raises(UnwantedError):
            for _ in range(50):  # The process may be done before it hears of it.
                front.denoise([slot], [make_step(4, 8, denoising_steps=50)], lambda: False)
        np.testing.assert_array_equal(front.denoise([slot], [make_step(4, 8)], lambda: True)[0].latents, block.latents)


def test_a_batch_of_slots_and_forgetting_them() -> None:
    with remote() as front:
        line = Line(front, Remembering())
        slots = []
        for number in range(3):
            slots.append(SlotState(number, make_face(number, brightness=0.1 * number), line.back.config))
            slots[-1].adopt(line.back.encode_reference(slots[-1].take_reference_image()))
            front.adopt(slots[-1])
        alone = [front.denoise([slot], [make_step(0, 4)], lambda: True)[0].latents for slot in slots]
        together = front.denoise(slots, [make_step(0, 4)] * 3, lambda: True)
        for one, block in zip(alone, together, strict=True):
            np.testing.assert_allclose(block.latents, one, atol=1e-5)
        front.forget(1)
        with pytest.raises(WorkerError, match="slot 1"):
            front.denoise([slots[1]], [make_step(0, 4)], lambda: True)
        assert len(front.denoise([slots[2]], [make_step(0, 4)], lambda: True)) == 1


@pytest.mark.parametrize(("order", "says"), [(CRASH, "about to crash"), (HANG, "not answered")])
def test_a_process_that_dies_or_hangs_is_a_typed_error(order: float, says: str) -> None:
    with remote("faulty_backend", answer_s=0.5 if order == HANG else 30.0) as front:
        line = Line(front, MockBackend(), Plan.parse("denoise@cpu:process/decode@cpu"))
        slot = adopted(line)
        steps = [Piece(make_step(0, 4), 4), Piece(ordered(order), 4), Piece(make_step(8, 4), 4)]
        before, seen = threading.active_count(), []
        with pytest.raises(StageLostError, match=says):
            for piece in run_chain(line, slot, steps):
                seen.append(piece.step.start_frame)
        assert seen == [0] and threading.active_count() <= before
        with pytest.raises(StageLostError):
            front.denoise([slot], [make_step(4, 4)], lambda: True)


def test_a_step_that_fails_in_the_process_costs_only_itself() -> None:
    with remote("faulty_backend") as front:
        slot = adopted(Line(front, MockBackend()))
        with pytest.raises(BackendFailedError, match="as ordered"):
            front.denoise([slot], [ordered(RAISE)], lambda: True)
        assert len(front.denoise([slot], [make_step(0, 4)], lambda: True)) == 1


def test_a_process_that_does_not_begin_is_a_typed_error() -> None:
    place = Place(apart=True)
    with pytest.raises(BundleMissingError, match="no-such-model"):
        RemoteFront(front_command("no-such-model", "openvino", None), place)
    with pytest.raises(StageLostError, match="ended"):
        RemoteFront([sys.executable, "-c", "print('not a frame')"], place)
    with pytest.raises(StageLostError, match="could not be started"):
        RemoteFront(["no-such-program"], place)
    with pytest.raises(StageLostError, match="not answered"):
        RemoteFront([sys.executable, "-c", "import time; time.sleep(60)"], place, Patience(start_s=0.2))


# Live.


@pytest.mark.parametrize("plan", PLANS[1:])
def test_a_live_worker_shows_the_same_by_a_plan(plan: str) -> None:
    async def shown(line: Line) -> np.ndarray:
        worker = ThreadWorker(line, "test", SIDE, 2)
        await worker.start()
        try:
            return await run_blocks(worker, [4, 8, 5, 8], make_face(seed=3))
        finally:
            await worker.aclose()

    wanted = run(lambda: shown(line_of(Split(), None)))
    before, backend = threading.active_count(), Split()
    np.testing.assert_array_equal(run(lambda: shown(line_of(backend, plan))), wanted)
    assert threading.active_count() == before
    assert (backend.ran["decode"] == backend.ran["compose"]) == (plan != PLANS[2] and plan != PLANS[3])


def test_a_live_worker_ends_when_its_front_is_lost() -> None:
    async def test() -> None:
        with remote("faulty_backend") as front:
            worker = ThreadWorker(
                Line(front, MockBackend(), Plan.parse("denoise@cpu:process/decode@cpu")), "test", SIDE, 2
            )
            await worker.start()
            watchers = [Watcher(), Watcher()]
            slots = [await worker.open(make_face(), watcher) for watcher in watchers]
            slots[0].submit(make_step(0, 4))
            await watchers[0].until_done(1)
            slots[1].submit(ordered(CRASH))
            for watcher in watchers:
                assert isinstance(await watcher.until_lost(10), StageLostError)
            with pytest.raises(WorkerLostError):
                slots[0].submit(make_step(4, 4))
            assert not worker.ready
            await worker.aclose()

    run(test)


def test_a_supervised_worker_takes_a_plan() -> None:
    async def test() -> np.ndarray:
        worker = SupervisedWorker(
            "mock", "mock", capacity=2, picture_px=SIDE, pipeline="denoise@cpu:process/decode@cpu", limits=Limits()
        )
        try:
            await worker.start()
            return await run_blocks(worker, [4, 8], make_face())
        finally:
            await worker.aclose()

    async def plain() -> np.ndarray:
        worker = ThreadWorker(MockBackend(), "mock", SIDE, 2)
        await worker.start()
        try:
            return await run_blocks(worker, [4, 8], make_face())
        finally:
            await worker.aclose()

    np.testing.assert_array_equal(run(test), run(plain))
