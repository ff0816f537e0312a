"""The stage: a person on it, and everything that is done with them, for programs with threads of their own.

    stage = Stage(StageConfig(portrait), listener)
    stage.start()
    stage.hear(packet)            # from any thread, as from a microphone's
    stage.close(2.0)

A thread with an event loop belongs to it; whatever takes time happens there or further behind. Every method returns at
once and may be called from any thread, in any phase; what goes wrong comes to `listener` as a notice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread

from apps.desktop.notice import Notice
from apps.desktop.stage.contract import (
    MODES,
    Floats,
    Listener,
    Loudspeaker,
    Packet,
    Phase,
    PhaseKind,
    Shown,
    StageConfig,
    StageStats,
)
from apps.desktop.stage.house import House, LocalHouse
from apps.desktop.stage.outlets import Doors, Outlets
from apps.desktop.stage.play import HouseOf, Play
from engine.errors import ArgumentError
from engine.types import AvatarState

__all__ = [
    "Doors", "Floats", "Listener", "Loudspeaker", "Packet", "Phase", "PhaseKind", "Shown", "Stage", "StageConfig",
    "StageStats",
]  # fmt: skip

_LOG = logging.getLogger(__name__)

MOST_PACKETS = 64
"""Packets that wait for the stage's thread, more than a second of 20 ms each; then the oldest is lost, and counted."""


def usual_house(config: StageConfig) -> House:
    """This machine, or the server that the configuration names."""
    if config.server is None:
        return LocalHouse(config)
    from apps.desktop.stage.remote import ServerHouse

    return ServerHouse(config)


