"""Sessions with their places, kept for a while when their client's connection is lost."""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol

from apps.server.errors import SessionGoneError
from apps.server.limits import Meter, Place
from apps.server.session import ServedSession
from engine.clock import now_us
from engine.session import AvatarSession


class Holder(Protocol):
    """The connection that a session is shown on."""

    def replace(self) -> None:
        """The session goes on elsewhere."""
        ...


class Seat:
    """One session, from its welcome until it ends."""

    def __init__(self, session: ServedSession, place: Place, meter: Meter) -> None:
        self.id = secrets.token_hex(4)
        self.token = secrets.token_urlsafe(16)
        self.session, self.place, self.meter = session, place, meter
        self.holder: Holder | None = None
        self.shown: asyncio.Task[None] | None = None
        self.leaving: asyncio.Task[None] | None = None
        self._avatar: AvatarSession | None = None

    async def begin(self, avatar: AvatarSession) -> None:
        """Raises EngineFullError or WorkerLostError; then nothing is left."""
        self._avatar = avatar
        self.session.show(avatar)
        try:
            await avatar.start()
        except BaseException:
            await avatar.aclose()
            raise
        self.shown = asyncio.create_task(self.session.run(), name=f"server-session-{self.id}")

    async def aclose(self, reason: str = "closed") -> None:
        """End the session and give its place back; idempotent."""
        self.session.finish(reason)
        avatar, self._avatar = self._avatar, None
        try:
            if avatar is not None:
                await avatar.aclose()
            if self.shown is not None:
                await asyncio.gather(self.shown, return_exceptions=True)
        finally:
            self.place.release()
            if avatar is not None:
                self.session.stats.ended(now_us())


class Seats:
    """All of one server, by token."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._seats: dict[str, Seat] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def all(self) -> list[Seat]:
        return list(self._seats.values())

    @property
    def any_waiting(self) -> bool:
        """Whether a client may come back to a session."""
        return any(seat.holder is None for seat in self._seats.values())

    def add(self, seat: Seat) -> None:
        self._seats[seat.token] = seat
        self._empty.clear()

    async def wait_empty(self) -> None:
        await self._empty.wait()

    def take_up(self, token: str) -> Seat:
        """The seat of a client that comes back, under a new token. Raises SessionGoneError."""
        seat = self._seats.pop(token, None)
        if seat is None:
            raise SessionGoneError("there is no session of that token any more; say hello without resume")
        if seat.leaving is not None:
            seat.leaving.cancel()
            seat.leaving = None
        if seat.holder is not None:
            seat.holder.replace()
            seat.session.detach()
        seat.token = secrets.token_urlsafe(16)
        self._seats[seat.token] = seat
        return seat

    def leave(self, seat: Seat) -> None:
        """The connection is lost; the session ends when nobody comes back in time."""
        seat.holder = None
        seat.session.detach()
        seat.leaving = asyncio.create_task(self._end_later(seat), name=f"server-grace-{seat.id}")

    async def end(self, seat: Seat, reason: str = "closed") -> None:
        self._seats.pop(seat.token, None)
        await seat.aclose(reason)
        if not self._seats:
            self._empty.set()

    async def end_all(self) -> None:
        for seat in self.all:
            if seat.leaving is not None:
                seat.leaving.cancel()
            await self.end(seat)

    async def _end_later(self, seat: Seat) -> None:
        assert seat.shown is not None
        # Ends early when the engine gives up.
        await asyncio.wait([seat.shown], timeout=self.grace_s)
        await self.end(seat)
