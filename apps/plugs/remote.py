"""A visavis server's session as an `Avatar`. Needs the extra `server`, for websockets."""

from __future__ import annotations

import asyncio
import io
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from apps.plugs.avatar import TOKEN_VARIABLE, OnEvent, Source
from apps.plugs.given import needs
from engine.errors import AvatarError
from engine.session import Pcm
from engine.types import VideoFrame

if TYPE_CHECKING:
    from apps.client import RemoteAvatar

_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def open_remote(source: Source, on_event: OnEvent) -> AsyncIterator[RemoteSession]:
    """A session on the source's server. Raises what apps.client.connect does."""
    try:
        from apps.client import connect
    except ImportError as error:
        raise needs("server", error) from error
    connection = connect(
        source.server or "",
        _portrait(source.portrait),
        token=source.token or os.environ.get(TOKEN_VARIABLE),
        on_event=on_event,
        size=source.size,
        client="visavis-plug",
    )
    async with connection as avatar:
        session = RemoteSession(avatar)
        try:
            yield session
        finally:
            await session.settled()


class RemoteSession:
    """What the client's session lacks of an `Avatar`: an interrupt that is not waited for."""

    def __init__(self, avatar: RemoteAvatar) -> None:
        self._avatar = avatar
        self._cutting: set[asyncio.Task[None]] = set()

    def push_audio(self, pcm: Pcm, sample_rate: int = 16_000) -> int:
        return self._avatar.push_audio(pcm, sample_rate)

    def push_listening_audio(self, pcm: Pcm, sample_rate: int = 16_000) -> None:
        self._avatar.push_listening_audio(pcm, sample_rate)

    def flush(self) -> None:
        self._avatar.flush()

    def interrupt(self) -> None:
        """Begun with the loop's next turn; until it is answered, the plug itself drops frames that still come."""
        task = asyncio.get_running_loop().create_task(self._interrupt())
        self._cutting.add(task)
        task.add_done_callback(self._cutting.discard)

    def set_state(self, state: str | None) -> None:
        self._avatar.set_state(state)

    def frames(self) -> AsyncIterator[VideoFrame]:
        return self._avatar.frames()

    async def settled(self) -> None:
        """Wait for interrupts that are under way."""
        await asyncio.gather(*self._cutting)

    async def _interrupt(self) -> None:
        try:
            await self._avatar.interrupt()
        except AvatarError as error:
            # What was under way ends with the connection.
            _LOG.warning("an interrupt was not answered: %s: %s", error.code, error)


def _portrait(portrait: Any) -> Any:
    """Pixels cannot be sent as they are."""
    if not isinstance(portrait, np.ndarray):
        return portrait
    file = io.BytesIO()
    Image.fromarray(portrait).save(file, "PNG")
    return file.getvalue()
