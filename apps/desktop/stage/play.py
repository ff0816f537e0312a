"""The play: who is on stage, who follows, and what their frames become. All of it belongs to the event loop's thread.

Whoever is wanted is opened beside the one that is shown, and takes over with the first picture of their own; when that
fails, a notice is given and the old picture stays. The stream that listeners see goes on over such changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from apps.desktop.notice import Notice
from apps.desktop.stage.contract import (
    LISTEN,
    SPEAK,
    Listener,
    Packet,
    Phase,
    PhaseKind,
    Shown,
    StageConfig,
)
from apps.desktop.stage.figures import CaptureTimes, Figures
from apps.desktop.stage.house import Casting, House, Person
from apps.desktop.stage.outlets import Outlets
from engine.errors import ArgumentError, AudioBufferFullError, AudioFormatError, AvatarError, SessionClosedError
from engine.events import EventKind, SessionEvent
from engine.types import FRAME_US, AvatarState, VideoFrame

_LOG = logging.getLogger(__name__)

FIRST_PICTURE_S = 10.0
"""How long somebody who was opened may take to be seen."""

HouseOf = Callable[[StageConfig], House]


@dataclass(slots=True)
class Wishes:
    """What holds for whoever is on stage."""

    mode: str = SPEAK
    state: AvatarState | str | None = None
    expression: tuple[str, float] | None = None
    pose: Mapping[str, float] | None = None


@dataclass(slots=True)
class _Actor:
    """Somebody on stage, or about to be. offset_us: from their moments to the stage's."""

    person: Person
    casting: Casting
    offset_us: int = 0
    captured: CaptureTimes = field(default_factory=CaptureTimes)
    entered: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    prepared: Wishes = field(default_factory=Wishes)
    frames: asyncio.Task[None] | None = None


