"""LiveKit rooms without a LiveKit server: what a server passes between participants, passed within the process.

Stands in for `livekit.rtc.Room` alone. The agent's and the avatar's code on both sides of it, the RPCs' names and
contents, the byte streams, tracks and sources are those of the real packages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import jwt
from livekit import rtc

END = object()


class Reader:
    """The receiving end of a byte stream."""

    def __init__(self, attributes: dict[str, str]) -> None:
        self.info = SimpleNamespace(attributes=attributes, stream_id="stream")
        self.chunks: asyncio.Queue[Any] = asyncio.Queue()

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.chunks.get()
        if chunk is END:
            raise StopAsyncIteration
        return bytes(chunk)


class Writer:
    def __init__(self, readers: list[Reader]) -> None:
        self.readers = readers

    async def write(self, data: bytes) -> None:
        for reader in self.readers:
            reader.chunks.put_nowait(data)

    async def aclose(self) -> None:
        for reader in self.readers:
            reader.chunks.put_nowait(END)


class Participant:
    """As its own room and as all others see it."""

    def __init__(self, room: FakeRoom, identity: str, kind: str, attributes: dict[str, str]) -> None:
        self.room, self.identity, self.sid, self.attributes = room, identity, f"PA_{identity}", attributes
        agent, standard = rtc.ParticipantKind.PARTICIPANT_KIND_AGENT, rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD
        self.kind = agent if kind == "agent" else standard
        self.state = rtc.ParticipantState.PARTICIPANT_STATE_ACTIVE
        self.track_publications: dict[str, Any] = {}
        self.called: list[tuple[str, str]] = []
        """RPCs that were made to this participant."""
        self._rpc_handlers: dict[str, Callable[[Any], Any]] = {}

    def register_rpc_method(self, name: str, handler: Callable[[Any], Any]) -> None:
        self._rpc_handlers[name] = handler

    async def perform_rpc(self, *, destination_identity: str, method: str, payload: str) -> Any:
        other = self.room.remote_participants[destination_identity]
        other.called.append((method, payload))
        if method not in other._rpc_handlers:
            raise rtc.RpcError(rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD, method)
        return other._rpc_handlers[method](rtc.RpcInvocationData("1", self.identity, payload, 10.0, method))

    async def stream_bytes(
        self, *, name: str, topic: str, destination_identities: list[str], attributes: dict[str, str]
    ) -> Writer:
        readers = []
        for identity in destination_identities:
            readers.append(Reader(attributes))
            self.room.remote_participants[identity].room.handlers[topic](readers[-1], self.identity)
        return Writer(readers)

    async def publish_track(self, track: Any, options: Any = None) -> Any:
        async def subscribed() -> None:
            return None

        publication = SimpleNamespace(
            sid=track.name, kind=track.kind, track=track, subscribed=True, wait_for_subscription=subscribed
        )
        self.track_publications[track.name] = publication
        for participant in self.room.remote_participants.values():
            participant.room.emit("track_published", publication, self)
        self.room.emit("local_track_published", publication, track)
        return publication


class FakeRoom(rtc.EventEmitter):  # type: ignore[type-arg]
    """Joined by a token's identity, attributes and room, as a server would read them."""

    rooms: ClassVar[dict[str, list[FakeRoom]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.url = ""
        self.remote_participants: dict[str, Participant] = {}
        self.handlers: dict[str, Callable[[Reader, str], None]] = {}

    async def connect(self, url: str, token: str, options: Any = None) -> None:
        claims = jwt.decode(token, options={"verify_signature": False})
        self.url, self.name = url, claims["video"]["room"]
        self.local_participant = Participant(self, claims["sub"], claims.get("kind", ""), claims.get("attributes", {}))
        others = self.rooms.setdefault(self.name, [])
        for other in others:
            self.remote_participants[other.local_participant.identity] = other.local_participant
            other.remote_participants[self.local_participant.identity] = self.local_participant
            other.emit("participant_connected", self.local_participant)
            other.emit("participant_active", self.local_participant)
        others.append(self)
        self.emit("connection_state_changed", rtc.ConnectionState.CONN_CONNECTED)

    async def disconnect(self) -> None:
        if self in self.rooms.get(self.name, []):
            self.rooms[self.name].remove(self)
            for other in self.rooms[self.name]:
                other.remote_participants.pop(self.local_participant.identity, None)
                other.emit("participant_disconnected", self.local_participant)

    def isconnected(self) -> bool:
        return self in self.rooms.get(self.name, [])

    def register_byte_stream_handler(self, topic: str, handler: Callable[[Reader, str], None]) -> None:
        self.handlers[topic] = handler
