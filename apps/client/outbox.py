"""What waits to be sent, each kind with a bound of its own: requests, listening audio, and voice within the server's
credit (docs/protocol.md, "Flow control").

`audio.buffer` comes a round trip late, so what the server holds is also reckoned here: what was sent less what was
heard. Requests overtake sound, but cues for a moment of an utterance keep their place in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import AudioBufferFullError, SlotBusyError

VOICE_MS = 240_000.0
"""Voice that may wait here."""
LIVE_MS = 500.0
"""The same of a microphone's: older sound is skipped, since it would only come late."""
LISTENING_MESSAGES = 50
REQUESTS = 256

Message = str | bytes


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A message that belongs to an utterance; ms of sound in it, 0 for a cue or an end. dropped: called if it is never
    sent.
    """

    message: Message
    utterance: int
    ms: float
    dropped: Callable[[], None] | None


class Outbox:
    """Filled by the session, emptied by the connection that stands; belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.high_ms = 0.0
        """Voice that the server may hold."""
        self.live = False
        self.skipped_ms = 0.0
        self._requests: deque[Message] = deque()
        self._voice: deque[_Spoken] = deque()
        self._voice_ms = 0.0
        self._listening: deque[Message] = deque(maxlen=LISTENING_MESSAGES)
        self._under_way: dict[int, tuple[float, float]] = {}
        """Sound by utterance: sent, and heard so far, in ms."""
        self._paused = False
        self._changed = asyncio.Event()

    @property
    def voice_ms(self) -> float:
        """Voice that waits here."""
        return self._voice_ms

    def request(self, message: Message) -> None:
        """Raises SlotBusyError when nothing can be sent and too much waits."""
        if len(self._requests) >= REQUESTS:
            raise SlotBusyError(f"{REQUESTS} requests wait for the connection; try again when it is back")
        self._requests.append(message)
        self._changed.set()

    def listening(self, message: Message) -> None:
        """The oldest gives way."""
        self._listening.append(message)
        self._changed.set()

    def check_room(self, ms: float) -> None:
        """Raises AudioBufferFullError when so much more voice is too much."""
        if not self.live and self._voice_ms + ms > VOICE_MS:
            waits = f"{self._voice_ms / 1000:.0f} s of sound wait already"
            raise AudioBufferFullError(f"{waits}; push the rest once some of it has been shown")

    def voice(
        self, message: Message, utterance: int, ms: float = 0.0, dropped: Callable[[], None] | None = None
    ) -> None:
        """A message that keeps its order among the voice."""
        self._voice.append(_Spoken(message, utterance, ms, dropped))
        self._voice_ms += ms
        while self.live and self._voice_ms > LIVE_MS and self._voice[0].ms:
            self._voice_ms -= self._voice[0].ms
            self.skipped_ms += self._voice.popleft().ms
        self._changed.set()

    def pause(self, paused: bool) -> None:
        """The server's word."""
        self._paused = paused
        self._changed.set()

    def heard(self, utterance: int, ms: float) -> None:
        """A frame of the utterance came: so much of it was heard."""
        if utterance in self._under_way:
            sent, before = self._under_way[utterance]
            self._under_way[utterance] = sent, max(before, ms)
            self._changed.set()

    def finished(self, utterance: int) -> None:
        """The utterance is over: the server drops what still comes of it without a word."""
        self._under_way.pop(utterance, None)
        self._keep(lambda spoken: spoken.utterance != utterance or not spoken.ms)

    def clear_voice(self) -> None:
        """An interrupt, or a lost connection: nothing of this will be heard."""
        self._under_way.clear()
        self._paused = False
        self._keep(lambda spoken: False)

    def clear_requests(self) -> None:
        self._requests.clear()
        self._listening.clear()

    async def take(self) -> Message:
        """The next message that may be sent. For one connection at a time."""
        while (message := self._next()) is None:
            self._changed.clear()
            await self._changed.wait()
        return message

    def _next(self) -> Message | None:
        if self._requests:
            return self._requests.popleft()
        if self._listening:
            return self._listening.popleft()
        if not self._voice or self._paused or self._ahead_ms() > self.high_ms:
            return None
        spoken = self._voice.popleft()
        self._voice_ms -= spoken.ms
        if spoken.ms:
            sent, heard = self._under_way.get(spoken.utterance, (0.0, 0.0))
            self._under_way[spoken.utterance] = sent + spoken.ms, heard
        return spoken.message

    def _ahead_ms(self) -> float:
        return sum(max(0.0, sent - heard) for sent, heard in self._under_way.values())

    def _keep(self, wanted: Callable[[_Spoken], bool]) -> None:
        before, self._voice = self._voice, deque(spoken for spoken in self._voice if wanted(spoken))
        self._voice_ms = sum(spoken.ms for spoken in self._voice)
        for spoken in before:
            if spoken.dropped is not None and not wanted(spoken):
                spoken.dropped()
        self._changed.set()
