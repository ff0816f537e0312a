"""Sound that a client sends faster than the avatar's buffer takes it, so that an interrupt behind it is still read.

Bound: `MOST_S` of sound beyond the avatar's own two minutes; more is refused with AudioBufferFullError.
"""

from __future__ import annotations

import asyncio
from collections import deque

from apps.plugs.speaker import Speaker
from engine.errors import AudioBufferFullError, AudioFormatError

MOST_S = 60.0


class Feed:
    """Takes sound at once and says it when there is room. Start `run` as a task; cancel it at the end."""

    def __init__(self, speaker: Speaker, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._speaker = speaker
        self._waiting: deque[bytes | None] = deque()
        """Sound, or None where an utterance is complete."""
        self._bytes = 0
        self._came = asyncio.Event()

    def put(self, pcm: bytes) -> None:
        """PCM int16 mono. Raises AudioFormatError, or AudioBufferFullError, and takes nothing, when too much waits."""
        if len(pcm) % 2:
            raise AudioFormatError(f"{len(pcm)} bytes are no whole number of int16 samples")
        if self._bytes + len(pcm) > 2 * self.rate_hz * MOST_S:
            raise AudioBufferFullError(
                f"{self._bytes / 2 / self.rate_hz:.0f} s of sound wait beside what the avatar holds; send it later"
            )
        self._waiting.append(pcm)
        self._bytes += len(pcm)
        self._came.set()

    def finish(self) -> None:
        """The utterance is complete. Once is enough."""
        if not self._waiting or self._waiting[-1] is not None:
            self._waiting.append(None)
            self._came.set()

    def interrupt(self) -> None:
        """Drop what waits and fall silent."""
        self._waiting.clear()
        self._bytes = 0
        self._speaker.interrupt()

    @property
    def silent(self) -> bool:
        """Nothing is said, and nothing waits."""
        return not self._bytes and self._speaker.silent

    async def run(self) -> None:
        """Say what comes, until cancelled."""
        while True:
            while not self._waiting:
                self._came.clear()
                await self._came.wait()
            piece = self._waiting.popleft()
            if piece is None:
                self._speaker.finish()
                continue
            self._bytes -= len(piece)
            await self._speaker.say(piece, self.rate_hz)
