"""A conversation: sound in, frames out, live. The verbs are those of LiveKit, Pipecat and bitHuman.

async with engine.session("face.jpg") as avatar:
    avatar.push_audio(pcm, 24_000)      # any chunk size, faster than real time is welcome
    avatar.flush()                      # the utterance is complete
    async for frame in avatar.frames():
        show(frame.image, frame.audio)

All methods but `frames` and `aclose` return at once and belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.audio.resample import Resampler
from engine.audio.silero import Probability, silero
from engine.clock import now_us
from engine.direction import expression_vector
from engine.director import Director
from engine.errors import ArgumentError, AudioFormatError, SessionClosedError
from engine.events import SessionEvent, Turns
from engine.metrics import SessionMetrics
from engine.portrait.planes import to_pixels
from engine.presenter import Presenter
from engine.timeline.cues import Cue, CueTrack, frames_of
from engine.timeline.lane import AudioLane
from engine.timeline.timeline import Timeline
from engine.types import POSE_AXES, SAMPLE_RATE_HZ, AvatarState, VideoFrame
from engine.watchdog import DriftBounds, DriftWatchdog
from engine.worker.base import Face, Worker

_LOG = logging.getLogger(__name__)

Pcm = NDArray[Any] | bytes | bytearray | memoryview

PARTNER_SECONDS = 2.0
LONGEST_FADE_MS, LONGEST_DELAY_MS = 60_000, 3_600_000
LARGEST_ANGLE = 60.0


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """paced: frames come when they are due, as a live picture must; False gives each as soon as it is asked for, and
    none but those of pushed sound. buffer_seconds: sound that may wait. keep_up: the voice is a microphone's; what
    comes too late is skipped, so that delay does not add up. keep_up_frames: how much of it may wait beyond the
    look-ahead: as many as its way here is uneven.
    """

    paced: bool = True
    buffer_seconds: float = 120.0
    keep_up: bool = False
    keep_up_frames: int = 5
    drift: DriftBounds = DriftBounds()


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Where an interrupt cut: the turn that was heard (0 for none) and how much of it."""

    turn_id: int
    turn_samples: int

    @property
    def turn_ms(self) -> int:
        return self.turn_samples * 1000 // SAMPLE_RATE_HZ


