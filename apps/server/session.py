"""One person on screen for one client, whatever connections that client has: verbs in, frames and events out.

It stands between an engine session and an Outbox, which comes and goes with the connection. Everything happens in the
event loop's thread and returns at once, but for `run` and `aclose`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from apps.server.errors import UtteranceOrderError
from apps.server.messages import Finish, Journal, error_text, finish_fields, position, say
from apps.server.outbox import Coming, Outbox, Outgoing
from apps.server.protocol import (
    END_OF_UTTERANCE,
    FROZEN,
    LAST_PART,
    LISTENING,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    START_OF_UTTERANCE,
    STATE_SHIFT,
    ExpressionSet,
    Interrupt,
    Media,
    PoseSet,
    RequestId,
    StateSet,
    UtteranceEnd,
    UtteranceStart,
    When,
)
from apps.server.stats import Stats, engine_fields
from apps.server.utterances import Utterance, Utterances
from engine.clock import now_us
from engine.errors import AudioBufferFullError, AudioFormatError, AvatarError
from engine.events import EventKind, SessionEvent
from engine.session import AvatarSession
from engine.types import SAMPLES_PER_FRAME, AvatarState, VideoFrame

_LOG = logging.getLogger(__name__)

HIGH_MS, LOW_MS = 60_000, 30_000
"""Waiting sound at which the client is asked to stop, and to go on."""

MAX_HELD_BYTES = 4 << 20
"""Sound that may wait for a text to be spoken first."""

_NOTICES = (EventKind.WORKER_LOST, EventKind.WORKER_BACK, EventKind.REANCHORED, EventKind.QUALITY)


@dataclass(frozen=True, slots=True)
class Deal:
    """What hello asked for and the server can do. portrait: its name in the library, None for an upload."""

    codec: str
    side_px: int
    quality: int
    window: int
    audio: bool
    voice_rate_hz: int
    listening_rate_hz: int
    live: bool
    portrait: str | None


class ServedSession:
    """The conversation of one client."""

    def __init__(self, deal: Deal, stats: Stats) -> None:
        self.deal, self.stats = deal, stats
        self.journal = Journal()
        self.epoch = 0
        self.outbox: Outbox | None = None
        self.utterances = Utterances()
        self.failure: AvatarError | None = None
        self._avatar: AvatarSession | None = None
        self._told_state: AvatarState | None = None
        self._coming_state: AvatarState | None = None
        self._ended_turns: list[tuple[int, int, bool]] = []
        """When turns ended that were not cut: pts_us of their last frame, their id, and whether they were heard to the
        end."""
        self._paused = False

    @property
    def avatar(self) -> AvatarSession:
        assert self._avatar is not None, "the session has not begun"
        return self._avatar

    def show(self, avatar: AvatarSession) -> None:
        """Whom to show; before it is started."""
        self._avatar = avatar

    async def run(self) -> None:
        """Pass frames on until the engine's session ends. `failure` then says what was wrong, if anything."""
        try:
            async for frame in self.avatar.frames():
                self._put(frame)
        except AvatarError as error:
            self.failure = error

    def attach(self, outbox: Outbox) -> None:
        """Frames and events go there from now on; whoever listens there knows no state yet."""
        self.outbox = outbox
        self._told_state = self._coming_state = None

    def detach(self) -> None:
        """The connection is lost, and with it whoever listened."""
        self.outbox = None
        if self.utterances.live:
            self._cut("disconnected")

    def finish(self, reason: str) -> None:
        """Everything under way ends, since the session does."""
        for finish in self.utterances.finish_all(reason):
            self._finished(finish)

    # What the client asks for.

    def seconds_of(self, media: Media) -> float:
        """How long the sound of a voice or listening message is. Raises AudioFormatError."""
        if len(media.payload) % 2:
            raise AudioFormatError(f"{len(media.payload)} bytes are no whole number of 16-bit samples")
        rate_hz = self._rate_hz(media)
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise AudioFormatError(f"a rate of {rate_hz} Hz is outside {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
        return len(media.payload) / 2 / rate_hz

    def take_sound(self, media: Media) -> None:
        """What `seconds_of` has found good. Raises AudioBufferFullError."""
        if media.kind == LISTENING:
            self.avatar.push_listening_audio(media.payload, self._rate_hz(media))
        else:
            self._take_voice(media)

    def start(self, wish: UtteranceStart) -> None:
        """Raises UtteranceOrderError."""
        one = self.utterances.open
        if one is None or wish.utterance != one.number:
            self.open_utterance(wish.utterance, wish.id)
        elif wish.id is not None:
            self.say(say("ok", wish.id))

    def end(self, wish: UtteranceEnd) -> None:
        one = self.utterances.takes(wish.utterance)
        if one is not None:
            self.complete(one)

    def interrupt(self, wish: Interrupt) -> None:
        """Cut, and say what was."""
        utterances = self.utterances
        cuts = bool(utterances.live) and (not wish.utterance or utterances.is_live(wish.utterance))
        heard, numbers = (utterances.heard, [one.number for one in utterances.live]) if cuts else (None, [])
        fields = {
            "epoch": (self.epoch + cuts) & 0xFFFF,
            "utterance": heard.number if heard else None,
            **position(heard.samples if heard else 0),
            "utterances": numbers,
        }
        self._event("interrupted", fields, wish.id)
        if cuts:
            self.stats.interrupted(now_us())
            self._cut("interrupted")

    def set_state(self, wish: StateSet) -> None:
        self.avatar.set_state(wish.state)

    def set_expression(self, wish: ExpressionSet) -> None:
        timing = self._timing(wish.when)
        if wish.strengths is None:
            self.avatar.set_expression(None, **timing)
        for name, strength in (wish.strengths or {}).items():
            self.avatar.set_expression(name, strength, **timing)

    def set_pose(self, wish: PoseSet) -> None:
        self.avatar.set_pose(wish.angles, **self._timing(wish.when))

    def open_utterance(self, number: int, request_id: RequestId = None) -> Utterance:
        """A new one; the one before is complete. Raises UtteranceOrderError or AudioBufferFullError."""
        before = self.utterances.open
        if before is not None and self.utterances.is_new(number):
            self.complete(before)
        one = self.utterances.begin(number)
        self._event("utterance.opened", {"utterance": one.number}, request_id)
        return one

    def complete(self, one: Utterance) -> None:
        """No more sound comes for it."""
        one.complete = True
        self.hand_over()

    def hand_over(self) -> None:
        """Give the engine the sound that may go to it now. Raises AudioBufferFullError or AudioFormatError for sound
        that is then no longer held.
        """
        for one in self.utterances.to_hand_over():
            while one.held:
                pcm, rate_hz = one.held.pop(0)
                one.turn_id = self.avatar.push_audio(pcm, rate_hz)
                one.began_us = one.began_us or now_us()
            if one.complete:
                one.handed_over = True
                if one.turn_id:
                    self.avatar.flush()
        self._finish_empties()
        self.watch_buffer()

    def fail_utterance(self, one: Utterance, reason: str) -> None:
        """It ends here, without having been heard to the end."""
        finish = self.utterances.finish(one.number, reason)
        if finish is not None:
            self._finished(finish)
            self.hand_over()

    def watch_buffer(self) -> None:
        """Ask the client to stop or to go on, when it is time."""
        waits_ms = self.avatar.buffered_ms
        if waits_ms >= HIGH_MS if not self._paused else waits_ms <= LOW_MS:
            self._paused = not self._paused
            self.say(say("audio.buffer", buffered_ms=waits_ms, paused=self._paused))

    def metrics(self, rtt_ms: float) -> str:
        """The message of this second."""
        outbox, avatar = self.outbox, self.avatar
        return say(
            "metrics",
            **self.stats.take(now_us()),
            **engine_fields(avatar.metrics),
            frames_late=avatar.presenter.late,
            in_flight=outbox.in_flight if outbox else 0,
            queue=outbox.queue if outbox else 0,
            buffered_ms=avatar.buffered_ms,
            rtt_ms=rtt_ms,
        )

    def say(self, text: str) -> None:
        """News, to whoever listens."""
        if self.outbox is not None:
            self.outbox.say(text)

    def complain(self, error: AvatarError, request_id: RequestId = None, utterance: int = 0) -> None:
        """Tell the client of an error after which the session goes on."""
        self.stats.complained(error.code)
        self.say(error_text(error, fatal=False, request_id=request_id, utterance=utterance))

    def on_event(self, event: SessionEvent) -> None:
        """The engine's call back."""
        if event.kind == EventKind.TURN_FINISHED and (event.complete or event.detail == "worker lost"):
            one, last = self.utterances.of_turn(event.turn_id), self.avatar.presenter.last
            if one is not None:
                # What still comes for it must not begin another turn.
                one.complete = one.handed_over = True
            self._ended_turns.append((last.pts_us if last else 0, event.turn_id, event.complete))
        elif event.kind in _NOTICES:
            if event.kind == EventKind.WORKER_LOST:
                self.stats.lost_worker()
            self.say(say("notice", kind=event.kind.value, detail=event.detail))

    # Inside.

    def _rate_hz(self, media: Media) -> int:
        return media.value or (self.deal.listening_rate_hz if media.kind == LISTENING else self.deal.voice_rate_hz)

    def _take_voice(self, media: Media) -> None:
        one = self.utterances.takes(media.utterance)
        if one is None and self.utterances.is_new(media.utterance):
            one = self.open_utterance(media.utterance)
        if one is None:
            return
        if media.payload:
            self._check_held(len(media.payload))
            one.held.append((bytes(media.payload), self._rate_hz(media)))
            self.hand_over()
        if media.flags & LAST_PART:
            self.complete(one)

    def _check_held(self, size_bytes: int) -> None:
        held = sum(len(pcm) for one in self.utterances.live for pcm, _ in one.held)
        if held + size_bytes > MAX_HELD_BYTES:
            raise AudioBufferFullError("too much sound waits for a text to be spoken first; send it again later")

    def _timing(self, when: When) -> dict[str, Any]:
        """For the engine's cues. Raises UtteranceOrderError when the utterance is not the one that takes sound."""
        if when.at_ms is None:
            return {"fade_ms": when.fade_ms, "delay_ms": when.delay_ms}
        if self.utterances.takes(when.utterance) is None:
            self.open_utterance(when.utterance)
        if any(one.being_made for one in self.utterances.live):
            raise UtteranceOrderError(
                "a text before this utterance is not spoken yet; give the cue once it has started"
            )
        return {"fade_ms": when.fade_ms, "at_ms": when.at_ms}

    def _cut(self, reason: str) -> None:
        """End everything under way, and drop what is queued of it."""
        if any(one.turn_id for one in self.utterances.live):
            self.avatar.interrupt()
        self.epoch = (self.epoch + 1) & 0xFFFF
        self._coming_state = self._told_state
        self._ended_turns.clear()
        if self.outbox is not None:
            self.outbox.cut(self.epoch)
        self.finish(reason)
        self.watch_buffer()

    def _put(self, frame: VideoFrame) -> None:
        """A frame from the engine, at its moment."""
        one = self.utterances.of_turn(frame.turn_id)
        outgoing = self._outgoing(frame, one)
        if frame.state != self._coming_state:
            self._coming_state = frame.state
            outgoing.before.append(partial(self._state_text, frame.state, frame.pts_us))
        if one is not None:
            outgoing.before.append(partial(self._heard, one, frame.turn_samples, frame.pts_us))
        while self._ended_turns and self._ended_turns[0][0] <= frame.pts_us:
            _, turn_id, whole = self._ended_turns.pop(0)
            outgoing.after.append(partial(self._turn_over, turn_id, whole, frame.pts_us))
        if self.outbox is not None:
            self.outbox.put(outgoing, self._coming())
        else:
            self._pass(outgoing)
        self.watch_buffer()

    def _coming(self) -> Coming | None:
        """The picture of the frame that is due next, if it is drawn by now."""
        frame = self.avatar.presenter.coming
        if frame is None or self.deal.codec == "none":
            return None
        return Coming(frame.image, frame.pts_us)

    def _outgoing(self, frame: VideoFrame, one: Utterance | None) -> Outgoing:
        first = _first_sample(frame) if one else 0
        flags = frame.state << STATE_SHIFT | (FROZEN if frame.frozen else 0)
        if one is not None:
            flags |= (0 if first else START_OF_UTTERANCE) | (END_OF_UTTERANCE if frame.end_of_turn else 0)
        sounds = self.deal.audio and (one is not None or frame.audio.any())
        return Outgoing(
            epoch=self.epoch,
            pts_us=frame.pts_us,
            flags=flags,
            utterance=one.number if one else 0,
            position=first,
            image=None if self.deal.codec == "none" else frame.image,
            sound=_pcm(frame) if sounds else b"",
            left_engine_us=now_us(),
        )

    def _pass(self, outgoing: Outgoing) -> None:
        """Nobody is there to see it, but it counts."""
        for mark in outgoing.before + outgoing.after:
            mark()

    def _state_text(self, state: AvatarState, pts_us: int) -> str:
        before, self._told_state = self._told_state, state
        return say("state.changed", **{"from": _name(before)}, to=_name(state), pts_us=pts_us)

    def _heard(self, one: Utterance, samples: int, pts_us: int) -> str | None:
        """A frame of an utterance is being sent."""
        one.samples = samples
        if one.started or not self.utterances.is_live(one.number):
            return None
        one.started = True
        self.stats.answered(now_us() - one.began_us)
        return self.journal.note("playback.started", {"utterance": one.number, "pts_us": pts_us})

    def _turn_over(self, turn_id: int, whole: bool, pts_us: int) -> str | None:
        one = self.utterances.of_turn(turn_id)
        finish = None if one is None else self.utterances.finish(one.number, "complete" if whole else "worker_lost")
        if finish is None:
            return None
        text = self.journal.note("playback.finished", finish_fields(finish, pts_us))
        # Said by whoever called; those that are next follow it.
        asyncio.get_running_loop().call_soon(self._finish_empties)
        return text

    def _finish_empties(self) -> None:
        while (finish := self.utterances.finish_empty()) is not None:
            self._finished(finish)

    def _finished(self, finish: Finish) -> None:
        self._event("playback.finished", finish_fields(finish, self.stats.pts_us))

    def _event(self, kind: str, fields: dict[str, Any], request_id: RequestId = None) -> None:
        self.say(self.journal.note(kind, fields, request_id))


def _first_sample(frame: VideoFrame) -> int:
    """Where in the utterance a frame begins; only the last one may be short."""
    return max(0, -(-frame.turn_samples // SAMPLES_PER_FRAME) - 1) * SAMPLES_PER_FRAME


def _pcm(frame: VideoFrame) -> bytes:
    return (np.clip(frame.audio, -1, 1) * 32767).astype("<i2").tobytes()


def _name(state: AvatarState | None) -> str | None:
    return None if state is None else state.name.lower()