class Play:
    """One play, from `run` until it is cancelled."""

    def __init__(self, config: StageConfig, listener: Listener, house_of: HouseOf, outlets: Outlets) -> None:
        self.figures = Figures()
        self.wishes = Wishes()
        self._listener, self._house_of, self._outlets = listener, house_of, outlets
        self._wanted_config, self._casting = config, Casting(config.portrait)
        self._config: StageConfig | None = None
        self._house: House | None = None
        self._actor: _Actor | None = None
        self._next_us = 0
        self._changed = asyncio.Event()
        self._recasting: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled; then everything is freed."""
        self.figures.asked()
        try:
            while True:
                self._changed.clear()
                self._recasting = asyncio.get_running_loop().create_task(self._recast(), name="stage recast")
                await asyncio.wait([self._recasting])
                if not self._recasting.cancelled():
                    self._recasting.result()
                await self._changed.wait()
        finally:
            await self._end()

    # What is asked for.

    def show(self, portrait: Path) -> None:
        self._cast(replace(self._casting, portrait=portrait))

    def cut_out(self, on: bool) -> None:
        self._cast(replace(self._casting, cut_out=on))

    def live(self, on: bool) -> None:
        self._cast(replace(self._casting, live=on))

    def use(self, config: StageConfig) -> None:
        if self._recasting is not None and config != self._wanted_config:
            # An engine that nobody wants any more may take minutes yet.
            self._recasting.cancel()
        self._wanted_config = config
        self._cast(replace(self._casting, portrait=config.portrait), again=True)

    def hear(self, packet: Packet) -> None:
        if (actor := self._actor) is None:
            return
        if self.wishes.mode == LISTEN:
            actor.person.push_listening_audio(packet.samples, packet.rate_hz)
        else:
            turn_id = actor.person.push_audio(packet.samples, packet.rate_hz)
            actor.captured.add(turn_id, len(packet.samples), packet.rate_hz, packet.captured_us)

    def set_mode(self, mode: str) -> None:
        if mode != self.wishes.mode:
            self.wishes.mode = mode
            self.do(lambda person: person.flush())

    def interrupt(self) -> None:
        self.do(lambda person: person.interrupt())
        self._outlets.fall_silent()

    def set_state(self, state: AvatarState | str | None) -> None:
        self.wishes.state = state
        self.do(lambda person: person.set_state(state))

    def set_expression(self, name: str | None, strength: float) -> None:
        self.wishes.expression = None if name is None else (name, strength)
        self.do(lambda person: person.set_expression(name, strength))

    def set_pose(self, angles: Mapping[str, float] | None) -> None:
        self.wishes.pose = angles
        self.do(lambda person: person.set_pose(angles))

    def do(self, what: Callable[[Person], object]) -> None:
        """With who is on stage, if anybody is."""
        if self._actor is not None:
            what(self._actor.person)

    def perform(self, act: Callable[[], None]) -> None:
        """Do what a user asked for; what is wrong with it becomes a notice."""
        try:
            act()
        except SessionClosedError:
            pass  # Between the end of one session and the notice of it.
        except AudioBufferFullError as error:
            self._notice(error, "warning")
        except (AudioFormatError, ArgumentError) as error:
            self._notice(error)

    def tell(self, notice: Notice) -> None:
        self._call(self._listener.on_notice, notice)

    # Changing who is on stage.

    def _cast(self, casting: Casting, again: bool = False) -> None:
        if casting != self._casting or again or self._actor is None:
            self._casting = casting
            self.figures.asked()
            self._changed.set()

    async def _recast(self) -> None:
        """Open who is wanted; on failure, who is on stage stays."""
        config = self._wanted_config
        fresh: House | None = None
        try:
            if self._house is None or config != self._config:
                fresh = self._house_of(config)
                await fresh.start(self._phase)
            house = fresh or self._house
            assert house is not None
            casting = self._casting  # It may have changed while the model was loaded.
            self._phase(Phase(PhaseKind.OPENING, 0.7, f"{casting.portrait.name} is being read"))
            await self._enter(house, casting)
        except AvatarError as error:
            if fresh is not None:
                await fresh.aclose()
            self._refused(error)
            return
        except BaseException:
            if fresh is not None:
                await fresh.aclose()
            raise
        if fresh is not None:
            self._config, old, self._house = config, self._house, fresh
            if old is not None:
                self._later(old.aclose())
        self._phase(Phase(PhaseKind.READY, 1.0, f"{casting.portrait.name} is on stage"))

    def _refused(self, error: AvatarError) -> None:
        self._notice(error)
        if self._actor is None:
            self._phase(Phase(PhaseKind.FAILED, 0.0, str(error)))
            return
        # What is shown is what is wanted again, or the next change would meet the same fault.
        self._casting = self._actor.casting
        self._wanted_config = self._config or self._wanted_config
        self._phase(Phase(PhaseKind.READY, 1.0, f"{self._casting.portrait.name} stays on stage"))

    async def _enter(self, house: House, casting: Casting) -> None:
        """Returns once their first picture is shown. Raises AvatarError."""
        person = await house.open(casting, self._on_event)
        actor = _Actor(person, casting)
        try:
            self._prepare(actor)
            actor.frames = asyncio.get_running_loop().create_task(self._play(actor), name="stage frames")
            async with asyncio.timeout(FIRST_PICTURE_S):
                await actor.entered
        except TimeoutError:
            await self._leave(actor)
            raise SessionClosedError("no picture came; see the log, and choose the portrait again") from None
        except BaseException:
            await self._leave(actor)
            raise

    def _prepare(self, actor: _Actor) -> None:
        """Make what was wished for hold for them."""
        had, wishes, person = actor.prepared, self.wishes, actor.person
        if wishes.state != had.state:
            person.set_state(wishes.state)
        if wishes.expression != had.expression:
            person.set_expression(*(wishes.expression or (None, 0.0)))
        if wishes.pose != had.pose:
            person.set_pose(wishes.pose)
        actor.prepared = replace(wishes)

    def _later(self, leaving: Coroutine[Any, Any, None]) -> None:
        """Close what is no longer needed, while the play goes on."""
        task = asyncio.get_running_loop().create_task(leaving, name="stage leaving")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, actor: _Actor) -> None:
        if actor.frames is not None:
            actor.frames.cancel()
            await asyncio.gather(actor.frames, return_exceptions=True)
        await actor.person.aclose()

    async def _end(self) -> None:
        if self._recasting is not None:
            self._recasting.cancel()
            await asyncio.gather(self._recasting, return_exceptions=True)
        actor, self._actor = self._actor, None
        if actor is not None:
            self._later(self._leave(actor))
        if self._house is not None:
            self._later(self._house.aclose())
        self._later(self._outlets.aclose())
        await asyncio.gather(*self._leaving, return_exceptions=True)
        self._phase(Phase(PhaseKind.CLOSED, 0.0, "The stage is closed"))

    # Frames.

    async def _play(self, actor: _Actor) -> None:
        try:
            async for frame in actor.person.frames():
                self._show(actor, frame)
            error: AvatarError = SessionClosedError("the session ended; choose the portrait again")
        except AvatarError as raised:
            error = raised
        if actor is self._actor:
            # The last picture stays where it is shown.
            self._actor = None
            self._notice(error)
            self._phase(Phase(PhaseKind.FAILED, 0.0, str(error)))
            self._later(actor.person.aclose())
        elif not actor.entered.done():
            actor.entered.set_exception(error)

    def _show(self, actor: _Actor, frame: VideoFrame) -> None:
        if not actor.entered.done():
            self._take_over(actor, frame)
        if actor is not self._actor:
            return  # Who leaves may still have had some.
        pts_us = frame.pts_us + actor.offset_us
        self._next_us = pts_us + FRAME_US
        captured_us = actor.captured.of_frame(frame.turn_id, frame.turn_samples) if frame.turn_id else None
        playing_us = self._outlets.give(_shown(frame, pts_us, captured_us), frame.audio, self._out)
        if playing_us is not None:
            actor.person.played(playing_us - actor.offset_us)

    def _take_over(self, actor: _Actor, frame: VideoFrame) -> None:
        old, self._actor = self._actor, actor
        actor.offset_us = self._next_us - frame.pts_us
        actor.entered.set_result(None)
        self.figures.entered()
        self._prepare(actor)
        if old is not None:
            self._later(self._leave(old))

    def _out(self, shown: Shown, drift_us: int | None) -> None:
        """At its moment, after the delay of the loudspeaker."""
        self._call(self._listener.on_frame, shown)
        if self._actor is not None:
            self.figures.shown(shown.captured_us, drift_us, self._actor.person.figures())

    # What is told.

    def _on_event(self, event: SessionEvent) -> None:
        self._call(self._listener.on_event, event)
        if event.kind is EventKind.WORKER_LOST:
            text = "The model was lost and is being started again; the picture stands still until then."
            self.tell(Notice("worker_lost", text, "warning"))
        elif event.kind is EventKind.WORKER_BACK:
            self.tell(Notice("worker_back", "The model runs again.", "info"))

    def _notice(self, error: AvatarError, level: str = "error") -> None:
        text = str(error)
        self.tell(Notice(error.code, text[:1].upper() + text[1:], "warning" if level == "warning" else "error"))

    def _phase(self, phase: Phase) -> None:
        self._call(self._listener.on_phase, phase)

    def _call(self, listen: Callable[..., None], *what: object) -> None:
        try:
            listen(*what)
        except Exception:
            # The listener's fault must cost neither the picture nor the sound.
            _LOG.exception("a listener of the stage failed")


def _shown(frame: VideoFrame, pts_us: int, captured_us: int | None) -> Shown:
    image, cut = frame.image, frame.image.shape[2] == 4
    return Shown(
        image=image[..., :3] if cut else image,
        alpha=image[..., 3] if cut else None,
        pts_us=pts_us,
        state=frame.state,
        turn_id=frame.turn_id,
        captured_us=captured_us,
        rgba=image if cut else None,
        frozen=frame.frozen,
    )