class AvatarSession:
    """One person on screen. Opened by `AvatarEngine.session`, or on any worker by `async with AvatarSession(...)`."""

    def __init__(
        self,
        worker: Worker,
        face: Face,
        config: SessionConfig | None = None,
        on_event: Callable[[SessionEvent], None] | None = None,
        speech: Probability | None = None,
    ) -> None:
        """on_event: called with each SessionEvent, in the event loop; it must not block, and
        what it raises is logged. speech: probability of speech
        in a window of 512 samples, Silero when None.
        """
        self.config = config or SessionConfig()
        self._worker, self._face, self._on_event, self._speech = worker, face, on_event, speech
        self._turns = Turns()
        self._resamplers: dict[str, Resampler] = {}
        self._bad_samples = 0
        self._coming_turn: int | None = None
        self._newest_turn = 0
        self._begun_us: dict[int, int] = {}
        """When the first sound of turns came that are not yet heard."""
        self._cut_us: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._timeline: Timeline | None = None
        self._closed = False

    async def __aenter__(self) -> AvatarSession:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Take a place in the worker and begin to show the person. Raises EngineFullError or WorkerLostError."""
        config = self.config
        # Opened now, since the first window of an utterance is no moment to read a file.
        own, their = self._speech or silero(), self._speech or silero()
        partner = AudioLane(PARTNER_SECONDS, keep_up_frames=1, gate=False, probability=their)
        voice = AudioLane(
            config.buffer_seconds, keep_up_frames=config.keep_up_frames if config.keep_up else None, probability=own
        )
        self._timeline = Timeline(voice, partner)
        self._presenter = Presenter(config.paced, self._shown)
        watchdog = DriftWatchdog(to_pixels(self._face.picture[0, :3]), config.drift)
        self._director = Director(self._timeline, self._presenter, self._worker, self._face, watchdog, self._tell)
        await self._director.open()
        loop = asyncio.get_running_loop()
        for name, work in (("avatar-plan", self._director.run()), ("avatar-present", self._presenter.run())):
            task = loop.create_task(work, name=name)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def aclose(self) -> None:
        """End the session; idempotent. Utterances under way are finished, incomplete; `frames` ends."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timeline is not None:
            self._presenter.close()
            self._emit(self._turns.stop_all("closed"))
            await self._director.aclose()
        # Who listens mostly holds this session, and both would stay until they are collected.
        self._on_event = None

    def push_audio(self, pcm: Pcm, sample_rate: int = SAMPLE_RATE_HZ) -> int:
        """Sound for the person to speak: int16 bytes, or any array that Resampler takes; returns the turn's id.

        Raises AudioFormatError, AudioBufferFullError (nothing was taken) or SessionClosedError.
        """
        timeline = self._check_open()
        samples = self._resample("voice", pcm, sample_rate)
        turn_id = self._turn(timeline)
        timeline.voice.push(samples, turn_id)
        self._coming_turn = None
        if turn_id > self._newest_turn:
            self._newest_turn, self._begun_us[turn_id] = turn_id, now_us()
        self._director.wake()
        return turn_id

    def push_listening_audio(self, pcm: Pcm, sample_rate: int = SAMPLE_RATE_HZ) -> None:
        """The other party's voice, as it is heard; the person listens and reacts. What comes too fast is skipped."""
        timeline = self._check_open()
        timeline.partner.push(self._resample("partner", pcm, sample_rate), turn_id=0)
        self._director.hear_partner()

    def flush(self) -> None:
        """The utterance is complete; sound that is pushed from now on belongs to the next one."""
        timeline = self._check_open()
        resampler = self._resamplers.pop("voice", None)
        if timeline.voice.open_turn is not None and resampler is not None:
            self._count(resampler)
            if len(tail := resampler.flush()):
                timeline.voice.push(tail, timeline.voice.open_turn)
        timeline.voice.flush()
        self._director.wake()

    def interrupt(self) -> Interrupted:
        """Fall silent at once: everything that was pushed is dropped, and the mouth closes. Idempotent."""
        timeline = self._check_open()
        last = self._presenter.last
        self._director.replan()
        timeline.voice.discard(fade=not self._presenter.silence())
        self._resamplers.pop("voice", None)
        self._coming_turn = None
        stopped = self._turns.stop_all("interrupted")
        self._begun_us.clear()
        self._cut_us = now_us()
        self._emit(stopped)
        heard = next((event for event in stopped if last is not None and event.turn_id == last.turn_id), None)
        return Interrupted(heard.turn_id, heard.turn_samples) if heard else Interrupted(0, 0)

    def set_state(self, state: AvatarState | str | None) -> None:
        """speaking, listening or idle, from the next frame that can still be changed; `auto` or None lets the voices
        decide. Raises ArgumentError.
        """
        timeline, chosen = self._check_open(), _state(state)
        self._director.change("state", lambda frame: timeline.set_state(frame, chosen))

    def set_expression(
        self,
        name: str | None,
        strength: float = 1.0,
        *,
        fade_ms: float = 200,
        delay_ms: float = 0,
        at_ms: float | None = None,
    ) -> None:
        """Move to an expression of engine.types.EXPRESSIONS within fade_ms; None lets go of all of them.

        delay_ms: from now. at_ms: instead, when so much of the utterance that is being pushed has been heard.
        """
        timeline = self._check_open()
        if name is None:
            cue = Cue(0, _fade(fade_ms), dict.fromkeys(range(len(expression_vector({}))), 0.0), given=False)
        else:
            channel = int(np.argmax(expression_vector({name: 1.0})))
            cue = Cue(0, _fade(fade_ms), {channel: float(expression_vector({name: strength})[channel])})
        self._cue(timeline.expression, f"expression {name}", cue, delay_ms, at_ms)

    def set_pose(
        self,
        angles: Mapping[str, float] | None,
        *,
        fade_ms: float = 300,
        delay_ms: float = 0,
        at_ms: float | None = None,
    ) -> None:
        """Turn head and eyes: degrees by axis of engine.types.POSE_AXES; None lets go. Times as in set_expression."""
        timeline = self._check_open()
        for axis, angle in (angles or {}).items():
            if axis not in POSE_AXES:
                raise ArgumentError(f"there is no axis {axis!r}; known are {', '.join(POSE_AXES)}")
            if not abs(angle) <= LARGEST_ANGLE:
                raise ArgumentError(f"{axis} must lie within {LARGEST_ANGLE:g} degrees either way, not {angle}")
        targets = {POSE_AXES.index(axis): float(angle) for axis, angle in (angles or {}).items()}
        released = dict.fromkeys(range(len(POSE_AXES)), 0.0)
        cue = Cue(0, _fade(fade_ms), released if angles is None else targets, given=angles is not None)
        self._cue(timeline.pose, f"pose {sorted(targets)}", cue, delay_ms, at_ms)

    def played(self, pts_us: int) -> None:
        """Tell which moment of the stream a sound device plays now, some 25 times a second: the media clock then
        follows that device, and sound and picture stay together for hours. Without it, the computer's clock paces.
        """
        self._check_open()
        self._presenter.follow(pts_us)

    async def frames(self) -> AsyncIterator[VideoFrame]:
        """Frames as they are due, until the session is closed. For one reader. Raises at the end what was wrong, as
        WorkerBrokenError, when the model could not be kept running.
        """
        self._started()
        while (frame := await self._presenter.take()) is not None:
            yield frame
        if self._director.failure is not None:
            raise self._director.failure

    @property
    def metrics(self) -> SessionMetrics:
        """What happened since the session began; `snapshot()` makes plain numbers of it."""
        self._started()
        return self._director.metrics

    @property
    def presenter(self) -> Presenter:
        """Lateness and drops."""
        self._started()
        return self._presenter

    @property
    def watchdog(self) -> DriftWatchdog:
        self._started()
        return self._director.watchdog

    @property
    def buffered_ms(self) -> int:
        """Sound that was pushed and that no frame holds yet."""
        return self._started().voice.waiting * 1000 // SAMPLE_RATE_HZ

    @property
    def bad_samples(self) -> int:
        """Samples that were NaN or infinite and became silence."""
        return self._bad_samples + sum(r.bad_samples for r in self._resamplers.values())

    def _started(self) -> Timeline:
        if self._timeline is None:
            raise SessionClosedError("the session has not begun; use `async with`, or await start()")
        return self._timeline

    def _check_open(self) -> Timeline:
        if self._closed:
            raise SessionClosedError("the session is closed; open another one")
        return self._started()

    def _resample(self, lane: str, pcm: Pcm, rate_hz: int) -> NDArray[np.float32]:
        samples = _samples(pcm)
        resampler = self._resamplers.get(lane)
        tail = np.zeros(0, np.float32)
        if resampler is None or resampler.rate_hz != rate_hz:
            fresh = Resampler(rate_hz)
            if resampler is not None:
                self._count(resampler)
                tail = resampler.flush()
            resampler = self._resamplers[lane] = fresh
        return np.concatenate([tail, resampler.push(samples)])

    def _turn(self, timeline: Timeline) -> int:
        """The turn that sound belongs to from now on; one that was begun by a cue waits for its sound."""
        if timeline.voice.open_turn is not None:
            return timeline.voice.open_turn
        if self._coming_turn is None:
            self._coming_turn = self._turns.begin()
        return self._coming_turn

    def _count(self, resampler: Resampler) -> None:
        self._bad_samples += resampler.bad_samples

    def _cue(self, track: CueTrack, kind: str, cue: Cue, delay_ms: float, at_ms: float | None) -> None:
        for name, value in (("delay_ms", delay_ms), ("at_ms", at_ms or 0)):
            if not 0 <= value <= LONGEST_DELAY_MS:
                raise ArgumentError(f"{name} must lie between 0 and {LONGEST_DELAY_MS}, not {value}")
        timeline = self._started()
        if at_ms is not None:
            turn_id = self._turn(timeline)
            timeline.cue_at_moment(track, turn_id, round(at_ms * SAMPLE_RATE_HZ / 1000), cue)
        elif delay_ms:
            # Far enough ahead that nothing needs to be planned anew.
            start = self._director.replaceable() + frames_of(delay_ms)
            track.add(Cue(start, cue.fade, cue.targets, cue.given))
        else:
            self._director.change(kind, lambda frame: track.add(Cue(frame, cue.fade, cue.targets, cue.given)))

    def _shown(self, frame: VideoFrame) -> None:
        if self._cut_us is not None:
            self.metrics.cut_ms.observe((now_us() - self._cut_us) / 1000)
            self._cut_us = None
        if frame.turn_id:
            events = self._turns.heard(frame.turn_id, frame.turn_samples, frame.end_of_turn)
            begun_us = self._begun_us.pop(frame.turn_id, None)
            if begun_us is not None:
                self.metrics.answer_ms.observe((now_us() - begun_us) / 1000)
            self._emit(events)
        self._director.on_shown(frame)

    def _tell(self, event: SessionEvent) -> None:
        if event.kind == "worker_lost":
            self._resamplers.pop("voice", None)
            self._coming_turn = None
            self._begun_us.clear()
            self._emit(self._turns.stop_all("worker lost"))
        self._emit([event])

    def _emit(self, events: list[SessionEvent]) -> None:
        if self._on_event is None:
            return
        for event in events:
            try:
                self._on_event(event)
            except Exception:
                # The user's fault must cost neither the picture nor, while closing, the slot.
                _LOG.exception("on_event failed for %s", event.kind)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task of ours must not die in silence: its error ends the session where the user looks."""
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{task.get_name()} failed", "exception": error, "task": task}
            )
            self._presenter.close()


def _samples(pcm: Pcm) -> NDArray[Any]:
    if not isinstance(pcm, bytes | bytearray | memoryview):
        return np.asarray(pcm)
    if len(pcm) % 2:
        raise AudioFormatError(f"{len(pcm)} bytes are no whole number of 16-bit samples")
    return np.frombuffer(pcm, "<i2").astype(np.int16)


def _state(state: AvatarState | str | None) -> AvatarState | None:
    if state is None or isinstance(state, AvatarState):
        return state
    names = [s.name.lower() for s in AvatarState]
    if state.lower() == "auto":
        return None
    if state.lower() not in names:
        raise ArgumentError(f"there is no state {state!r}; known are {', '.join([*names, 'auto'])}")
    return AvatarState[state.upper()]


def _fade(milliseconds: float) -> int:
    if not 0 <= milliseconds <= LONGEST_FADE_MS:
        raise ArgumentError(f"fade_ms must lie between 0 and {LONGEST_FADE_MS}, not {milliseconds}")
    return frames_of(milliseconds)
