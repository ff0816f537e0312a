"""One voice, cut into utterances, and where its samples lie on the session's frames.

Sound waits in the lane until frames take it. Placing is tentative: whatever was placed from some frame on can be taken
back, because the frame was never shown, or because it was only looked ahead to.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from engine.audio.buffer import SampleBuffer, Samples
from engine.audio.features import HOP_SAMPLES, LOOK_AHEAD_SAMPLES
from engine.audio.silero import Probability
from engine.audio.windows import LOOK_AHEAD_FRAMES
from engine.errors import AudioBufferFullError
from engine.timeline.speech import SpeechDetector
from engine.types import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

_MARGIN = LOOK_AHEAD_SAMPLES - HOP_SAMPLES
"""Samples after a frame's last one that its last mel frame reaches."""

START_SAMPLES = (1 + LOOK_AHEAD_FRAMES) * SAMPLES_PER_FRAME + _MARGIN
"""Sound that must wait before an utterance begins, so that its first frame hears all it may: 122.5 ms."""

KEPT_FRAMES = 64
"""Placed frames that are remembered: the past of windows, and what may be taken back."""

STARVED_FRAMES = 8
"""Frames without sound after which an open utterance is taken to pause, and must gather sound again."""

BLEND_SAMPLES = 80
"""Length of the fade where sound is cut, 5 ms."""


