"""Live sessions when things go wrong: late and bad sound, overload, slow readers, clocks, lost workers."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from engine.errors import (
    ArgumentError,
    AudioFormatError,
    BackendFailedError,
    EngineFullError,
    SessionClosedError,
    UnknownExpressionError,
    WorkerBrokenError,
)
from engine.events import EventKind, SessionEvent
from engine.presenter import EGRESS_FRAMES
from engine.session import AvatarSession, SessionConfig
from engine.types import FRAME_US
from tests.conversation import CALM, F_S, Viewer, converse, heard, loud, now, speech
from tests.fake_worker import FakeSlot, FakeWorker, face
from tests.virtual_time import run_virtual


@pytest.mark.parametrize("keep_up", [False, True])
def test_jittery_audio_never_freezes_and_is_caught_up_with(keep_up: bool) -> None:
    """Reliability test 3: packets of 20 ms late by 0 to 200 ms, one in twenty by 400 ms more."""
    rng = np.random.default_rng(5)
    said = speech(20)
    said[np.arange(len(said)) % 16_000 > 12_000] = 0
    behind: list[float] = []

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        start, arrival = now(), 0.0
        for i, packet in enumerate(np.split(said, 1000)):
            late = rng.uniform(0, 0.2) + (0.4 if rng.random() < 0.05 else 0)
            arrival = max(arrival, 0.02 * (i + 1) + late)
            await asyncio.sleep(max(0, start + arrival - now()))
            session.push_audio(packet)
            if i % 50 == 49:
                behind.append(session._timeline.voice.waiting / 16_000)
        session.flush()
        await asyncio.sleep(3)

    viewer = converse(script, config=SessionConfig(keep_up=keep_up, drift=CALM))
    assert viewer.gaps().max() <= 2 * F_S
    if keep_up:
        assert max(behind) <= 1.0
    else:
        voiced = heard(viewer, 1)
        assert len(voiced) >= len(said)


def test_slow_consumer_gets_recent_frames_and_a_bounded_queue() -> None:
    """Reliability test 1, the engine's part."""

    async def main() -> None:
        async with AvatarSession(FakeWorker(), face(), SessionConfig(drift=CALM), speech=loud) as session:
            frames = session.frames()
            for _ in range(50):
                await anext(frames)
            await asyncio.sleep(10)
            assert len(session.presenter._egress) <= EGRESS_FRAMES
            media = (now() - session.presenter._anchor_us / 1e6) if session.presenter._anchor_us else 0.0
            frame = await anext(frames)
            assert media - frame.pts_us / 1e6 <= 0.3
            assert session.presenter.dropped >= 200

    run_virtual(main())


def test_overload_gives_way_in_order_and_recovers() -> None:
    """Reliability test 22: the worker takes two and a half times as long for 30 s."""
    worker = FakeWorker()
    backlog: list[int] = []

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        session.push_audio(speech(60))
        session.flush()
        await asyncio.sleep(10)
        worker.costs.scale = 5.0
        for _ in range(300):
            await asyncio.sleep(0.1)
            backlog.append(len(session._director._under_way))
        worker.costs.scale = 1.0
        moment = now()
        await asyncio.sleep(15)
        recovered = [f for t, f in viewer.after(moment + 2)]
        assert len(recovered) >= 24 * 12

    viewer = converse(script, worker)
    assert max(backlog) <= 2
    details = [e.detail for e in viewer.of_kind(EventKind.QUALITY)]
    assert details[:2] == ["fewer steps", "half the pictures"]
    assert details[-1] == "full"
    assert heard(viewer, 1).size >= 30 * 16_000


def test_a_lost_worker_costs_the_utterance_and_not_the_session() -> None:
    worker = FakeWorker()

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        session.push_audio(speech(5))
        session.flush()
        await asyncio.sleep(1)
        worker.ready = False
        worker.crash()
        await asyncio.sleep(0.5)
        session.push_audio(speech(1))
        session.flush()
        await asyncio.sleep(0.5)
        worker.ready = True
        await asyncio.sleep(4)

    viewer = converse(script, worker)
    kinds = [e.kind for _, e in viewer.events]
    assert kinds == [
        EventKind.TURN_STARTED, EventKind.TURN_FINISHED, EventKind.WORKER_LOST, EventKind.WORKER_BACK,
        EventKind.TURN_STARTED, EventKind.TURN_FINISHED,
    ]  # fmt: skip
    assert [e.complete for e in viewer.of_kind(EventKind.TURN_FINISHED)] == [False, True]
    assert viewer.gaps().max() <= 2 * F_S
    frozen = [f for _, f in viewer.seen if f.frozen]
    assert 20 <= len(frozen) <= 60
    assert not any(f.audio.any() for f in frozen)
    np.testing.assert_array_equal(heard(viewer, 2)[:16_000], speech(1))


