"""A chatbot's session as the server's code sees it: its verbs end at the window's avatar instead of a model's.

Sound that comes faster than it is spoken waits here and goes on at the pace of life, so that an interrupt cuts all of
it, and what was heard is known. Frames carry no pictures; those are in the window.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from apps.desktop.audio.source import Deliver, Packet, Samples, clock_us
from engine.audio.resample import Resampler
from engine.clock import now_us, sleep_until_us
from engine.events import SessionEvent, Turns
from engine.metrics import SessionMetrics
from engine.session import Interrupted, SessionConfig
from engine.timeline.lane import AudioLane, Placed
from engine.types import FRAME_US, SAMPLE_RATE_HZ, AvatarState, VideoFrame

_NO_PICTURE = np.zeros((0, 0, 3), np.uint8)
_LATE_US = 500_000
_MOST_CUES = 256


class Puppet(Protocol):
    """What a chatbot may do beside speaking; apps.desktop.stage.stage.Stage is one. All methods return at once."""

    def end_of_speech(self) -> None: ...

    def interrupt(self) -> None: ...

    def set_state(self, state: str | None) -> None: ...

    def set_expression(self, name: str | None, strength: float = 1.0) -> None: ...

    def set_pose(self, angles: Mapping[str, float] | None) -> None: ...


@dataclass(frozen=True, slots=True)
class _Cue:
    """What is to be done once so many samples of a turn were heard."""

    turn_id: int
    position: int
    act: Callable[[], None]


class Caller:
    """Has what apps.server uses of engine.session.AvatarSession. Belongs to the event loop's thread."""

    def __init__(self, deliver: Deliver, puppet: Puppet, on_event: Callable[[SessionEvent], None]) -> None:
        self.metrics = SessionMetrics()
        self.presenter = SimpleNamespace(late=0, last=None, coming=None)
        self._deliver, self._puppet, self._on_event = deliver, puppet, on_event
        self._lane = AudioLane(SessionConfig().buffer_seconds, gate=False, probability=lambda window: 0.0)
        self._turns = Turns()
        self._coming_turn: int | None = None
        self._resampler: Resampler | None = None
        self._cues: list[_Cue] = []
        self._closed = False

    async def start(self) -> None:
        """Nothing has to be made ready."""

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._puppet.interrupt()
            self._tell(self._turns.stop_all("closed"))

    @property
    def buffered_ms(self) -> int:
        return self._lane.waiting * 1000 // SAMPLE_RATE_HZ

    def push_audio(self, pcm: bytes, sample_rate: int) -> int:
        """s16le. Raises AudioBufferFullError or AudioFormatError; then nothing was taken."""
        turn_id = self._turn()
        self._lane.push(self._samples(pcm, sample_rate), turn_id)
        self._coming_turn = None
        return turn_id

    def push_listening_audio(self, pcm: bytes, sample_rate: int) -> None:
        """The window has one voice; whom it listens to is chosen there."""

    def flush(self) -> None:
        """The utterance is complete."""
        if self._resampler is not None and self._lane.open_turn is not None:
            self._lane.push(self._resampler.flush(), self._lane.open_turn)
        self._lane.flush()
        self._resampler = None

    def interrupt(self) -> Interrupted:
        """Fall silent at once."""
        self._lane.discard(fade=False)
        self._resampler = self._coming_turn = None
        self._cues.clear()
        self._tell(self._turns.stop_all("interrupted"))
        self._puppet.interrupt()
        return Interrupted(0, 0)

    def set_state(self, state: AvatarState | str | None) -> None:
        self._puppet.set_state(state.name.lower() if isinstance(state, AvatarState) else state)

    def set_expression(self, name: str | None, strength: float = 1.0, **when: Any) -> None:
        self._cue(lambda: self._puppet.set_expression(name, strength), **when)

    def set_pose(self, angles: Mapping[str, float] | None, **when: Any) -> None:
        self._cue(lambda: self._puppet.set_pose(angles), **when)

    def played(self, pts_us: int) -> None:
        """The window has its own clock."""

    async def frames(self) -> AsyncIterator[VideoFrame]:
        """The sound as it is spoken, 25 times a second, until closed."""
        frame, begun_us = 0, now_us()
        while not self._closed:
            await sleep_until_us(begun_us + frame * FRAME_US)
            if now_us() - begun_us - frame * FRAME_US > _LATE_US:
                begun_us = now_us() - frame * FRAME_US
            yield self._next(frame)
            frame += 1

    def _next(self, frame: int) -> VideoFrame:
        self._lane.place(frame + 1)
        placed, sound = self._lane.at(frame), self._lane.read(frame, frame + 1)
        shown = self.presenter.last = VideoFrame(
            _NO_PICTURE,
            sound,
            frame * FRAME_US,
            AvatarState.SPEAKING if placed.turn_id else AvatarState.IDLE,
            turn_id=placed.turn_id,
            turn_samples=placed.turn_samples,
            end_of_turn=placed.last,
        )
        if placed.turn_id:
            self._speak(placed, sound)
        return shown

    def _speak(self, placed: Placed, sound: Samples) -> None:
        self._do_cues(placed)
        if placed.length:
            self._deliver(Packet(sound[: placed.length], SAMPLE_RATE_HZ, clock_us()))
        if placed.last:
            self._puppet.end_of_speech()
        self._tell(self._turns.heard(placed.turn_id, placed.turn_samples, placed.last))

    def _turn(self) -> int:
        if self._lane.open_turn is not None:
            return self._lane.open_turn
        if self._coming_turn is None:
            self._coming_turn = self._turns.begin()
        return self._coming_turn

    def _samples(self, pcm: bytes, rate_hz: int) -> Samples:
        if self._resampler is None or self._resampler.rate_hz != rate_hz:
            self._resampler = Resampler(rate_hz)
        return self._resampler.push(np.frombuffer(pcm, "<i2").astype(np.int16))

    def _cue(
        self, act: Callable[[], None], fade_ms: float = 0.0, delay_ms: float = 0.0, at_ms: float | None = None
    ) -> None:
        """fade_ms: the window's own is used."""
        if at_ms is not None:
            cue = _Cue(self._turn(), round(at_ms * SAMPLE_RATE_HZ / 1000), act)
            self._cues = [*self._cues[1 - _MOST_CUES :], cue]
        elif delay_ms:
            asyncio.get_running_loop().call_later(delay_ms / 1000, lambda: None if self._closed else act())
        else:
            act()

    def _do_cues(self, placed: Placed) -> None:
        due = [cue for cue in self._cues if (cue.turn_id, cue.position) <= (placed.turn_id, placed.turn_samples)]
        self._cues = [cue for cue in self._cues if cue not in due]
        for cue in due:
            if cue.turn_id == placed.turn_id:
                cue.act()

    def _tell(self, events: list[SessionEvent]) -> None:
        for event in events:
            self._on_event(event)
