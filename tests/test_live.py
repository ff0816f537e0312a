"""Sessions on the real worker threads, in real time, with the mock model: briefly, and with room for a busy machine."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.backends.mock import MockBackend
from engine.engine import AvatarEngine, load
from engine.errors import ArgumentError, BackendFailedError, EngineFullError
from engine.events import EventKind, SessionEvent
from engine.session import AvatarSession, SessionConfig
from engine.types import VideoFrame
from tests.faces import draw_face

OFFLINE = SessionConfig(paced=False)
FACE = np.array(draw_face(512))


def loud(window: np.ndarray) -> float:
    return 1.0 if np.abs(window).max() > 0.05 else 0.0


def speech(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.4, 0.4, round(16_000 * seconds)).astype(np.float32)


async def spoken(session: AvatarSession, pcm: np.ndarray) -> list[VideoFrame]:
    """All frames of one utterance."""
    session.push_audio(pcm)
    session.flush()
    frames = []
    async for frame in session.frames():
        frames.append(frame)
        if frame.end_of_turn:
            return frames
    raise AssertionError("the session ended before the utterance did")


def test_a_paced_session_speaks_and_finishes() -> None:
    async def main() -> None:
        events: list[SessionEvent] = []
        async with load(backend="mock") as engine, engine.session(FACE, size=128, on_event=events.append) as s:
            frames = await asyncio.wait_for(spoken(s, speech(1)), 20)
        voiced = [f for f in frames if f.turn_id]
        assert len(voiced) == 25
        assert {f.image.shape for f in frames} == {(128, 128, 3)}
        assert [e.kind for e in events] == [EventKind.TURN_STARTED, EventKind.TURN_FINISHED]

    asyncio.run(main())


def test_a_session_without_pacing_gives_the_pictures_of_generate() -> None:
    pcm = speech(2)
    states = np.zeros(50, np.int8)
    with load(backend="mock") as engine:
        whole = list(engine.generate(FACE, pcm, states=states, size=128))

    async def main() -> list[VideoFrame]:
        async with load(backend="mock") as engine, engine.session(FACE, size=128, config=OFFLINE) as session:
            session.set_state("speaking")
            return await asyncio.wait_for(spoken(session, pcm), 20)

    streamed = asyncio.run(main())
    assert len(streamed) == len(whole) == 50
    # The first frames differ by what was heard before: nothing, or silence.
    for a, b in zip(whole[5:], streamed[5:], strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def test_generate_and_sessions_do_not_mix() -> None:
    async def main() -> None:
        async with load(backend="mock") as engine:
            async with engine.session(FACE, size=128):
                pass
            with pytest.raises(ArgumentError, match="another engine"):
                engine.generate(FACE, speech(1))
            with pytest.raises(ArgumentError, match="aclose"):
                engine.close()

    asyncio.run(main())


def test_a_model_that_does_not_start_says_so_and_may_be_tried_again() -> None:
    class Broken(MockBackend):
        broken = True

        def encode_audio(self, windows: np.ndarray) -> np.ndarray:
            if self.broken:
                raise BackendFailedError("no such luck")
            return super().encode_audio(windows)

    async def main() -> None:
        backend = Broken()
        async with AvatarEngine(backend, "broken") as engine:
            for _ in range(2):
                with pytest.raises(BackendFailedError):
                    await engine.worker(128)
            backend.broken = False
            assert (await engine.worker(128)).ready

    asyncio.run(main())


def test_concurrent_sessions_share_one_worker_and_are_counted() -> None:
    async def main() -> None:
        async with load(backend="mock") as engine:
            worker = await engine.worker(128, capacity=2)
            face = engine.face(FACE, 128)
            async with (
                AvatarSession(worker, face, OFFLINE, speech=loud) as a,
                AvatarSession(worker, face, OFFLINE, speech=loud) as b,
            ):
                with pytest.raises(EngineFullError):
                    await AvatarSession(worker, face, OFFLINE).start()
                one, two = await asyncio.wait_for(asyncio.gather(spoken(a, speech(1)), spoken(b, speech(1))), 20)
            for x, y in zip(one, two, strict=True):
                np.testing.assert_array_equal(x.image, y.image)

    asyncio.run(main())


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts descriptors and memory by /proc")
def test_two_hundred_sessions_leave_nothing_behind() -> None:
    """Reliability test 25: sessions cut at random points."""
    rng = np.random.default_rng(0)

    async def cycle(engine: AvatarEngine) -> None:
        worker, face = await engine.worker(128), engine.face(portrait, 128)
        paced = SessionConfig(paced=bool(rng.random() < 0.5))
        async with AvatarSession(worker, face, paced, speech=loud) as session:
            session.push_audio(speech(rng.uniform(0.2, 1)))
            session.flush()
            taken = int(rng.integers(0, 4))
            if taken:
                async for _ in session.frames():
                    taken -= 1
                    if taken <= 0:
                        break
            if rng.random() < 0.3:
                session.interrupt()

    def counts() -> tuple[int, int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), threading.active_count(), len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        async with load(backend="mock") as engine:
            for _ in range(20):
                await asyncio.wait_for(cycle(engine), 20)
            before, memory = counts(), resident_mb()
            for _ in range(200):
                await asyncio.wait_for(cycle(engine), 20)
            assert counts() == before
            assert resident_mb() - memory <= 20

    portrait = AvatarEngine(MockBackend(), "mock").open_portrait(FACE)
    asyncio.run(main())