def test_a_worker_that_stays_broken_ends_the_frames_with_its_error() -> None:
    worker = FakeWorker()

    async def main() -> None:
        async def broken(*_: object) -> None:
            raise WorkerBrokenError("crashed three times in a minute")

        async with AvatarSession(worker, face(), SessionConfig(drift=CALM), speech=loud) as session:
            frames = session.frames()
            await anext(frames)
            worker.open = broken  # type: ignore[method-assign,assignment]
            worker.crash()
            with pytest.raises(WorkerBrokenError):
                async for _ in frames:
                    pass

    run_virtual(main())


@pytest.mark.parametrize(("ppm", "minutes"), [(-100, 60), (100, 15)])
def test_an_hour_of_conversation_stays_in_step(ppm: int, minutes: int) -> None:
    """Reliability test 27 in virtual time: a sound card 100 ppm off, one stall of the worker of 2 s."""
    skews: list[tuple[float, float]] = []

    async def main() -> None:
        rng = np.random.default_rng(1)
        worker = FakeWorker()
        async with AvatarSession(worker, face(), SessionConfig(drift=CALM), speech=loud) as session:

            async def watch() -> None:
                """A player that holds 80 ms of sound; what counts is how long sound waits behind its picture."""
                queued, before = 0.08, now()
                async for frame in session.frames():
                    queued = max(0.0, queued - (now() - before) * (1 + ppm * 1e-6)) + F_S
                    before = now()
                    session.played(frame.pts_us + FRAME_US - round(1e6 * queued))
                    skews.append((now(), queued - 0.08))

            watching = asyncio.get_running_loop().create_task(watch())
            stalled = False
            while now() < 60 * minutes:
                session.push_audio(np.full(round(16_000 * rng.uniform(0.5, 6)), 0.3, np.float32))
                session.flush()
                await asyncio.sleep(rng.uniform(2, 9))
                if rng.random() < 0.2:
                    session.interrupt()
                if now() > 400 and not stalled:
                    stalled, worker.costs.scale = True, 150.0
                    await asyncio.sleep(0.3)
                    worker.costs.scale = 1.0
        await watching

    run_virtual(main())
    times, skew = np.array(skews).T
    assert len(skew) > 1450 * minutes
    assert np.percentile(np.abs(skew), 99) <= 0.040
    assert abs(np.polyfit(times / 3600, skew, 1)[0]) <= 0.005
    assert np.diff(times).max() > 1.0, "the stall should have shown"


def test_a_suspended_process_resyncs_without_a_burst_of_stale_frames() -> None:
    """Reliability test 31: the clock jumps by 30 s, as when the process is stopped or a laptop sleeps."""

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        session.push_audio(speech(60))
        session.flush()
        await asyncio.sleep(5)
        asyncio.get_running_loop()._jumping.now += 30.0  # type: ignore[attr-defined]
        await asyncio.sleep(3)

    viewer = converse(script)
    gaps = viewer.gaps()
    stop = int(gaps.argmax())
    assert gaps[stop] >= 29
    assert (gaps[stop + 1 : stop + 26] > 0.5 * F_S).sum() >= 24, "frames came in a burst"
    np.testing.assert_allclose(gaps[stop + 26 :], F_S, atol=2e-3)
    said = heard(viewer, 1)
    np.testing.assert_array_equal(said, speech(60)[: len(said)])


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_any_common_rate_keeps_its_length(rate: int) -> None:
    """Reliability test 15."""
    tone = (0.3 * np.sin(2 * np.pi * 200 * np.arange(2 * rate) / rate) * 32_767).astype(np.int16)

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        for start in range(0, len(tone), 441):
            session.push_audio(tone[start : start + 441].tobytes(), rate)
        session.flush()
        await asyncio.sleep(3)

    viewer = converse(script)
    finished = viewer.of_kind(EventKind.TURN_FINISHED)[0]
    assert abs(finished.turn_samples - 32_000) <= 1


def test_a_change_of_rate_within_an_utterance_loses_nothing() -> None:
    async def script(session: AvatarSession, viewer: Viewer) -> None:
        session.push_audio(np.full(24_000, 0.3, np.float32), 24_000)
        session.push_audio(np.full(8_000, 0.3, np.float32), 8_000)
        session.flush()
        await asyncio.sleep(3)

    finished = converse(script).of_kind(EventKind.TURN_FINISHED)[0]
    assert abs(finished.turn_samples - 32_000) <= 2


