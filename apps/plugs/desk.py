"""What the servers with other people's wire shapes share: who may come in, tickets, places, faces, and how errors look.

`errors` and `guard` are aiohttp middlewares. The keys that stock clients send (`x-simli-api-key`, `X-API-KEY`,
`api-secret`, `Authorization: Bearer`) are all compared with the one token of this server.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from apps.plugs.avatar import Source
from apps.plugs.given import needs
from apps.server.access import Access, AccessConfig
from apps.server.errors import UnknownPortraitError
from apps.server.limits import UPLOAD_LIMITS
from apps.server.refusals import UnauthorizedError, status_of
from engine.errors import ArgumentError, AvatarError, EngineFullError
from engine.portrait.loading import load_image

try:
    from aiohttp import web
except ImportError as error:
    raise needs("webrtc", error) from error

_LOG = logging.getLogger(__name__)

TICKETS, TICKET_S = 256, 300.0
LONGEST_S = 86_400.0
KEY_HEADERS = ("x-simli-api-key", "X-API-KEY", "api-secret")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class LiveKitAccount:
    """A LiveKit server at which this server may open rooms, for clients that bring none."""

    url: str
    key: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """source: what avatars are made from. portraits: by name, what clients ask for as face or avatar id; a name that is
    not there is an error when `strict`, or else the first portrait. sessions: at once. session_s: how long one may last
    at most.
    """

    source: Source
    portraits: Mapping[str, Any]
    access: AccessConfig = AccessConfig()
    sessions: int = 4
    session_s: float = 3600.0
    strict: bool = False
    livekit: LiveKitAccount | None = None


class Desk:
    """The state of one server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._tickets: dict[str, tuple[float, dict[str, Any]]] = {}
        self._taken = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, request: web.Request) -> None:
        """Raises UnauthorizedError unless the request carries the token, where there is one."""
        token = self.settings.access.token
        if token is None:
            return
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        given = [request.headers.get(name, "") for name in KEY_HEADERS]
        if scheme.lower() == "bearer":
            given.append(bearer.strip())
        # Every one is compared, so that the time tells nothing.
        if not any([hmac.compare_digest(_digest(key), _digest(token)) for key in given]):
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

    def source(self, name: str) -> Source:
        """The avatar for a face's name. Raises UnknownPortraitError."""
        portraits = self.settings.portraits
        known = portraits.get(name)
        if known is None and (self.settings.strict or not portraits):
            raise UnknownPortraitError(
                "there is no portrait of that name, by which this server calls faces and avatars"
            )
        return replace(self.settings.source, portrait=known if known is not None else next(iter(portraits.values())))

    async def source_of(self, picture: bytes) -> Source:
        """The avatar for an uploaded picture. Raises PortraitError."""
        pixels = await asyncio.to_thread(load_image, picture, UPLOAD_LIMITS)
        return replace(self.settings.source, portrait=pixels)

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
            _LOG.error(
                "%s ended: %s", task.get_name(), error, exc_info=None if isinstance(error, AvatarError) else error
            )


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


def guard(access: Access) -> Any:
    """Refuses what a page of another site, or a name that was pointed at this machine, could send; lets pages of the
    origins that are allowed read the answers (CORS, fetch.spec.whatwg.org).
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        access.check(_Headers(request), request.path_qs, request.remote or "", needs_token=False)
        origin = request.headers.get("Origin")
        preflight = origin is not None and request.method == "OPTIONS"
        answer = web.Response(status=204) if preflight else await handler(request)
        if origin is not None and not answer.prepared:
            answer.headers["Access-Control-Allow-Origin"] = origin
            answer.headers["Access-Control-Allow-Headers"] = ", ".join(("Authorization", "Content-Type", *KEY_HEADERS))
        return answer

    return check


class _Headers:
    """aiohttp's headers for apps.server.access."""

    def __init__(self, request: web.Request) -> None:
        self._headers = request.headers

    def get_all(self, name: str, /) -> list[str]:
        return [str(value) for value in self._headers.getall(name, [])]


def _digest(text: str) -> bytes:
    """Of equal length for all, since comparing tells lengths."""
    return hashlib.sha256(text.encode()).digest()


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
