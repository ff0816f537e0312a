"""One person on screen, on a server: the verbs of engine.session.AvatarSession, and its frames.

What differs: `interrupt` is awaited, since the server says what was heard; `speak` speaks a text, where the server can.
A lost connection is resumed by itself; what was under way is then finished, incomplete.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from apps.client.errors import AnswerTimeoutError, ConnectionLostError, error_of
from apps.client.link import Address, Control, Link
from apps.client.outbox import Outbox
from apps.client.pictures import CODECS, Frames, open_decoder
from apps.server.protocol import AUDIO, CONFIGURATION, LAST_PART, LISTENING, VIDEO, VOICE, Media
from engine.audio.resample import to_float
from engine.errors import ArgumentError, AudioFormatError, AvatarError, FileMissingError, SessionClosedError
from engine.events import EventKind, SessionEvent
from engine.session import Interrupted, Pcm
from engine.types import SAMPLE_RATE_HZ, AvatarState, VideoFrame

_LOG = logging.getLogger(__name__)

ANSWER_S = 10.0
VOICE_BYTES = 96_000
"""Of one voice message: an interrupt that follows need not wait for more."""
_NOTICES = {str(kind) for kind in EventKind}

Portrait = str | os.PathLike[str] | bytes | None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a session asks of the server; see "Hello and welcome" in docs/protocol.md. size: pixels, None for the
    server's own. sample_rate: of push_audio, Hz, where the call names none. live: the voice is a microphone's. window:
    pictures that may be under way.
    """

    codec: str = "h264"
    size: int | None = None
    quality: int = 85
    window: int = 8
    sample_rate: int = SAMPLE_RATE_HZ
    live: bool = False
    seed: int = 0
    client: str = "visavis-python"

    def hello(self, portrait: Mapping[str, Any] | None) -> dict[str, Any]:
        """Raises ArgumentError."""
        if self.codec not in CODECS:
            raise ArgumentError(f"this client cannot decode {self.codec!r}; choose one of {', '.join(CODECS)}")
        video = {"codec": self.codec, "quality": self.quality, "window": self.window}
        return {
            "client": self.client,
            "video": video if self.size is None else {**video, "size": self.size},
            "input": {"sample_rate": self.sample_rate, "live": self.live},
            "seed": self.seed,
        } | ({} if portrait is None else {"portrait": portrait})


def connect(
    url: str,
    portrait: Portrait = None,
    *,
    token: str | None = None,
    resume: bool = True,
    on_event: Callable[[SessionEvent], None] | None = None,
    on_message: Callable[[Control], None] | None = None,
    **wishes: Any,
) -> RemoteAvatar:
    """A session on a server, to be opened by `async with`, or `await start()`.

    portrait: a name of the server's library, a picture file (a Path, or a name with a suffix), its bytes, or None for
    the server's own choice. resume: come back when the connection is lost. on_event: called with each SessionEvent, as
    in engine.session; on_message: with each control message of the protocol as it is. wishes: fields of Wishes. Raises
    ArgumentError or FileMissingError here, and what the server says when it is opened.
    """
    try:
        wanted = Wishes(**wishes)
    except TypeError as error:
        raise ArgumentError(f"{error}; known are {', '.join(Wishes.__dataclass_fields__)}") from error
    name, picture = _portrait(portrait)
    asked = {"upload_bytes": len(picture)} if picture is not None else {"library": name} if name else None
    return RemoteAvatar(Address(url, token), wanted.hello(asked), picture, resume, on_event, on_message)


def _portrait(portrait: Portrait) -> tuple[str | None, bytes | None]:
    if portrait is None or isinstance(portrait, bytes):
        return None, portrait
    path = Path(portrait)
    if isinstance(portrait, str) and not path.suffix:
        return portrait, None
    if not path.is_file():
        raise FileMissingError(f"there is no picture {path}")
    return None, path.read_bytes()


@dataclass(slots=True)
class _Turns:
    """Numbers of utterances: which is open for sound, and which are not over yet."""

    highest: int = 0
    open: int = 0
    under_way: dict[int, asyncio.Future[SessionEvent]] = field(default_factory=dict)

    def begin(self) -> int:
        self.highest += 1
        self.under_way[self.highest] = asyncio.get_running_loop().create_future()
        return self.highest

    def finish(self, event: SessionEvent) -> bool:
        """Whether it was under way."""
        done = self.under_way.pop(event.turn_id, None)
        if self.open == event.turn_id:
            self.open = 0
        if done is not None and not done.done():
            done.set_result(event)
        return done is not None


