"""How much a server, a caller and a session may use; what is beyond is refused before it costs anything.

Nothing here waits, opens a thread or knows a socket: every call takes microseconds and belongs to the event loop's
thread, so nobody can come between asking for a place and having it. Sizes of messages are in apps.server.protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from apps.server.errors import (
    DrainingError,
    IdleTimeoutError,
    NotReadyError,
    ServerError,
    SessionTooLongError,
    TooFastError,
)
from apps.server.protocol import MAX_UPLOAD_BYTES
from engine.errors import EngineFullError
from engine.portrait.loading import PictureLimits

Clock = Callable[[], float]

UPLOAD_LIMITS = PictureLimits(max_bytes=MAX_UPLOAD_BYTES, max_pixels=16_800_000, max_side_px=4096, working_side_px=2048)
"""For pictures of strangers: `load_image(data, UPLOAD_LIMITS)`. Faces are shown at 1024 pixels at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """sessions: at once; None for what the model's worker sustains. caller_sessions: of one address. session_s: the
    longest a session lasts. idle_s: the longest without voice, cue or request. None where there is no such limit.

    handshake_s: from the connection to a whole request, and then to `hello`. drain_s: given to utterances under way
    when the server stops. connections: open sockets, those without a session among them.

    The others are token buckets, so much a second and so much at once. control, ack, binary: messages; a minute of
    speech in pieces of 10 ms may come at once. audio: seconds of sound for both ears, taken or not.
    """

    sessions: int | None = None
    caller_sessions: int | None = None
    session_s: float | None = None
    idle_s: float | None = None

    handshake_s: float = 10.0
    drain_s: float = 30.0
    connections: int = 512

    control_per_s: float = 50.0
    control_burst: int = 100
    ack_per_s: float = 100.0
    ack_burst: int = 200
    binary_per_s: float = 500.0
    binary_burst: int = 15_000
    audio_per_s: float = 4.0
    audio_burst_s: float = 300.0


class Place:
    """One session's right to run. Until it is confirmed it lapses by itself, since a peer may vanish amid the
    handshake, where nobody is left to give it back.
    """

    def __init__(self, gate: Gate, caller: str, lapses_s: float) -> None:
        self._gate, self.caller, self.lapses_s = gate, caller, lapses_s

    def confirm(self) -> None:
        """The session begins. Raises EngineFullError when the place has lapsed meanwhile."""
        self._gate.confirm(self)

    def release(self) -> None:
        """Idempotent."""
        self._gate.release(self)


class Gate:
    """Hands out the server's places, or says at once why there is none."""

    def __init__(self, limits: Limits, capacity: int, clock: Clock = time.monotonic) -> None:
        """capacity: sessions that the worker sustains."""
        self._limits, self._clock = limits, clock
        self.places = capacity if limits.sessions is None else min(capacity, limits.sessions)
        self._waiting: set[Place] = set()
        self._running: set[Place] = set()
        self.ready = True
        """Set by whoever watches the worker: False while it warms up or is started again."""
        self.draining = False

    @property
    def taken(self) -> int:
        """Places that are not free."""
        self._lapse()
        return len(self._waiting) + len(self._running)

    def check(self, caller: str) -> None:
        """Whether `admit` would give a place. Raises DrainingError, NotReadyError or EngineFullError."""
        if self.draining:
            raise DrainingError("the server is about to stop; connect to another one, or later")
        if not self.ready:
            raise NotReadyError("the model is being started; try again in some seconds")
        if self.taken >= self.places:
            raise EngineFullError(f"all {self.places} places of this server are taken; try again later")
        most = self._limits.caller_sessions
        if most is not None and sum(place.caller == caller for place in self._waiting | self._running) >= most:
            raise EngineFullError(f"one address may have {most} sessions at once; end one of them first")

    def admit(self, caller: str) -> Place:
        """Raises what `check` does."""
        self.check(caller)
        # Twice, for the request and for `hello`.
        place = Place(self, caller, self._clock() + 2 * self._limits.handshake_s)
        self._waiting.add(place)
        return place

    def confirm(self, place: Place) -> None:
        """See Place.confirm."""
        self._lapse()
        if place not in self._waiting | self._running:
            raise EngineFullError("hello came too late, and its place was given away; try again")
        self._waiting.discard(place)
        self._running.add(place)

    def release(self, place: Place) -> None:
        """See Place.release."""
        self._waiting.discard(place)
        self._running.discard(place)

    def _lapse(self) -> None:
        now_s = self._clock()
        self._waiting = {place for place in self._waiting if place.lapses_s > now_s}


class Bucket:
    """A token bucket: `burst` at once, and `per_s` each second after that."""

    def __init__(self, per_s: float, burst: float, clock: Clock) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._level, self._filled_s = burst, clock()

    def take(self, amount: float = 1.0) -> bool:
        """Whether so much was left; nothing is taken when it was not."""
        now_s = self._clock()
        self._level = min(self._burst, self._level + (now_s - self._filled_s) * self._per_s)
        self._filled_s = now_s
        if amount > self._level:
            return False
        self._level -= amount
        return True


class Meter:
    """Counts what the peer of one session sends. Each method raises TooFastError when that is too much."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._began_s = self._heard_s = clock()
        self._control = Bucket(limits.control_per_s, limits.control_burst, clock)
        self._acks = Bucket(limits.ack_per_s, limits.ack_burst, clock)
        self._binary = Bucket(limits.binary_per_s, limits.binary_burst, clock)
        self._audio = Bucket(limits.audio_per_s, limits.audio_burst_s, clock)

    def control(self) -> None:
        """A text message has come, whether or not it can be read."""
        if not self._control.take():
            raise TooFastError(f"controls may come {self._limits.control_per_s:g} times a second; send fewer")

    def ack(self) -> None:
        """An acknowledgement has come; it counts in place of a control."""
        if not self._acks.take():
            raise TooFastError(f"acknowledgements may come {self._limits.ack_per_s:g} times a second; send fewer")

    def binary(self) -> None:
        """A binary message has come, whether or not it can be read."""
        if not self._binary.take():
            raise TooFastError("too many binary messages; send sound in pieces of at least 10 ms")

    def audio(self, seconds: float) -> None:
        """A message holds so much sound."""
        if not self._audio.take(seconds):
            raise TooFastError(
                f"sound may come {self._limits.audio_burst_s:g} s ahead, and then {self._limits.audio_per_s:g} times "
                "as fast as it is spoken; wait while audio.buffer says paused"
            )

    def alive(self) -> None:
        """The peer wants something: a voice, a cue or a request. What a forgotten page sends by itself is none."""
        self._heard_s = self._clock()

    def overdue(self) -> ServerError | None:
        """Why the session must end now, if it must; to be asked each second."""
        longest, idle = self._limits.session_s, self._limits.idle_s
        if longest is not None and self.seconds >= longest:
            return SessionTooLongError(f"a session may last {longest:g} s; open another one")
        if idle is not None and self._clock() - self._heard_s >= idle:
            return IdleTimeoutError(f"nothing was asked for in {idle:g} s; open another session")
        return None

    @property
    def seconds(self) -> float:
        """Since the session began."""
        return self._clock() - self._began_s
