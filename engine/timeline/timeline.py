"""All that decides what a frame shows, by frame number: both voices, states, expression, pose. Pure and synchronous.

Whatever `plan` returns for a frame depends on what was pushed and set, and on nothing else, so a plan that was thrown
away can be made again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.audio.buffer import Samples
from engine.audio.features import HOP_SAMPLES, LOG_FLOOR, LOOK_AHEAD_SAMPLES, N_MELS, log_mel
from engine.audio.windows import LOOK_AHEAD_FRAMES, MELS_PER_FRAME, WINDOW_MELS, frame_windows
from engine.timeline.cues import Cue, CueTrack
from engine.timeline.lane import AudioLane, Placed
from engine.types import EXPRESSIONS, POSE_AXES, AvatarState

Floats = NDArray[np.float32]

AFTER_FRAMES = 8
"""Pauses between words are still speaking or listening: 320 ms, as in training."""

_PAST_FRAMES = WINDOW_MELS // MELS_PER_FRAME + 1
"""Frames of sound before a frame that its window and the filters reach."""

_INCOMPLETE_MELS = -(-LOOK_AHEAD_SAMPLES // HOP_SAMPLES)


@dataclass(frozen=True, slots=True)
class Plan:
    """What `length` frames from `first` on are made from. windows, partner_windows [F, 32, 80]; state int64 [F];
    expression [F, 8], expression_given [F]; pose [F, 5], pose_given [F]; audio [F, 640]; placed: one for each frame.
    """

    first: int
    windows: Floats
    partner_windows: Floats
    state: NDArray[np.int64]
    expression: Floats
    expression_given: Floats
    pose: Floats
    pose_given: Floats
    audio: Samples
    placed: tuple[Placed, ...]

    @property
    def length(self) -> int:
        return len(self.state)


@dataclass(frozen=True, slots=True)
class _AtMoment:
    """A cue for a moment of an utterance, until that moment's frame is known."""

    track: CueTrack
    turn_id: int
    samples: int
    cue: Cue


class Timeline:
    """The frames of one session, from what its user said and set."""

    def __init__(self, voice: AudioLane, partner: AudioLane) -> None:
        self.voice, self.partner = voice, partner
        self.expression = CueTrack(len(EXPRESSIONS))
        self.pose = CueTrack(len(POSE_AXES))
        self._states: deque[tuple[int, AvatarState | None]] = deque([(0, None)])
        self._moments: list[_AtMoment] = []

    def set_state(self, frame: int, state: AvatarState | None) -> None:
        """From `frame` on; None lets the voices decide. Replaces whatever was set for later frames."""
        while len(self._states) > 1 and self._states[-1][0] >= frame:
            self._states.pop()
        self._states.append((frame, state))

    def cue_at_moment(self, track: CueTrack, turn_id: int, samples: int, cue: Cue) -> None:
        """Add the cue when the frame that holds that sample of the turn is planned. At most 64 wait."""
        self._moments.append(_AtMoment(track, turn_id, samples, cue))
        del self._moments[:-64]

    def plan(self, first: int, length: int) -> Plan:
        """Frames first to first + length; voices are placed up to the horizon, and may be taken back by `rewind`."""
        self.rewind(first)
        for lane in (self.voice, self.partner):
            lane.place(first + length + LOOK_AHEAD_FRAMES)
        self._resolve_moments(first, length)
        expression, expression_given = self.expression.values(first, length)
        pose, pose_given = self.pose.values(first, length)
        return Plan(
            first=first,
            windows=_windows(self.voice, first, length),
            partner_windows=_windows(self.partner, first, length),
            state=np.array([self._state(frame) for frame in range(first, first + length)], np.int64),
            expression=expression,
            expression_given=expression_given,
            pose=pose,
            pose_given=pose_given,
            audio=self.voice.read(first, first + length).reshape(length, -1),
            placed=tuple(self.voice.at(frame) for frame in range(first, first + length)),
        )

    def rewind(self, frame: int) -> None:
        self.voice.rewind(frame)
        self.partner.rewind(frame)

    def pass_over(self, stop: int) -> None:
        """Frames up to `stop` are shown without being planned, in silence; sound waits for the next ones."""
        self.voice.pass_over(stop)
        self.partner.pass_over(stop)

    def chosen_state(self, frame: int) -> AvatarState | None:
        """What was set for a frame, None when the voices decide."""
        while len(self._states) > 1 and self._states[1][0] <= frame - 64:
            self._states.popleft()
        return next((state for start, state in reversed(self._states) if start <= frame), None)

    def _state(self, frame: int) -> AvatarState:
        chosen = self.chosen_state(frame)
        if chosen is not None:
            return chosen
        if _speaks(self.voice, frame):
            return AvatarState.SPEAKING
        return AvatarState.LISTENING if _speaks(self.partner, frame) else AvatarState.IDLE

    def _resolve_moments(self, first: int, length: int) -> None:
        for moment in list(self._moments):
            for frame in range(first, first + length):
                placed = self.voice.at(frame)
                if placed.turn_id == moment.turn_id and placed.turn_samples > moment.samples:
                    cue = Cue(frame, moment.cue.fade, moment.cue.targets, moment.cue.given)
                    moment.track.add(cue)
                    self._moments.remove(moment)
                    break


def _speaks(lane: AudioLane, frame: int) -> bool:
    """From shortly before the first word, as far as can be looked ahead, until a pause has lasted or sound was cut."""
    known = frame + LOOK_AHEAD_FRAMES
    first = frame - AFTER_FRAMES
    if frame >= lane.cut_frame:
        first = max(first, lane.cut_frame)
    return any(lane.active(f, known) for f in range(first, known + 1))


def _windows(lane: AudioLane, first: int, length: int) -> Floats:
    start = first - _PAST_FRAMES
    heard = np.concatenate([lane.read(start, first + length + LOOK_AHEAD_FRAMES), lane.peek()])
    if not heard.any():
        return np.full((length, WINDOW_MELS, N_MELS), LOG_FLOOR, np.float32)
    # The first mel frames lack their past.
    mel = log_mel(heard)[_INCOMPLETE_MELS:]
    return frame_windows(mel, first, length, mel_start=MELS_PER_FRAME * start + _INCOMPLETE_MELS)
