"""A connection to a server that comes back: dialled, welcomed, read and written, and resumed when it is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import urlsplit, urlunsplit

from apps.client.errors import ConnectionLostError, NoServerError, closing_error, error_of
from apps.client.outbox import Outbox
from apps.server.protocol import HEADER, LAST_PART, PATH, PORTRAIT, PROTOCOL, SUBPROTOCOL, Media
from engine.errors import ArgumentError, AvatarError, ExtraMissingError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

OPEN_S = 10.0
WELCOME_S = 40.0
"""A portrait may have to be sent, and a model to be warmed up."""
SILENT_S = 16.0
"""The server says something each second; after so long without a word it is lost."""
GOODBYE_S = 3.0
RETRY_FIRST_S, RETRY_LONGEST_S = 0.2, 3.0
MOST_BYTES = 1 << 23
"""A raw picture of 1024 pixels with alpha takes half of it."""

_FINAL = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 4000, 4001, 4002, 4003, 4004, 4005, 4006})
"""Closes after which there is nothing to come back to."""

Control = Mapping[str, Any]


class Listener(Protocol):
    """A session, as its connection calls it; in the event loop's thread."""

    def on_welcome(self, welcome: Control) -> None: ...

    def on_control(self, message: Control) -> None: ...

    def on_media(self, media: Media) -> None: ...

    def on_lost(self, error: AvatarError) -> None:
        """The connection is gone; another one is being made."""
        ...

    def on_ended(self, error: AvatarError | None) -> None:
        """The session is over; None when that was asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. url: `ws://HOST:PORT`, with or without the path; http and https will do."""

    url: str
    token: str | None = None

    @property
    def endpoint(self) -> str:
        """Raises ArgumentError."""
        parts = urlsplit(self.url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        if scheme not in ("ws", "wss") or not parts.hostname:
            raise ArgumentError(f"{self.url!r} is no address of a server; give one like ws://127.0.0.1:8765")
        return urlunsplit((scheme, parts.netloc, PATH if parts.path in ("", "/") else parts.path, parts.query, ""))


class Link:
    """One session's way to the server."""

    def __init__(
        self, address: Address, hello: Control, picture: bytes | None, outbox: Outbox, listener: Listener, resume: bool
    ) -> None:
        """hello: without type and protocol. picture: the portrait's file, when it is to be sent."""
        self._address, self._hello, self._picture = address, hello, picture
        self._outbox, self._listener, self._may_resume = outbox, listener, resume
        self._welcome: Control = {}
        self._last_event = 0
        self._fatal: AvatarError | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin the session. Raises AvatarError: why the server does not want it, or NoServerError."""
        connection = await self._dial(self._hello, self._picture)
        self._task = asyncio.get_running_loop().create_task(self._keep(connection), name="avatar-link")

    async def aclose(self) -> None:
        """Say goodbye and end; idempotent, and bounded in time."""
        self._closing = True
        task, self._task = self._task, None
        if task is None:
            return
        with suppress(AvatarError):
            self._outbox.request(json.dumps({"type": "bye"}))
        await asyncio.wait([task], timeout=GOODBYE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _keep(self, connection: ClientConnection) -> None:
        """Serve the connection, and those that come after it."""
        error: AvatarError | None = None
        try:
            while True:
                error = await self._serve(connection)
                if self._closing or not self._may_resume or self._fatal or connection.close_code in _FINAL:
                    break
                self._listener.on_lost(error)
                connection = await self._come_back(error)
        except AvatarError as refusal:
            error = refusal
        finally:
            self._listener.on_ended(None if self._closing else error)

    async def _serve(self, connection: ClientConnection) -> AvatarError:
        """Until the connection is gone; returns why."""
        self._fatal = None
        writing = asyncio.get_running_loop().create_task(self._write(connection), name="avatar-write")
        try:
            return await self._read(connection)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(connection.close(), GOODBYE_S)

    async def _read(self, connection: ClientConnection) -> AvatarError:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                async with asyncio.timeout(SILENT_S):
                    message = await connection.recv()
                self._take(message)
        except TimeoutError:
            return ConnectionLostError(f"the server has said nothing for {SILENT_S:.0f} s")
        except ConnectionClosed as closed:
            close = closed.rcvd
            return self._fatal or closing_error(close.code if close else None, close.reason if close else "")

    def _take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            if len(message) >= HEADER.size:
                kind, flags, epoch, utterance, sequence, value, pts_us = HEADER.unpack_from(message)
                payload = memoryview(message)[HEADER.size :]
                self._listener.on_media(Media(kind, flags, epoch, utterance, sequence, value, pts_us, payload))
            return
        control = _object(message)
        event = control.get("event", 0)
        if event:
            # After a resume, what was seen already may come again.
            if event <= self._last_event:
                return
            self._last_event = event
        if control.get("fatal"):
            self._fatal = error_of(control)
        self._listener.on_control(control)

    async def _write(self, connection: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):  # The reader finds out why.
            while True:
                await connection.send(await self._outbox.take())

    async def _come_back(self, cause: AvatarError) -> ClientConnection:
        """Raises what the server says when the session is gone, and `cause` when its grace is over."""
        until, pause_s = monotonic() + float(self._welcome["grace_s"]), RETRY_FIRST_S
        while monotonic() + pause_s < until and not self._closing:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LONGEST_S)
            try:
                return await self._dial({"resume": self._welcome["resume"], "after": self._last_event}, None)
            except AvatarError as error:
                if not error.retryable:
                    raise
        raise cause

    async def _dial(self, hello: Control, picture: bytes | None) -> ClientConnection:
        """One connection, up to its `welcome`."""
        connection = await _connect(self._address)
        try:
            async with asyncio.timeout(WELCOME_S):
                await connection.send(json.dumps({"type": "hello", "protocol": PROTOCOL, **hello}))
                await self._be_welcomed(connection, picture)
        except BaseException as error:
            await asyncio.shield(connection.close())
            if isinstance(error, TimeoutError):
                raise NoServerError(f"{self._address.url} did not welcome us within {WELCOME_S:.0f} s") from error
            raise
        return connection

    async def _be_welcomed(self, connection: ClientConnection, picture: bytes | None) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                message = _object(await connection.recv())
                if message.get("type") == "error":
                    raise error_of(message)
                if message.get("type") == "portrait.wanted" and picture is not None:
                    await _upload(connection, picture, int(message["chunk_bytes"]))
                if message.get("type") == "welcome":
                    self._welcome = message
                    self._listener.on_welcome(message)
                    return
        except ConnectionClosed as closed:
            close = closed.rcvd
            raise closing_error(close.code if close else None, close.reason if close else "") from closed


async def _connect(address: Address) -> ClientConnection:
    try:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake, InvalidStatus
        from websockets.typing import Subprotocol
    except ImportError as error:
        raise ExtraMissingError("the client needs: pip install 'visavis[server]'") from error
    try:
        return await connect(
            address.endpoint,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {address.token}"} if address.token else None,
            compression=None,
            proxy=None,
            open_timeout=OPEN_S,
            max_size=MOST_BYTES,
        )
    except InvalidStatus as refusal:
        _raise_refusal(address, refusal.response.status_code, refusal.response.body)
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise NoServerError(
            f"no visavis server answers at {address.url} ({error}); start one: visavis serve"
        ) from error


def _raise_refusal(address: Address, status: int, body: bytes | bytearray | None) -> NoReturn:
    """The server's reason for an upgrade that it refused, from the body of its answer."""
    with suppress(ValueError, UnicodeDecodeError):
        reason = json.loads(bytes(body or b""))["error"]
        raise error_of(reason)
    raise NoServerError(f"{address.url} answered HTTP {status}; is that a visavis server?")


async def _upload(connection: ClientConnection, picture: bytes, chunk_bytes: int) -> None:
    for at in range(0, len(picture), chunk_bytes):
        part = picture[at : at + chunk_bytes]
        last = LAST_PART if at + len(part) == len(picture) else 0
        await connection.send(Media(PORTRAIT, flags=last, value=at, payload=part).to_bytes())


def _object(message: str | bytes) -> Control:
    """A control message; media that come where none may come are an empty one."""
    if isinstance(message, bytes):
        return {}
    control = json.loads(message)
    return control if isinstance(control, dict) else {}
