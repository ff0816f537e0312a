"""Slots, stages and the worker in a thread: what is computed, in which order, and what never gets out."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from faces import draw_face
from workers import (
    CONFIG,
    Remembering,
    Watcher,
    happens,
    in_worker,
    latents_of,
    make_face,
    make_step,
    run_blocks,
    speech,
    submit_blocks,
)

import engine
from engine.backends.mock import MockBackend
from engine.errors import EngineFullError, SlotBusyError
from engine.types import AvatarState
from engine.worker.base import STEPS_PER_SLOT, Face
from engine.worker.slots import frame_noise
from engine.worker.thread import ThreadWorker

# What is computed.


def test_noise_of_a_frame_depends_on_seed_and_index_only() -> None:
    whole = frame_noise(7, 0, 12, (8, 4, 4))
    np.testing.assert_array_equal(whole[5:9], frame_noise(7, 5, 4, (8, 4, 4)))
    assert abs(whole.mean()) < 0.1 and abs(whole.std() - 1) < 0.1
    assert not np.any(whole[0] == whole[1])
    assert not np.any(whole == frame_noise(8, 0, 12, (8, 4, 4)))
    assert np.isfinite(frame_noise(-1, 10**9, 1, (8, 4, 4))).all()


def test_pictures_equal_those_of_the_engine() -> None:
    """Where the blocks are cut alike, a session shows what `generate` shows."""
    model = engine.load(backend="mock")
    portrait = model.open_portrait(np.asarray(draw_face(256)))
    pcm, states = speech(1.12), np.full(28, AvatarState.SPEAKING, np.int8)
    wanted = np.stack([frame.image for frame in model.generate(portrait, pcm, states=states, size=128)])

    async def test(worker: ThreadWorker, _: Any) -> np.ndarray:
        planes = [portrait.crop(px).transpose(2, 0, 1)[None] / np.float32(127.5) - 1 for px in (128, 128)]
        return await run_blocks(worker, [4, 8, 8, 8], Face(*planes))

    got = in_worker(test, backend=MockBackend(), picture_px=128)
    assert len({image.tobytes() for image in wanted}) > 3, "a still picture would prove nothing"
    # The sound ends differently, since the worker's speech goes on after these frames.
    np.testing.assert_array_equal(got[:25], wanted[:25])


@pytest.mark.parametrize("lengths", [[1, 2, 4, 8, 12, 1], [12, 12, 4]])
def test_the_cut_into_blocks_does_not_change_mock_pictures(lengths: list[int]) -> None:
    async def test(worker: ThreadWorker, _: Any) -> None:
        face = make_face(side=64)
        pictures = [await run_blocks(worker, cut, face) for cut in ([4, 8, 8, 8], lengths)]
        np.testing.assert_array_equal(*pictures)
        assert np.any(pictures[0] != pictures[0][0])

    in_worker(test, backend=MockBackend())


def test_pictures_leave_in_small_groups_in_order() -> None:
    async def test(worker: ThreadWorker, backend: Remembering) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        await submit_blocks(slot, watcher, [5, 4])
        assert [(p.start_frame, len(p.images), p.last) for p in watcher.pictures] == [
            (0, 2, False), (2, 2, False), (4, 1, True), (5, 2, False), (7, 2, True),
        ]  # fmt: skip
        assert all(not p.timing for p in watcher.pictures if not p.last)
        timing = watcher.pictures[-1].timing
        assert set(timing) == {"wait_ms", "audio_ms", "denoise_ms", "decode_ms", "frames", "pictures"}
        assert timing["frames"] == timing["pictures"] == 4 and min(timing.values()) >= 0

    in_worker(test)


def test_every_other_picture_is_decoded_and_shown_twice() -> None:
    async def test(worker: ThreadWorker, backend: Remembering) -> None:
        full = latents_of(await run_blocks(worker, [7]))
        backend.decoded.clear()
        half = latents_of(await run_blocks(worker, [7], picture_every=2))
        np.testing.assert_array_equal(half, full[[0, 0, 2, 2, 4, 4, 6]])
        assert backend.decoded == [2, 2]

    in_worker(test)


def test_a_batch_of_three_equals_each_alone() -> None:
    async def test(worker: ThreadWorker, backend: Remembering) -> None:
        faces = [make_face(seed, brightness=0.1 * seed) for seed in range(3)]
        alone = [await run_blocks(worker, [4, 8], face) for face in faces]
        watchers = [Watcher() for _ in range(4)]
        slots = [await worker.open(face, w) for face, w in zip([*faces, make_face()], watchers, strict=True)]
        backend.hold()
        slots[3].submit(make_step(0, 2))  # While this one is computed, the others gather.
        await happens(backend.begun)
        for slot in slots[:3]:
            slot.submit(make_step(0, 4))
            slot.submit(make_step(4, 8))
        backend.batches.clear()
        backend.release()
        for watcher in watchers[:3]:
            await watcher.until_done(2)
        assert backend.batches == [(3, 4), (3, 8)]
        for wanted, watcher in zip(alone, watchers, strict=False):
            np.testing.assert_allclose(latents_of(watcher.images), latents_of(wanted), atol=1e-5)
        assert np.abs(latents_of(alone[0]) - latents_of(alone[1])).max() > 0.1

    in_worker(test)


def test_a_model_of_one_session_gets_no_batches() -> None:
    class Single(Remembering):
        refused = 0

        def denoise(self, **inputs: Any) -> Any:
            if len(inputs["latents"]) > 1:
                self.refused += 1
                raise ValueError("this graph was exported for one session")
            return super().denoise(**inputs)

    async def test(worker: ThreadWorker, backend: Single) -> None:
        assert backend.refused == 1, "tried while warming up"
        slots = [(await worker.open(make_face(i), w), w) for i, w in enumerate([Watcher(), Watcher(), Watcher()])]
        backend.hold()
        slots[0][0].submit(make_step(0, 4))
        await happens(backend.begun)
        for slot, _ in slots[1:]:
            slot.submit(make_step(0, 4))
        backend.release()
        for _, watcher in slots:
            await watcher.until_done(1)
        assert backend.refused == 1

    in_worker(test, backend=Single())


# Interrupting and going on.


def test_frames_are_taken_back_to_where_the_next_step_starts() -> None:
    """What was made but not shown leaves the context: the rest is as if it had never been made."""

    async def test(worker: ThreadWorker, _: Remembering) -> None:
        async def then(lengths: list[int], **changes: Any) -> np.ndarray:
            watcher = Watcher()
            slot = await worker.open(make_face(3), watcher)
            await submit_blocks(slot, watcher, lengths)
            slot.cancel(1)
            made = len(watcher.images)
            await submit_blocks(slot, watcher, [4], start=6, generation=1, **changes)
            await slot.aclose()
            return latents_of(watcher.images[made:])

        wanted = await then([4, 2])
        np.testing.assert_array_equal(await then([4, 4]), wanted)
        assert np.abs(await then([4, 2], forget=True) - wanted).max() > 1e-3, "context must matter here"

    in_worker(test)


def test_forgetting_starts_from_the_reference_anywhere() -> None:
    async def test(worker: ThreadWorker, _: Remembering) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        await submit_blocks(slot, watcher, [4, 4])
        await submit_blocks(slot, watcher, [4], start=20, forget=True)
        fresh = Watcher()
        other = await worker.open(make_face(), fresh)
        await submit_blocks(other, fresh, [4], start=20)
        np.testing.assert_array_equal(watcher.images[-4:], fresh.images)

    in_worker(test)


def test_a_gap_between_steps_costs_the_slot_that_made_it() -> None:
    async def test(worker: ThreadWorker, _: Remembering) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        await submit_blocks(slot, watcher, [4])
        slot.submit(make_step(9, 4))
        assert "frame 4 comes next" in str(await watcher.until_lost(5))

    in_worker(test)


@pytest.mark.parametrize("at", [1.0, 0.0])
def test_nothing_of_a_step_that_was_cancelled_while_denoising_remains(at: float) -> None:
    """Neither pictures nor context."""

    async def test(worker: ThreadWorker, backend: Remembering) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        await submit_blocks(slot, watcher, [4])
        backend.hold(at)
        slot.submit(make_step(4, 8))
        slot.submit(make_step(12, 8))
        await happens(backend.begun)
        slot.cancel(1)
        backend.release()
        await submit_blocks(slot, watcher, [4], start=4, generation=1)
        assert [p.generation for p in watcher.pictures] == [0, 0, 1, 1]
        np.testing.assert_array_equal(watcher.images, await run_blocks(worker, [4, 4]))

    in_worker(test)


def test_a_cancelled_batch_ends_within_one_call_of_the_denoiser() -> None:
    async def test(worker: ThreadWorker, backend: Remembering) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        backend.hold()
        slot.submit(make_step(0, 4, denoising_steps=20))
        await happens(backend.begun)
        slot.cancel(1)
        backend.batches.clear()
        backend.release()
        await submit_blocks(slot, watcher, [2], generation=1)
        assert backend.batches == [(1, 2)]

    in_worker(test)


def test_pictures_that_already_wait_for_the_loop_are_dropped_too() -> None:
    """They were posted before the cancel, and would be delivered after it."""

    class Posting(Remembering):
        posted = threading.Semaphore(0)

        def decode(self, *args: Any) -> Any:
            images = super().decode(*args)
            self.posted.release()
            return images

    async def test(worker: ThreadWorker, backend: Posting) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        while backend.posted.acquire(blocking=False):
            pass
        slot.submit(make_step(0, 4))
        for _ in range(2):  # The loop stands still meanwhile; the second group shows that the first was posted.
            assert backend.posted.acquire(timeout=5)
        slot.cancel(1)
        await submit_blocks(slot, watcher, [2], generation=1)
        assert [p.generation for p in watcher.pictures] == [1]

    in_worker(test, backend=Posting())


def test_a_cancel_is_heeded_within_one_group_of_pictures() -> None:
    class Gated(Remembering):
        entered, go_on = threading.Semaphore(0), threading.Semaphore(0)
        gated = False

        def decode(self, *args: Any) -> Any:
            if self.gated:
                self.entered.release()
                assert self.go_on.acquire(timeout=10)
            return super().decode(*args)

    async def test(worker: ThreadWorker, backend: Gated) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        backend.gated = True
        slot.submit(make_step(0, 12))
        assert await asyncio.to_thread(backend.entered.acquire, timeout=5)
        slot.cancel(1)
        backend.gated = False
        backend.decoded.clear()
        backend.go_on.release()
        await submit_blocks(slot, watcher, [1], generation=1)
        assert backend.decoded == [2, 1], "the group in progress, and then the new step"
        assert [p.generation for p in watcher.pictures] == [1]

    in_worker(test, backend=Gated())


def test_interrupts_at_many_moments_let_nothing_stale_through() -> None:
    async def test(worker: ThreadWorker, _: Remembering) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        random = np.random.default_rng(1)
        for generation in range(60):
            slot.submit(make_step(0, 4, generation=generation, forget=True))
            slot.submit(make_step(4, 4, generation=generation))
            for _ in range(random.integers(0, 6)):
                await asyncio.sleep(0)
            slot.cancel(generation + 1)
            heard = len(watcher.pictures)
            await asyncio.sleep(0)
            assert len(watcher.pictures) == heard
        assert watcher.lost is None

    in_worker(test)


def test_more_steps_than_allowed_are_refused_until_one_is_done_or_cancelled() -> None:
    async def test(worker: ThreadWorker, backend: Remembering) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        backend.hold()
        for i in range(STEPS_PER_SLOT):
            slot.submit(make_step(4 * i, 4))
        with pytest.raises(SlotBusyError):
            slot.submit(make_step(8, 4))
        slot.cancel(1)
        for i in range(STEPS_PER_SLOT):
            slot.submit(make_step(4 * i, 4, generation=1))
        backend.release()
        await watcher.until_done(STEPS_PER_SLOT)
        slot.submit(make_step(8, 4, generation=1))
        await watcher.until_done(STEPS_PER_SLOT + 1)

    in_worker(test)


def test_the_next_block_is_denoised_while_one_is_decoded() -> None:
    class Meeting(Remembering):
        """Decoding waits for the second block's denoising, which a single thread would never reach."""

        second = threading.Event()
        armed = False

        def denoise(self, **inputs: Any) -> Any:
            if self.armed and inputs["latents"].shape[1] == 8:
                self.second.set()
            return super().denoise(**inputs)

        def decode(self, *args: Any) -> Any:
            assert not self.armed or self.second.wait(10)
            return super().decode(*args)

    async def test(worker: ThreadWorker, backend: Meeting) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        backend.armed = True
        slot.submit(make_step(0, 4))
        slot.submit(make_step(4, 8))
        await watcher.until_done(2)

    in_worker(test, backend=Meeting())


