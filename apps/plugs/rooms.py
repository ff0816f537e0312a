"""An avatar that joins a LiveKit room as a participant of its own, on behalf of an agent that sends it its voice.

Wire: livekit-agents 1.8.9, livekit/agents/voice/avatar/_datastream_io.py: byte streams on topic `lk.audio_stream`, RPCs
`lk.clear_buffer`, `lk.playback_started` and `lk.playback_finished`, and the token's attribute `lk.publish_on_behalf`.
All of that is done by livekit-agents itself; here a room is joined and its avatar kept until the room is left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

from apps.plugs.avatar import Source
from apps.plugs.desk import Desk, LiveKitAccount, first_of
from apps.plugs.feed import MOST_S
from apps.plugs.given import needs
from apps.plugs.livekit_agents import AvatarGenerator, run_in_room
from engine.errors import ArgumentError, AudioBufferFullError, AudioFormatError, AvatarError

try:
    from livekit import api, rtc
    from livekit.agents.types import ATTRIBUTE_PUBLISH_ON_BEHALF
    from livekit.agents.voice.avatar import AudioReceiver, AudioSegmentEnd, DataStreamAudioReceiver
except ImportError as error:
    raise needs("livekit", error) from error

CONNECT_S = 15.0


class RoomError(AvatarError):
    """A LiveKit room cannot be joined, or was lost."""

    code = "room_error"
    retryable = True


class WireReceiver(AudioReceiver):
    """Sound that comes by another wire than the room's, for `Room.serve`; what `apps.plugs.feed.Feed` is to a peer."""

    def __init__(self, rate_hz: int, on_started: Callable[[], None], on_finished: Callable[[bool], None]) -> None:
        """on_started: the first sound of an utterance is played. on_finished: with whether it was interrupted."""
        super().__init__()
        self.rate_hz = rate_hz
        self._on_started, self._on_finished = on_started, on_finished
        self._waiting: deque[rtc.AudioFrame | AudioSegmentEnd] = deque()
        self._samples = 0
        self._came = asyncio.Event()
        self._open = False
        """Sound came since the last utterance was finished."""
        self._under_way = 0
        """Utterances that are not over."""

    def put(self, pcm: bytes) -> None:
        """PCM int16 mono. Raises AudioFormatError or AudioBufferFullError."""
        if len(pcm) % 2:
            raise AudioFormatError(f"{len(pcm)} bytes are no whole number of int16 samples")
        if self._samples > self.rate_hz * MOST_S:
            raise AudioBufferFullError(f"more than {MOST_S:g} s of sound wait beside what the avatar holds")
        if not pcm:
            return
        self._under_way += not self._open
        self._open = True
        step = 2 * self.rate_hz // 10
        for start in range(0, len(pcm), step):
            piece = pcm[start : start + step]
            self._waiting.append(rtc.AudioFrame(piece, self.rate_hz, 1, len(piece) // 2))
            self._samples += len(piece) // 2
        self._came.set()

    def finish(self) -> None:
        """The utterance is complete."""
        self._open = False
        self._waiting.append(AudioSegmentEnd())
        self._came.set()

    def interrupt(self) -> None:
        """Drop what waits and fall silent."""
        self._waiting.clear()
        self._samples = self._under_way = 0
        self._open = False
        self.emit("clear_buffer")

    @property
    def silent(self) -> bool:
        """Nothing is said, and nothing waits."""
        return not self._under_way

    def notify_playback_started(self) -> None:
        self._on_started()

    def notify_playback_finished(self, playback_position: float, interrupted: bool) -> None:
        if not interrupted:
            self._under_way = max(0, self._under_way - 1)
        self._on_finished(interrupted)

    def __aiter__(self) -> AsyncIterator[rtc.AudioFrame | AudioSegmentEnd]:
        return self

    async def __anext__(self) -> rtc.AudioFrame | AudioSegmentEnd:
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        media = self._waiting.popleft()
        if isinstance(media, rtc.AudioFrame):
            self._samples -= media.samples_per_channel
        return media


class Room:
    """A room and the avatar in it. Open it with `join`; `aclose` it."""

    def __init__(self, room: rtc.Room, generator: AvatarGenerator, stack: AsyncExitStack) -> None:
        self.room, self.generator = room, generator
        self._stack = stack

    async def serve(self, audio_recv: Any = None) -> None:
        """Be the avatar until the room or the agent is gone, or this is cancelled. audio_recv: where the voice comes
        from; the agent's data stream when None.
        """
        left, agent = asyncio.Event(), self._agent()
        self.room.on("disconnected", lambda *_: left.set())
        self.room.on("participant_disconnected", lambda who: left.set() if who.identity == agent else None)
        receiver = audio_recv or DataStreamAudioReceiver(self.room, sender_identity=agent)
        await first_of(run_in_room(self.room, self.generator, receiver), left.wait())

    async def aclose(self) -> None:
        """Leave the room and end the avatar; idempotent."""
        await self._stack.aclose()

    def _agent(self) -> str | None:
        identity = self.room.local_participant.attributes.get(ATTRIBUTE_PUBLISH_ON_BEHALF)
        return identity or None


def access_token(account: LiveKitAccount, room: str, identity: str, **options: Any) -> str:
    """A token to join a room, which is made by that. options: further grants."""
    grants = api.VideoGrants(room_join=True, room=room, **options)
    token = api.AccessToken(account.key, account.secret).with_identity(identity).with_grants(grants)
    return str(token.to_jwt())


async def join(url: str, token: str, source: Source) -> Room:
    """Open the avatar, then join the room with a token that allows it to publish.

    Raises ArgumentError, RoomError, or what opening the avatar raises.
    """
    if urlsplit(url).scheme not in ("ws", "wss", "http", "https"):
        raise ArgumentError(f"{url!r} is no LiveKit URL: it must begin with ws:// or wss://")
    generator, room = AvatarGenerator(source), rtc.Room()
    async with AsyncExitStack() as stack:
        await generator.start()
        stack.push_async_callback(generator.aclose)
        try:
            async with asyncio.timeout(CONNECT_S):
                await room.connect(url, token)
        except (rtc.ConnectError, TimeoutError) as error:
            raise RoomError(f"the LiveKit room at {url} cannot be joined: {error or 'no answer'}") from error
        stack.push_async_callback(room.disconnect)
        return Room(room, generator, stack.pop_all())


async def serve_in_background(desk: Desk, url: str, token: str, source: Source) -> None:
    """Join a room and be its agent's avatar until one of them leaves. Raises EngineFullError, or as `join`."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(desk.place())
        room = await join(url, token, source)
        stack.push_async_callback(room.aclose)
        desk.start(_serve(room, stack.pop_all(), desk.settings.session_s), f"room {room.room.name}")


async def _serve(room: Room, stack: AsyncExitStack, session_s: float) -> None:
    async with stack:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(session_s):
                await room.serve()
