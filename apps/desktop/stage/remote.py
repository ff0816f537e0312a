"""The persons of a stage computed by a server (`visavis serve`), for a machine that is too weak: `--server URL`.

The same interface, over `visavis.client`: sound goes up, pictures come down, a lost connection is resumed by itself.
What the server is asked for can only be as large as it allows, and a portrait is uploaded whenever it is shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from apps.desktop.stage.contract import Floats, Phase, PhaseKind, StageConfig
from apps.desktop.stage.house import Casting, OnEvent, OnPhase, Person, PersonFigures
from engine.errors import AvatarError, ExtraMissingError
from engine.types import AvatarState, VideoFrame

_LOG = logging.getLogger(__name__)


class ServerPerson:
    """A session on the server, as a Person."""

    def __init__(self, avatar: Any) -> None:
        """avatar: an apps.client.RemoteAvatar that has been started."""
        self._avatar = avatar
        self._interrupting: asyncio.Task[None] | None = None

    def push_audio(self, pcm: Floats, sample_rate: int) -> int:
        return int(self._avatar.push_audio(pcm, sample_rate))

    def push_listening_audio(self, pcm: Floats, sample_rate: int) -> None:
        self._avatar.push_listening_audio(pcm, sample_rate)

    def flush(self) -> None:
        self._avatar.flush()

    def interrupt(self) -> None:
        """The server's answer, what was heard, is not waited for."""
        if self._interrupting is None or self._interrupting.done():
            self._interrupting = asyncio.get_running_loop().create_task(self._interrupt(), name="stage interrupt")

    async def _interrupt(self) -> None:
        try:
            await self._avatar.interrupt()
        except AvatarError as error:
            _LOG.warning("the server did not confirm the interrupt: %s", error)

    def set_state(self, state: AvatarState | str | None) -> None:
        self._avatar.set_state(state)

    def set_expression(self, name: str | None, strength: float) -> None:
        self._avatar.set_expression(name, strength)

    def set_pose(self, angles: Mapping[str, float] | None) -> None:
        self._avatar.set_pose(angles)

    def played(self, pts_us: int) -> None:
        self._avatar.played(pts_us)

    def frames(self) -> AsyncIterator[VideoFrame]:
        frames: AsyncIterator[VideoFrame] = self._avatar.frames()
        return frames

    def figures(self) -> PersonFigures:
        told = self._avatar.metrics
        return PersonFigures(
            float(told.get("buffered_ms", 0)), int(told.get("frames_late", 0)), int(self._avatar.dropped)
        )

    async def aclose(self) -> None:
        if self._interrupting is not None:
            self._interrupting.cancel()
            await asyncio.gather(self._interrupting, return_exceptions=True)
        await self._avatar.aclose()


class ServerHouse:
    """The House on a server."""

    def __init__(self, config: StageConfig) -> None:
        self._config = config

    async def start(self, on_phase: OnPhase) -> None:
        """Raises ExtraMissingError; whether the server is there shows when somebody is opened."""
        on_phase(Phase(PhaseKind.LOADING, 0.1, f"Connecting to {self._config.server}"))
        try:
            import websockets  # noqa: F401
        except ImportError as error:
            raise ExtraMissingError("a server needs the extra `server`: pip install 'visavis[server]'") from error

    async def open(self, casting: Casting, on_event: OnEvent) -> Person:
        """Raises NoServerError, FileError, or what the server says, as UnauthorizedError or NoFaceError."""
        from apps.client import connect

        config = self._config
        avatar = connect(
            config.server or "",
            casting.portrait,
            token=config.token,
            on_event=on_event,
            size=config.size_px,
            codec="rgba" if casting.cut_out else "h264",
            live=casting.live,
            seed=config.seed,
            client="visavis-desktop",
        )
        try:
            await avatar.start()
        except BaseException:
            await avatar.aclose()
            raise
        return ServerPerson(avatar)

    async def aclose(self) -> None:
        """Nothing is kept between sessions."""
