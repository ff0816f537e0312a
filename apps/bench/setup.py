"""What is measured: a worker with its model, a face and a voice; and what it took to get them ready."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from apps.bench.latency import answer_live_ms
from apps.bench.machine import resident_mb
from apps.bench.script import Floats
from apps.bench.viewer import on_screen
from apps.media import read_sound
from engine.backends.base import Sampling
from engine.backends.mock import MockBackend
from engine.bundle import find_bundle, shipped_models
from engine.engine import AvatarEngine, load
from engine.errors import FileMissingError
from engine.model.config import ModelConfig
from engine.supervisor import SupervisedWorker
from engine.types import SAMPLES_PER_FRAME
from engine.vad import voice_activity
from engine.worker.base import Face, Worker
from engine.worker.thread import ThreadWorker

PICTURES, SOUNDS = (".jpg", ".png", ".webp"), (".flac", ".ogg", ".wav")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line asks for. portrait, voice: None for the first ones that are shipped. process: the model
    runs in a supervised child. sessions: the most that are tried at once.
    """

    model: str = "auto"
    backend: str = "auto"
    portrait: Path | None = None
    voice: Path | None = None
    size_px: int = 256
    seconds: float = 60.0
    repeats: int = 30
    process: bool = False
    sessions: int = 64


@dataclass(frozen=True, slots=True)
class Cold:
    """Milliseconds from nothing to the first frame, in this order. import_ms: of all code. load_ms: the model, 0 when a
    child process does it. portrait_ms: picture read, face found, cropped. warm_up_ms: until the worker takes sessions,
    with a child all of its start. first_frame_ms: opening the first session until its first frame is taken. total_ms:
    their sum. first_answer_ms: in that session, the very first utterance in real time, as latency_realtime_ms.
    """

    import_ms: float
    load_ms: float
    portrait_ms: float
    warm_up_ms: float
    first_frame_ms: float | None = None
    total_ms: float | None = None
    first_answer_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Rig:
    """Ready to open sessions. voice: float32 at 16 kHz, from its first word to its last. idle_mb: resident memory
    before the first session.
    """

    worker: Worker
    face: Face
    voice: Floats
    model_config: ModelConfig
    sampling: Sampling
    cold: Cold
    idle_mb: float | None
    pids: Callable[[], list[int]]
    """The processes whose memory counts."""


@asynccontextmanager
async def open_rig(
    settings: Settings, voice: Floats, capacity: int | None = None, import_ms: float = 0.0
) -> AsyncIterator[Rig]:
    """capacity: places of the worker, None for what it promises by itself. Raises AvatarError."""
    marks = [perf_counter()]
    async with AsyncExitStack() as stack:
        engine = load(settings.model, "mock" if settings.process else settings.backend)
        stack.callback(engine.close)
        marks.append(perf_counter())
        face = engine.face(shipped(settings.portrait, "portraits", PICTURES), settings.size_px)
        marks.append(perf_counter())
        worker = _worker(settings, engine, capacity)
        stack.push_async_callback(worker.aclose)
        await worker.start()
        marks.append(perf_counter())
        load_ms, portrait_ms, warm_up_ms = (float(ms) for ms in 1e3 * np.diff(marks))
        pids = _pids(worker)
        model_config, sampling = _model_of(settings, engine)
        yield Rig(
            worker=worker,
            face=face,
            voice=voice,
            model_config=model_config,
            sampling=sampling,
            cold=Cold(import_ms, load_ms, portrait_ms, warm_up_ms),
            idle_mb=resident_mb(pids()),
            pids=pids,
        )


async def measure_cold(rig: Rig) -> Cold:
    """The first session of all. Its first frame is a resting one."""
    began = perf_counter()
    async with on_screen(rig.worker, rig.face) as viewer:
        await viewer.reach(1)
        first_frame_ms = 1e3 * (perf_counter() - began)
        first_answer_ms = await answer_live_ms(viewer, rig.voice)
    c = rig.cold
    total_ms = c.import_ms + c.load_ms + c.portrait_ms + c.warm_up_ms + first_frame_ms
    return Cold(c.import_ms, c.load_ms, c.portrait_ms, c.warm_up_ms, first_frame_ms, total_ms, first_answer_ms)


def read_voice(settings: Settings) -> Floats:
    """The voice without the silence around it, or all of it when nobody speaks. Raises MediaError or FileError."""
    pcm = read_sound(shipped(settings.voice, "speech", SOUNDS)).pcm
    spoken = np.flatnonzero(voice_activity(pcm))
    if not len(spoken):
        return pcm
    return pcm[spoken[0] * SAMPLES_PER_FRAME : (spoken[-1] + 1) * SAMPLES_PER_FRAME]


def shipped(given: Path | None, folder: str, endings: tuple[str, ...]) -> Path:
    """The file that was given, or the first one in a folder of the assets. Raises FileMissingError."""
    if given is not None:
        return given
    files = sorted(path for path in (shipped_models().parent / folder).glob("*") if path.suffix in endings)
    if not files:
        option = "--portrait" if folder == "portraits" else "--voice"
        raise FileMissingError(f"this installation comes without demo {folder}; name a file with {option} FILE")
    return files[0]


def _worker(settings: Settings, engine: AvatarEngine, capacity: int | None) -> ThreadWorker | SupervisedWorker:
    if settings.process:
        return SupervisedWorker(settings.model, settings.backend, picture_px=settings.size_px, capacity=capacity)
    return ThreadWorker(engine.backend, engine.model, settings.size_px, capacity)


def _pids(worker: ThreadWorker | SupervisedWorker) -> Callable[[], list[int]]:
    def pids() -> list[int]:
        child = worker.pid if isinstance(worker, SupervisedWorker) else None
        return [os.getpid()] + ([child] if child is not None else [])

    return pids


def _model_of(settings: Settings, engine: AvatarEngine) -> tuple[ModelConfig, Sampling]:
    if settings.backend == "mock":
        return MockBackend.config, MockBackend.sampling
    found = find_bundle(settings.model) if settings.process else engine.backend
    return found.config, found.sampling
