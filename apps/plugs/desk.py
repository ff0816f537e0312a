"""What the servers with other people's wire shapes share: who may come in, tickets, places, faces, and how errors look.

`errors` and `guard` are aiohttp middlewares. The keys that stock clients send (`x-simli-api-key`, `X-API-KEY`,
`api-secret`, `Authorization: Bearer`) are all compared with the one token of this server.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from apps.plugs.avatar import Source
from apps.plugs.given import needs
from engine.errors import ArgumentError, AvatarError, EngineFullError, PortraitError

try:
    from aiohttp import web
except ImportError as error:
    raise needs("webrtc", error) from error

_LOG = logging.getLogger(__name__)

TICKETS, TICKET_S = 256, 300.0
LONGEST_S = 86_400.0
KEY_HEADERS = ("x-simli-api-key", "X-API-KEY", "api-secret")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class UnauthorizedError(AvatarError):
    """The client's key is not this server's token, or its ticket is unknown."""

    code = "unauthorized"


class UnknownFaceError(AvatarError):
    """There is no portrait of that name."""

    code = "unknown_portrait"


@dataclass(frozen=True, slots=True)
class LiveKitAccount:
    """A LiveKit server at which this server may open rooms, for clients that bring none."""

    url: str
    key: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """source: what avatars are made from. portraits: by name, what clients ask for as face or avatar id; a name that is
    not there is an error when `strict`, or else the first portrait. session_s: how long a session may last at most.
    """

    source: Source
    portraits: Mapping[str, Any]
    token: str | None = field(default=None, repr=False)
    sessions: int = 4
    session_s: float = 3600.0
    strict: bool = False
    livekit: LiveKitAccount | None = None
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "::1")
    """Names that a request may be addressed to, against DNS rebinding; any when a token is set."""


class Desk:
    """The state of one server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._tickets: dict[str, tuple[float, dict[str, Any]]] = {}
        self._taken = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, request: web.Request) -> None:
        """Raises UnauthorizedError unless the request carries the token, where there is one."""
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        self.admit_key(next((key for name in KEY_HEADERS if (key := request.headers.get(name))), bearer))

    def admit_key(self, key: str) -> None:
        token = self.settings.token
        if token is not None and not hmac.compare_digest(key.encode(), token.encode()):
            raise UnauthorizedError("the API key is not this server's token; give the token where the key goes")

    def ticket(self, content: dict[str, Any]) -> str:
        """A random one, good for five minutes. Of too many, the oldest is forgotten."""
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket] = (time.monotonic() + TICKET_S, content)
        while len(self._tickets) > TICKETS:
            del self._tickets[next(iter(self._tickets))]
        return ticket

    def redeem(self, ticket: str, keep: bool = False) -> dict[str, Any]:
        """What was noted for it; once, unless `keep`. Raises UnauthorizedError."""
        until, content = self._tickets.get(ticket, (0.0, {}))
        if not keep or time.monotonic() > until:
            self._tickets.pop(ticket, None)
        if time.monotonic() > until:
            raise UnauthorizedError("this session token is unknown, used or older than five minutes; ask for another")
        return content

    def source(self, name: str, picture: bytes | None = None) -> Source:
        """The avatar for a face's name, or for an uploaded picture. Raises UnknownFaceError."""
        if picture is not None:
            return replace(self.settings.source, portrait=picture)
        portraits = self.settings.portraits
        known = portraits.get(name)
        if known is None and (self.settings.strict or not portraits):
            raise UnknownFaceError(f"there is no portrait {name!r}; known are {', '.join(portraits) or 'none'}")
        return replace(self.settings.source, portrait=known if known is not None else next(iter(portraits.values())))

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One session's. Raises EngineFullError."""
        if self._taken >= self.settings.sessions:
            raise EngineFullError(f"all {self.settings.sessions} places are taken; try again when a session has ended")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run beside the requests, until it ends or the server stops; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _LOG.error("%s ended: %s", task.get_name(), error, exc_info=None if isinstance(error, AvatarError) else error)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """An AvatarError as JSON, in a form in which each of the stock clients finds what it looks for."""
    try:
        return await handler(request)
    except AvatarError as error:
        status = status_of(error)
        problem = {"code": error.code, "message": str(error), "retryable": error.retryable}
        body = {"detail": str(error), "message": str(error), "code": status, "error": problem}
        return web.json_response(body, status=status, headers={"Retry-After": "5"} if status == 503 else {})


def status_of(error: AvatarError) -> int:
    """HTTP status for an error."""
    if isinstance(error, UnauthorizedError):
        return 401
    if isinstance(error, ArgumentError | PortraitError | UnknownFaceError):
        return 400
    return 503 if error.retryable else 500


def guard(settings: Settings) -> Any:
    """Refuses what a page of another site, or a name that was pointed at this machine, could send without a token."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            return web.json_response({"detail": "pages of other sites may not call this server"}, status=403)
        if settings.token is None and (urlsplit(f"//{request.host}").hostname or "") not in settings.hosts:
            return web.json_response({"detail": f"{request.host} is not a name of this server"}, status=403)
        return await handler(request)

    return check


async def first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Run them beside each other until one ends, and cancel the others; raises what that one raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def json_of(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. Raises ArgumentError."""
    try:
        body = await request.json()
    except ValueError as error:
        raise ArgumentError(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise ArgumentError("the body must be a JSON object")
    return body


def number_of(body: Mapping[str, Any], name: str, default: float) -> float:
    """A positive number. Raises ArgumentError."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_S:
        raise ArgumentError(f"{name!r} must be a number above 0 and at most {LONGEST_S:g}")
    return float(value)


def text_of(body: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A field that must be text. Raises ArgumentError."""
    value = body.get(name, default)
    if not isinstance(value, str):
        raise ArgumentError(f"{name!r} is missing or no text")
    return value
