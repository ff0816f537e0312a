"""Where a plug gets its person from: a model in this process, or a visavis server.

async with open_avatar(Source(portrait="face.jpg", model="auto"), on_event) as avatar:
    avatar.push_audio(pcm, 24_000)
    async for frame in avatar.frames(): ...
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from engine import load
from engine.engine import DEFAULT_SIZE_PX, AvatarEngine
from engine.errors import ArgumentError
from engine.events import SessionEvent
from engine.portrait.loading import ImageSource
from engine.session import Pcm
from engine.types import VideoFrame

URL_VARIABLE, TOKEN_VARIABLE = "VISAVIS_URL", "VISAVIS_TOKEN"
DEFAULT_URL = "ws://127.0.0.1:8765/v1/avatar"
MOCK = "mock"

_FACES = ThreadPoolExecutor(1, thread_name_prefix="visavis-plug-faces")

OnEvent = Callable[[SessionEvent], None]


class Avatar(Protocol):
    """What every plug asks of a session; the verbs, and their errors, are those of engine.session.AvatarSession."""

    def push_audio(self, pcm: Pcm, sample_rate: int = ...) -> int:
        """Sound to speak; returns the turn's id. Raises AudioBufferFullError when nothing was taken."""

    def push_listening_audio(self, pcm: Pcm, sample_rate: int = ...) -> None:
        """The other party's voice, as it is heard."""

    def flush(self) -> None:
        """The utterance is complete."""

    def interrupt(self) -> object:
        """Fall silent, from the event loop's next turn on; every turn under way is finished."""

    def set_state(self, state: str | None) -> None:
        """speaking, listening or idle; None lets the voices decide."""

    def frames(self) -> AsyncIterator[VideoFrame]:
        """Frames as they are due, until the session ends."""


@dataclass(frozen=True, slots=True)
class Source:
    """portrait: a picture file, its bytes, RGB pixels, or the name of a server's library picture; None for the server's
    first one. model: a bundle's name or path, `auto`, or `mock`: computed in this process. engine: the same, loaded
    already. url, token: the server that computes when neither is given; `$VISAVIS_URL` and `$VISAVIS_TOKEN` by default.
    size: side of the square picture in pixels.
    """

    portrait: ImageSource | None = None
    url: str | None = None
    token: str | None = field(default=None, repr=False)
    model: str | None = None
    engine: AvatarEngine | None = None
    size: int = DEFAULT_SIZE_PX

    @property
    def server(self) -> str | None:
        """URL of the server that computes, None when this process does."""
        if self.engine is not None or self.model is not None:
            return None
        return self.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL


async def load_engine(model: str) -> AvatarEngine:
    """Load a model without holding up the event loop. Raises BundleError or BackendError."""
    if model == MOCK:
        return await asyncio.to_thread(load, backend=MOCK)
    return await asyncio.to_thread(load, model)


@asynccontextmanager
async def open_avatar(source: Source, on_event: OnEvent) -> AsyncIterator[Avatar]:
    """A session of this person. on_event: called in the event loop; it must not block.

    Raises ArgumentError, PortraitError, BundleError, EngineFullError, or what the client raises for a server.
    """
    if source.server is not None:
        from apps.plugs.remote import open_remote

        async with open_remote(source, on_event) as remote:
            yield remote
        return
    if source.portrait is None:
        raise ArgumentError("a model in this process needs a portrait: give a picture file, its bytes or RGB pixels")
    async with AsyncExitStack() as stack:
        engine = source.engine
        if engine is None:
            engine = await stack.enter_async_context(await load_engine(source.model or "auto"))
        # Finding the face takes a while, and the face finder is not made for several threads.
        person = await asyncio.get_running_loop().run_in_executor(_FACES, engine.open_portrait, source.portrait)
        yield await stack.enter_async_context(engine.session(person, size=source.size, on_event=on_event))
