"""A client of the visavis server: the verbs of engine.session over a WebSocket. Users import it as `visavis.client`.

async with connect("ws://127.0.0.1:8765", portrait="anna") as avatar:
    avatar.push_audio(pcm, 24_000)
    avatar.flush()
    async for frame in avatar.frames():
        show(frame.image, frame.audio)
"""

from __future__ import annotations

from apps.client.avatar import RemoteAvatar, connect
from apps.client.errors import AnswerTimeoutError, ClientError, ConnectionLostError, NoServerError, RefusedError
from apps.client.film import film

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
