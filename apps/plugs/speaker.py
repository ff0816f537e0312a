"""What a bot says on its way through an avatar: in as fast as it comes, out with the pictures at its own rate.

The model hears 16 kHz, but nobody should have to listen to that: the sound that goes out beside the frames is the one
that came in, cut where the frames are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from apps.plugs.avatar import Avatar
from engine.errors import AudioBufferFullError, AudioFormatError
from engine.events import EventKind, SessionEvent
from engine.presenter import EGRESS_FRAMES
from engine.types import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, VideoFrame

PIECE_S = 1.0
"""Sound is handed on in such pieces, so that a long one can wait in parts while the buffer is full."""

RETRY_S = 0.1

LAST_FRAME_WITHIN = EGRESS_FRAMES + 2
"""Frames after a turn's end was told within which its last one comes, unless it was dropped on the way."""


@dataclass(frozen=True, slots=True)
class Sound:
    """PCM int16 little-endian, mono."""

    pcm: bytes
    rate_hz: int

    @property
    def samples(self) -> int:
        return len(self.pcm) // 2


@dataclass(slots=True)
class _Kept:
    """A turn's sound that was not yet heard. rate_hz is None once the rate changed within the turn."""

    rate_hz: int | None
    pcm: bytearray = field(default_factory=bytearray)
    taken: int = 0

    def of(self, frame: VideoFrame) -> bytes:
        """The frame's own sound; that of frames which were dropped before it is gone with their pictures."""
        assert self.rate_hz is not None
        self._drop_until((frame.turn_samples - SAMPLES_PER_FRAME) * self.rate_hz // SAMPLE_RATE_HZ)
        end = frame.turn_samples * self.rate_hz // SAMPLE_RATE_HZ - self.taken
        piece = bytes(self.pcm if frame.end_of_turn else self.pcm[: 2 * max(0, end)])
        self._drop_until(self.taken + len(piece) // 2)
        return piece

    def _drop_until(self, position: int) -> None:
        skipped = max(0, min(position - self.taken, len(self.pcm) // 2))
        del self.pcm[: 2 * skipped]
        self.taken += skipped


class Speaker:
    """One bot's voice and the avatar that speaks it. Give `on_event` to the avatar, and every frame to `sound` and then
    to `over`.

    What is said up to `finish` is a segment. It is over once, when all of it was heard or lost; a segment that lost its
    avatar's worker in the middle is still one, although it is two turns of the avatar.
    """

    def __init__(self) -> None:
        self._avatar: Avatar | None = None
        self._kept: dict[int, _Kept] = {}
        self._turns: dict[int, int] = {}
        """Turns under way, and the segments that they are part of."""
        self._ending: dict[int, int] = {}
        """Turns that are over, and how many frames more their last one may take."""
        self._complete: deque[int] = deque()
        """Segments that were finished and are not over."""
        self._segment = 1
        self._begun = False
        self._newest = self._cut = 0
        self._interrupts = 0
        self._cutting = False

    def attach(self, avatar: Avatar) -> None:
        self._avatar = avatar

    async def say(self, pcm: bytes, rate_hz: int, channels: int = 1) -> bool:
        """Hand sound on, waiting while the avatar's buffer is full; False when an interrupt cut it meanwhile.

        Raises AudioFormatError.
        """
        voice = mono(pcm, channels)
        interrupts = self._interrupts
        if self._cutting:
            # A server's session begins its interrupt with the loop's next turn; what follows must not overtake it.
            self._cutting = False
            await asyncio.sleep(0)
        step = 2 * round(rate_hz * PIECE_S)
        for start in range(0, len(voice), step):
            piece = voice[start : start + step]
            turn_id = await self._push(piece, rate_hz, interrupts)
            if not turn_id:
                return False
            self._keep(turn_id, piece, rate_hz)
        return True

    def finish(self) -> int:
        """The segment is complete; returns its number, 0 when nothing was said."""
        if not self._begun:
            return 0
        self._attached.flush()
        segment, self._segment, self._begun = self._segment, self._segment + 1, False
        self._complete.append(segment)
        return segment

    def interrupt(self) -> None:
        """Fall silent; what was said so far is cut, and its segments are never reported as over."""
        self._interrupts += 1
        self._cutting = True
        self._cut = self._newest
        self._segment, self._begun = self._segment + 1, False
        for under_way in (self._kept, self._turns, self._ending, self._complete):
            under_way.clear()
        self._attached.interrupt()

    def on_event(self, event: SessionEvent) -> None:
        """For `open_avatar`."""
        if event.kind == EventKind.TURN_FINISHED and event.turn_id in self._turns:
            self._ending[event.turn_id] = LAST_FRAME_WITHIN

    def sound(self, frame: VideoFrame) -> Sound | None:
        """What is heard with a frame, at the rate that it came in; None when nothing is. Once for each frame."""
        if frame.turn_id <= self._cut:
            return None
        kept = self._kept.get(frame.turn_id)
        if kept is None or kept.rate_hz is None:
            return Sound(to_int16(frame.audio), SAMPLE_RATE_HZ)
        return Sound(kept.of(frame), kept.rate_hz)

    def over(self, frame: VideoFrame) -> list[int]:
        """Segments that are over once this frame was shown, in order, each exactly once."""
        for turn_id, left in list(self._ending.items()):
            self._ending[turn_id] = left - 1
            if left == 1 or (frame.end_of_turn and frame.turn_id == turn_id):
                for under_way in (self._ending, self._kept, self._turns):
                    under_way.pop(turn_id, None)
        done = []
        while self._complete and self._complete[0] not in self._turns.values():
            done.append(self._complete.popleft())
        return done

    def lost(self) -> list[int]:
        """Segments that were complete when the avatar was lost; they are over."""
        done = list(self._complete)
        self._complete.clear()
        return done

    @property
    def silent(self) -> bool:
        """Nothing is said, and nothing waits to be heard."""
        return not self._begun and not self._complete

    @property
    def begun(self) -> bool:
        """Something was said since the last `finish`."""
        return self._begun

    @property
    def _attached(self) -> Avatar:
        assert self._avatar is not None, "attach an avatar first"
        return self._avatar

    async def _push(self, piece: bytes, rate_hz: int, interrupts: int) -> int:
        while self._interrupts == interrupts:
            try:
                return self._attached.push_audio(piece, rate_hz)
            except AudioBufferFullError:
                await asyncio.sleep(RETRY_S)
        return 0

    def _keep(self, turn_id: int, piece: bytes, rate_hz: int) -> None:
        self._newest, self._begun = max(self._newest, turn_id), True
        self._turns[turn_id] = self._segment
        kept = self._kept.setdefault(turn_id, _Kept(rate_hz))
        if kept.rate_hz != rate_hz:
            kept.rate_hz = None
            kept.pcm.clear()
            return
        kept.pcm.extend(piece)


def mono(pcm: bytes, channels: int) -> bytes:
    """Interleaved int16 to one channel. Raises AudioFormatError."""
    if channels < 1 or len(pcm) % (2 * channels):
        raise AudioFormatError(f"{len(pcm)} bytes are no whole number of int16 samples of {channels} channels")
    if channels == 1:
        return pcm
    return np.frombuffer(pcm, "<i2").reshape(-1, channels).mean(1).astype("<i2").tobytes()


def to_int16(audio: np.ndarray) -> bytes:
    """float32 in [-1, 1] to int16 little-endian."""
    return (np.clip(audio, -1, 1) * 32_767).round().astype("<i2").tobytes()