@dataclass(slots=True)
class Utterance:
    """Samples from `start` to `end` of the lane; end is None while more may come."""

    turn_id: int
    start: int
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """What one frame holds: `length` samples from `source` on, and where in which turn that is.

    fade_from: samples from there are faded out at the frame's start, over the new ones; None for no cut.
    """

    source: int
    length: int
    turn_id: int = 0
    turn_samples: int = 0
    last: bool = False
    fade_from: int | None = None


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where the next frame takes its sound from; saved with every frame, so that it can be taken back."""

    position: int = 0
    utterance: int = 0
    flowing: bool = False
    starved: int = 0
    fade_from: int | None = None


SILENCE = Placed(0, 0)


class AudioLane:
    """A voice on the frames of a session. Frame numbers only grow, but for `rewind`."""

    def __init__(
        self,
        capacity_seconds: float,
        *,
        keep_up_frames: int | None = None,
        gate: bool = True,
        probability: Probability | None = None,
    ) -> None:
        """keep_up_frames: sound that waits longer than this, beyond the look-ahead, is skipped, quiet parts first:
        for microphones; None for voices of which nothing may be lost. gate: begin only with the look-ahead at hand.
        probability: of speech, see SpeechDetector.
        """
        self.capacity = round(capacity_seconds * SAMPLE_RATE_HZ)
        self.buffer = SampleBuffer()
        self.detector = SpeechDetector(self.buffer, probability)
        self.skipped_samples = 0
        self.cut_frame = 0
        self._keep_up_frames, self._gate = keep_up_frames, gate
        self._utterances: deque[Utterance] = deque()
        self._utterances_gone = 0
        self._cursor = _Cursor()
        self._placed: deque[tuple[Placed, _Cursor]] = deque()
        self._first = 0

    @property
    def waiting(self) -> int:
        """Samples that no frame holds yet."""
        return self.buffer.end - self._cursor.position

    @property
    def live(self) -> bool:
        """Whether a voice flows that is kept up with."""
        return self._keep_up_frames is not None and self._cursor.flowing

    @property
    def next_frame(self) -> int:
        return self._first + len(self._placed)

    @property
    def open_turn(self) -> int | None:
        """Turn that the next samples belong to."""
        return self._utterances[-1].turn_id if self._utterances and self._utterances[-1].end is None else None

    def push(self, pcm: Samples, turn_id: int) -> None:
        """Raises AudioBufferFullError, and takes nothing, when the buffer cannot hold all of it."""
        room = self.capacity - self.waiting
        if len(pcm) > room and self._keep_up_frames is None:
            seconds = self.capacity / SAMPLE_RATE_HZ
            raise AudioBufferFullError(
                f"{self.waiting / SAMPLE_RATE_HZ:.1f} s of sound wait to be spoken, the buffer holds {seconds:g} s; "
                "push the rest when some of it has been shown"
            )
        if self.open_turn is None:
            self._utterances.append(Utterance(turn_id, self.buffer.end))
        self.buffer.append(pcm)

    def flush(self) -> None:
        """The utterance is complete."""
        if self.open_turn is not None:
            self._utterances[-1].end = self.buffer.end

    def discard(self, fade: bool = True) -> None:
        """Drop everything that no frame holds; fade: with a short one where sound was cut. From `cut_frame` on, what
        was said before it no longer counts as speech.
        """
        flowing = fade and self._cursor.flowing and self.waiting > 0
        fade_from = self._cursor.position if flowing else None
        self.cut_frame = self.next_frame
        self.flush()
        self._utterances_gone += len(self._utterances)
        self._utterances.clear()
        self._cursor = _Cursor(self.buffer.end, self._utterances_gone, fade_from=fade_from)

    def plannable(self, frame: int) -> int | None:
        """Frames from `frame` on whose look-ahead has arrived; None when sound is not what limits them."""
        self.rewind(frame)
        spoken = self._current()
        if spoken is None or not self._may_flow(spoken):
            return None
        if spoken.end is not None:
            return None
        return max(0, (self._ready(spoken) - _MARGIN) // SAMPLES_PER_FRAME - LOOK_AHEAD_FRAMES)

    def remaining(self, frame: int) -> int:
        """Frames from `frame` on that the rest of an utterance takes which is complete; 0 when none is."""
        self.rewind(frame)
        spoken = self._current()
        if spoken is None or spoken.end is None:
            return 0
        return max(1, -(-(spoken.end - max(self._cursor.position, spoken.start)) // SAMPLES_PER_FRAME))

    def startable(self) -> bool:
        """Whether an utterance waits that could begin now."""
        spoken = self._current()
        return spoken is not None and not self._cursor.flowing and self._may_flow(spoken)

    def place(self, stop: int) -> None:
        """Fill frames up to `stop`, with sound as far as it goes and silence after it."""
        while self.next_frame < stop:
            before = self._cursor
            self._placed.append((self._take(), before))
        self._forget()

    def pass_over(self, stop: int) -> None:
        """Fill frames up to `stop` with silence, whatever waits."""
        while self.next_frame < stop:
            self._placed.append((SILENCE, self._cursor))
        self._forget()

    def rewind(self, frame: int) -> None:
        """Take back frames from `frame` on; their sound waits again."""
        while self.next_frame > max(frame, self._first):
            self._cursor = self._placed.pop()[1]

    def at(self, frame: int) -> Placed:
        """What a placed frame holds; silence before the first that is remembered."""
        index = frame - self._first
        return self._placed[index][0] if 0 <= index < len(self._placed) else SILENCE

    def read(self, start: int, stop: int) -> Samples:
        """Samples of frames start to stop, [640 (stop - start)]."""
        return np.concatenate([self._samples(self.at(frame)) for frame in range(start, stop)])

    def peek(self) -> Samples:
        """The few samples after the last placed frame that its last mel frame reaches, silence where none follow."""
        spoken = self._current()
        if spoken is None or not self._may_flow(spoken):
            return np.zeros(_MARGIN, np.float32)
        position = max(self._cursor.position, spoken.start)
        return self.buffer.read(
            position, position + _MARGIN if spoken.end is None else min(position + _MARGIN, spoken.end)
        )

    def active(self, frame: int, known_frame: int) -> bool:
        """Whether a placed frame is speech, judged by what has been placed up to `known_frame`, and no later sound."""
        here, known = self.at(frame), self.at(known_frame)
        if not here.length:
            return False
        until = known.source + known.length if known.length else here.source + here.length
        return self.detector.between(here.source, here.source + here.length, until + _MARGIN)

    def _current(self) -> Utterance | None:
        index = self._cursor.utterance - self._utterances_gone
        return self._utterances[index] if index < len(self._utterances) else None

    def _may_flow(self, spoken: Utterance) -> bool:
        if self._cursor.flowing or not self._gate or spoken.end is not None:
            return True
        return self._ready(spoken) >= START_SAMPLES

    def _ready(self, spoken: Utterance) -> int:
        return self.buffer.end - max(self._cursor.position, spoken.start)

    def _take(self) -> Placed:
        spoken, c = self._current(), self._cursor
        if spoken is None or not self._may_flow(spoken):
            return self._rest(c)
        position = max(c.position, spoken.start)
        position, fade_from = self._keep_up(position, spoken, c.fade_from)
        end = self.buffer.end if spoken.end is None else spoken.end
        length = min(SAMPLES_PER_FRAME, end - position)
        if spoken.end is None and length < SAMPLES_PER_FRAME:
            starved = c.starved + 1
            flowing = c.flowing and starved < STARVED_FRAMES
            self._cursor = _Cursor(position, c.utterance, flowing, starved, fade_from)
            return SILENCE
        last = spoken.end is not None and position + length >= spoken.end
        self._cursor = _Cursor(position + length, c.utterance + last, not last)
        return Placed(position, length, spoken.turn_id, position + length - spoken.start, last, fade_from)

    def _rest(self, c: _Cursor) -> Placed:
        """A frame without sound; one that follows a cut carries the fade of what was cut."""
        if c.fade_from is None:
            return SILENCE
        self._cursor = _Cursor(c.position, c.utterance, c.flowing, c.starved)
        return Placed(0, 0, fade_from=c.fade_from)

    def _keep_up(self, position: int, spoken: Utterance, fade_from: int | None) -> tuple[int, int | None]:
        """Where to go on so that no more than the allowed sound waits: past quiet frames at once, past speech only when
        twice as much waits.
        """
        if self._keep_up_frames is None or spoken.end is not None:
            return position, fade_from
        target = START_SAMPLES + self._keep_up_frames * SAMPLES_PER_FRAME
        cut_from = position
        while self.buffer.end - position > target and not self.detector.between(
            position, position + SAMPLES_PER_FRAME, self.buffer.end
        ):
            position += SAMPLES_PER_FRAME
        if self.buffer.end - position > 2 * target:
            position = self.buffer.end - target
        if position == cut_from:
            return position, fade_from
        self.skipped_samples += position - cut_from
        return position, cut_from

    def _samples(self, placed: Placed) -> Samples:
        out = np.zeros(SAMPLES_PER_FRAME, np.float32)
        out[: placed.length] = self.buffer.read(placed.source, placed.source + placed.length)
        if placed.fade_from is not None:
            fade = np.linspace(1, 0, BLEND_SAMPLES, dtype=np.float32)
            old = self.buffer.read(placed.fade_from, placed.fade_from + BLEND_SAMPLES)
            out[:BLEND_SAMPLES] = out[:BLEND_SAMPLES] * (1 - fade) + old * fade
        return out

    def _forget(self) -> None:
        while len(self._placed) > KEPT_FRAMES:
            self._placed.popleft()
            self._first += 1
        oldest = self._cursor.position - (KEPT_FRAMES + STARVED_FRAMES) * SAMPLES_PER_FRAME
        self.buffer.forget(oldest)
        self.detector.forget(oldest)
        while self._utterances and (end := self._utterances[0].end) is not None and end < oldest:
            self._utterances.popleft()
            self._utterances_gone += 1
