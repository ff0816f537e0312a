"""What clients say, read without any input or output: bytes and text in, frozen dataclasses out, typed errors only.

docs/protocol.md is the page that this implements. What the server says is built in apps.server.messages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, NoReturn, TypeAlias

from apps.server.errors import BadFieldError, BadHeaderError, BadMessageError, UnsupportedVersionError
from engine.session import LARGEST_ANGLE, LONGEST_DELAY_MS, LONGEST_FADE_MS
from engine.types import EXPRESSIONS, POSE_AXES, AvatarState

PROTOCOL = 1
PATH = "/v1/avatar"
SUBPROTOCOL = "visavis.v1"

MAX_TEXT_BYTES = 16_384
MAX_DEPTH = 8
MAX_PAYLOAD_BYTES = 262_144
MAX_SPEAK_CHARS = 1_000
MAX_NAME_CHARS = 64
MAX_WINDOW = 64
MAX_UPLOAD_BYTES = 8 << 20
CHUNK_BYTES = 65_536
"""Most of an upload in one message."""
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 96_000
_U32 = 2**32 - 1

HEADER = Struct("<BBHIIIQ")
VOICE, LISTENING, PORTRAIT, VIDEO, AUDIO = 0x01, 0x02, 0x03, 0x11, 0x12
LAST_PART = 0x01
KEY_FRAME, CONFIGURATION, END_OF_UTTERANCE, START_OF_UTTERANCE, FROZEN = 0x01, 0x02, 0x04, 0x08, 0x40
STATE_SHIFT = 4

RequestId: TypeAlias = str | int | None


@dataclass(frozen=True, slots=True)
class Media:
    """A binary message; the fields are those of the page's table."""

    kind: int
    flags: int = 0
    epoch: int = 0
    utterance: int = 0
    sequence: int = 0
    value: int = 0
    pts_us: int = 0
    payload: bytes | memoryview = b""

    def to_bytes(self) -> bytes:
        head = HEADER.pack(
            self.kind, self.flags, self.epoch & 0xFFFF, self.utterance, self.sequence & _U32, self.value, self.pts_us
        )
        return b"".join((head, self.payload))


@dataclass(frozen=True, slots=True)
class VideoWish:
    codec: str = "jpeg"
    size: int | None = None
    quality: int = 85
    window: int = 0


@dataclass(frozen=True, slots=True)
class Hello:
    """library, upload_bytes: the portrait; both None for the server's choice. resume: the token of a session that was
    lost, `after` the last event of it that was seen. Rates in Hz. live: the voice is a microphone's.
    """

    id: RequestId = None
    client: str = ""
    library: str | None = None
    upload_bytes: int | None = None
    video: VideoWish = VideoWish()
    audio: bool = True
    voice_rate_hz: int = 16_000
    listening_rate_hz: int = 16_000
    live: bool = False
    seed: int = 0
    resume: str | None = None
    after: int = 0


@dataclass(frozen=True, slots=True)
class UtteranceStart:
    id: RequestId
    utterance: int = 0


@dataclass(frozen=True, slots=True)
class UtteranceEnd:
    id: RequestId
    utterance: int = 0


@dataclass(frozen=True, slots=True)
class Speak:
    id: RequestId
    text: str
    utterance: int = 0
    voice: str | None = None


@dataclass(frozen=True, slots=True)
class Interrupt:
    id: RequestId
    utterance: int = 0


@dataclass(frozen=True, slots=True)
class StateSet:
    id: RequestId
    state: str


@dataclass(frozen=True, slots=True)
class When:
    """Milliseconds. at_ms: a moment of `utterance` (0 for the open one), None for `delay_ms` from now."""

    fade_ms: float
    delay_ms: float = 0
    at_ms: float | None = None
    utterance: int = 0


@dataclass(frozen=True, slots=True)
class ExpressionSet:
    """strengths: by name, in [0, 1]; None lets go of all."""

    id: RequestId
    strengths: Mapping[str, float] | None
    when: When


@dataclass(frozen=True, slots=True)
class PoseSet:
    """angles: degrees by axis; None lets go of all."""

    id: RequestId
    angles: Mapping[str, float] | None
    when: When


@dataclass(frozen=True, slots=True)
class Ack:
    """All video up to `sequence` was taken. played_us: what the sound device plays now."""

    sequence: int
    played_us: int | None = None


@dataclass(frozen=True, slots=True)
class Keyframe:
    id: RequestId


