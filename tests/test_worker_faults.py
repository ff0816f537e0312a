"""Workers when something goes wrong, and how they begin and end."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workers import (
    CONFIG,
    MEL,
    Remembering,
    Watcher,
    happens,
    in_worker,
    latents_of,
    make_face,
    make_step,
    run,
    run_blocks,
    start,
    submit_blocks,
)

from engine.audio.features import LOG_FLOOR
from engine.backends.mock import MockBackend
from engine.errors import BackendFailedError, WorkerLostError
from engine.worker.base import Face
from engine.worker.thread import ThreadWorker

# Faults.


def test_sound_that_is_no_number_is_heard_as_silence() -> None:
    async def test(worker: ThreadWorker, _: Remembering) -> None:
        heard = []
        for noise, partner_noise in ((np.nan, -np.inf), (LOG_FLOOR, LOG_FLOOR)):
            step = make_step(0, 4, partner_windows=make_step(0, 4).windows.copy())
            step.windows[1:3] = noise
            step.partner_windows[0] = partner_noise
            watcher = Watcher()
            slot = await worker.open(make_face(), watcher)
            slot.submit(step)
            await watcher.until_done(1)
            await submit_blocks(slot, watcher, [8], start=4)
            assert not any("restarted" in p.timing for p in watcher.pictures)
            heard.append(watcher.images)
        np.testing.assert_array_equal(*heard)
        assert np.isfinite(latents_of(heard[0])).all()

    in_worker(test)


@pytest.mark.parametrize("ever", [False, True])
def test_latents_that_are_no_numbers_never_become_pictures(ever: bool) -> None:
    """The block is made again from the reference; and where that does not help, the portrait rests."""

    class Poisoned(Remembering):
        armed = False

        def denoise(self, **inputs: Any) -> Any:
            velocity, keys, values = super().denoise(**inputs)
            has_context = inputs["cache_valid"].sum() > CONFIG.frame_tokens
            if self.armed and (ever or has_context):
                velocity = velocity * np.float32(np.nan)
            return velocity, keys, values

    async def test(worker: ThreadWorker, backend: Poisoned) -> None:
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        await submit_blocks(slot, watcher, [4], start=4)
        wanted, watcher = latents_of(watcher.images), Watcher()
        slot = await worker.open(make_face(), watcher)
        await submit_blocks(slot, watcher, [4])
        backend.armed = True
        slot.submit(make_step(4, 4))
        await watcher.until_done(2)
        assert watcher.pictures[-1].timing["restarted"] == 1
        made = latents_of(watcher.images[4:])
        np.testing.assert_array_equal(made, np.zeros_like(made) if ever else wanted)
        backend.armed = False
        await submit_blocks(slot, watcher, [4], start=8)
        assert "restarted" not in watcher.pictures[-1].timing

    backend = Poisoned()
    in_worker(test, backend=backend)


@pytest.mark.parametrize("stage", ["encode_reference", "encode_audio", "denoise", "decode"])
@pytest.mark.parametrize("error", [RuntimeError("as ordered"), MemoryError()])
def test_a_fault_in_one_step_costs_its_slot_only(stage: str, error: Exception) -> None:
    """Even when it shares a batch with the others. The message names the stage."""

    class Failing(Remembering):
        armed = False

        def fail(self, name: str, array: np.ndarray) -> None:
            if self.armed and name == stage and np.any(array > 50):
                raise error

        def encode_reference(self, image: Any) -> Any:
            self.fail("encode_reference", image)
            return super().encode_reference(image)

        def encode_audio(self, windows: Any) -> Any:
            self.fail("encode_audio", windows)
            return super().encode_audio(windows)

        def denoise(self, **inputs: Any) -> Any:
            self.fail("denoise", inputs["pose"])
            return super().denoise(**inputs)

        def decode(self, latents: Any, reference: Any, portrait: Any) -> Any:
            self.fail("decode", portrait)
            return super().decode(latents, reference, portrait)

    async def test(worker: ThreadWorker, backend: Failing) -> None:
        watcher, other = Watcher(), Watcher()
        bystander = await worker.open(make_face(), other)
        backend.armed = True
        face = Face(*(np.full((1, 3, px, px), 99, np.float32) for px in (128, 16)))
        if stage == "encode_reference":
            with pytest.raises(BackendFailedError, match="reference"):
                await worker.open(face, watcher)
        else:
            slot = await worker.open(face, watcher)
            third = await worker.open(make_face(), Watcher())
            await submit_blocks(bystander, other, [2])
            backend.hold()
            third.submit(make_step(0, 2))
            await happens(backend.begun)
            bad = make_step(0, 4, pose=np.full((4, CONFIG.pose_axes), 99, np.float32))
            bad.windows[:] += 99 * (stage == "encode_audio")
            slot.submit(bad)
            bystander.submit(make_step(2, 4))
            backend.release()
            lost = await watcher.until_lost(5)
            assert isinstance(lost, BackendFailedError)
            assert ("decode" if stage == "decode" else "denoise") in str(lost) and type(error).__name__ in str(lost)
            with pytest.raises(WorkerLostError):
                slot.submit(make_step(4, 4))
            slot.cancel(3)
            await slot.aclose()
            await other.until_done(2)
        assert watcher.pictures == [] and other.lost is None and worker.ready
        await asyncio.gather(*(worker.open(make_face(), Watcher()) for _ in range(2)))

    in_worker(test, backend=Failing())


def test_a_model_that_cannot_run_is_told_by_start() -> None:
    class Broken(MockBackend):
        def encode_audio(self, windows: Any) -> Any:
            raise RuntimeError("no such operator")

    async def body() -> None:
        worker = ThreadWorker(Broken(), "broken", 16)
        with pytest.raises(BackendFailedError, match="no such operator"):
            await worker.start()
        assert not worker.ready
        with pytest.raises(WorkerLostError):
            await worker.open(make_face(), Watcher())
        await worker.aclose()

    run(body)


def test_the_end_of_a_stage_is_told_to_all() -> None:
    class Ending(Remembering):
        def decode(self, latents: Any, reference: Any, portrait: Any) -> Any:
            if np.any(portrait > 50):
                raise SystemExit("as ordered")
            return super().decode(latents, reference, portrait)

    async def test(worker: ThreadWorker, _: Remembering) -> None:
        watchers = [Watcher(), Watcher()]
        faces = [make_face(), Face(make_face().reference, np.full((1, 3, 16, 16), 99, np.float32))]
        slots = [await worker.open(face, watcher) for face, watcher in zip(faces, watchers, strict=True)]
        slots[1].submit(make_step(0, 4))
        for watcher in watchers:
            assert "decode" in str(await watcher.until_lost(5))
        assert not worker.ready
        with pytest.raises(WorkerLostError):
            await worker.open(make_face(), Watcher())

    in_worker(test, backend=Ending())


def test_a_listener_that_fails_does_not_keep_the_others_from_being_told() -> None:
    class Rude(Watcher):
        def on_pictures(self, pictures: Any) -> None:
            raise ValueError("rude")

    async def test(worker: ThreadWorker, _: Remembering) -> None:
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        rude = await worker.open(make_face(), Rude())
        rude.submit(make_step(0, 4))
        assert len(await run_blocks(worker, [4])) == 4
        assert told and isinstance(told[0], ValueError)

    in_worker(test)


# Beginning and end.


def test_closing_comes_before_starting_and_twice() -> None:
    async def body() -> None:
        worker = ThreadWorker(Remembering(), "test", 16)
        await worker.aclose()
        await worker.aclose()
        assert not worker.ready
        with pytest.raises(WorkerLostError):
            await worker.open(make_face(), Watcher())

    run(body)


def test_closing_ends_what_is_under_way_without_a_word() -> None:
    async def body() -> None:
        before = threading.active_count()
        backend, watcher = Remembering(), Watcher()
        worker = await start(backend)
        slot = await worker.open(make_face(), watcher)
        backend.hold()
        for i in range(2):
            slot.submit(make_step(4 * i, 4))
        assert backend.begun.wait(5)
        closing = asyncio.create_task(worker.aclose())
        await asyncio.sleep(0)
        backend.release()
        await closing
        assert watcher.pictures == [] and watcher.lost is None
        assert threading.active_count() == before
        with pytest.raises(WorkerLostError):
            slot.submit(make_step(0, 4))

    run(body)


def test_two_hundred_sessions_leave_nothing_behind() -> None:
    def census() -> tuple[int, int, int]:
        folder = Path("/proc/self/fd")
        return threading.active_count(), len(asyncio.all_tasks()), len(os.listdir(folder)) if folder.is_dir() else 0

    async def test(worker: ThreadWorker, _: Remembering) -> None:
        random = np.random.default_rng(0)
        before = census()
        for i in range(200):
            watcher = Watcher()
            slot = await worker.open(make_face(i), watcher)
            slot.submit(make_step(0, 4))
            slot.submit(make_step(4, 4))
            if cut := int(random.integers(0, 4)):
                await watcher.until(lambda cut=cut, watcher=watcher: len(watcher.pictures) >= cut)
            await slot.aclose()
        assert await asyncio.gather(*(worker.open(make_face(), Watcher()) for _ in range(worker.capacity)))
        assert census() == before
        assert len(worker._stages._slots) == worker.capacity and len(worker._stages._scheduler) == 0

    in_worker(test, capacity=2)


def test_windows_of_the_helpers_hold_speech() -> None:
    """Or else the tests above would compare silence with silence."""
    loudness = MockBackend().encode_audio(make_step(0, 25).windows)[:, 0]
    assert loudness.max() > 0.3 and np.ptp(loudness) > 0.2 and len(MEL) == 400
