"""What a client meets. What the server says comes as the same class that the server raised, where there is one.

AvatarError
└── ClientError
    ├── NoServerError        no_server          (retryable)
    ├── ConnectionLostError  connection_lost    (retryable)
    ├── AnswerTimeoutError   answer_timeout     (retryable)
    ├── BadServerError       bad_server
    └── RefusedError         whatever the server called it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.server import errors as server_errors
from apps.server import refusals
from engine.errors import AvatarError

_KEPT_CHARS = 2_000
_SERVERS = (server_errors, refusals)
"""Imported so that the classes exist that a server may name."""


class ClientError(AvatarError):
    """Root of what goes wrong between this client and its server."""

    code = "client_error"


class NoServerError(ClientError):
    """Nobody answers at the address, or not with this protocol."""

    code = "no_server"
    retryable = True


class ConnectionLostError(ClientError):
    """The connection was lost, and the session could not be resumed within the server's grace."""

    code = "connection_lost"
    retryable = True


class AnswerTimeoutError(ClientError):
    """The server did not answer a request in time."""

    code = "answer_timeout"
    retryable = True


class BadServerError(ClientError):
    """What the server says is not as docs/protocol.md has it."""

    code = "bad_server"


class RefusedError(ClientError):
    """The server said no, with a code that this version of the client does not know."""

    code = "refused"

    def __init__(self, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.code, self.retryable = code, retryable  # type: ignore[misc]  # Of the class elsewhere; here the server's.


def error_of(message: Mapping[str, Any]) -> AvatarError:
    """The error that a server tells as {code, message, retryable}, in a message or in the body of an HTTP answer."""
    code, text = str(message.get("code", "refused"))[:64], str(message.get("message", ""))[:_KEPT_CHARS]
    known = next((kind for kind in _below(AvatarError) if kind.code == code), None)
    return RefusedError(code, text, message.get("retryable") is True) if known is None else known(text)


def closing_error(close_code: int | None, reason: str) -> AvatarError:
    """Why a connection ended, as far as its close says; a lost one has no code, or 1006."""
    kinds = [kind for kind in _below(server_errors.ServerError) if getattr(kind, "close_code", None) == close_code]
    kind = next((kind for kind in kinds if kind.code == reason), None)
    if kind is not None:
        return kind(f"the server ended the connection: {reason}")
    ended = f"{close_code} {reason}".strip() if close_code else "without a word"
    return ConnectionLostError(f"the connection to the server ended ({ended})")


def _below(kind: type[AvatarError]) -> list[type[AvatarError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _below(child))]