@dataclass(frozen=True, slots=True)
class Ping:
    id: RequestId
    t: float


@dataclass(frozen=True, slots=True)
class Bye:
    id: RequestId


Control: TypeAlias = (
    Hello
    | UtteranceStart
    | UtteranceEnd
    | Speak
    | Interrupt
    | StateSet
    | ExpressionSet
    | PoseSet
    | Ack
    | Keyframe
    | Ping
    | Bye
)


def parse_binary(data: bytes) -> Media:
    """The header and what follows it, of any kind. Raises BadHeaderError."""
    if len(data) < HEADER.size:
        raise BadHeaderError(f"a binary message begins with {HEADER.size} bytes of header; this one has {len(data)}")
    if len(data) > HEADER.size + MAX_PAYLOAD_BYTES:
        raise BadHeaderError(f"a payload has at most {MAX_PAYLOAD_BYTES} bytes; this one {len(data) - HEADER.size}")
    kind, flags, epoch, utterance, sequence, value, pts_us = HEADER.unpack_from(data)
    return Media(kind, flags, epoch, utterance, sequence, value, pts_us, memoryview(data)[HEADER.size :])


def parse_text(text: str) -> Control | None:
    """A control message; None for a type that is not known. Raises BadMessageError, BadFieldError or
    UnsupportedVersionError.
    """
    message = _json_object(text)
    kind = message.get("type")
    if not isinstance(kind, str):
        raise BadMessageError('a message is a JSON object with a "type", a string')
    reader = _READERS.get(kind)
    return None if reader is None else reader(_Fields(message))


