"""One WebSocket, from hello to its close: reads what the client says, and gives it to its session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from apps.server.desk import Upload
from apps.server.errors import (
    CLOSE_GOING_AWAY,
    CLOSE_INTERNAL,
    CLOSE_NORMAL,
    CLOSE_PROTOCOL,
    CLOSE_TRY_LATER,
    DrainingError,
    HelloExpectedError,
    HelloTimeoutError,
    InternalError,
    ProtocolError,
    ReplacedError,
    close_code_of,
)
from apps.server.limits import Limits, Place
from apps.server.messages import error_text, say
from apps.server.outbox import Outbox
from apps.server.protocol import (
    CHUNK_BYTES,
    LISTENING,
    PORTRAIT,
    VOICE,
    Ack,
    Bye,
    Control,
    ExpressionSet,
    Hello,
    Interrupt,
    Keyframe,
    Ping,
    PoseSet,
    RequestId,
    Speak,
    StateSet,
    UtteranceEnd,
    UtteranceStart,
    parse_binary,
    parse_text,
)
from apps.server.seats import Seat
from apps.server.session import ServedSession
from apps.server.video import Encoded, Encoder, Pixels
from engine.errors import AvatarError, SessionClosedError

_LOG = logging.getLogger(__name__)

_FAREWELL_S = 1.0
"""How long the last words to a client may take."""

UPLOAD_S = 30.0

_WITHOUT_REPLY = (UtteranceEnd, StateSet, ExpressionSet, PoseSet, Keyframe)
"""Requests that get an `ok`, since they have no reply of their own."""

_YIELD_EVERY = 16
"""Messages after which others get their turn: a burst of small ones can be read from memory without a pause."""

_ENDED_BY_CLIENT = (CLOSE_NORMAL, CLOSE_GOING_AWAY)
_BROKEN_BY_CLIENT = (1002, 1003, 1007, 1009)
"""What the library closes with when it reads what is no WebSocket message, or too large a one."""

_FAILED = "the server failed; see its log"


@dataclass(frozen=True, slots=True)
class Opened:
    """What hello led to. encoder: None when no video is sent. resumed_after: the last event that the client knows."""

    seat: Seat
    encoder: Encoder | None
    welcome: str
    resumed_after: int


class House(Protocol):
    """The server, as a connection sees it."""

    limits: Limits

    async def open(self, hello: Hello, upload: Callable[[int], Awaitable[bytes]], place: Place | None) -> Opened:
        """Begin or resume a session. Raises AvatarError."""
        ...

    async def encode(self, encoder: Encoder, image: Pixels, pts_us: int, key: bool) -> Encoded: ...

    def speak(self, seat: Seat, wish: Speak) -> None:
        """Raises SpeechUnavailableError, SpeechBusyError or UtteranceOrderError."""
        ...

    def leave(self, seat: Seat) -> None: ...

    async def end(self, seat: Seat) -> None: ...


class Leave(Exception):
    """The session ends without a fault: as the client asked, or because the server stops. words: the last ones."""

    def __init__(self, code: int, *words: str) -> None:
        super().__init__(code)
        self.code, self.words = code, words


class Connection:
    """Holds a session while its client is there."""

    def __init__(self, socket: ServerConnection, house: House, place: Place | None) -> None:
        self._socket, self._house, self._place = socket, house, place
        self._ending: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        """Why somebody else ends this connection."""

    def replace(self) -> None:
        """See Holder."""
        self.stop(ReplacedError("the session was resumed on another connection"))

    def stop(self, why: Exception) -> None:
        """End the connection, and say why."""
        if not self._ending.done():
            self._ending.set_result(why)

    async def run(self) -> None:
        """Serve until either side closes."""
        opening = asyncio.create_task(self._open(), name="server-hello")
        either: list[asyncio.Future[Any]] = [opening, self._ending]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opening.cancel()
            (opened,) = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(opened, Opened):
            await self._serve(opened)
            return
        if self._place is not None:
            self._place.release()
        if isinstance(opened, AvatarError):
            await self._close(close_code_of(opened) or CLOSE_PROTOCOL, opened)
        elif isinstance(opened, asyncio.CancelledError):
            await self._close(CLOSE_TRY_LATER, DrainingError("the server is about to stop; connect to another one"))
        elif not isinstance(opened, ConnectionClosed):
            _LOG.error("a hello failed", exc_info=opened)
            await self._close(CLOSE_INTERNAL, InternalError(_FAILED))

    async def _open(self) -> Opened:
        """Wait for hello, and for the portrait that it announces. Raises AvatarError or ConnectionClosed."""
        hello = await self._await_hello()
        return await self._house.open(hello, self._await_upload, self._place)

    async def _await_hello(self) -> Hello:
        try:
            async with asyncio.timeout(self._house.limits.handshake_s):
                message = await self._socket.recv()
        except TimeoutError:
            raise HelloTimeoutError("no hello came; say hello right after connecting") from None
        hello = parse_text(message) if isinstance(message, str) else None
        if not isinstance(hello, Hello):
            raise HelloExpectedError('the first message must be {"type": "hello", "protocol": 1, ...}')
        return hello

    async def _await_upload(self, size_bytes: int) -> bytes:
        """The file that comes in parts. Raises UploadMismatchError or HelloTimeoutError."""
        upload = Upload(size_bytes)
        await self._socket.send(say("portrait.wanted", bytes=size_bytes, chunk_bytes=CHUNK_BYTES))
        try:
            async with asyncio.timeout(UPLOAD_S):
                while not upload.whole:
                    message = await self._socket.recv()
                    part = parse_binary(message) if isinstance(message, bytes) else None
                    if part is None or part.kind != PORTRAIT:
                        raise HelloExpectedError("only parts of the picture may come before welcome")
                    upload.add(part)
        except TimeoutError:
            raise HelloTimeoutError(f"the picture did not come within {UPLOAD_S:g} s") from None
        return upload.data

    async def _serve(self, opened: Opened) -> None:
        seat, session = opened.seat, opened.seat.session
        outbox = Outbox(
            send=self._socket.send,
            encode=partial(self._encode, opened.encoder),
            head=opened.encoder.head if opened.encoder else b"",
            window=session.deal.window,
            epoch=session.epoch,
            stats=session.stats,
        )
        outbox.say(opened.welcome)
        for text in session.journal.after(opened.resumed_after):
            outbox.say(text)
        session.attach(outbox)
        seat.holder = self
        why = await self._work(seat, outbox)
        await self._end(seat, outbox, why)

    async def _work(self, seat: Seat, outbox: Outbox) -> Exception | None:
        """Serve; returns what ended it, None when the engine's session did."""
        assert seat.shown is not None
        works = {
            "encode": outbox.encode_all(),
            "send": outbox.send_all(),
            "read": self._read_all(seat, outbox),
            "tick": self._tick(seat, outbox),
        }
        tasks = [asyncio.create_task(work, name=f"server-{name}-{seat.id}") for name, work in works.items()]
        any_of: list[asyncio.Future[Any]] = [*tasks, self._ending, seat.shown]
        try:
            await asyncio.wait(any_of, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if self._ending.done():
            return self._ending.result()
        errors = [error for error in outcomes if isinstance(error, Exception)]
        # Who says goodbye and leaves has said goodbye, whichever was noticed first.
        errors.sort(key=lambda error: isinstance(error, ConnectionClosed))
        return errors[0] if errors else seat.session.failure

    async def _end(self, seat: Seat, outbox: Outbox, why: Exception | None) -> None:
        """Tell the client, as far as it is there, and keep the session or not."""
        if isinstance(why, ReplacedError):
            await self._close(ReplacedError.close_code, why)
        elif isinstance(why, ConnectionClosed) and _was_lost(why):
            self._house.leave(seat)
        else:
            seat.holder = None
            seat.session.finish("closed")
            last = outbox.leave()
            await self._house.end(seat)
            await self._say_farewell(last, why)

    async def _say_farewell(self, last: Sequence[str], why: Exception | None) -> None:
        if isinstance(why, ConnectionClosed):
            return
        if isinstance(why, Leave):
            await self._close(why.code, None, [*last, *why.words])
        elif isinstance(why, AvatarError):
            await self._close(close_code_of(why) or CLOSE_INTERNAL, why, last)
        else:
            if why is not None:
                _LOG.error("a connection failed", exc_info=why)
            await self._close(CLOSE_INTERNAL, InternalError(_FAILED), last)

    async def _close(self, code: int, error: AvatarError | None, last: Sequence[str] = ()) -> None:
        """Say the last words and close, within a bounded time whatever the peer does."""
        with suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(_FAREWELL_S):
                for text in last:
                    await self._socket.send(text)
                if error is not None:
                    await self._socket.send(error_text(error, fatal=True))
        await self._socket.close(code, "" if error is None else error.code)

    async def _encode(self, encoder: Encoder | None, image: Pixels, pts_us: int, key: bool) -> Encoded:
        assert encoder is not None
        return await self._house.encode(encoder, image, pts_us, key)

    async def _tick(self, seat: Seat, outbox: Outbox) -> None:
        """Each second: figures, and whether the session may go on."""
        while True:
            await asyncio.sleep(1)
            outbox.check_moving()
            if (overdue := seat.meter.overdue()) is not None:
                raise overdue
            outbox.say(seat.session.metrics(round(1000 * self._socket.latency, 2)))

    async def _read_all(self, seat: Seat, outbox: Outbox) -> None:
        """Raises ConnectionClosed, Leave, or an AvatarError that ends the session."""
        read = 0
        while True:
            message = await self._socket.recv()
            read += 1
            if read % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            if isinstance(message, str):
                self._take_text(message, seat, outbox)
            else:
                self._take_binary(message, seat)

    def _take_binary(self, message: bytes, seat: Seat) -> None:
        session, meter = seat.session, seat.meter
        meter.binary()
        media = parse_binary(message)
        if media.kind not in (VOICE, LISTENING):
            return
        meter.alive()
        try:
            seconds = session.seconds_of(media)
            meter.audio(seconds)
            session.take_sound(media)
            session.stats.heard_sound("listening" if media.kind == LISTENING else "voice", seconds)
        except AvatarError as error:
            self._complain(session, error, utterance=media.utterance)

    def _take_text(self, message: str, seat: Seat, outbox: Outbox) -> None:
        session, meter = seat.session, seat.meter
        try:
            control = parse_text(message)
            if isinstance(control, Ack):
                meter.ack()
                outbox.acknowledge(control.sequence)
                if control.played_us is not None:
                    session.avatar.played(control.played_us)
                return
            meter.control()
        except ProtocolError as error:
            meter.control()
            self._complain(session, error)
            return
        if control is not None:
            if not isinstance(control, Ping):
                meter.alive()
            self._obey(control, seat, outbox)

    def _obey(self, control: Control, seat: Seat, outbox: Outbox) -> None:
        session, request_id = seat.session, getattr(control, "id", None)
        try:
            self._act(control, seat, outbox)
        except AvatarError as error:
            self._complain(session, error, request_id)
        else:
            if request_id is not None and isinstance(control, _WITHOUT_REPLY):
                session.say(say("ok", request_id))

    def _act(self, control: Control, seat: Seat, outbox: Outbox) -> None:
        session = seat.session
        match control:
            case Interrupt():
                session.interrupt(control)
            case UtteranceStart():
                session.start(control)
            case UtteranceEnd():
                session.end(control)
            case Speak():
                self._house.speak(seat, control)
            case StateSet():
                session.set_state(control)
            case ExpressionSet():
                session.set_expression(control)
            case PoseSet():
                session.set_pose(control)
            case Keyframe():
                outbox.key_frame()
            case Ping():
                session.say(say("pong", control.id, t=control.t, pts_us=session.stats.pts_us))
            case Bye():
                raise Leave(CLOSE_NORMAL, say("goodbye", control.id))
            case Hello():
                raise HelloExpectedError("hello was said before; open another connection for another session")

    def _complain(
        self, session: ServedSession, error: AvatarError, request_id: RequestId = None, utterance: int = 0
    ) -> None:
        """Tell of an error; raise it when it ends the session."""
        if close_code_of(error) is not None or isinstance(error, SessionClosedError):
            raise error
        session.complain(error, request_id, utterance)


def _was_lost(why: ConnectionClosed) -> bool:
    """Whether a connection ended without anybody's will."""
    if why.sent is not None and not why.rcvd_then_sent and why.sent.code in _BROKEN_BY_CLIENT:
        return False
    return why.rcvd is None or why.rcvd.code not in _ENDED_BY_CLIENT
