"""A face for LiveKit Agents, in the agent's own process or in a worker's (see `rooms`).

    avatar = AvatarSession(url="ws://gpu-box:8765/v1/avatar", portrait="anna")
    await avatar.start(session, room=ctx.room)         # before session.start
    await session.start(agent=..., room=ctx.room)

Interface: livekit-agents 1.8.9, livekit/agents/voice/avatar (VideoGenerator, AvatarRunner, AvatarSession). There, the
runner counts the sound it forwards and tells how much of each utterance was played; this module's part is that every
utterance ends once, that a cleared buffer is silent at once, and that no sound of a cut utterance follows. When the
avatar is lost for good, the agent keeps its voice: sound goes on without pictures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

from apps.plugs.avatar import Avatar, Source, open_avatar
from apps.plugs.given import needs
from apps.plugs.speaker import Sound, Speaker
from engine.errors import AvatarError
from engine.types import FPS
from engine.types import VideoFrame as Picture

try:
    from livekit import rtc
    from livekit.agents import voice
    from livekit.agents.voice.avatar import (
        AudioSegmentEnd,
        AvatarOptions,
        AvatarRunner,
        QueueAudioOutput,
        VideoGenerator,
    )
    from livekit.agents.voice.avatar import AvatarSession as BaseAvatarSession
except ImportError as error:
    raise needs("livekit", error) from error

_LOG = logging.getLogger(__name__)

VOICE_RATE_HZ = 24_000
"""What most voices speak at; others are converted to it, since a published track has one rate."""

VOICE_ONLY_FRAMES, VOICE_ONLY_LOOK_S = 50, 0.05

Media: TypeAlias = "rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd"


class AvatarGenerator(VideoGenerator):
    """Sound in, pictures with their sound out. `start` it, hand it to an AvatarRunner, `aclose` it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._speaker = Speaker()
        self._stack = AsyncExitStack()
        self._avatar: Avatar | None = None
        self._resampler: rtc.AudioResampler | None = None
        self._resampler_hz = 0
        self._voice_only: asyncio.Queue[rtc.AudioFrame | AudioSegmentEnd] | None = None
        """Once the avatar is lost: sound that goes straight on."""

    @property
    def options(self) -> AvatarOptions:
        """What to publish: one channel at VOICE_RATE_HZ, square pictures."""
        side = self.source.size
        return AvatarOptions(side, side, FPS, VOICE_RATE_HZ, 1)

    async def start(self) -> None:
        """Open the avatar. Raises AvatarError."""
        self._avatar = await self._stack.enter_async_context(open_avatar(self.source, self._speaker.on_event))
        self._speaker.attach(self._avatar)

    async def aclose(self) -> None:
        """Idempotent."""
        await self._stack.aclose()

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Waits while more than two minutes of sound wait to be spoken, so the sender's queue is the one that grows."""
        if isinstance(frame, AudioSegmentEnd):
            await self._end_segment(frame)
            return
        for converted in self._converted(frame):
            await self._say(converted)

    def clear_buffer(self) -> None:
        """The user interrupts: silent from the next frame on."""
        self._resampler = None
        if self._voice_only is not None:
            self._voice_only = asyncio.Queue(VOICE_ONLY_FRAMES)
        else:
            self._speaker.interrupt()

    def listen(self, frame: rtc.AudioFrame) -> None:
        """The user's voice, so that the person listens."""
        if self._voice_only is None:
            self._open.push_listening_audio(bytes(frame.data), frame.sample_rate)

    def set_state(self, state: str | None) -> None:
        """listening while the user speaks; None lets the voices decide."""
        if self._voice_only is None:
            self._open.set_state(state)

    def __aiter__(self) -> AsyncIterator[Media]:
        return self._media()

    async def _media(self) -> AsyncIterator[Media]:
        try:
            async for picture in self._open.frames():
                yield _video(picture)
                sound = self._speaker.sound(picture)
                if sound is not None and sound.samples and sound.rate_hz == VOICE_RATE_HZ:
                    yield _audio(sound)
                for _ in self._speaker.over(picture):
                    yield AudioSegmentEnd()
        except AvatarError as error:
            _LOG.error("the avatar is lost, its voice goes on without it: %s: %s", error.code, error)
        self._voice_only = asyncio.Queue(VOICE_ONLY_FRAMES)
        for _ in self._speaker.lost():
            yield AudioSegmentEnd()
        while True:
            yield await self._next_sound()

    async def _next_sound(self) -> rtc.AudioFrame | AudioSegmentEnd:
        """Looks again now and then, since clearing puts an empty queue in the place of the one that is waited for."""
        while True:
            assert self._voice_only is not None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(VOICE_ONLY_LOOK_S):
                    return await self._voice_only.get()

    @property
    def _open(self) -> Avatar:
        if self._avatar is None:
            raise RuntimeError("the generator was not started; await start() first")
        return self._avatar

    async def _end_segment(self, end: AudioSegmentEnd) -> None:
        resampler, self._resampler = self._resampler, None
        for rest in resampler.flush() if resampler else []:
            await self._say(rest)
        if self._voice_only is not None:
            await self._voice_only.put(end)
        else:
            self._speaker.finish()

    async def _say(self, frame: rtc.AudioFrame) -> None:
        if self._voice_only is None:
            await self._speaker.say(bytes(frame.data), frame.sample_rate, frame.num_channels)
        else:
            await self._voice_only.put(frame)

    def _converted(self, frame: rtc.AudioFrame) -> list[rtc.AudioFrame]:
        if frame.sample_rate == VOICE_RATE_HZ:
            return [frame]
        if self._resampler is None or self._resampler_hz != frame.sample_rate:
            self._resampler_hz = frame.sample_rate
            self._resampler = rtc.AudioResampler(frame.sample_rate, VOICE_RATE_HZ, num_channels=frame.num_channels)
        return list(self._resampler.push(frame))


