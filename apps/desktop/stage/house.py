"""Where the persons on stage are computed: on this machine, in a process of its own, or on a server (see remote).

The model runs in a supervised process, so that a crash in a driver costs half a second of frozen picture and not the
window, its Python never holds up painting, and a start that is no longer wanted can be broken off at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from apps.desktop.stage.background import in_background
from apps.desktop.stage.contract import Floats, Phase, PhaseKind, StageConfig
from apps.server.desk import engine_for_faces
from engine.backends.notices import Notice as EngineNotice
from engine.backends.notices import NoticeKind, notices_to
from engine.engine import AvatarEngine
from engine.errors import BackendUnavailableError
from engine.events import SessionEvent
from engine.pipeline.opening import MOCK
from engine.session import AvatarSession, SessionConfig
from engine.supervisor import Limits, SupervisedWorker
from engine.types import AvatarState, VideoFrame
from engine.worker.base import Face

LIMITS = Limits(start_s=1800.0, step_s=5.0, answer_s=10.0)
"""Engines for a GPU may be built before a model is ready; and what else runs on a desktop may hold it up."""

CLOSE_S = 1.0
"""How long a model may take to be freed; then its process is killed, since a window must close at once."""

KEEP_UP_FRAMES = 1
"""A microphone of this machine delivers evenly: what waits longer is delay."""

PLACES = 2
"""The person on stage, and the one that is about to follow."""

OnEvent = Callable[[SessionEvent], None]
OnPhase = Callable[[Phase], None]


@dataclass(frozen=True, slots=True)
class Casting:
    """Who is wanted on stage. cut_out: without the background. live: the voice is a microphone's, which is kept up
    with; else nothing of it is lost.
    """

    portrait: Path
    cut_out: bool = False
    live: bool = True


@dataclass(frozen=True, slots=True)
class PersonFigures:
    buffered_ms: float
    late: int
    dropped: int


class Person(Protocol):
    """Somebody on stage. The verbs are those of engine.session.AvatarSession; all return at once but aclose."""

    def push_audio(self, pcm: Floats, sample_rate: int) -> int: ...

    def push_listening_audio(self, pcm: Floats, sample_rate: int) -> None: ...

    def flush(self) -> None: ...

    def interrupt(self) -> object: ...

    def set_state(self, state: AvatarState | str | None) -> None: ...

    def set_expression(self, name: str | None, strength: float) -> None: ...

    def set_pose(self, angles: Mapping[str, float] | None) -> None: ...

    def played(self, pts_us: int) -> None: ...

    def frames(self) -> AsyncIterator[VideoFrame]: ...

    def figures(self) -> PersonFigures: ...

    async def aclose(self) -> None: ...


class House(Protocol):
    async def start(self, on_phase: OnPhase) -> None:
        """Be ready to open persons. Raises AvatarError."""
        ...

    async def open(self, casting: Casting, on_event: OnEvent) -> Person:
        """Somebody whose frames begin to come. Raises AvatarError."""
        ...

    async def aclose(self) -> None:
        """Free everything; idempotent, and bounded in time."""
        ...


class LocalPerson(AvatarSession):
    """A session of this machine."""

    def figures(self) -> PersonFigures:
        return PersonFigures(self.buffered_ms, self.presenter.late, self.presenter.dropped)


class LocalHouse:
    """The House of this machine. Portraits are read in this process, by the model's own face-point network if it has
    one; see apps.server.desk.engine_for_faces.
    """

    def __init__(self, config: StageConfig) -> None:
        self._config = config
        mock = MOCK in (config.model, config.backend)
        self._model, self._backend = ("auto", MOCK) if mock else (config.model, config.backend)
        self._worker = SupervisedWorker(
            self._model,
            self._backend,
            threads=config.threads,
            picture_px=config.size_px,
            capacity=PLACES,
            limits=LIMITS,
        )
        self._reader: AvatarEngine | None = None
        self._reading = asyncio.Lock()

    async def start(self, on_phase: OnPhase) -> None:
        """Raises BundleError, BackendError or WorkerLostError."""
        on_phase(Phase(PhaseKind.LOADING, 0.1, "The model is being loaded"))

        def building(notice: EngineNotice) -> None:
            # Told by the worker's process, and read from its stderr in this thread.
            if notice.kind is NoticeKind.BUILDING:
                on_phase(Phase(PhaseKind.BUILDING, 0.3, f"Being built: {notice.text}"))

        with notices_to(building):
            await self._worker.start()

    async def open(self, casting: Casting, on_event: OnEvent) -> Person:
        """Raises PortraitError, FileError, BackendUnavailableError or WorkerError."""
        if self._worker.broken:
            self._worker.reset()
        if casting.cut_out and not self._worker.info.moves_alpha:
            backend = self._worker.info.backend
            raise BackendUnavailableError(f"the {backend} backend cannot leave the background out; choose another one")
        face = await self._face(casting)
        person = LocalPerson(
            self._worker, face, SessionConfig(keep_up=casting.live, keep_up_frames=KEEP_UP_FRAMES), on_event
        )
        try:
            await person.start()
        except BaseException:
            await person.aclose()
            raise
        return person

    async def aclose(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await in_background("visavis close reader", reader.close)
        await self._worker.aclose(CLOSE_S)

    async def _face(self, casting: Casting) -> Face:
        """One at a time: the face finder is not made for several threads."""
        config = self._config
        async with self._reading:
            if self._reader is None:
                self._reader = await in_background(
                    "visavis open reader", lambda: engine_for_faces(self._model, self._backend), AvatarEngine.close
                )
            reader = self._reader
            return await in_background(
                "visavis read portrait",
                lambda: reader.face(casting.portrait, config.size_px, config.seed, casting.cut_out),
            )