class RemoteAvatar:
    """Made by `connect`. All methods but those to be awaited return at once; all belong to the event loop's thread."""

    def __init__(
        self,
        address: Address,
        hello: Control,
        picture: bytes | None,
        resume: bool,
        on_event: Callable[[SessionEvent], None] | None,
        on_message: Callable[[Control], None] | None,
    ) -> None:
        self.welcome: Control = {}
        """What the server said first."""
        self.metrics: Control = {}
        """The newest figures of the server; see "Events" in docs/protocol.md."""
        self._on_event, self._on_message = on_event, on_message
        self._outbox = Outbox()
        self._frames = Frames(self._taken, lambda: self._say({"type": "keyframe"}))
        self._link = Link(address, hello, picture, self._outbox, self, resume)
        self._turns = _Turns()
        self._asked: dict[int, asyncio.Future[Control]] = {}
        self._requests = 0
        self._played_us: int | None = None
        self._error: AvatarError | None = None
        self._live = self._closed = False

    async def __aenter__(self) -> RemoteAvatar:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Begin the session. Raises NoServerError, or what the server says."""
        await self._link.open()

    async def aclose(self) -> None:
        """End the session; idempotent. Utterances under way are finished, incomplete; `frames` ends."""
        if not self._closed:
            await self._link.aclose()
            self.on_ended(None)

    def push_audio(self, pcm: Pcm, sample_rate: int | None = None) -> int:
        """Sound for the person to speak: int16 bytes, or an array [n] or [n, channels]; returns the turn's id.

        Faster than real time is welcome: what the server cannot hold waits here, up to four minutes. Raises
        AudioFormatError, AudioBufferFullError (nothing was taken) or SessionClosedError.
        """
        self._check_open()
        samples, rate_hz = _to_bytes(pcm), sample_rate or int(self.welcome["input"]["sample_rate"])
        self._outbox.check_room(_ms(samples, rate_hz))
        turn_id = self._speaking()
        for part in _split(samples):
            media = Media(VOICE, utterance=turn_id, value=rate_hz, payload=part)
            self._outbox.voice(media.to_bytes(), turn_id, _ms(part, rate_hz))
        return turn_id

    def push_listening_audio(self, pcm: Pcm, sample_rate: int | None = None) -> None:
        """The other party's voice, as it is heard. What the network cannot carry in time is skipped."""
        self._check_open()
        for part in _split(_to_bytes(pcm)):
            self._outbox.listening(Media(LISTENING, value=sample_rate or 0, payload=part).to_bytes())

    def flush(self) -> None:
        """The utterance is complete; sound that is pushed from now on belongs to the next one."""
        self._check_open()
        turn_id, self._turns.open = self._turns.open, 0
        if turn_id:
            self._outbox.voice(Media(VOICE, flags=LAST_PART, utterance=turn_id).to_bytes(), turn_id)

    async def interrupt(self) -> Interrupted:
        """Fall silent at once: everything that was pushed is dropped, and frames that wait are not handed on.

        Idempotent. Returns what was heard. Raises AnswerTimeoutError or ConnectionLostError.
        """
        self._check_open()
        self._outbox.clear_voice()
        self._turns.open = 0
        answer = await self._ask({"type": "interrupt"})
        return Interrupted(int(answer.get("utterance") or 0), int(answer.get("position_samples") or 0))

    async def speak(self, text: str, voice: str | None = None) -> int:
        """Speak a text as a whole utterance, by the server's text to speech; returns the turn's id. Raises what the
        server says, as SpeechUnavailableError.
        """
        self.flush()
        turn_id = self._turns.begin()
        message = {"type": "speak", "text": text, "utterance": turn_id} | ({"voice": voice} if voice else {})
        try:
            await self._ask_in_order(message, turn_id)
        except AvatarError:
            self._finish(SessionEvent(EventKind.TURN_FINISHED, turn_id, detail="speech_failed"))
            raise
        return turn_id

    async def finished(self, turn_id: int) -> SessionEvent:
        """Wait until a turn is over, however it ends; at once for one that is over already."""
        if (done := self._turns.under_way.get(turn_id)) is not None:
            return await asyncio.shield(done)
        return SessionEvent(EventKind.TURN_FINISHED, turn_id)

    def set_state(self, state: AvatarState | str | None) -> None:
        """speaking, listening or idle; `auto` or None lets the voices decide."""
        name = "auto" if state is None else state.name.lower() if isinstance(state, AvatarState) else state.lower()
        self._cue({"type": "state.set", "state": name}, {})

    def set_expression(
        self,
        name: str | None,
        strength: float = 1.0,
        *,
        fade_ms: float = 200,
        delay_ms: float = 0,
        at_ms: float | None = None,
    ) -> None:
        """As in engine.session. What is wrong with it comes to `on_message`, as an `error`."""
        cue: dict[str, Any] = {"type": "expression.set", "name": name, "fade_ms": fade_ms}
        self._cue(cue if name is None else {**cue, "strength": strength}, _when(delay_ms, at_ms))

    def set_pose(
        self,
        angles: Mapping[str, float] | None,
        *,
        fade_ms: float = 300,
        delay_ms: float = 0,
        at_ms: float | None = None,
    ) -> None:
        """Degrees by axis of engine.types.POSE_AXES; None lets go."""
        given = None if angles is None else dict(angles)
        self._cue({"type": "pose.set", "angles": given, "fade_ms": fade_ms}, _when(delay_ms, at_ms))

    def played(self, pts_us: int) -> None:
        """Which moment of the stream a sound device plays now; told with the next frame that is taken."""
        self._check_open()
        self._played_us = pts_us

    async def frames(self) -> AsyncIterator[VideoFrame]:
        """Frames as they come, until the session is closed. For one reader; taking one gives the server credit for
        another. Raises at the end what was wrong, as ConnectionLostError.
        """
        while (frame := await self._frames.take()) is not None:
            yield frame
        if self._error is not None:
            raise self._error

    @property
    def dropped(self) -> int:
        """Messages that came and that nobody took in time."""
        return self._frames.dropped

    # What the connection tells.

    def on_welcome(self, welcome: Control) -> None:
        self.welcome, video = welcome, welcome["video"]
        decode = None if video is None else open_decoder(video["codec"], video["height"], video["width"])
        self._frames.begin(decode, int(welcome["epoch"]))
        self._outbox.high_ms, self._outbox.live = welcome["input"]["high_ms"], welcome["input"]["live"]
        self._live = True

    def on_media(self, media: Media) -> None:
        if media.kind not in (VIDEO, AUDIO) or media.flags & CONFIGURATION and media.kind == VIDEO:
            return
        if media.utterance:
            self._outbox.heard(media.utterance, media.value * 1000 / SAMPLE_RATE_HZ)
        self._frames.add(media)

    def on_control(self, message: Control) -> None:
        match message.get("type"):
            case "interrupted":
                self._frames.cut(int(message["epoch"]))
            case "audio.buffer":
                self._outbox.pause(message["paused"] is True)
            case "metrics":
                self.metrics = message
            case "playback.started":
                self._emit(SessionEvent(EventKind.TURN_STARTED, int(message["utterance"])))
            case "playback.finished":
                self._finish(_finish_of(message))
            case "notice" if message.get("kind") in _NOTICES:
                self._emit(SessionEvent(EventKind(message["kind"]), detail=str(message.get("detail", ""))))
        self._answer(message)
        if self._on_message is not None:
            self._call(self._on_message, message)

    def on_lost(self, error: AvatarError) -> None:
        self._live = False
        self._outbox.clear_voice()
        self._outbox.clear_requests()
        self._turns.open = 0
        self._fail_requests(ConnectionLostError(f"the connection was lost meanwhile: {error}"))

    def on_ended(self, error: AvatarError | None) -> None:
        if self._closed:
            return
        self._closed, self._error = True, error
        self.on_lost(error or SessionClosedError("the session was closed"))
        for turn_id in list(self._turns.under_way):
            self._finish(SessionEvent(EventKind.TURN_FINISHED, turn_id, detail="closed"))
        self._frames.close()

    # What is told.

    def _check_open(self) -> None:
        if self._closed:
            raise self._error or SessionClosedError("the session is closed; open another one")
        if not self.welcome:
            raise SessionClosedError("the session has not begun; use `async with`, or await start()")

    def _speaking(self) -> int:
        """The turn that sound belongs to from now on."""
        if not self._turns.open:
            self._turns.open = self._turns.begin()
        return self._turns.open

    def _say(self, message: Control) -> None:
        """To a server that is there; a request to one that is lost would come too late."""
        if self._live:
            self._outbox.request(json.dumps(message))

    def _cue(self, cue: Control, when: Control) -> None:
        """A cue for a moment of an utterance keeps its place among its sound; the others overtake it."""
        self._check_open()
        if "at_ms" in when:
            turn_id = self._speaking()
            self._outbox.voice(json.dumps({**cue, **when, "utterance": turn_id}), turn_id)
        else:
            self._say({**cue, **when})

    async def _ask(self, message: Control) -> Control:
        """The answer of the server. Raises what it says, AnswerTimeoutError or ConnectionLostError."""
        if not self._live:
            raise ConnectionLostError("there is no connection now; it is being resumed")
        number, answer = self._expect()
        try:
            self._outbox.request(json.dumps({**message, "id": number}))
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError as error:
            raise AnswerTimeoutError(f"the server did not answer {message['type']} within {ANSWER_S:.0f} s") from error
        finally:
            del self._asked[number]

    async def _ask_in_order(self, message: Control, turn_id: int) -> Control:
        """The same, behind the sound that waits; an interrupt that comes before it is sent ends it."""
        number, answer = self._expect()

        def dropped() -> None:
            if not answer.done():
                answer.set_exception(ConnectionLostError("it was cut before it was sent"))

        try:
            self._outbox.voice(json.dumps({**message, "id": number}), turn_id, dropped=dropped)
            return await answer
        finally:
            del self._asked[number]

    def _expect(self) -> tuple[int, asyncio.Future[Control]]:
        self._requests += 1
        answer: asyncio.Future[Control] = asyncio.get_running_loop().create_future()
        self._asked[self._requests] = answer
        return self._requests, answer

    def _answer(self, message: Control) -> None:
        answer = self._asked.get(message.get("id", 0))
        if answer is None or answer.done():
            return
        if message["type"] == "error":
            answer.set_exception(error_of(message))
        else:
            answer.set_result(message)

    def _fail_requests(self, error: AvatarError) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(error)

    def _taken(self, sequence: int) -> None:
        played, self._played_us = self._played_us, None
        self._say({"type": "ack", "sequence": sequence} | ({} if played is None else {"played_us": played}))

    def _finish(self, event: SessionEvent) -> None:
        self._outbox.finished(event.turn_id)
        if self._turns.finish(event):
            self._emit(event)

    def _emit(self, event: SessionEvent) -> None:
        if self._on_event is not None:
            self._call(self._on_event, event)

    def _call(self, listener: Callable[[Any], None], what: object) -> None:
        try:
            listener(what)
        except Exception:
            # The user's fault must not cost the connection.
            _LOG.exception("a listener failed")


