"""The LiveKit Agents plug under the real AvatarRunner, and in a room under the real data streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed: make test-plugs")

from livekit import api, rtc  # noqa: E402
from livekit.agents import AgentSession  # noqa: E402
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarRunner, DataStreamAudioOutput, QueueAudioOutput  # noqa: E402

from apps.plugs import rooms  # noqa: E402
from apps.plugs.desk import LiveKitAccount  # noqa: E402
from apps.plugs.livekit_agents import VOICE_RATE_HZ  # noqa: E402
from engine.errors import WorkerBrokenError  # noqa: E402
from tests.livekit_rooms import FakeRoom  # noqa: E402
from tests.plugs import MOCK, PORTRAIT, tone, until  # noqa: E402
from visavis.livekit import AvatarGenerator, AvatarSession  # noqa: E402

ACCOUNT = LiveKitAccount("ws://127.0.0.1:7880", "key", "secret-of-at-least-thirty-two-bytes")


def frames(seconds: float, rate_hz: int = VOICE_RATE_HZ, step_s: float = 0.1) -> list[rtc.AudioFrame]:
    pcm, step = tone(seconds, rate_hz), 2 * round(rate_hz * step_s)
    pieces = [pcm[i : i + step] for i in range(0, len(pcm), step)]
    return [rtc.AudioFrame(piece, rate_hz, 1, len(piece) // 2) for piece in pieces]


async def say(output: Any, seconds: float, rate_hz: int = VOICE_RATE_HZ) -> None:
    for frame in frames(seconds, rate_hz):
        await output.capture_frame(frame)
    output.flush()


async def joined(identity: str, kind: str = "agent", **attributes: str) -> FakeRoom:
    room, grants = FakeRoom(), api.VideoGrants(room_join=True, room="hall")
    token = api.AccessToken(ACCOUNT.key, ACCOUNT.secret).with_identity(identity).with_kind(kind)
    await room.connect(ACCOUNT.url, token.with_grants(grants).with_attributes(attributes).to_jwt())
    return room


@asynccontextmanager
async def running(output: Any) -> AsyncIterator[list[tuple[float, bool]]]:
    """The real runner between an agent's output and the plug; gives what was told as finished."""
    finished: list[tuple[float, bool]] = []
    output.on("playback_finished", lambda event: finished.append((event.playback_position, event.interrupted)))
    generator, room = AvatarGenerator(MOCK), await joined("agent")
    await generator.start()
    runner = AvatarRunner(room, audio_recv=output, video_gen=generator, options=generator.options)
    await runner.start()
    try:
        yield finished
    finally:
        await runner.aclose()
        await generator.aclose()
        await room.disconnect()


def test_each_segment_finishes_once_with_its_length() -> None:
    async def main() -> None:
        output = QueueAudioOutput(sample_rate=VOICE_RATE_HZ, wait_playback_start=True)
        started = []
        output.on("playback_started", started.append)
        async with running(output) as finished:
            for seconds in (0.4, 0.3):
                await say(output, seconds)
                await output.wait_for_playout()
            output.flush()  # A segment without sound is none.
            await asyncio.sleep(0.3)
        assert [(round(position, 3), cut) for position, cut in finished] == [(0.4, False), (0.3, False)]
        assert len(started) == 2

    asyncio.run(main())


def test_clearing_cuts_once_and_the_next_segment_is_whole() -> None:
    async def main() -> None:
        output = QueueAudioOutput(sample_rate=VOICE_RATE_HZ, wait_playback_start=True)
        started = []
        output.on("playback_started", started.append)
        async with running(output) as finished:
            await say(output, 30)
            await until(lambda: started)
            await asyncio.sleep(0.2)
            output.clear_buffer()
            output.clear_buffer()
            await until(lambda: finished)
            await say(output, 0.3)
            await until(lambda: len(finished) == 2)
            await asyncio.sleep(0.3)
        (cut_at, cut), (position, interrupted) = finished
        assert cut and 0.04 <= cut_at < 5
        assert not interrupted and position == pytest.approx(0.3, abs=0.002)

    asyncio.run(main())


def test_another_rate_is_heard_whole() -> None:
    async def main() -> None:
        output = QueueAudioOutput(sample_rate=16_000, wait_playback_start=True)
        async with running(output) as finished:
            await say(output, 0.5, 16_000)
            await output.wait_for_playout()
        assert finished[0][0] == pytest.approx(0.5, abs=0.005)

    asyncio.run(main())


def test_a_lost_avatar_leaves_the_voice_and_its_ends() -> None:
    class Broken:
        async def frames(self) -> AsyncIterator[Any]:
            raise WorkerBrokenError("crashed too often")
            yield

        def push_audio(self, pcm: Any, sample_rate: int = 0) -> int:
            return 1

        def flush(self) -> None: ...

    async def main() -> None:
        generator = AvatarGenerator(MOCK)
        generator._avatar = Broken()  # type: ignore[assignment]
        generator._speaker.attach(generator._avatar)  # type: ignore[arg-type]
        for media in (*frames(0.1), AudioSegmentEnd()):
            await generator.push_audio(media)
        out = aiter(generator)
        async with asyncio.timeout(5):
            assert isinstance(await anext(out), AudioSegmentEnd)
            for media in (*frames(0.1), AudioSegmentEnd()):
                await generator.push_audio(media)
            assert isinstance(await anext(out), rtc.AudioFrame)
            assert isinstance(await anext(out), AudioSegmentEnd)

    asyncio.run(main())


def test_an_agents_session_speaks_through_the_avatar() -> None:
    async def main() -> None:
        room, agent = await joined("agent"), AgentSession()
        avatar = AvatarSession(portrait=PORTRAIT, model="mock", size=128)
        finished = []
        await avatar.start(agent, room)
        output = agent.output.audio
        assert output is not None
        output.on("playback_finished", finished.append)
        await say(output, 0.3)
        await avatar.wait_for_join(timeout=10)
        await until(lambda: finished)
        assert set(room.local_participant.track_publications) == {"avatar_audio", "avatar_video"}
        await avatar.aclose()
        await avatar.aclose()
        assert room.isconnected(), "the agent must stay in its room"
        await room.disconnect()

    asyncio.run(main())


def test_a_worker_in_the_room_speaks_what_the_agent_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livekit.rtc.Room", FakeRoom)

    async def main() -> None:
        room = await joined("agent")
        token = api.AccessToken(ACCOUNT.key, ACCOUNT.secret).with_identity("face").with_kind("agent")
        token = token.with_grants(api.VideoGrants(room_join=True, room="hall"))
        token = token.with_attributes({"lk.publish_on_behalf": "agent"})
        worker = await rooms.join(ACCOUNT.url, token.to_jwt(), MOCK)
        serving = asyncio.ensure_future(worker.serve())
        output = DataStreamAudioOutput(room, destination_identity="face", wait_playback_start=True)
        finished = []
        output.on("playback_finished", finished.append)
        await say(output, 0.3)
        await until(lambda: finished)
        await say(output, 30)
        await until(lambda: len([name for name, _ in room.local_participant.called if "started" in name]) == 2)
        output.clear_buffer()
        await until(lambda: len(finished) == 2)
        told = [json.loads(payload) for name, payload in room.local_participant.called if "finished" in name]
        assert [event["interrupted"] for event in told] == [False, True]
        assert told[0]["playback_position"] == pytest.approx(0.3, abs=0.002)
        await room.disconnect()
        async with asyncio.timeout(5):
            await serving
        await worker.aclose()

    asyncio.run(main())