class Stage:
    """One person, live. `start` it once, and `close` it."""

    def __init__(
        self,
        config: StageConfig,
        listener: Listener,
        house_of: HouseOf = usual_house,
        doors: Doors | None = None,
    ) -> None:
        """house_of, doors: where persons and devices come from; tests have their own."""
        self.config = config
        self._listener, self._house_of, self._doors = listener, house_of, doors or Doors()
        self._thread = Thread(target=self._run, name="visavis stage", daemon=True)
        self._lock = Lock()
        self._inbox: deque[Packet] = deque(maxlen=MOST_PACKETS)
        self._emptying = False
        self._lost_packets = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._play: Play | None = None
        self._outlets: Outlets | None = None
        self._early: list[Callable[[], None]] = []
        """What was asked for before the loop ran."""
        self._main: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Load the model and bring the portrait of the configuration on stage; the listener is told how it goes."""
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> bool:
        """End everything: whoever is on stage leaves, a film is finished. Returns whether that was done in time; what
        was not goes on in threads and processes that end with the program. Idempotent.
        """
        self._closing = True
        self._post(self._end)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # Who is on stage.

    def show(self, portrait: Path) -> None:
        """Change the person; the old one stays until the new one is ready, or for good if they cannot be shown."""
        self._ask(lambda play: play.show(portrait))

    def use(self, config: StageConfig) -> None:
        """Another model, backend, size or server; the old one goes on until the new one is ready."""
        self._ask(lambda play: play.use(config))

    def transparent(self, on: bool) -> None:
        """Cut the person out of the background: Shown then has alpha. Takes half a second, and a model that can."""
        self._ask(lambda play: play.cut_out(on))

    def live(self, on: bool) -> None:
        """True, as it is in the beginning, for sound as it is spoken: what comes too late is skipped, so that delay
        does not add up. False for sound that comes faster, as from a chatbot: nothing of it is lost, up to 120 s.
        """
        self._ask(lambda play: play.live(on))

    # What they hear and say.

    def hear(self, packet: Packet) -> None:
        """Sound, for the person to speak or to listen to; see set_mode. Never blocks."""
        with self._lock:
            self._lost_packets += len(self._inbox) == MOST_PACKETS
            self._inbox.append(packet)
            if self._emptying:
                return
            self._emptying = True
        self._post(self._empty)

    def end_of_speech(self) -> None:
        """The utterance is complete: the microphone was closed, the file is over."""
        self._ask(lambda play: play.do(lambda person: person.flush()))

    def interrupt(self) -> None:
        """Fall silent at once."""
        self._ask(lambda play: play.interrupt())

    def set_mode(self, mode: str) -> None:
        """`speak`: the sound that is heard is the person's own voice; `listen`: it is the partner's. Raises
        ArgumentError.
        """
        if mode not in MODES:
            raise ArgumentError(f"there is no mode {mode!r}; known are {', '.join(MODES)}")
        self._ask(lambda play: play.set_mode(mode))

    def set_state(self, state: AvatarState | str | None) -> None:
        """speaking, listening or idle; `auto` or None lets the voices decide."""
        self._ask(lambda play: play.set_state(state))

    def set_expression(self, name: str | None, strength: float = 1.0) -> None:
        """One of engine.types.EXPRESSIONS, until another one is set; None lets go."""
        self._ask(lambda play: play.set_expression(name, strength))

    def set_pose(self, angles: Mapping[str, float] | None) -> None:
        """Degrees by axis of engine.types.POSE_AXES; None lets go."""
        given = None if angles is None else dict(angles)
        self._ask(lambda play: play.set_pose(given))

    # Where it goes.

    def hear_aloud(self, on: bool, device: str | None = None) -> None:
        """Play the person's sound on a device by name, None for the usual one. Pictures then wait for the device."""
        self._ask_outlets(lambda outlets: outlets.hear_aloud(on, device))

    def record(self, path: Path) -> None:
        """Write a film, .mp4, from now on. A notice `recording_saved` or `recording_failed` tells its end."""
        self._ask_outlets(lambda outlets: outlets.record(path))

    def stop_recording(self) -> None:
        self._ask_outlets(lambda outlets: outlets.stop_recording())

    def screenshot(self, path: Path) -> None:
        """Write what is shown, .png. A notice `screenshot_saved` tells that it is there."""
        self._ask_outlets(lambda outlets: outlets.screenshot(path))

    def camera(self, on: bool) -> None:
        """Be a camera for other programs. A notice `camera_on` names it; `camera_driver`, `extra_missing` and
        `camera_lost` say that it is off.
        """
        self._ask_outlets(lambda outlets: outlets.camera(on))

    @property
    def recording(self) -> bool:
        """Whether a film is being written; it ends by itself when the disk is full."""
        return self._outlets is not None and self._outlets.recording

    @property
    def heard_until_us(self) -> int:
        """When what the loudspeaker plays is over, on the clock of time.monotonic; a microphone's gate asks for it."""
        outlets = self._outlets
        return 0 if outlets is None else outlets.heard_until_us

    def stats(self) -> StageStats:
        play = self._play
        return StageStats() if play is None else play.figures.stats(self._lost_packets)

    # The thread.

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._live())
        except Exception:
            _LOG.exception("the stage failed")
            text = "The stage failed; this is a fault of visavis. Export the log and start it again."
            self._listener.on_notice(Notice("stage_failed", text, "error"))
            self._listener.on_phase(Phase(PhaseKind.FAILED, 0.0, text))

    async def _live(self) -> None:
        self._outlets = Outlets(self._tell, self._doors)
        self._play = Play(self.config, self._listener, self._house_of, self._outlets)
        self._main = asyncio.get_running_loop().create_task(self._play.run(), name="stage play")
        with self._lock:
            self._loop = asyncio.get_running_loop()
            early, self._early = self._early, []
        for ask in early:
            ask()
        if self._closing:
            self._end()
        with suppress(asyncio.CancelledError):
            await self._main

    def _end(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _empty(self) -> None:
        """Hand on the sound that has come."""
        with self._lock:
            self._emptying = False
            packets = list(self._inbox)
            self._inbox.clear()
        if (play := self._play) is not None:
            for packet in packets:
                play.perform(partial(play.hear, packet))

    def _tell(self, notice: Notice) -> None:
        """Of a device, told in a thread of its own."""
        self._ask(lambda play: play.tell(notice))

    def _ask(self, what: Callable[[Play], None]) -> None:
        def ask() -> None:
            if (play := self._play) is not None:
                play.perform(partial(what, play))

        self._post(ask)

    def _ask_outlets(self, what: Callable[[Outlets], None]) -> None:
        def ask() -> None:
            if self._outlets is not None:
                what(self._outlets)

        self._post(ask)

    def _post(self, call: Callable[[], None]) -> None:
        """In the stage's thread, soon; later if it has not begun, never when it has ended."""
        with self._lock:
            if self._loop is None:
                self._early.append(call)
                return
        with suppress(RuntimeError):  # The loop has ended.
            self._loop.call_soon_threadsafe(call)