def test_pictures_of_a_session_stay_in_order_whatever_the_deadlines() -> None:
    class Late(Remembering):
        """Its decoder waits until both blocks of one session lie before it, as the call for 12 frames shows."""

        both_made = threading.Event()

        def denoise(self, **inputs: Any) -> Any:
            if inputs["latents"].shape[1] == 12:
                self.both_made.set()
            return super().denoise(**inputs)

        def decode(self, *args: Any) -> Any:
            assert self.both_made.wait(10)
            return super().decode(*args)

    async def test(worker: ThreadWorker, backend: Late) -> None:
        watcher, other = Watcher(), Watcher()
        slot, last = await worker.open(make_face(), watcher), await worker.open(make_face(), other)
        backend.both_made.clear()
        slot.submit(make_step(0, 8, deadline_us=9_000_000))
        slot.submit(make_step(8, 4, deadline_us=0))
        last.submit(make_step(0, 1, deadline_us=9_500_000))
        last.submit(make_step(1, 12, deadline_us=9_600_000))
        await watcher.until_done(2)
        assert [p.start_frame for p in watcher.pictures] == [0, 2, 4, 6, 8, 10]

    in_worker(test, backend=Late())


# Places.


def test_a_reused_place_is_as_new() -> None:
    """The first session leaves in the middle of a step; the next one's 50 frames are those of a fresh worker."""
    blocks = [4, 8, 8, 8, 8, 8, 8]

    async def used(worker: ThreadWorker, backend: Remembering) -> np.ndarray:
        first = Watcher()
        slot = await worker.open(make_face(5), first)
        await submit_blocks(slot, first, [4, 8])
        backend.hold()
        slot.submit(make_step(12, 8))
        await happens(backend.begun)
        await slot.aclose()
        heard = len(first.pictures)
        opening = asyncio.create_task(run_blocks(worker, blocks, make_face(6)))
        backend.release()
        pictures = await opening
        assert len(first.pictures) == heard
        return pictures

    async def fresh(worker: ThreadWorker, _: Remembering) -> np.ndarray:
        return await run_blocks(worker, blocks, make_face(6))

    wanted = in_worker(fresh, capacity=1)
    assert len(wanted) > 50
    np.testing.assert_array_equal(in_worker(used, capacity=1), wanted)