def _finish_of(message: Control) -> SessionEvent:
    reason = str(message.get("reason", ""))
    complete = reason in ("complete", "empty")
    return SessionEvent(
        EventKind.TURN_FINISHED, int(message["utterance"]), int(message["position_samples"]), complete, reason
    )


def _when(delay_ms: float, at_ms: float | None) -> dict[str, float]:
    return {"delay_ms": delay_ms} if at_ms is None else {"at_ms": at_ms}


def _to_bytes(pcm: Pcm) -> bytes:
    """Mono s16le. Raises AudioFormatError."""
    if isinstance(pcm, bytes | bytearray | memoryview):
        if len(pcm) % 2:
            raise AudioFormatError(f"{len(pcm)} bytes are no whole number of 16-bit samples")
        return bytes(pcm)
    samples = np.asarray(pcm)
    if samples.dtype != np.int16 or samples.ndim != 1:
        floats = to_float(samples)
        mono = np.nan_to_num(floats.mean(1) if floats.ndim == 2 else floats, posinf=0, neginf=0)
        samples = np.round(mono.clip(-1, 1) * 32_767)
    return bytes(samples.astype("<i2"))


def _split(samples: bytes) -> list[bytes]:
    return [samples[at : at + VOICE_BYTES] for at in range(0, len(samples), VOICE_BYTES)]


def _ms(samples: bytes, rate_hz: int) -> float:
    return len(samples) / 2 * 1000 / rate_hz