def _json_object(text: str) -> dict[str, Any]:
    try:
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise BadMessageError(f"a text message has at most {MAX_TEXT_BYTES} bytes")
        message = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadMessageError(f"a text message must be JSON: {str(error)[:200]}") from None
    if not isinstance(message, dict):
        raise BadMessageError("a text message must be a JSON object")
    if not _sound(message, MAX_DEPTH):
        raise BadMessageError(f"JSON may be {MAX_DEPTH} deep, with finite numbers and valid Unicode only")
    return message


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _sound(value: Any, depth: int) -> bool:
    """Whether a value is shallow, and holds nothing that could not be said in JSON again."""
    if isinstance(value, str):
        return not any("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return depth > 0 and all(_sound(part, depth - 1) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return depth > 0 and all(_sound(part, depth - 1) for part in value)
    return True


class _Fields:
    """Reads the fields of one JSON object; `path` names it in messages."""

    def __init__(self, values: Mapping[str, Any], path: str = "", request_id: RequestId = None) -> None:
        self._values, self._path = values, path
        self.id: RequestId = request_id
        if not path:
            self.id = self._request_id()

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def text(self, name: str, default: str | None = None, longest: int = MAX_NAME_CHARS) -> str:
        value = self._get(name, default)
        if not isinstance(value, str) or len(value) > longest:
            self.refuse(name, f"must be a string of at most {longest} characters")
        return value

    def integer(self, name: str, default: int | None = None, low: int = 0, high: int = _U32) -> int:
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(name, f"must be a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: float | None, low: float, high: float) -> float:
        value = self._get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(name, f"must be a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            self.refuse(name, "must be true or false")
        return value

    def choice(self, name: str, known: tuple[str, ...], default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str) or value not in known:
            self.refuse(name, f"must be one of {', '.join(known)}")
        return value

    def part(self, name: str) -> _Fields:
        """An object inside; an empty one when absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, dict):
            self.refuse(name, "must be an object")
        return _Fields(value or {}, f"{self._path}{name}.", self.id)

    def numbers(self, name: str, known: tuple[str, ...], low: float, high: float) -> dict[str, float]:
        """An object of numbers by known names."""
        part = self.part(name)
        for key in part._values:
            if key not in known:
                self.refuse(name, f"has no {key[:MAX_NAME_CHARS]!r}; known are {', '.join(known)}")
        return {key: part.number(key, None, low, high) for key in part._values}

    def refuse(self, name: str, why: str) -> NoReturn:
        raise BadFieldError(f"{self._path}{name} {why}", self.id)

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        return default if value is None else value

    def _request_id(self) -> RequestId:
        value = self._values.get("id")
        if value is None or isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
            return value
        if isinstance(value, str) and len(value) <= MAX_NAME_CHARS:
            return value
        raise BadFieldError(f"id must be a whole number, or a string of at most {MAX_NAME_CHARS} characters")


_WISH, _HELLO = VideoWish(), Hello()
"""For their defaults."""


def _hello(f: _Fields) -> Hello:
    if (version := f.integer("protocol")) != PROTOCOL:
        raise UnsupportedVersionError(f"this server speaks protocol {PROTOCOL}, not {version}", f.id)
    portrait, video, audio = f.part("portrait"), f.part("video"), f.part("audio")
    voice, listening = f.part("input"), f.part("listening")
    if portrait.has("library") and portrait.has("upload_bytes"):
        f.refuse("portrait", "has either library or upload_bytes")
    return Hello(
        id=f.id,
        client=f.text("client", ""),
        library=portrait.text("library") if portrait.has("library") else None,
        upload_bytes=portrait.integer("upload_bytes", low=1) if portrait.has("upload_bytes") else None,
        video=VideoWish(
            codec=video.text("codec", _WISH.codec),
            size=video.integer("size") if video.has("size") else None,
            quality=video.integer("quality", _WISH.quality, 1, 100),
            window=video.integer("window", _WISH.window, 0, MAX_WINDOW),
        ),
        audio=audio.choice("codec", ("pcm_s16le", "none"), "pcm_s16le") != "none",
        voice_rate_hz=voice.integer("sample_rate", _HELLO.voice_rate_hz, MIN_RATE_HZ, MAX_RATE_HZ),
        listening_rate_hz=listening.integer("sample_rate", _HELLO.listening_rate_hz, MIN_RATE_HZ, MAX_RATE_HZ),
        live=voice.flag("live", _HELLO.live),
        seed=f.integer("seed", _HELLO.seed, 0, 2**31 - 1),
        resume=f.text("resume") if f.has("resume") else None,
        after=f.integer("after", _HELLO.after),
    )


def _speak(f: _Fields) -> Speak:
    text = f.text("text", longest=MAX_SPEAK_CHARS)
    if not text.strip():
        f.refuse("text", "must hold words")
    return Speak(f.id, text, f.integer("utterance", 0), f.text("voice") if f.has("voice") else None)


def _expression(f: _Fields) -> ExpressionSet:
    when = _when(f, 200)
    if f.has("vector"):
        return ExpressionSet(f.id, f.numbers("vector", EXPRESSIONS, 0, 1), when)
    if not f.has("name"):
        return ExpressionSet(f.id, None, when)
    return ExpressionSet(f.id, {f.choice("name", EXPRESSIONS): f.number("strength", 1.0, 0, 1)}, when)


def _pose(f: _Fields) -> PoseSet:
    angles = f.numbers("angles", POSE_AXES, -LARGEST_ANGLE, LARGEST_ANGLE) if f.has("angles") else None
    return PoseSet(f.id, angles, _when(f, 300))


def _when(f: _Fields, fade_ms: float) -> When:
    if f.has("at_ms") and f.has("delay_ms"):
        f.refuse("at_ms", "and delay_ms cannot both be given")
    return When(
        fade_ms=f.number("fade_ms", fade_ms, 0, LONGEST_FADE_MS),
        delay_ms=f.number("delay_ms", 0, 0, LONGEST_DELAY_MS),
        at_ms=f.number("at_ms", None, 0, LONGEST_DELAY_MS) if f.has("at_ms") else None,
        utterance=f.integer("utterance", 0),
    )


def _ack(f: _Fields) -> Ack:
    played_us = f.integer("played_us", high=2**63 - 1) if f.has("played_us") else None
    return Ack(f.integer("sequence"), played_us)


_STATES = (*(state.name.lower() for state in AvatarState), "auto")

_READERS: Mapping[str, Callable[[_Fields], Control]] = {
    "hello": _hello,
    "utterance.start": lambda f: UtteranceStart(f.id, f.integer("utterance", 0)),
    "utterance.end": lambda f: UtteranceEnd(f.id, f.integer("utterance", 0)),
    "speak": _speak,
    "interrupt": lambda f: Interrupt(f.id, f.integer("utterance", 0)),
    "state.set": lambda f: StateSet(f.id, f.choice("state", _STATES)),
    "expression.set": _expression,
    "pose.set": _pose,
    "ack": _ack,
    "keyframe": lambda f: Keyframe(f.id),
    "ping": lambda f: Ping(f.id, f.number("t", 0.0, -(2.0**53), 2.0**53)),
    "bye": lambda f: Bye(f.id),
}
