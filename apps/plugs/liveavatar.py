"""A server for LiveAvatar's LITE clients, by their `AvatarSession(api_url="http://127.0.0.1:8766/v1/sessions")`.

Wire: livekit-plugins-liveavatar 1.8.9 and pipecat-ai 1.14.0 (services/heygen); docs.liveavatar.com. Three POSTs open
and close a session; a WebSocket takes the voice as base64 PCM int16 mono 24 kHz in `agent.speak` and tells what is
heard; the media are published in a LiveKit room: the client's (`livekit_config`), or one at this server's LiveKit
account.

Not here: FULL mode (speech recognition, language model and voice of theirs), `agent.state_updated`, acknowledgements
of each piece. `agent.start_listening`, which the stock clients send as soon as they have *sent* an utterance, takes
effect once it was heard. Sessions end after `max_session_duration`, or 5 minutes without a message.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import secrets
import uuid
from collections import deque
from typing import Any

from aiohttp import WSMsgType, web

from apps.plugs.desk import Desk, first_of, json_of, number_of, text_of
from apps.server.refusals import UnauthorizedError
from engine.errors import ArgumentError, AvatarError

RATE_HZ = 24_000
LARGEST_MESSAGE = 2 << 20
IDLE_S, HEARTBEAT_S = 300.0, 15.0
EVENTS_WAITING = 256
OK = 100
"""The `code` of a good answer."""


def routes(desk: Desk) -> list[web.RouteDef]:
    """For an aiohttp application."""
    live = LiveAvatar(desk)
    return [
        web.post("/v1/sessions/token", live.token),
        web.post("/v1/sessions/start", live.start),
        web.post("/v1/sessions/stop", live.stop),
        web.get("/v1/sessions/ws", live.talk),
    ]


class LiveAvatar:
    """The handlers, and which sessions are open."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._open: dict[str, asyncio.Event] = {}
        """Set to end a session."""

    async def token(self, request: web.Request) -> web.Response:
        """POST /v1/sessions/token: what a session will be."""
        self.desk.admit(request)
        body = await json_of(request)
        if text_of(body, "mode", "LITE") != "LITE":
            raise ArgumentError("only mode LITE is served here")
        self.desk.source(text_of(body, "avatar_id"))
        session = {**body, "session_id": str(uuid.uuid4()), "room": self._room(body.get("livekit_config"))}
        return _good({"session_id": session["session_id"], "session_token": self.desk.ticket(session)})

    async def start(self, request: web.Request) -> web.Response:
        """POST /v1/sessions/start: where the WebSocket is."""
        session = self.desk.redeem(_bearer(request))
        scheme, room = ("wss" if request.secure else "ws"), session["room"]
        ticket = self.desk.ticket(session)
        return _good(
            {
                "session_id": session["session_id"],
                "livekit_url": room["livekit_url"],
                "livekit_client_token": room.get("client_token", ""),
                "livekit_agent_token": room.get("agent_token", ""),
                "max_session_duration": round(self._session_s(session)),
                "ws_url": f"{scheme}://{request.host}/v1/sessions/ws?token={ticket}",
            }
        )

    async def stop(self, request: web.Request) -> web.Response:
        """POST /v1/sessions/stop: idempotent. The session's id, which nobody else was told, is enough."""
        ending = self._open.get(text_of(await json_of(request), "session_id"))
        if ending is not None:
            ending.set()
        return _good({})

    async def talk(self, request: web.Request) -> web.StreamResponse:
        """The WebSocket of a session."""
        session = self.desk.redeem(request.query.get("token", ""))
        ws = web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE, heartbeat=HEARTBEAT_S)
        await ws.prepare(request)
        line = _Line(ws)
        ending = self._open[session["session_id"]] = asyncio.Event()
        try:
            await line.say({"type": "session.state_updated", "state": "connecting"})
            async with self.desk.place():
                await self._converse(line, session, ending)
        except AvatarError as error:
            await line.say({"type": "error", "error": {"code": error.code, "message": str(error)}})
        finally:
            del self._open[session["session_id"]]
        await line.say({"type": "session.state_updated", "state": "closed"})
        await ws.close()
        return ws

    async def _converse(self, line: _Line, session: dict[str, Any], ending: asyncio.Event) -> None:
        from apps.plugs.rooms import WireReceiver, join

        source, place = self.desk.source(text_of(session, "avatar_id")), session["room"]
        room = await join(place["livekit_url"], place["livekit_client_token"], source)
        try:
            talk = _Talk(line, room.generator)
            talk.mouth = WireReceiver(RATE_HZ, talk.started, talk.finished)
            await line.say({"type": "session.state_updated", "state": "connected"})
            ends = asyncio.sleep(self._session_s(session))
            await first_of(room.serve(talk.mouth), talk.read(), line.send(), ending.wait(), ends)
        finally:
            await room.aclose()

    def _session_s(self, session: dict[str, Any]) -> float:
        longest = self.desk.settings.session_s
        return min(longest, number_of({"max": session.get("max_session_duration") or longest}, "max", longest))

    def _room(self, given: Any) -> dict[str, str]:
        """Where the avatar publishes: the client's room, or a new one. Raises ArgumentError."""
        if isinstance(given, dict):
            return {name: text_of(given, name) for name in ("livekit_url", "livekit_client_token")}
        from apps.plugs.rooms import access_token

        account = self.desk.settings.livekit
        if account is None:
            raise ArgumentError("give livekit_config: this server has no LiveKit server to open rooms at")
        name = f"visavis-{secrets.token_hex(8)}"
        avatar, client, agent = (access_token(account, name, who) for who in ("avatar", "client", "agent"))
        return {
            "livekit_url": account.url, "livekit_client_token": avatar, "client_token": client, "agent_token": agent,
        }  # fmt: skip


