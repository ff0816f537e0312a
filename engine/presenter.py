"""Gives each frame to the user when it is due, with the sound that belongs to it.

The media clock is `anchor + index * 40 ms`. A frame that comes late moves the anchor, so that sound is never cut to
catch up, and picture and sound stay one. Frames that the user does not take in time are dropped, oldest first, so what
is taken after a pause is recent. Without pacing, frames wait for the user instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.clock import now_us, sleep_until_us
from engine.timeline.lane import BLEND_SAMPLES
from engine.types import FRAME_US, VideoFrame

EGRESS_FRAMES = 6
"""Frames that wait for the user at most: 240 ms."""

READY_FRAMES = 32
"""Frames that wait for their moment at most; planning stops well before."""

SLIP_US = FRAME_US // 4
"""Lateness that moves the media clock; less is made up by the next frame."""

FOLLOW_SHARE, FOLLOW_MOST_US = 0.02, 40
"""How the media clock follows a device: by this share of its distance, and at most so much, with each report. At 25
reports a second that is a thousandth, twice what the worst sound cards are off, and too little to be seen.
"""

_SETTLE_REPORTS = 25
"""Reports over which a device's own delay is taken, a second."""


class Presenter:
    """Frames in order in at one end, out at their moments at the other."""

    def __init__(self, paced: bool, on_shown: Callable[[VideoFrame], None]) -> None:
        """on_shown: called with each frame as it goes out, before the user has taken it."""
        self.paced = paced
        self.next_index = 0
        self.late = self.dropped = 0
        self.slipped_us = 0
        self.last: VideoFrame | None = None
        self._on_shown = on_shown
        self._anchor_us: int | None = None
        self._lags: list[int] = []
        self._lag_us = 0.0
        self._ready: deque[VideoFrame] = deque()
        self._egress: deque[VideoFrame] = deque()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._offered = asyncio.Event()
        self._closed = False

    @property
    def end_index(self) -> int:
        """Number of the first frame that is not ready."""
        return self.next_index + len(self._ready)

    @property
    def coming(self) -> VideoFrame | None:
        """The frame that is due next, if there is one; it may still be replaced, or lose its sound."""
        return self._ready[0] if self._ready else None

    @property
    def full(self) -> bool:
        return len(self._ready) + (0 if self.paced else len(self._egress)) >= READY_FRAMES

    def due_us(self, index: int) -> int:
        """When a frame is due; at once while the clock stands still."""
        if self._anchor_us is None:
            return now_us()
        return self._anchor_us + index * FRAME_US

    def add(self, frame: VideoFrame) -> None:
        """The next frame in order."""
        assert frame.index == self.end_index, f"frame {frame.index} came when {self.end_index} was wanted"
        self._ready.append(frame)
        self._changed.set()

    def drop_from(self, index: int) -> None:
        """Forget frames from `index` on; they were never shown."""
        while self._ready and self.end_index > index:
            self._ready.pop()

    def silence(self) -> bool:
        """Take the sound, and the turn, from every frame that is not yet shown, with a short fade, and forget those
        that were but that the user has not taken. Returns whether there was a frame to carry the fade.
        """
        self._ready = deque(_silenced(frame, fade=i == 0) for i, frame in enumerate(self._ready))
        self.dropped += len(self._egress)
        self._egress.clear()
        return bool(self._ready)

    def replaceable(self, reaction_us: int) -> int:
        """Number of the first frame that could still be replaced by one that takes so long to make."""
        if not self.paced or self._anchor_us is None:
            return self.next_index
        ahead = -(-(now_us() + reaction_us - self._anchor_us) // FRAME_US)
        return min(max(self.next_index, ahead), self.end_index)

    def follow(self, playing_us: int) -> None:
        """A sound device plays that moment of the stream now. Its delay in the first second is taken as its own; from
        then on the media clock keeps to it, since no two clocks agree for an hour.
        """
        if self._anchor_us is None:
            return
        lag = now_us() - self._anchor_us - playing_us
        if len(self._lags) < _SETTLE_REPORTS:
            self._lags.append(lag)
            self._lag_us = sum(self._lags) / len(self._lags)
            return
        error = FOLLOW_SHARE * (lag - self._lag_us)
        self._anchor_us += round(min(max(error, -FOLLOW_MOST_US), FOLLOW_MOST_US))

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            if not self._ready:
                self._changed.clear()
                await self._changed.wait()
            elif self.paced:
                await self._deliver_when_due()
            else:
                await self._deliver_when_wanted()

    async def take(self) -> VideoFrame | None:
        """The next frame for the user, None when closed. One caller at a time."""
        while not self._egress:
            if self._closed:
                return None
            self._offered.clear()
            await self._offered.wait()
        self._taken.set()
        return self._egress.popleft()

    def close(self) -> None:
        """No more frames: what waits for its moment is forgotten, what is out may still be taken."""
        self._closed = True
        self._ready.clear()
        self._offered.set()
        self._on_shown = _nobody

    async def _deliver_when_due(self) -> None:
        now = now_us()
        if self._anchor_us is None:
            self._anchor_us = now - self.next_index * FRAME_US
        due = self.due_us(self.next_index)
        if now < due:
            await sleep_until_us(due)
            return
        if now - due > SLIP_US:
            self.late += 1
            self.slipped_us += now - due
            self._anchor_us += now - due
        if len(self._egress) >= EGRESS_FRAMES:
            self._egress.popleft()
            self.dropped += 1
        self._deliver()

    async def _deliver_when_wanted(self) -> None:
        while len(self._egress) >= EGRESS_FRAMES:
            self._taken.clear()
            await self._taken.wait()
        if self._ready:
            self._deliver()

    def _deliver(self) -> None:
        frame = self.last = self._ready.popleft()
        self.next_index += 1
        self._egress.append(frame)
        self._offered.set()
        self._on_shown(frame)


def _silenced(frame: VideoFrame, fade: bool) -> VideoFrame:
    audio = np.zeros_like(frame.audio)
    if fade:
        audio[:BLEND_SAMPLES] = frame.audio[:BLEND_SAMPLES] * np.linspace(1, 0, BLEND_SAMPLES, dtype=np.float32)
    return replace(frame, audio=audio, turn_id=0, turn_samples=0, end_of_turn=False)


def _nobody(frame: VideoFrame) -> None:
    """Whom a closed presenter tells: so that it and its session do not hold each other until they are collected."""
