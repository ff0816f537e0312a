"""The server's sockets: how many, how deep, and how little they log."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import cast

from websockets.asyncio.server import ServerConnection

_NOTSENT_BYTES = 16 << 10
_HANDSHAKE_FAILED = "opening handshake failed"


def bounded(most: int) -> type[ServerConnection]:
    """A connection of which so many may be open at once, a session's or not; others are cut before they are read."""
    here: set[ServerConnection] = set()

    class BoundedConnection(ServerConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            here.add(self)
            if len(here) > most:
                cast(asyncio.Transport, transport).abort()

        def connection_lost(self, exc: Exception | None) -> None:
            here.discard(self)
            super().connection_lost(exc)

    return BoundedConnection


def keep_short(connection: ServerConnection) -> None:
    """Let the system hold little that is not sent: a reader that stops would otherwise leave seconds of video there.
    asyncio has switched Nagle's algorithm off already.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    plain = connection.transport.get_extra_info("socket")
    if option is not None and plain is not None:
        plain.setsockopt(socket.IPPROTO_TCP, option, _NOTSENT_BYTES)


class StrangersFilter(logging.Filter):
    """Whoever connects and leaves, or speaks something else, is no error of the server and earns no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == _HANDSHAKE_FAILED:
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
            return logging.getLogger(record.name).isEnabledFor(logging.INFO)
        return True