def test_bad_sound_is_refused_or_becomes_silence() -> None:
    """Reliability tests 14 and 15."""

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        with pytest.raises(AudioFormatError):
            session.push_audio(b"odd")
        with pytest.raises(AudioFormatError):
            session.push_audio(np.zeros(10, np.float32), 100)
        with pytest.raises(AudioFormatError):
            session.push_audio(np.zeros(10, complex))
        bad = speech(1)
        bad[4000:5600] = np.nan
        bad[5600:5700] = np.inf
        session.push_audio(bad)
        assert session.bad_samples == 1700
        session.flush()
        await asyncio.sleep(2)

    viewer = converse(script)
    assert np.isfinite(heard(viewer, 1)).all()
    assert not heard(viewer, 1)[4000:5700].any()


def test_bad_arguments_say_what_to_do() -> None:
    async def script(session: AvatarSession, viewer: Viewer) -> None:
        with pytest.raises(UnknownExpressionError, match="happy"):
            session.set_expression("hapy")
        for call in (
            lambda: session.set_expression("happy", 2.0),
            lambda: session.set_expression("happy", fade_ms=-1),
            lambda: session.set_expression("happy", delay_ms=float("nan")),
            lambda: session.set_pose({"yew": 1.0}),
            lambda: session.set_pose({"yaw": float("inf")}),
            lambda: session.set_state("asleep"),
        ):
            with pytest.raises(ArgumentError):
                call()

    converse(script)


def test_lifecycle() -> None:
    async def main() -> None:
        worker = FakeWorker(capacity=1)
        never_begun = AvatarSession(worker, face(), speech=loud)
        with pytest.raises(SessionClosedError):
            never_begun.push_audio(speech(1))
        await never_begun.aclose()
        events: list[SessionEvent] = []
        async with AvatarSession(worker, face(), on_event=events.append, speech=loud) as session:
            with pytest.raises(EngineFullError):
                await AvatarSession(worker, face()).start()
            session.push_audio(speech(1))
        await session.aclose()
        with pytest.raises(SessionClosedError):
            session.interrupt()
        assert [e.detail for e in events] == ["closed"]
        async with AvatarSession(worker, face(), speech=loud):
            pass

    run_virtual(main())


def test_a_failing_callback_of_the_user_costs_neither_the_picture_nor_the_slot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = FakeWorker()

    async def main() -> None:
        def fail(event: SessionEvent) -> None:
            raise RuntimeError("the user's own fault")

        config = SessionConfig(drift=CALM)
        async with AvatarSession(worker, face(), config, on_event=fail, speech=loud) as session:
            session.push_audio(speech(1))
            session.flush()
            async for frame in session.frames():
                if frame.end_of_turn:
                    break
            session.push_audio(speech(1))

    run_virtual(main())
    assert [slot.closed for slot in worker.slots] == [True]
    assert caplog.text.count("on_event failed") == 3


def test_a_model_that_fails_at_every_step_ends_the_session_even_for_a_slow_reader() -> None:
    worker = FakeWorker()

    async def main() -> None:
        async def failing(self: FakeSlot) -> None:
            await asyncio.sleep(0.01)
            self.stop()
            self.listener.on_lost(BackendFailedError("this voice cannot be heard"))

        async with AvatarSession(worker, face(), SessionConfig(drift=CALM), speech=loud) as session:
            frames = session.frames()
            await anext(frames)
            FakeSlot._work = failing  # type: ignore[method-assign]
            worker.crash()
            with pytest.raises(BackendFailedError):
                async for _ in frames:
                    await asyncio.sleep(0.1)
        assert session.metrics.workers_lost == 5

    work = FakeSlot._work
    try:
        run_virtual(main())
    finally:
        FakeSlot._work = work  # type: ignore[method-assign]


def test_a_slot_that_is_gone_when_a_step_is_submitted_is_opened_again() -> None:
    worker = FakeWorker()

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        await asyncio.sleep(1)
        # Gone without a word: only the next submit tells.
        worker.slots[0].stop()
        session.push_audio(speech(1))
        session.flush()
        await asyncio.sleep(1)
        session.push_audio(speech(1))
        session.flush()
        await asyncio.sleep(2)

    viewer = converse(script, worker)
    assert [e.complete for e in viewer.of_kind(EventKind.TURN_FINISHED)] == [False, True]
    assert viewer.gaps().max() <= 2 * F_S
