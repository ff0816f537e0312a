"""What the tests of workers share: a listener that remembers, steps, and a model whose pictures tell all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from engine.audio.features import log_mel
from engine.audio.windows import frame_windows
from engine.backends.base import Floats, Reference
from engine.backends.mock import MockBackend
from engine.errors import AvatarError
from engine.worker.base import Face, Pictures, Slot, Step, Worker
from engine.worker.thread import ThreadWorker
from engine.worker.warmup import blank_step

CONFIG = MockBackend.config
SIDE = 16
T = TypeVar("T")


class Remembering(MockBackend):
    """Its latents depend on voice, noise and context, and its pictures are their bytes; see `latents_of`.

    While it is held, a denoiser call says that it has begun and waits to be let go.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        """Sessions and frames of each call that denoises."""
        self.decoded: list[int] = []
        self._held_at: float | None = None
        self.begun, self.go = threading.Event(), threading.Event()

    def encode_reference(self, image: Floats) -> Reference:
        keys = np.full(self._cache_shape(frames=1), image.mean(), np.float32)
        return {"keys": keys, "values": keys}

    def denoise(self, **inputs: Any) -> tuple[Floats, Floats, Floats]:
        latents, valid = inputs["latents"], inputs["cache_valid"]
        if inputs["timestep"][0] > 0:
            self.batches.append(latents.shape[:2])
        if inputs["timestep"][0] == self._held_at:
            self.begun.set()
            assert self.go.wait(10)
        if inputs["timestep"][0] == 0:
            keys = np.empty(self._cache_shape(latents.shape[1], len(latents)), np.float32)
            told = np.repeat(latents.mean((2, 3, 4)), self.config.frame_tokens, axis=1)
            keys[:] = told[None, :, None, :, None]
            return latents, keys, keys
        nearness = np.arange(1, valid.shape[1] + 1, dtype=np.float32)
        past = (inputs["cache_keys"][0, :, 0, :, 0] * valid * nearness).sum(1) / valid.sum(1)
        voices = inputs["audio"][:, :, :1] + 0.5 * inputs["listening"][:, :, :1]
        wanted = 0.1 * latents + (voices + past[:, None, None])[..., None, None]
        return latents - wanted, latents, latents

    def decode(self, latents: Floats, reference: Reference, portrait: Floats) -> np.ndarray:
        raw = np.ascontiguousarray(latents).reshape(len(latents), -1).view(np.uint8)
        images = np.zeros((len(latents), SIDE * SIDE * 3), np.uint8)
        images[:, : raw.shape[1]] = raw
        self.decoded.append(len(latents))
        return images.reshape(-1, SIDE, SIDE, 3)

    def hold(self, at: float = 1.0) -> None:
        """at: 1 for a block's first call, 0 for its last, which writes the context."""
        self.begun.clear()
        self.go.clear()
        self._held_at = at

    def release(self) -> None:
        self._held_at = None
        self.go.set()


def latents_of(images: np.ndarray) -> np.ndarray:
    """What Remembering decoded, [F, C * G * G]."""
    raw = images.reshape(len(images), -1)[:, : 4 * CONFIG.latent_channels * CONFIG.latent_grid**2]
    return np.ascontiguousarray(raw).view(np.float32)


class Watcher:
    """A listener that keeps everything."""

    def __init__(self) -> None:
        self.pictures: list[Pictures] = []
        self.lost: AvatarError | None = None
        self.news = asyncio.Event()

    def on_pictures(self, pictures: Pictures) -> None:
        self.pictures.append(pictures)
        self.news.set()

    def on_lost(self, error: AvatarError) -> None:
        assert self.lost is None, "told twice"
        self.lost = error
        self.news.set()

    @property
    def done(self) -> int:
        """Steps of which all pictures came."""
        return sum(p.last for p in self.pictures)

    @property
    def images(self) -> np.ndarray:
        return np.concatenate([p.images for p in self.pictures])

    async def until(self, holds: Callable[[], bool], timeout_s: float = 10) -> None:
        async with asyncio.timeout(timeout_s):
            while not holds():
                self.news.clear()
                await self.news.wait()

    async def until_done(self, steps: int) -> None:
        await self.until(lambda: self.done >= steps or self.lost is not None)
        assert self.lost is None, self.lost

    async def until_lost(self, timeout_s: float) -> AvatarError:
        await self.until(lambda: self.lost is not None, timeout_s)
        assert self.lost is not None
        return self.lost


def make_face(seed: int = 0, side: int = SIDE, brightness: float = 0.1) -> Face:
    return Face(
        np.full((1, 3, 128, 128), brightness, np.float32), np.full((1, 3, side, side), 0.3, np.float32), seed=seed
    )


def speech(seconds: float) -> np.ndarray:
    """A buzz that swells and fades four times a second."""
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * time_s)
    return (0.3 * swell * np.sign(np.sin(2 * np.pi * 140 * time_s))).astype(np.float32)


MEL = log_mel(speech(4))


def make_step(start: int, frames: int, **changes: Any) -> Step:
    """Frames of four seconds of speech."""
    blank = blank_step(CONFIG, frames, changes.pop("denoising_steps", 1))
    windows = frame_windows(MEL, start, frames)
    return replace(blank, **{"start_frame": start, "windows": windows, "forget": False, **changes})


def ordered(order: float, frames: int = 4, **changes: Any) -> Step:
    """A step that tells faulty_backend to fail."""
    return make_step(0, frames, pose=np.full((frames, CONFIG.pose_axes), order, np.float32), **changes)


async def run_blocks(worker: Worker, lengths: list[int], face: Face | None = None, **changes: Any) -> np.ndarray:
    """The pictures of blocks of these lengths, one after the other, in a slot of its own."""
    watcher = Watcher()
    slot = await worker.open(face or make_face(), watcher)
    await submit_blocks(slot, watcher, lengths, **changes)
    await slot.aclose()
    return watcher.images


async def submit_blocks(slot: Slot, watcher: Watcher, lengths: list[int], start: int = 0, **changes: Any) -> None:
    done = watcher.done
    for i, frames in enumerate(lengths):
        slot.submit(make_step(start + sum(lengths[:i]), frames, **changes))
        await watcher.until_done(done + i + 1)


def run(test: Callable[[], Awaitable[T]]) -> T:
    """Run a test's coroutine; tasks that it leaves behind fail it."""

    async def guarded() -> T:
        before = asyncio.all_tasks()
        result = await asyncio.wait_for(test(), 60)
        leaked = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
        assert not leaked, leaked
        return result

    return asyncio.run(guarded())


async def happens(event: threading.Event) -> None:
    """Wait for an event of another thread."""
    assert await asyncio.to_thread(event.wait, 10)


async def start(backend: Any = None, capacity: int | None = 4, picture_px: int = 16) -> ThreadWorker:
    worker = ThreadWorker(backend or Remembering(), "test", picture_px, capacity)
    await worker.start()
    return worker


def in_worker(test: Any, **options: Any) -> Any:
    """Run `test(worker, backend)` with a worker of its own."""

    async def body() -> Any:
        backend = options.pop("backend", None) or Remembering()
        worker = await start(backend, **options)
        try:
            return await test(worker, backend)
        finally:
            if isinstance(backend, Remembering):
                backend.release()
            await worker.aclose()

    return run(body)