class AvatarSession(BaseAvatarSession):  # type: ignore[type-arg]
    """For an agent: its voice goes through the avatar, which the agent's own participant publishes."""

    def __init__(self, source: Source | None = None, **options: Any) -> None:
        """source, or its fields by name: portrait, url, token, model, engine, size."""
        super().__init__()
        self.generator = AvatarGenerator(source or Source(**options))
        self._room: rtc.Room | None = None
        self._runner: AvatarRunner | None = None
        self._identity = ""

    @property
    def avatar_identity(self) -> str:
        return self._identity

    @property
    def provider(self) -> str:
        return "visavis"

    async def start(self, agent_session: voice.AgentSession, room: rtc.Room) -> None:
        """Call before `agent_session.start`. Raises AvatarError when there is no avatar to be had."""
        await self.generator.start()
        self._identity = room.local_participant.identity
        await super().start(agent_session, room)
        heard = QueueAudioOutput(sample_rate=VOICE_RATE_HZ, wait_playback_start=True)
        self._runner = AvatarRunner(room, audio_recv=heard, video_gen=self.generator, options=self.generator.options)
        await self._runner.start()
        agent_session.on("user_state_changed", self._on_user_state)
        agent_session.output.replace_audio_tail(heard)

    async def aclose(self) -> None:
        """Stop publishing and end the avatar; idempotent. The agent stays in the room."""
        if self._agent_session is not None:
            self._agent_session.off("user_state_changed", self._on_user_state)
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.aclose()
        await self.generator.aclose()
        # The base class would have the avatar's participant removed from the room, which here is the agent itself.
        room, self._room = self._room, None
        if room is not None:
            room.off("connection_state_changed", self._on_connection_state_changed)
        await super().aclose()

    def _on_user_state(self, event: Any) -> None:
        self.generator.set_state("listening" if event.new_state == "speaking" else None)


async def run_in_room(room: rtc.Room, generator: AvatarGenerator, audio_recv: Any) -> None:
    """Be the avatar of a room that is joined, until its sound ends or this is cancelled."""
    runner = AvatarRunner(room, audio_recv=audio_recv, video_gen=generator, options=generator.options)
    await runner.start()
    try:
        await runner.wait_for_complete()
    finally:
        await runner.aclose()


def _video(picture: Picture) -> rtc.VideoFrame:
    height, width = picture.image.shape[:2]
    return rtc.VideoFrame(width, height, rtc.VideoBufferType.RGB24, picture.image.tobytes())


def _audio(sound: Sound) -> rtc.AudioFrame:
    return rtc.AudioFrame(sound.pcm, sound.rate_hz, 1, sound.samples)