class _Line:
    """Events on their way to the client; when it does not read, the oldest go."""

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self.ws = ws
        self._waiting: deque[dict[str, Any]] = deque(maxlen=EVENTS_WAITING)
        self._came = asyncio.Event()

    def tell(self, event: dict[str, Any]) -> None:
        self._waiting.append({"event_id": str(uuid.uuid4()), **event})
        self._came.set()

    async def say(self, event: dict[str, Any]) -> None:
        """At once."""
        if not self.ws.closed:
            try:
                await self.ws.send_json({"event_id": str(uuid.uuid4()), **event})
            except ConnectionError:
                return

    async def send(self) -> None:
        while True:
            while not self._waiting:
                self._came.clear()
                await self._came.wait()
            await self.say(self._waiting.popleft())


class _Talk:
    """One client's messages and what becomes of them."""

    def __init__(self, line: _Line, generator: Any) -> None:
        self.mouth: Any = None
        self._line, self._generator = line, generator
        self._listening = False
        self._event_id = ""

    def started(self) -> None:
        self._generator.set_state(None)
        self._line.tell({"type": "agent.speak_started", "event_id": self._event_id, "task": {"id": self._event_id}})

    def finished(self, interrupted: bool) -> None:
        kind = "agent.speak_interrupted" if interrupted else "agent.speak_ended"
        self._line.tell({"type": kind, "event_id": self._event_id, "task": {"id": self._event_id}})
        self._show_state()

    async def read(self) -> None:
        """Until the client leaves, or says nothing for five minutes."""
        while True:
            try:
                message = await self._line.ws.receive(timeout=IDLE_S)
            except TimeoutError:
                return
            if message.type != WSMsgType.TEXT:
                return
            try:
                self._obey(message.data)
            except AvatarError as error:
                self._line.tell({"type": "error", "error": {"code": error.code, "message": str(error)}})

    def _obey(self, text: str) -> None:
        try:
            message = json.loads(text)
        except ValueError as error:
            raise ArgumentError(f"a message is no JSON: {error}") from error
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "agent.speak":
            self._event_id = str(message.get("event_id") or "")
            self.mouth.put(_pcm(message.get("audio")))
        elif kind == "agent.speak_end":
            self.mouth.finish()
        elif kind == "agent.interrupt":
            self.mouth.interrupt()
        elif kind in ("agent.start_listening", "agent.stop_listening"):
            self._listening = kind == "agent.start_listening"
            self._show_state()

    def _show_state(self) -> None:
        if self.mouth.silent:
            self._generator.set_state("listening" if self._listening else None)


def _pcm(audio: Any) -> bytes:
    try:
        return base64.b64decode(audio, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ArgumentError("`audio` must be base64 of PCM int16 mono 24 kHz") from error


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthorizedError("give the session token as `Authorization: Bearer`")
    return token


def _good(data: dict[str, Any]) -> web.Response:
    return web.json_response({"code": OK, "data": data, "message": "ok"})
