"""A server that Simli's stock clients take for theirs: `SimliClient(key, config, simliURL="http://127.0.0.1:8766")`.

Wire: simli-ai 2.1.0 (simli/transports), livekit-plugins-simli 1.8.9; docs.simli.com. Binary PCM int16 mono 16 kHz goes
in; `SKIP` cuts, `DONE` ends, a message that begins with `PLAY_IMMEDIATE` replaces what waits. Out come `START`,
`SPEAK`, `SILENT`, `CLOSING REASON: …`, `STOP`, `ERROR: …`, and pictures and sound by WebRTC, or in a LiveKit room.

That wire has no end of an utterance; here one ends when no sound came for `GAP_S`. Cameras, backgrounds, foregrounds
and `startFrame` are answered or passed over as not supported; `model` and `sessionAggregator` mean nothing here.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from apps.plugs.avatar import Avatar, open_avatar
from apps.plugs.desk import Desk, first_of, json_of, number_of, text_of
from apps.plugs.feed import Feed
from apps.plugs.speaker import Speaker
from apps.server.errors import UnknownPortraitError
from apps.server.refusals import UnauthorizedError
from engine.errors import ArgumentError, AvatarError
from engine.types import FPS

RATE_HZ = 16_000
LARGEST_MESSAGE = 1 << 20
OFFER_S, HEARTBEAT_S = 30.0, 15.0

GAP_S = 0.3
"""Stock clients send pieces of 187 ms; when none came for so long, what was said is complete."""

IMMEDIATE = b"PLAY_IMMEDIATE"
UNSUPPORTED = {b"CAM_": "camera", b"BG_": "backgrounds", b"FG_": "foregrounds"}


class Mouth(Protocol):
    """A Feed, or a room's WireReceiver."""

    def put(self, pcm: bytes) -> None: ...

    def finish(self) -> None: ...

    def interrupt(self) -> None: ...

    @property
    def silent(self) -> bool: ...


def routes(desk: Desk) -> list[web.RouteDef]:
    """For an aiohttp application."""
    simli = Simli(desk)
    return [
        web.post("/compose/token", simli.token),
        web.get("/compose/ice", simli.ice),
        web.get("/compose/webrtc/p2p", simli.p2p),
        web.get("/compose/webrtc/livekit", simli.livekit),
        web.post("/integrations/livekit/agents", simli.join_agent),
    ]


class Simli:
    """The handlers."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def token(self, request: web.Request) -> web.Response:
        """POST /compose/token: what a session will be, for a session token."""
        body = await json_of(request)
        try:
            self.desk.admit(request)
            self.desk.source(_face(body))
        except (UnauthorizedError, UnknownPortraitError) as error:
            # The clients know these by name.
            name = "INVALID_API_KEY" if isinstance(error, UnauthorizedError) else "INVALID_FACE_ID"
            return web.json_response({"detail": name, "message": str(error)}, status=401 if "KEY" in name else 400)
        if text_of(body, "audioInputFormat", "pcm16") != "pcm16":
            raise ArgumentError("audioInputFormat must be pcm16")
        number_of(body, "maxSessionLength", 600)
        number_of(body, "maxIdleTime", 30)
        return web.json_response({"session_token": self.desk.ticket(body)})

    async def ice(self, request: web.Request) -> web.Response:
        """GET /compose/ice: no STUN or TURN server is needed on one machine or network."""
        self.desk.admit(request)
        return web.json_response([])

    async def p2p(self, request: web.Request) -> web.StreamResponse:
        """WebSocket: an SDP offer first, then sound; media by WebRTC."""
        return await self._session(request, self._by_webrtc)

    async def livekit(self, request: web.Request) -> web.StreamResponse:
        """WebSocket: a room's address comes first, then as `p2p`; media in that room."""
        return await self._session(request, self._by_room)

    async def join_agent(self, request: web.Request) -> web.Response:
        """POST /integrations/livekit/agents: be the avatar of an agent's room."""
        from apps.plugs.rooms import serve_in_background

        body = await json_of(request)
        settings = self.desk.redeem(text_of(body, "session_token"))
        source = self.desk.source(_face(settings))
        await serve_in_background(self.desk, text_of(body, "livekit_url"), text_of(body, "livekit_token"), source)
        return web.json_response({"status": "ok"})

    async def _session(self, request: web.Request, serve: Callable[..., Any]) -> web.StreamResponse:
        settings = self.desk.redeem(request.query.get("session_token", ""))
        ws = web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE, heartbeat=HEARTBEAT_S)
        await ws.prepare(request)
        try:
            async with self.desk.place():
                await serve(ws, settings)
        except AvatarError as error:
            await _tell(ws, f"ERROR: {error.code}: {error}")
        await ws.close()
        return ws

    async def _by_webrtc(self, ws: web.WebSocketResponse, settings: dict[str, Any]) -> None:
        from apps.plugs.webrtc import Peer

        offer = await _offer(ws)
        speaker, peer = Speaker(), Peer()
        feed = Feed(speaker, RATE_HZ)
        async with open_avatar(self.desk.source(_face(settings)), speaker.on_event) as avatar:
            speaker.attach(avatar)
            try:
                await _tell(ws, json.dumps({"sdp": await peer.answer(offer), "type": "answer"}))
                await _tell(ws, "START")
                showing = _show(ws, avatar, speaker, feed, peer)
                await first_of(feed.run(), showing, _converse(ws, feed, settings), peer.closed.wait())
            finally:
                await peer.aclose()

    async def _by_room(self, ws: web.WebSocketResponse, settings: dict[str, Any]) -> None:
        from apps.plugs.rooms import WireReceiver, access_token, join

        account = self.desk.settings.livekit
        if account is None:
            raise ArgumentError("this server has no LiveKit server to open rooms at; use TransportMode.P2P")
        source, name = self.desk.source(_face(settings)), f"visavis-{secrets.token_hex(8)}"
        told: asyncio.Queue[str] = asyncio.Queue()
        receiver = WireReceiver(RATE_HZ, lambda: told.put_nowait("SPEAK"), lambda _: told.put_nowait("SILENT"))
        room = await join(account.url, access_token(account, name, "simli-avatar"), source)
        try:
            client = access_token(account, name, "simli-client")
            await _tell(ws, json.dumps({"livekit_url": account.url, "livekit_token": client}))
            size = {"fps": FPS, "width": source.size, "height": source.size}
            await _tell(ws, json.dumps({"video_metadata": size}))
            await _tell(ws, "START")
            await first_of(room.serve(receiver), _converse(ws, receiver, settings), _forward(ws, told))
        finally:
            await room.aclose()


