"""Live sessions in virtual time, on a worker that takes scripted time: pacing, barge-in, jitter, overload, loss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from engine.errors import (
    ArgumentError,
    AudioBufferFullError,
    AudioFormatError,
    BackendFailedError,
    EngineFullError,
    SessionClosedError,
    UnknownExpressionError,
    WorkerBrokenError,
)
from engine.events import EventKind, SessionEvent
from engine.metrics import Histogram
from engine.presenter import EGRESS_FRAMES
from engine.session import AvatarSession, SessionConfig
from engine.types import FRAME_US, AvatarState, VideoFrame
from engine.watchdog import DriftBounds
from tests.fake_worker import FakeSlot, FakeWorker, face
from tests.virtual_time import run_virtual

F_S = FRAME_US / 1e6
CALM = DriftBounds(colour=1e9, sharpness=1e9, likeness=-2)


def loud(window: np.ndarray) -> float:
    return 1.0 if np.abs(window).max() > 0.05 else 0.0


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).uniform(0.1, 0.5, round(16_000 * seconds))).astype(np.float32)


@dataclass
class Viewer:
    """Takes every frame at once and notes when."""

    session: AvatarSession
    seen: list[tuple[float, VideoFrame]] = field(default_factory=list)
    events: list[tuple[float, SessionEvent]] = field(default_factory=list)

    async def watch(self) -> None:
        async for frame in self.session.frames():
            self.seen.append((now(), frame))

    def after(self, moment: float) -> Iterator[tuple[float, VideoFrame]]:
        return ((t, f) for t, f in self.seen if t > moment)

    def gaps(self) -> np.ndarray:
        return np.diff([t for t, _ in self.seen])

    def of_kind(self, kind: EventKind) -> list[SessionEvent]:
        return [event for _, event in self.events if event.kind == kind]


def now() -> float:
    return asyncio.get_running_loop().time()


def converse(
    script: Callable[[AvatarSession, Viewer], Awaitable[None]],
    worker: FakeWorker | None = None,
    config: SessionConfig | None = None,
) -> Viewer:
    """Run a script in virtual time beside a viewer; returns what the viewer saw."""

    async def main() -> Viewer:
        noted: list[tuple[float, SessionEvent]] = []
        session = AvatarSession(
            worker or FakeWorker(),
            face(),
            config or SessionConfig(drift=CALM),
            on_event=lambda event: noted.append((now(), event)),
            speech=loud,
        )
        viewer = Viewer(session, events=noted)
        async with session:
            watching = asyncio.get_running_loop().create_task(viewer.watch())
            await script(session, viewer)
        await watching
        return viewer

    return run_virtual(main())


def heard(viewer: Viewer, turn_id: int) -> np.ndarray:
    return np.concatenate([f.audio for _, f in viewer.seen if f.turn_id == turn_id] or [np.zeros(0, np.float32)])


def test_idle_frames_come_at_25_a_second_with_rising_times() -> None:
    async def script(session: AvatarSession, viewer: Viewer) -> None:
        await asyncio.sleep(4)

    viewer = converse(script)
    assert len(viewer.seen) == pytest.approx(100, abs=2)
    np.testing.assert_allclose(viewer.gaps(), F_S, atol=1e-3)
    assert [f.index for _, f in viewer.seen] == list(range(len(viewer.seen)))
    assert {f.state for _, f in viewer.seen} == {AvatarState.IDLE}
    assert viewer.session.presenter.late == 0


def test_metrics_agree_with_what_the_viewer_saw() -> None:
    moments: list[float] = []

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        await asyncio.sleep(1)
        for _ in range(5):
            moments.append(now())
            session.push_audio(speech(2))
            await asyncio.sleep(1)
            session.interrupt()
            await asyncio.sleep(0.5)

    viewer = converse(script)
    figures = viewer.session.metrics.snapshot()
    waits = [next(t for t, f in viewer.after(m) if f.turn_id) - m for m in moments]
    answers = figures["answer_ms"]
    assert isinstance(answers, dict)
    assert answers["count"] == 5
    assert answers["mean"] == pytest.approx(1000 * np.mean(waits), abs=1)
    cuts = figures["cut_ms"]
    assert isinstance(cuts, dict)
    assert (cuts["count"], cuts["max"] <= 41) == (5, True)
    assert figures["steps"] == len(viewer.session._director._worker.steps)  # type: ignore[attr-defined]


def test_histogram_percentiles_are_near_the_true_ones_in_bounded_memory() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, 20_000)
    histogram = Histogram()
    assert np.isnan(histogram.percentile(0.5))
    for value in values:
        histogram.observe(value)
    for share in (0.01, 0.5, 0.95, 0.99):
        assert histogram.percentile(share) == pytest.approx(np.quantile(values, share), rel=0.06)
    assert histogram.snapshot()["mean"] == pytest.approx(values.mean())
    histogram.observe(1e12)
    histogram.observe(-5)
    assert histogram.count == 20_002
    assert len(histogram._buckets) == 128


def test_an_utterance_is_heard_whole_and_once_and_soon() -> None:
    said, begun = speech(3), []

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        await asyncio.sleep(1)
        begun.append(now())
        assert session.push_audio(said) == 1
        session.flush()
        await asyncio.sleep(4)

    viewer = converse(script)
    np.testing.assert_array_equal(heard(viewer, 1)[: len(said)], said)
    first = next(t for t, f in viewer.seen if f.turn_id == 1)
    assert first - begun[0] <= 0.1
    kinds = [e.kind for _, e in viewer.events]
    assert kinds == [EventKind.TURN_STARTED, EventKind.TURN_FINISHED]
    finished = viewer.events[-1][1]
    assert finished.complete
    assert finished.turn_samples == len(said)


def test_a_real_time_microphone_is_answered_within_the_audio_wait_and_little_more() -> None:
    """Sound in 20 ms packets: 122.5 ms of it must be there before a frame can move with it."""
    begun: list[float] = []

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        await asyncio.sleep(0.7131)
        begun.append(now())
        for packet in np.split(speech(2), 100):
            await asyncio.sleep(0.02)
            session.push_audio(packet)
        session.flush()
        await asyncio.sleep(1)

    viewer = converse(script)
    first = next(t for t, f in viewer.seen if f.turn_id)
    assert first - begun[0] <= 0.25
    assert len(heard(viewer, 1)) == 32_000
    assert viewer.session.metrics.starved_frames == 0


def test_burst_of_a_minute_loses_nothing_and_the_buffer_has_an_end() -> None:
    """Reliability test 2."""
    said = speech(60)

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        for chunk in np.array_split(said, 100):
            session.push_audio(chunk)
            await asyncio.sleep(0.01)
        with pytest.raises(AudioBufferFullError) as refused:
            session.push_audio(speech(70))
        assert refused.value.retryable
        session.flush()
        await asyncio.sleep(62)

    viewer = converse(script)
    np.testing.assert_array_equal(heard(viewer, 1)[: len(said)], said)
    stamps = [f.pts_us for _, f in viewer.seen]
    assert all(b - a == FRAME_US for a, b in zip(stamps, stamps[1:], strict=False))


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


def test_interrupt_at_any_phase() -> None:
    """Reliability test 6, at 200 phases."""
    rng = np.random.default_rng(0)
    to_new, to_state, acks = [], [], []

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        for _ in range(200):
            session.push_audio(speech(5))
            session.flush()
            await asyncio.sleep(rng.uniform(0.0, 1.2))
            last = viewer.seen[-1][1] if viewer.seen else None
            moment = now()
            cut = session.interrupt()
            acks.append((cut, last))
            await asyncio.sleep(0.4)
            after = list(viewer.after(moment))
            assert all(f.turn_id == 0 for _, f in after), "a stale frame after the acknowledgement"
            to_new.append(after[0][0] - moment)
            to_state.append(next(t for t, f in after if f.state != AvatarState.SPEAKING) - moment)
            assert not np.concatenate([f.audio for _, f in after])[80:].any()

    viewer = converse(script)
    assert np.percentile(to_state, 99) <= 0.1
    assert max(to_new) <= 1.5 * F_S
    for cut, last in acks:
        expected = last.turn_samples if last is not None and last.turn_id == cut.turn_id else 0
        assert cut.turn_samples == expected
    finished = viewer.of_kind(EventKind.TURN_FINISHED)
    assert len(finished) == 200
    assert len({event.turn_id for event in finished}) == 200


def test_interrupt_is_idempotent_and_harmless_when_nothing_is_said() -> None:
    async def script(session: AvatarSession, viewer: Viewer) -> None:
        assert session.interrupt().turn_id == 0
        await asyncio.sleep(1)
        assert session.interrupt() == session.interrupt()
        session.push_audio(speech(1))
        session.interrupt()
        session.interrupt()
        await asyncio.sleep(1)
        session.push_audio(speech(1))
        session.flush()
        await asyncio.sleep(2)

    viewer = converse(script)
    assert [e.complete for e in viewer.of_kind(EventKind.TURN_FINISHED)] == [False, True]
    assert viewer.gaps().max() <= F_S + 1e-3


def test_state_switch_shows_within_four_frames() -> None:
    delays = []

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        for i in range(40):
            await asyncio.sleep(0.3 + 0.0137 * i)
            wanted = ("listening", "idle", "speaking")[i % 3]
            moment = now()
            session.set_state(wanted)
            await asyncio.sleep(0.3)
            delays.append(next(t for t, f in viewer.after(moment) if f.state.name.lower() == wanted) - moment)

    converse(script)
    assert max(delays) <= 4 * F_S


def test_a_flood_of_state_changes_neither_stops_the_picture_nor_loses_the_last() -> None:
    async def script(session: AvatarSession, viewer: Viewer) -> None:
        for i in range(2000):
            session.set_state(("idle", "listening", "speaking")[i % 3])
            await asyncio.sleep(0.001)
        session.set_state("listening")
        await asyncio.sleep(0.5)

    viewer = converse(script)
    assert viewer.gaps().max() <= 1.5 * F_S
    assert viewer.seen[-1][1].state == AvatarState.LISTENING


def test_expressions_appear_fade_and_let_go() -> None:
    async def script(session: AvatarSession, viewer: Viewer) -> None:
        await asyncio.sleep(0.5)
        session.set_expression("happy", 0.8, fade_ms=200)
        await asyncio.sleep(1)
        session.set_expression(None, fade_ms=200)
        session.set_pose({"yaw": 10.0}, delay_ms=200)
        await asyncio.sleep(1)

    viewer = converse(script)
    shown = np.array([f.image[0, 0, 2] for _, f in viewer.seen], float)
    assert shown.max() == 204
    assert np.abs(np.diff(shown)).max() <= 100
    assert shown[-1] == 0


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


def test_streaming_equals_whole_for_any_chunks() -> None:
    """Reliability test 29: without pacing, frames are a function of what was said alone."""
    said = speech(4)

    def frames(chunk: int) -> list[VideoFrame]:
        out: list[VideoFrame] = []

        async def main() -> None:
            config = SessionConfig(paced=False, drift=CALM)
            async with AvatarSession(FakeWorker(), face(), config, speech=loud) as session:

                async def push() -> None:
                    for start in range(0, len(said), chunk):
                        session.push_audio(said[start : start + chunk])
                        await asyncio.sleep(0.001)
                    session.flush()

                pushing = asyncio.get_running_loop().create_task(push())
                async for frame in session.frames():
                    out.append(frame)
                    if frame.end_of_turn:
                        break
                await pushing

        run_virtual(main())
        return out

    whole = frames(len(said))
    assert len(whole) == 100
    for chunk in (160, 1000, 16_000, 80_000):
        for a, b in zip(whole, frames(chunk), strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.audio, b.audio)
            assert (a.state, a.turn_samples, a.pts_us) == (b.state, b.turn_samples, b.pts_us)


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


def test_listening_frames_follow_the_other_voice_closely() -> None:
    """A listener must not be planned far ahead, or reactions come late."""
    reached: list[float] = []

    async def script(session: AvatarSession, viewer: Viewer) -> None:
        await asyncio.sleep(1)
        moment = now()
        for packet in np.split(speech(3), 150):
            session.push_listening_audio(packet)
            await asyncio.sleep(0.02)
        reached.append(next(t for t, f in viewer.after(moment) if f.state == AvatarState.LISTENING) - moment)
        await asyncio.sleep(1)
        assert viewer.seen[-1][1].state == AvatarState.IDLE

    converse(script)
    assert reached[0] <= 0.5


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


def test_a_block_s_timing_is_on_its_last_frame_alone() -> None:
    async def script(session: AvatarSession, viewer: Viewer) -> None:
        await asyncio.sleep(3)

    viewer = converse(script)
    timed = sum(bool(f.timing) for _, f in viewer.seen)
    assert 0 < timed <= viewer.session.metrics.steps
