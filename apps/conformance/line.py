"""One connection as a client has it: every message with the moment at which it came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

HEADER = Struct("<BBHIIIQ")
"""kind, flags, epoch, utterance, sequence, value, pts_us; docs/protocol.md, Binary messages."""
VOICE, LISTENING, PORTRAIT, VIDEO, AUDIO = 0x01, 0x02, 0x03, 0x11, 0x12
KINDS = {"voice": VOICE, "listening": LISTENING, "portrait": PORTRAIT, "video": VIDEO, "audio": AUDIO}
KEY_FRAME, CONFIGURATION, LAST, FIRST, FROZEN = 0x01, 0x02, 0x04, 0x08, 0x40

MAX_MESSAGE_BYTES = 16 << 20
"""A picture of 1024 pixels as rgba has 4 MiB."""
_KEPT_MESSAGES = 4096


@dataclass(frozen=True, slots=True)
class Heard:
    """A message from the server: `text` of control, the others of media. moment_s: of time.monotonic."""

    moment_s: float
    text: dict[str, Any] | None = None
    kind: int = 0
    flags: int = 0
    epoch: int = 0
    utterance: int = 0
    sequence: int = 0
    value: int = 0
    pts_us: int = 0
    payload: bytes = field(default=b"", repr=False)

    @property
    def state(self) -> int:
        """0 speaking, 1 listening, 2 idle."""
        return self.flags >> 4 & 3


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection has ended. code: 1006 when the peer vanished."""

    moment_s: float
    code: int
    reason: str = ""


class RefusedError(Exception):
    """The server did not upgrade. code: from the body, empty when there is none."""

    def __init__(self, status: int, code: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"HTTP {status} {code}".rstrip())
        self.status, self.code, self.headers = status, code, headers


class Line:
    """Opened by `Line.open`. A task of its own reads, so that moments are true; `window` says whether it acknowledges
    each picture as it comes. close() or drop() in the end.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._heard: asyncio.Queue[Heard | Closed] = asyncio.Queue(_KEPT_MESSAGES)
        self.acknowledges = False
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="line")

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        token: str | None = None,
        origin: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Line:
        """Raises RefusedError, OSError or TimeoutError."""
        given = dict(headers or {})
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        if origin is not None:
            given["Origin"] = origin
        try:
            socket = await connect(
                url,
                additional_headers=given,
                subprotocols=["visavis.v1"],  # type: ignore[list-item]
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=timeout_s,
                ping_interval=None,
                proxy=None,
            )
        except InvalidStatus as error:
            raise _refused(error) from error
        return cls(socket)

    async def say(self, message: Mapping[str, Any] | str) -> None:
        """A control message. Nothing happens when the connection has ended; `hear` tells that."""
        await self._send(message if isinstance(message, str) else json.dumps(message))

    async def send(self, data: bytes) -> None:
        """A binary message, header and all."""
        await self._send(data)

    async def media(self, kind: int, payload: bytes, *, utterance: int = 0, flags: int = 0, value: int = 0) -> None:
        await self._send(HEADER.pack(kind, flags, 0, utterance, 0, value, 0) + payload)

    async def hear(self, timeout_s: float | None) -> Heard | Closed:
        """The next message, in order; after Closed comes nothing. Raises TimeoutError."""
        return await asyncio.wait_for(self._heard.get(), timeout_s)

    async def close(self, code: int = 1000) -> None:
        await self._socket.close(code)
        await self._end()

    async def drop(self) -> None:
        """End as a broken network does, without a close frame."""
        self._socket.transport.abort()
        await self._end()

    async def _end(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _send(self, data: str | bytes) -> None:
        try:
            await self._socket.send(data)
        except ConnectionClosed:
            return

    async def _read(self) -> None:
        while True:
            try:
                message = await self._socket.recv()
            except ConnectionClosed as error:
                closed = error.rcvd
                code, reason = (closed.code, closed.reason) if closed else (1006, "")
                await self._heard.put(Closed(monotonic(), code, reason))
                return
            heard = read_message(message)
            await self._heard.put(heard)
            if self.acknowledges and heard.kind == VIDEO and not heard.flags & CONFIGURATION:
                await self.say({"type": "ack", "sequence": heard.sequence})


def read_message(message: str | bytes) -> Heard:
    """Raises ValueError for what no server may send."""
    if isinstance(message, str):
        text = json.loads(message)
        if not isinstance(text, dict) or not isinstance(text.get("type"), str):
            raise ValueError(f"not an object with a type: {message[:200]}")
        return Heard(monotonic(), text)
    if len(message) < HEADER.size:
        raise ValueError(f"a binary message of {len(message)} bytes")
    kind, flags, epoch, utterance, sequence, value, pts_us = HEADER.unpack_from(message)
    payload = message[HEADER.size :]
    return Heard(monotonic(), None, kind, flags, epoch, utterance, sequence, value, pts_us, payload)


def with_query(url: str, **values: str) -> str:
    """The URL with more in its query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query), *values.items()])))


def _refused(error: InvalidStatus) -> RefusedError:
    response = error.response
    try:
        code = str(json.loads(response.body or b"")["error"]["code"])
    except (ValueError, KeyError, TypeError):
        code = ""
    return RefusedError(response.status_code, code, dict(response.headers.raw_items()))
