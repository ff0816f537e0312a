"""`visavis.client`: a client of the visavis server; see apps.client."""

from __future__ import annotations

from apps.client import (
    AnswerTimeoutError,
    ClientError,
    ConnectionLostError,
    NoServerError,
    RefusedError,
    RemoteAvatar,
    connect,
    film,
)

__all__ = [
    "AnswerTimeoutError",
    "ClientError",
    "ConnectionLostError",
    "NoServerError",
    "RefusedError",
    "RemoteAvatar",
    "connect",
    "film",
]
