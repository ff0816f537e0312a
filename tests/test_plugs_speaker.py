"""What all plugs speak through: to a model in this process, and to a server, with the packages of neither plug."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from apps.plugs.avatar import Source, open_avatar
from apps.plugs.feed import MOST_S, Feed
from apps.plugs.speaker import LAST_FRAME_WITHIN, Speaker, mono
from engine.errors import ArgumentError, AudioBufferFullError, AudioFormatError
from engine.events import EventKind, SessionEvent
from engine.types import FRAME_US, AvatarState, VideoFrame
from tests.plugs import MOCK, tone, until

RATE_HZ = 24_000


@pytest.fixture(scope="module", params=["process", "server"])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """The same person, computed here or by a server."""
    if request.param == "process":
        yield MOCK
        return
    pytest.importorskip("websockets", reason="websockets is not installed")
    from apps.server.config import ServeConfig
    from tests.serving import PORTRAITS, running

    with running(ServeConfig(portraits=PORTRAITS, port=0, model="mock", size_px=128)) as server:
        yield Source(portrait="anna", url=server.url, size=128)


@dataclass
class Watched:
    """A speaker with its avatar, and what came of it."""

    speaker: Speaker
    heard: bytearray = field(default_factory=bytearray)
    over: list[int] = field(default_factory=list)
    pictures: int = 0


@asynccontextmanager
async def speaking(source: Source) -> AsyncIterator[Watched]:
    speaker = Speaker()
    watched = Watched(speaker)
    async with open_avatar(source, speaker.on_event) as avatar:
        speaker.attach(avatar)

        async def watch() -> None:
            async for frame in avatar.frames():
                watched.pictures += 1
                sound = speaker.sound(frame)
                watched.heard += sound.pcm if sound else b""
                watched.over += speaker.over(frame)

        watching = asyncio.ensure_future(watch())
        try:
            yield watched
        finally:
            watching.cancel()


def test_what_is_said_is_heard_as_it_was_and_ends_once(source: Source) -> None:
    async def main() -> None:
        async with speaking(source) as watched:
            said = [tone(0.31, RATE_HZ), tone(0.2, RATE_HZ)]
            segments = []
            for pcm in said:
                await watched.speaker.say(pcm, RATE_HZ)
                segments.append(watched.speaker.finish())
            await until(lambda: len(watched.over) == 2)
            assert watched.speaker.finish() == 0, "nothing was said since"
            await asyncio.sleep(0.2)
            assert watched.over == segments
            assert bytes(watched.heard) == b"".join(said)
            assert watched.speaker.silent

    asyncio.run(main())


def test_an_interrupt_silences_what_was_said_and_not_what_follows(source: Source) -> None:
    async def main() -> None:
        async with speaking(source) as watched:
            await watched.speaker.say(tone(20, RATE_HZ), RATE_HZ)
            watched.speaker.finish()
            await until(lambda: watched.heard)
            watched.speaker.interrupt()
            watched.heard.clear()
            assert await watched.speaker.say(tone(0.2, RATE_HZ), RATE_HZ)
            segment = watched.speaker.finish()
            await until(lambda: watched.over)
            assert watched.over == [segment]
            assert bytes(watched.heard) == tone(0.2, RATE_HZ)

    asyncio.run(main())


class Scripted:
    """An avatar that does what the test says."""

    def __init__(self, full: int = 0) -> None:
        self.full = full
        self.turn_id = 1
        self.taken = bytearray()

    def push_audio(self, pcm: bytes, sample_rate: int = 0) -> int:
        if self.full:
            self.full -= 1
            raise AudioBufferFullError("full")
        self.taken += pcm
        return self.turn_id

    def flush(self) -> None:
        self.turn_id += 1

    def interrupt(self) -> None: ...


def scripted(full: int = 0) -> tuple[Speaker, Scripted]:
    speaker, avatar = Speaker(), Scripted(full)
    speaker.attach(avatar)  # type: ignore[arg-type]
    return speaker, avatar


def shown(turn_id: int, turn_samples: int = 0, last: bool = False) -> VideoFrame:
    silence = np.zeros(640, np.float32)
    picture = np.zeros((2, 2, 3), np.uint8)
    return VideoFrame(picture, silence, FRAME_US, AvatarState.IDLE, {}, turn_id, turn_samples, last)


def finished(turn_id: int) -> SessionEvent:
    return SessionEvent(EventKind.TURN_FINISHED, turn_id)


def test_a_segment_that_lost_its_worker_in_the_middle_ends_once() -> None:
    async def main() -> None:
        speaker, avatar = scripted()
        await speaker.say(tone(0.1, RATE_HZ), RATE_HZ)
        speaker.on_event(finished(1))
        avatar.turn_id = 2
        await speaker.say(tone(0.1, RATE_HZ), RATE_HZ)
        segment = speaker.finish()
        assert [over for _ in range(2 * LAST_FRAME_WITHIN) for over in speaker.over(shown(0))] == []
        speaker.on_event(finished(2))
        assert speaker.over(shown(2, 1600, last=True)) == [segment]

    asyncio.run(main())


def test_an_end_whose_frame_was_dropped_is_still_told() -> None:
    async def main() -> None:
        speaker, _ = scripted()
        await speaker.say(tone(0.1, RATE_HZ), RATE_HZ)
        segment = speaker.finish()
        speaker.on_event(finished(1))
        told = [speaker.over(shown(0)) for _ in range(LAST_FRAME_WITHIN)]
        assert told == [[]] * (LAST_FRAME_WITHIN - 1) + [[segment]]

    asyncio.run(main())


def test_sound_of_dropped_frames_is_dropped_with_them() -> None:
    async def main() -> None:
        speaker, _ = scripted()
        pcm = tone(0.2, RATE_HZ)
        await speaker.say(pcm, RATE_HZ)
        first, third = speaker.sound(shown(1, 640)), speaker.sound(shown(1, 1920))
        assert first is not None and third is not None
        assert first.pcm == pcm[: 2 * 960]
        assert third.pcm == pcm[4 * 960 : 6 * 960]

    asyncio.run(main())


def test_a_full_avatar_is_waited_for_and_an_interrupt_ends_the_wait() -> None:
    async def main() -> None:
        speaker, avatar = scripted(full=2)
        assert await speaker.say(tone(0.1, RATE_HZ), RATE_HZ)
        assert bytes(avatar.taken) == tone(0.1, RATE_HZ)
        speaker, avatar = scripted(full=1_000_000)
        saying = asyncio.ensure_future(speaker.say(tone(0.1, RATE_HZ), RATE_HZ))
        await asyncio.sleep(0)
        speaker.interrupt()
        assert await asyncio.wait_for(saying, 5) is False
        assert speaker.finish() == 0

    asyncio.run(main())


def test_a_feed_is_bounded_and_an_interrupt_empties_it() -> None:
    speaker, avatar = scripted(full=1_000_000)
    feed = Feed(speaker, RATE_HZ)
    feed.put(bytes(round(2 * RATE_HZ * MOST_S)))
    with pytest.raises(AudioBufferFullError):
        feed.put(bytes(2))
    feed.interrupt()
    assert feed.silent
    feed.put(bytes(2))
    with pytest.raises(AudioFormatError):
        feed.put(bytes(3))
    assert not avatar.taken


def test_channels_become_one() -> None:
    assert mono(np.array([[100, 300], [-2, 2]], "<i2").tobytes(), 2) == np.array([200, 0], "<i2").tobytes()
    for pcm, channels in ((bytes(6), 2), (bytes(4), 0)):
        with pytest.raises(AudioFormatError):
            mono(pcm, channels)


def test_a_model_in_this_process_needs_a_portrait() -> None:
    async def main() -> None:
        with pytest.raises(ArgumentError, match="portrait"):
            async with open_avatar(Source(model="mock"), lambda event: None):
                pass

    asyncio.run(main())
