"""The server: one port for WebSockets and the page, one worker for all sessions, from its start to a graceful stop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

import engine
from apps.server.access import Access, TokenFilter
from apps.server.config import ServeConfig
from apps.server.connection import Connection, Leave
from apps.server.desk import PortraitDesk, engine_for_faces
from apps.server.errors import CLOSE_GOING_AWAY, UnknownPortraitError
from apps.server.health import Figures, Health
from apps.server.house import SharedHouse
from apps.server.limits import Gate, Place
from apps.server.messages import say
from apps.server.protocol import HEADER, MAX_PAYLOAD_BYTES, PATH, SUBPROTOCOL
from apps.server.routes import Files, json_response, not_found, refusal, response, shared, upgrade_required
from apps.server.sockets import StrangersFilter, bounded, keep_short
from apps.server.speech import SpeechDesk
from apps.speech import Speaker
from engine.audio.silero import silero
from engine.errors import AvatarError, EngineFullError, OutputNotWritableError
from engine.pipeline.opening import MOCK
from engine.supervisor import SupervisedWorker

_LOG = logging.getLogger(__name__)

PING_S, PONG_S = 5.0, 10.0
"""A lost peer is found after both, and a second for the clocks."""

_CLOSE_S = 2.0
"""How long a closing handshake may take."""

_WRITE_BYTES = 16 << 10
"""Unsent bytes from which on sending waits. What more is buffered would only be late."""

_LOOK_S = 0.25
_INFO, _PORTRAITS, _PORTRAIT_ENDING = "/v1/info", "/v1/portraits/", ".jpg"


_SWITCH_S = 0.0005


def share_fairly() -> None:
    """For a process that only serves: threads that encode and listen get their turn beside the event loop after half a
    millisecond, and not after Python's 5 ms, which is an eighth of a frame.
    """
    sys.setswitchinterval(_SWITCH_S)


class AvatarServer:
    """Start it, and stop it by `drain` and `aclose`."""

    def __init__(self, config: ServeConfig, speaker: Speaker | None = None) -> None:
        """Raises ArgumentError or FileMissingError."""
        self.config = config
        self.access = Access(config.access)
        self.figures = Figures()
        mock = config.model == MOCK or config.backend == MOCK
        backend = MOCK if mock else config.backend
        self.worker = SupervisedWorker(
            config.model,
            backend,
            threads=config.threads,
            picture_px=config.size_px,
            capacity=config.limits.sessions,
            pipeline=config.pipeline,
        )
        desk = PortraitDesk(config.portraits, partial(engine_for_faces, config.model, backend))
        self.house = SharedHouse(config, self.worker, desk, SpeechDesk(speaker), self.figures)
        self.files = Files(config.page)
        self._connections: set[Connection] = set()
        self._admitted: WeakKeyDictionary[ServerConnection, Place] = WeakKeyDictionary()
        self._listener: Listener | None = None
        self._watch: asyncio.Task[None] | None = None
        self._gate: Gate | None = None
        self._health: Health | None = None

    @property
    def gate(self) -> Gate:
        assert self._gate is not None, "the server has not started"
        return self._gate

    @property
    def port(self) -> int:
        assert self._listener is not None, "the server has not started"
        return int(next(iter(self._listener.sockets)).getsockname()[1])

    async def start(self) -> None:
        """Warm the model up, then listen. Raises AvatarError; close it then, too."""
        # Read while the worker starts, and not when the first client comes.
        await asyncio.gather(self.worker.start(), asyncio.to_thread(silero))
        self._gate = Gate(self.config.limits, self.worker.capacity)
        about = {"version": engine.__version__, "model": self.worker.info.model, "backend": self.worker.info.backend}
        self._health = Health(self._gate, self.figures, about)
        # The first client must not wait for the face finder.
        await self.house.desk.face(self.house.desk.choose(None), self.config.size_px, seed=0)
        self._watch = asyncio.create_task(self._watch_worker(), name="server-watch")
        self._listener = await self._listen()

    async def drain(self, seconds: float | None = None) -> None:
        """Take no new sessions; those that run may finish within the time, and are ended then."""
        seconds = self.config.limits.drain_s if seconds is None else seconds
        self.gate.draining = True
        for seat in self.house.seats.all:
            seat.session.say(say("draining", seconds=seconds))
            if seat.holder is None:
                await self.house.end(seat)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.house.seats.wait_empty()
        for connection in list(self._connections):
            connection.stop(Leave(CLOSE_GOING_AWAY))

    async def aclose(self) -> None:
        """End every session, then free the model; idempotent, bounded in time."""
        for connection in list(self._connections):
            connection.stop(Leave(CLOSE_GOING_AWAY))
        if self._listener is not None:
            self._listener.close(close_connections=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * _CLOSE_S):
                    await self._listener.wait_closed()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self.house.aclose()
        await self.worker.aclose()

    async def _listen(self) -> Listener:
        config = self.config
        logger = logging.getLogger(f"{__name__}.socket")
        logger.addFilter(StrangersFilter())
        logger.addFilter(TokenFilter(config.access.token))
        try:
            return await serve(
                self._serve,
                config.access.host,
                config.port,
                process_request=self._answer,
                select_subprotocol=_select_subprotocol,
                compression=None,
                max_size=HEADER.size + MAX_PAYLOAD_BYTES,
                max_queue=8,
                write_limit=_WRITE_BYTES,
                open_timeout=config.limits.handshake_s,
                ping_interval=PING_S,
                ping_timeout=PONG_S,
                close_timeout=_CLOSE_S,
                server_header=None,
                logger=logger,
                create_connection=bounded(config.limits.connections),
            )
        except OSError as error:
            raise OutputNotWritableError(
                f"{config.access.host}:{config.port} cannot be listened on: {_reason(error)}; give another --port"
            ) from error

    async def _answer(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer a GET request; None lets a WebSocket in."""
        path = unquote(urlsplit(request.path).path)
        try:
            peer = socket.remote_address[0] if socket.remote_address else ""
            caller = self.access.check(request.headers, request.path, peer, needs_token=_is_guarded(path))
            if path == PATH:
                return self._admit(socket, request, caller)
            return shared(await self._page(path), request.headers.get("Origin"))
        except AvatarError as error:
            self.figures.refusals.add(label=error.code)
            return refusal(error)

    def _admit(self, socket: ServerConnection, request: Request, caller: str) -> Response | None:
        if "upgrade" not in request.headers.get("Connection", "").lower():
            return upgrade_required()
        self.gate.ready = self.worker.ready
        try:
            self._admitted[socket] = self.gate.admit(caller)
        except EngineFullError:
            if not self.house.seats.any_waiting:
                raise
            # It may be one of those that come back; hello tells.
        return None

    async def _page(self, path: str) -> Response:
        assert self._health is not None
        if path == _INFO:
            return json_response(self._info())
        if path.startswith(_PORTRAITS) and path.endswith(_PORTRAIT_ENDING):
            try:
                picture = await self.house.desk.thumbnail(path.removeprefix(_PORTRAITS).removesuffix(_PORTRAIT_ENDING))
            except UnknownPortraitError:
                return not_found()
            return response(200, "image/jpeg", picture, {"Cache-Control": "max-age=3600"})
        if (found := self._health.answer(path)) is not None:
            status, content_type, body = found
            return response(status, content_type, body, {"Cache-Control": "no-store"})
        return self.files.answer(path) or not_found()

    def _info(self) -> dict[str, Any]:
        return {
            **self.house.info(),
            "ready": self.worker.ready and not self.gate.draining,
            "draining": self.gate.draining,
            "sessions": self.gate.taken,
            "capacity": self.gate.places,
        }

    async def _serve(self, socket: ServerConnection) -> None:
        keep_short(socket)
        connection = Connection(socket, self.house, self._admitted.pop(socket, None))
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self.figures.closes.add(label=str(socket.close_code))

    async def _watch_worker(self) -> None:
        """Readiness follows the worker; how late this wakes up is how late everything is."""
        loop = asyncio.get_running_loop()
        while True:
            asked_s = loop.time()
            await asyncio.sleep(_LOOK_S)
            self.figures.loop_lag.observe(loop.time() - asked_s - _LOOK_S)
            self.gate.ready = self.worker.ready


def _is_guarded(path: str) -> bool:
    """Whether the token is needed: for everything but the page's files and two words about health."""
    return path.startswith("/v1/") or path == "/metrics"


def _select_subprotocol(socket: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


def _reason(error: OSError) -> str:
    """Without asyncio's own sentence around it."""
    return os.strerror(error.errno) if error.errno else str(error)