async def _offer(ws: web.WebSocketResponse) -> str:
    try:
        offer = await ws.receive_json(timeout=OFFER_S)
    except (TimeoutError, TypeError, ValueError) as error:
        raise ArgumentError(f"an SDP offer as JSON must come first, within {OFFER_S:g} s") from error
    if not isinstance(offer, dict):
        raise ArgumentError("the SDP offer must be a JSON object with `sdp`")
    return text_of(offer, "sdp")


async def _show(ws: web.WebSocketResponse, avatar: Avatar, speaker: Speaker, mouth: Mouth, peer: Any) -> None:
    speaking = False
    async for frame in avatar.frames():
        sound = speaker.sound(frame)
        peer.show(frame, sound)
        speaker.over(frame)
        if sound is not None and not speaking:
            speaking = True
            await _tell(ws, "SPEAK")
        elif speaking and mouth.silent:
            speaking = False
            await _tell(ws, "SILENT")


async def _converse(ws: web.WebSocketResponse, mouth: Mouth, settings: dict[str, Any]) -> None:
    """Take sound and orders until the client leaves or a time is over."""
    session_s, idle_s = number_of(settings, "maxSessionLength", 600), number_of(settings, "maxIdleTime", 30)
    ends = time.monotonic() + session_s
    spoke = heard = time.monotonic()
    complete = True
    while (now := time.monotonic()) < ends and now - spoke < idle_s:
        wait_s = min(GAP_S, ends - now, idle_s - (now - spoke))
        try:
            message = await ws.receive(timeout=max(0.001, wait_s))
        except TimeoutError:
            message = None
        if message is not None and not _obeys(message.type):
            return
        if message is not None:
            data = message.data.encode() if isinstance(message.data, str) else message.data
            if data == b"DONE":
                return
            if await _order(ws, mouth, data, silent=complete):
                heard, complete = time.monotonic(), False
        if not complete and time.monotonic() - heard >= GAP_S:
            complete = True
            mouth.finish()
        if not mouth.silent:
            spoke = time.monotonic()
    await _tell(ws, f"CLOSING REASON: {'MAX' if time.monotonic() >= ends else 'IDLE'}")
    await _tell(ws, "STOP")


async def _order(ws: web.WebSocketResponse, mouth: Mouth, data: bytes, silent: bool) -> bool:
    """Do what a message says; True when it was sound of an utterance."""
    if data == b"SKIP":
        mouth.interrupt()
        return False
    if data.startswith(b"ping"):
        await _tell(ws, data.replace(b"ping", b"pong", 1).decode("utf-8", "replace"))
        return False
    for prefix, what in UNSUPPORTED.items():
        if data.startswith(prefix):
            await _tell(ws, f"Selected model does not support {what}")
            return False
    if data.startswith(IMMEDIATE):
        data = data.removeprefix(IMMEDIATE)
        mouth.interrupt()
    elif silent and not any(data):
        # Clients send silence to wake Simli's servers; it is nothing to say.
        return False
    mouth.put(data)
    return True


async def _forward(ws: web.WebSocketResponse, told: asyncio.Queue[str]) -> None:
    while True:
        await _tell(ws, await told.get())


async def _tell(ws: web.WebSocketResponse, text: str) -> None:
    """A client that has left is noticed where its messages are read."""
    if not ws.closed:
        try:
            await ws.send_str(text)
        except ConnectionError:
            return


def _obeys(kind: WSMsgType) -> bool:
    return kind in (WSMsgType.TEXT, WSMsgType.BINARY)


def _face(body: dict[str, Any]) -> str:
    return text_of(body, "faceId", "").partition("/")[0]