def test_exactly_as_many_as_there_are_places_are_admitted() -> None:
    async def test(worker: ThreadWorker, _: Remembering) -> None:
        opened = await asyncio.gather(
            *(worker.open(make_face(), Watcher()) for _ in range(100)), return_exceptions=True
        )
        refused = [result for result in opened if isinstance(result, BaseException)]
        assert len(refused) == 95 and {type(error) for error in refused} == {EngineFullError}
        for slot in opened:
            if not isinstance(slot, BaseException):
                await slot.aclose()
                await slot.aclose()
        again = [await worker.open(make_face(), Watcher()) for _ in range(5)]
        with pytest.raises(EngineFullError):
            await worker.open(make_face(), Watcher())
        assert len(again) == worker.capacity == 5

    in_worker(test, capacity=5)


def test_an_abandoned_open_gives_its_place_back() -> None:
    async def test(worker: ThreadWorker, backend: Remembering) -> None:
        slot = await worker.open(make_face(), Watcher())
        backend.hold()
        slot.submit(make_step(0, 4))
        await happens(backend.begun)
        waiting = asyncio.create_task(worker.open(make_face(), Watcher()))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        backend.release()
        await worker.open(make_face(), Watcher())

    in_worker(test, capacity=2)


def test_capacity_is_measured_unless_given() -> None:
    async def test(worker: ThreadWorker, _: Any) -> None:
        info = worker.info
        assert worker.capacity >= 1 and worker.ready
        assert info.block_lengths == tuple(sorted({*CONFIG.block_lengths, 4, 8}))
        assert set(info.denoise_ms) == set(info.block_lengths) and min(info.denoise_ms.values()) > 0
        assert info.decode_ms > 0 and info.picture_px == 16

    in_worker(test, capacity=None)


def test_warm_up_meets_every_shape_that_sessions_will() -> None:
    async def test(worker: ThreadWorker, backend: Remembering) -> None:
        lengths = {frames for sessions, frames in backend.batches if sessions == 1}
        assert lengths == set(worker.info.block_lengths)
        assert {sessions for sessions, frames in backend.batches if frames == 8} == {1, 2, 3}
        assert set(backend.decoded) == {1, 2}

    in_worker(test, capacity=3)
