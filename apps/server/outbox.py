"""What waits to be sent over one connection, and in which order it goes.

Controls go before media. Pictures are encoded only when there is room for them at the client, so that no encoded one is
dropped for slowness; of those that wait, the oldest gives way. An interrupt drops every picture and sound that is not
yet in the transport.

The picture that is due next is encoded as soon as it is known and nothing else waits, so that at its moment it only
has to be sent. When another one comes in its place, that one is a key frame.

| queue | bound | when full |
|---|---|---|
| controls | 1024 | the client counts as a slow reader |
| pictures that wait to be encoded | 2 | the oldest is dropped, its sound stays |
| frames that wait with their sound | 50, 2 s | the oldest is dropped |
| encoded frames | 1 | encoding waits |
| pictures encoded before their moment | 1 | encoding waits |
| frames under way, with a window | the window | encoding waits |
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from apps.server.errors import SlowReaderError
from apps.server.protocol import AUDIO, CONFIGURATION, FROZEN, KEY_FRAME, VIDEO, Media
from apps.server.stats import Stats
from apps.server.video import Encoded, Pixels
from engine.clock import MICROSECONDS, now_us

MAX_CONTROLS = 1024
MAX_PICTURES = 2
MAX_FRAMES = 50
STALLED_S = 15.0
"""A client that takes nothing for so long is closed."""

Mark = Callable[[], str | None]
"""Says, when a frame is sent, what goes with it; None for nothing any more."""

Encode = Callable[[Pixels, int, bool], Awaitable[Encoded]]
Send = Callable[[str | bytes], Awaitable[None]]


@dataclass(slots=True)
class Outgoing:
    """A frame on its way out. sound: PCM s16le, or nothing. position: of its first sample in the utterance. before,
    after: what is said with it.
    """

    epoch: int
    pts_us: int
    flags: int
    utterance: int
    position: int
    image: Pixels | None
    sound: bytes
    left_engine_us: int
    before: list[Mark] = field(default_factory=list)
    after: list[Mark] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Coming:
    """A picture that will be due next, unless another takes its place."""

    image: Pixels
    pts_us: int

    def is_of(self, frame: Outgoing) -> bool:
        return frame.image is self.image and frame.pts_us == self.pts_us


class Outbox:
    """The sending half of a connection."""

    def __init__(self, send: Send, encode: Encode, head: bytes, window: int, epoch: int, stats: Stats) -> None:
        """encode: picture, pts_us and whether a key frame is wanted. head: goes before the first picture. window:
        frames under way at most, 0 for no such limit.
        """
        self._send, self._encode, self._head, self._window = send, encode, head, window
        self._stats = stats
        self.epoch = epoch
        self._controls: deque[str] = deque()
        self._waiting: deque[Outgoing] = deque()
        self._ready: tuple[Outgoing, Encoded | None] | None = None
        self._coming: Coming | None = None
        self._ahead: tuple[Coming, Encoded] | None = None
        self._wants_key = True
        self._videos = self._sounds = self._taken = 0
        """Media sent of each kind, and videos acknowledged."""
        self._sending_since_us: int | None = None
        self._moved_us = now_us()
        self._changed = asyncio.Event()
        self._overflowed = False

    @property
    def in_flight(self) -> int:
        return self._videos - self._taken

    @property
    def queue(self) -> int:
        return len(self._waiting) + (self._ready is not None)

    def say(self, text: str) -> None:
        """A control; goes before all media that wait."""
        if len(self._controls) >= MAX_CONTROLS:
            self._overflowed = True
            return
        self._controls.append(text)
        self._changed.set()

    def put(self, frame: Outgoing, coming: Coming | None = None) -> None:
        """A frame, and what comes after it if that is known; returns at once, whatever the client does."""
        self._coming = coming
        self._waiting.append(frame)
        pictures = [one for one in self._waiting if one.image is not None]
        for late in pictures[:-MAX_PICTURES]:
            late.image = None
            self._stats.dropped_picture()
        if len(self._waiting) > MAX_FRAMES:
            gone = self._waiting.popleft()
            self._waiting[0].before[:0] = gone.before + gone.after
        self._changed.set()

    def cut(self, epoch: int) -> None:
        """Drop every frame that is not in the transport; from now on frames carry this epoch."""
        self.epoch = epoch
        self._waiting.clear()
        if self._ready is not None:
            self._ready, self._wants_key = None, True
        self._changed.set()

    def key_frame(self) -> None:
        self._wants_key = True

    def acknowledge(self, sequence: int) -> None:
        taken = min(sequence + 1, self._videos)
        if taken > self._taken:
            self._taken, self._moved_us = taken, now_us()
            self._changed.set()

    def check_moving(self) -> None:
        """Raises SlowReaderError when the client has taken nothing for too long."""
        since_us = self._sending_since_us
        if since_us is None and self._has_no_room():
            since_us = self._moved_us
        stalled = since_us is not None and now_us() - since_us > STALLED_S * MICROSECONDS
        if stalled or self._overflowed:
            raise SlowReaderError(f"nothing was taken for {STALLED_S:g} s; read faster, or acknowledge what you read")

    def leave(self) -> list[str]:
        """The controls that are still to be sent, by whoever ends the connection."""
        left = list(self._controls)
        self._controls.clear()
        return left

    def _has_no_room(self) -> bool:
        return self._window > 0 and self.in_flight >= self._window

    async def encode_all(self) -> None:
        """Encode until cancelled, beside `send_all`."""
        while True:
            frame = self._next()
            if frame is not None:
                await self._make_ready(frame)
            elif self._may_encode_ahead():
                await self._encode_ahead()
            else:
                self._changed.clear()
                await self._changed.wait()

    def _next(self) -> Outgoing | None:
        """The next frame to be encoded, if it may be."""
        if self._ready is not None or not self._waiting:
            return None
        if self._waiting[0].image is not None and self._has_no_room():
            return None
        return self._waiting.popleft()

    async def _make_ready(self, frame: Outgoing) -> None:
        encoded = None
        if frame.image is not None:
            encoded = self._take_ahead(frame)
            if encoded is None:
                encoded = await self._encoded(frame.image, frame.pts_us)
            if frame.epoch != self.epoch:
                self._wants_key = True
                return
        self._ready = (frame, encoded)
        self._changed.set()

    def _take_ahead(self, frame: Outgoing) -> Encoded | None:
        """What was encoded before its moment, if it is this frame's and the client can decode it."""
        if self._ahead is None:
            return None
        (coming, encoded), self._ahead = self._ahead, None
        if coming.is_of(frame) and (encoded.key or not self._wants_key):
            self._wants_key &= not encoded.key
            return encoded
        self._wants_key = True
        return None

    def _may_encode_ahead(self) -> bool:
        """Whether a client that is sent what waits could take one more at once."""
        idle = not self._waiting and self._ready is None and self._sending_since_us is None
        return idle and self._coming is not None and self._ahead is None and not self._has_no_room()

    async def _encode_ahead(self) -> None:
        assert self._coming is not None
        coming, self._coming = self._coming, None
        self._ahead = (coming, await self._encoded(coming.image, coming.pts_us))

    async def _encoded(self, image: Pixels, pts_us: int) -> Encoded:
        key, self._wants_key = self._wants_key, False
        began_us = now_us()
        encoded = await self._encode(image, pts_us, key)
        self._stats.encoded(now_us() - began_us)
        return encoded

    async def send_all(self) -> None:
        """Send until cancelled; raises what `send` does."""
        while True:
            if self._controls:
                await self._transmit(self._controls.popleft())
            elif self._ready is not None:
                (frame, encoded), self._ready = self._ready, None
                self._changed.set()
                await self._send_frame(frame, encoded)
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _send_frame(self, frame: Outgoing, encoded: Encoded | None) -> None:
        """Sound first, since it is played the sooner. What an interrupt overtakes is left where it is."""
        self._stats.pts_us = frame.pts_us
        await self._say_all(frame.before)
        if frame.sound and frame.epoch == self.epoch:
            sound = self._media(AUDIO, frame, frame.flags, self._sounds, frame.sound)
            self._sounds += 1
            await self._transmit(sound)
        if encoded is not None:
            if frame.epoch != self.epoch:
                self._wants_key = True
                return
            await self._send_picture(frame, encoded)
        if frame.epoch == self.epoch:
            await self._say_all(frame.after)

    async def _send_picture(self, frame: Outgoing, encoded: Encoded) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._videos += 1
            await self._transmit(self._media(VIDEO, frame, CONFIGURATION, self._videos - 1, head))
        if not self.in_flight:
            self._moved_us = now_us()
        flags = frame.flags | (KEY_FRAME if encoded.key else 0)
        self._videos += 1
        await self._transmit(self._media(VIDEO, frame, flags, self._videos - 1, encoded.payload))
        self._stats.sent(now_us(), now_us() - frame.left_engine_us, bool(flags & FROZEN))

    async def _say_all(self, marks: list[Mark]) -> None:
        for mark in marks:
            if (text := mark()) is not None:
                await self._transmit(text)

    def _media(self, kind: int, frame: Outgoing, flags: int, sequence: int, payload: bytes) -> bytes:
        return Media(
            kind, flags, frame.epoch, frame.utterance, sequence, frame.position, frame.pts_us, payload
        ).to_bytes()

    async def _transmit(self, message: str | bytes) -> None:
        self._sending_since_us = now_us()
        await self._send(message)
        self._sending_since_us = None
        self._changed.set()
        self._stats.transmitted(len(message))
