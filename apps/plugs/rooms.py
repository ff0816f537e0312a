"""An avatar that joins a LiveKit room as a participant of its own, on behalf of an agent that sends it its voice.

Wire: livekit-agents 1.8.9, livekit/agents/voice/avatar/_datastream_io.py: byte streams on topic `lk.audio_stream`, RPCs
`lk.clear_buffer`, `lk.playback_started` and `lk.playback_finished`, and the token's attribute `lk.publish_on_behalf`.
All of that is done by livekit-agents itself; here a room is joined and its avatar kept until the room is left.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

from apps.plugs.avatar import Source
from apps.plugs.given import needs
from apps.plugs.livekit_agents import AvatarGenerator, run_in_room
from engine.errors import ArgumentError, AvatarError

try:
    from livekit import rtc
    from livekit.agents.types import ATTRIBUTE_PUBLISH_ON_BEHALF
    from livekit.agents.voice.avatar import DataStreamAudioReceiver
except ImportError as error:
    raise needs("livekit", error) from error

_LOG = logging.getLogger(__name__)

CONNECT_S = 15.0


class RoomError(AvatarError):
    """A LiveKit room cannot be joined, or was lost."""

    code = "room_error"
    retryable = True


class Room:
    """A room and the avatar in it. Open it with `join`; `aclose` it."""

    def __init__(self, room: rtc.Room, generator: AvatarGenerator, stack: AsyncExitStack) -> None:
        self.room, self.generator = room, generator
        self._stack = stack

    async def serve(self, audio_recv: Any = None) -> None:
        """Be the avatar until the room is left or this is cancelled. audio_recv: where the voice comes from; the
        agent's data stream when None.
        """
        left = asyncio.Event()
        self.room.on("disconnected", lambda *_: left.set())
        receiver = audio_recv or DataStreamAudioReceiver(self.room, sender_identity=self._agent())
        speaking = asyncio.ensure_future(run_in_room(self.room, self.generator, receiver))
        leaving = asyncio.ensure_future(left.wait())
        try:
            await asyncio.wait({speaking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if speaking.done():
                speaking.result()
        finally:
            for task in (speaking, leaving):
                task.cancel()
            await asyncio.gather(speaking, leaving, return_exceptions=True)

    async def aclose(self) -> None:
        """Leave the room and end the avatar; idempotent."""
        await self._stack.aclose()

    def _agent(self) -> str | None:
        identity = self.room.local_participant.attributes.get(ATTRIBUTE_PUBLISH_ON_BEHALF)
        return identity or None


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
    raise AssertionError("unreachable")
