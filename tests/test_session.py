"""Live sessions in virtual time, on a worker that takes scripted time: pacing, barge-in, states, cues."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from engine.errors import (
    AudioBufferFullError,
)
from engine.events import EventKind
from engine.metrics import Histogram
from engine.session import AvatarSession, SessionConfig
from engine.types import FRAME_US, AvatarState, VideoFrame
from tests.conversation import CALM, F_S, Viewer, converse, heard, loud, now, speech
from tests.fake_worker import FakeWorker, face
from tests.virtual_time import run_virtual


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


def test_a_block_s_timing_is_on_its_last_frame_alone() -> None:
    async def script(session: AvatarSession, viewer: Viewer) -> None:
        await asyncio.sleep(3)

    viewer = converse(script)
    timed = sum(bool(f.timing) for _, f in viewer.seen)
    assert 0 < timed <= viewer.session.metrics.steps
