"""WebRTC for browsers and aiortc clients: one POST with an offer, and a data channel for the voice and orders.

    POST /v1/webrtc  {"type": "offer", "sdp": …, "portrait": "anna", "sample_rate": 24000}
    → {"type": "answer", "sdp": …}

The answer sends the avatar's video (VP8 or H.264) and sound (Opus); a microphone track is what the person listens to.
A data channel that the client opens takes binary PCM int16 mono at `sample_rate` (16000), which the person speaks, and
these of docs/protocol.md as JSON text: `utterance.end`, `interrupt`, `state.set`, `ping`. It gives `playback.started`,
`playback.finished`, `pong` and `error` as there, without `event` and `pts_us`; utterances are numbered by the server.
The session lasts as long as the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web

from apps.plugs.avatar import Avatar, open_avatar
from apps.plugs.desk import Desk, first_of, json_of, text_of
from apps.plugs.feed import Feed
from apps.plugs.speaker import Speaker
from engine.audio.resample import MAX_RATE_HZ, MIN_RATE_HZ
from engine.errors import ArgumentError, AvatarError
from engine.events import EventKind, SessionEvent
from engine.types import AvatarState

CONNECT_S = 30.0
STATES = {state.name.lower(): state.name.lower() for state in AvatarState} | {"auto": None}


def routes(desk: Desk) -> list[web.RouteDef]:
    """For an aiohttp application."""

    async def offer(request: web.Request) -> web.Response:
        """POST /v1/webrtc."""
        desk.admit(request)
        body = await json_of(request)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(desk.place())
            call = Call(_rate(body))
            source = desk.source(text_of(body, "portrait", ""))
            avatar = await stack.enter_async_context(open_avatar(source, call.on_event))
            stack.push_async_callback(call.peer.aclose)
            answer = await call.peer.answer(text_of(body, "sdp"))
            desk.start(_hold(call, avatar, stack.pop_all(), desk.settings.session_s), "call")
        return web.json_response({"type": "answer", "sdp": answer})

    return [web.post("/v1/webrtc", offer)]


async def _hold(call: Call, avatar: Avatar, stack: AsyncExitStack, session_s: float) -> None:
    async with stack:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(session_s):
                await call.serve(avatar)


class Call:
    """One connection and its avatar."""

    def __init__(self, rate_hz: int) -> None:
        from apps.plugs.webrtc import Peer

        self.peer = Peer(self._hear)
        self.speaker = Speaker()
        self._feed = Feed(self.speaker, rate_hz)
        self._avatar: Avatar | None = None
        self._channel: Any = None
        self.peer.connection.on("datachannel", self._on_channel)

    async def serve(self, avatar: Avatar) -> None:
        """Until the connection ends, or never stands."""
        self._avatar = avatar
        self.speaker.attach(avatar)
        await first_of(self._feed.run(), self._show(avatar), self.peer.closed.wait(), self._give_up())

    def on_event(self, event: SessionEvent) -> None:
        """For `open_avatar`."""
        self.speaker.on_event(event)
        if event.kind == EventKind.TURN_STARTED:
            self._tell({"type": "playback.started", "utterance": event.turn_id})
        elif event.kind == EventKind.TURN_FINISHED:
            self._tell(
                {
                    "type": "playback.finished", "utterance": event.turn_id, "position_s": event.turn_ms / 1000,
                    "position_samples": event.turn_samples, "interrupted": not event.complete,
                    "reason": "complete" if event.complete else event.detail,
                }
            )  # fmt: skip

    async def _show(self, avatar: Avatar) -> None:
        async for frame in avatar.frames():
            self.peer.show(frame, self.speaker.sound(frame))
            self.speaker.over(frame)

    async def _give_up(self) -> None:
        await asyncio.sleep(CONNECT_S)
        if self.peer.connected.is_set():
            await asyncio.Event().wait()

    def _hear(self, pcm: bytes, rate_hz: int) -> None:
        if self._avatar is not None:
            self._avatar.push_listening_audio(pcm, rate_hz)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.on("message", self._on_message)

    def _on_message(self, data: str | bytes) -> None:
        try:
            if isinstance(data, bytes):
                self._feed.put(data)
            else:
                self._obey(data)
        except AvatarError as error:
            self._tell({"type": "error", "code": error.code, "message": str(error), "retryable": error.retryable})

    def _obey(self, text: str) -> None:
        try:
            message = json.loads(text)
        except ValueError as error:
            raise ArgumentError(f"a message is no JSON: {error}") from error
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "utterance.end":
            self._feed.finish()
        elif kind == "interrupt":
            self._feed.interrupt()
        elif kind == "state.set":
            if message.get("state") not in STATES:
                raise ArgumentError(f"state must be one of {', '.join(STATES)}")
            if self._avatar is not None:
                self._avatar.set_state(STATES[message["state"]])
        elif kind == "ping":
            self._tell({"type": "pong", "t": message.get("t")})

    def _tell(self, message: dict[str, Any]) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(json.dumps(message))


def _rate(body: dict[str, Any]) -> int:
    rate_hz = body.get("sample_rate", 16_000)
    if not isinstance(rate_hz, int) or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise ArgumentError(f"sample_rate must lie between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz")
    return rate_hz
