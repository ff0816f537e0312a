"""A client of the benchmark: talks as bots do, takes every picture as it comes, and notes when."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from itertools import count

import numpy as np

from apps.bench.script import PACKET_SAMPLES, PACKET_US, Floats, part
from apps.bench.stats import Taken
from apps.conformance.line import CONFIGURATION, LISTENING, VIDEO, VOICE, Closed, Heard, Line
from engine.clock import MICROSECONDS, now_us, sleep_until_us
from engine.types import FRAME_US

WINDOW = 8
_COMPLETE = 0x01
_CLOSE_S = 5.0

Matches = Callable[[Heard], bool]


class Caller:
    """One session of a server. Opened by `Caller.open`; aclose() ends it."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._numbers = count(1)
        self._waiting: list[tuple[Matches, asyncio.Future[Heard | None]]] = []
        self.session = ""
        self.epoch = 0
        self._moments, self._indices = array("q"), array("q")
        self.closed: Closed | None = None
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="bench-caller")

    @classmethod
    async def open(cls, url: str, size_px: int) -> Caller:
        """Returns when hello is sent. Raises RefusedError, OSError or TimeoutError."""
        line = await Line.open(url)
        line.acknowledges = True
        caller = cls(line)
        video = {"codec": "jpeg", "size": size_px, "window": WINDOW}
        await line.say({"type": "hello", "protocol": 1, "client": "bench", "video": video})
        return caller

    async def aclose(self) -> None:
        """Say goodbye and wait for the close; bounded in time."""
        await self._line.say({"type": "bye"})
        await asyncio.wait([self._reading], timeout=_CLOSE_S)
        await self._line.drop()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def expect(self, matches: Matches) -> asyncio.Future[Heard | None]:
        """The next message that matches, from now on; None when the connection ends before it comes."""
        future: asyncio.Future[Heard | None] = asyncio.get_running_loop().create_future()
        if self.closed is not None:
            future.set_result(None)
        else:
            self._waiting.append((matches, future))
        return future

    def taken(self) -> Taken:
        """All pictures so far. By how much the session's media clock slipped, a client does not see."""
        moments, indices = (np.array(notes, np.int64) for notes in (self._moments, self._indices))
        return Taken(moments, indices, np.zeros(len(moments), np.int64))

    def next_utterance(self) -> int:
        return next(self._numbers)

    async def speak(self, pcm: Floats, utterance: int) -> None:
        """A whole utterance at once, float32 [N] at 16 kHz, in messages of a second."""
        sound = _s16(pcm)
        pieces = [sound[start : start + 32_000] for start in range(0, len(sound), 32_000)]
        for number, piece in enumerate(pieces, 1):
            flags = _COMPLETE if number == len(pieces) else 0
            await self._line.media(VOICE, piece, utterance=utterance, flags=flags)

    async def speak_live(self, pcm: Floats, utterance: int) -> None:
        """Packets as a microphone gives them, each once it is complete; the first sample exists now."""
        await self._push_live(VOICE, pcm, utterance)

    async def interrupt(self) -> None:
        await self._line.say({"type": "interrupt"})

    async def converse(self, voice: Floats) -> None:
        """Talk until cancelled, as apps.bench.script.converse does with an engine."""
        for start_s in count(0, 7):
            await self.speak(part(voice, start_s, 4), self.next_utterance())
            await asyncio.sleep(5)
            await self._push_live(LISTENING, part(voice, start_s + 4, 3), 0)
            await asyncio.sleep(1)
            await self.speak(part(voice, start_s + 4, 3), self.next_utterance())
            await asyncio.sleep(1.3)
            await self.interrupt()
            await asyncio.sleep(0.7)

    async def _push_live(self, kind: int, pcm: Floats, utterance: int) -> None:
        began_us = now_us()
        for number, start in enumerate(range(0, len(pcm), PACKET_SAMPLES), 1):
            await sleep_until_us(began_us + number * PACKET_US)
            await self._line.media(kind, _s16(pcm[start : start + PACKET_SAMPLES]), utterance=utterance)

    async def _read(self) -> None:
        while self.closed is None:
            heard = await self._line.hear(None)
            if isinstance(heard, Closed):
                self.closed = heard
            else:
                self._note(heard)
        for _, future in self._waiting:
            if not future.done():
                future.set_result(None)

    def _note(self, heard: Heard) -> None:
        if heard.text is not None:
            self.session = str(heard.text.get("session", self.session))
            self.epoch = int(heard.text.get("epoch", self.epoch))
        elif heard.kind == VIDEO and not heard.flags & CONFIGURATION:
            self._moments.append(round(heard.moment_s * MICROSECONDS))
            self._indices.append(heard.pts_us // FRAME_US)
        waiting = [pair for pair in self._waiting if not pair[1].done()]
        for matches, future in waiting:
            if matches(heard):
                future.set_result(heard)
        self._waiting = [pair for pair in waiting if not pair[1].done()]


def is_picture(heard: Heard) -> bool:
    return heard.kind == VIDEO and not heard.flags & CONFIGURATION


def says(kind: str) -> Matches:
    """A control message of that type."""
    return lambda heard: heard.text is not None and heard.text["type"] == kind


async def within(future: asyncio.Future[Heard | None], seconds: float) -> Heard | None:
    """What was expected, or None when it does not come in time."""
    try:
        return await asyncio.wait_for(future, seconds)
    except TimeoutError:
        return None


def _s16(pcm: Floats) -> bytes:
    return (np.clip(pcm, -1, 1) * 32_767).astype("<i2").tobytes()
