"""A WebSocket as a source: chatbots speak docs/protocol.md, and the person in the window speaks for them.

`visavis.client` and every other client of `visavis serve` fit. What differs: no pictures are sent and no portrait is
taken, since the window shows its own; there is one caller at a time, who cannot come back after a loss; listening audio
is not used. Whoever asks is checked as a server does it, see apps.server.access.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

import engine
from apps.desktop.audio.caller import Caller, Puppet
from apps.desktop.audio.captions import CaptionClock
from apps.desktop.audio.source import Deliver, Tell
from apps.desktop.notice import Notice
from apps.server.access import Access, AccessConfig, TokenFilter
from apps.server.connection import Connection, Leave, Opened
from apps.server.errors import CLOSE_GOING_AWAY, SessionGoneError
from apps.server.health import Figures
from apps.server.limits import Gate, Limits, Meter, Place
from apps.server.messages import say
from apps.server.protocol import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    MAX_SPEAK_CHARS,
    MAX_TEXT_BYTES,
    PATH,
    PROTOCOL,
    SUBPROTOCOL,
    Hello,
    Speak,
)
from apps.server.routes import not_found, refusal, upgrade_required
from apps.server.seats import Seat
from apps.server.session import HIGH_MS, LOW_MS, Deal, ServedSession
from apps.server.sockets import StrangersFilter, bounded
from apps.server.speech import SpeechDesk
from apps.server.stats import Stats
from apps.server.video import Encoded, Encoder, Pixels
from apps.speech import Speaker, installed_speaker
from engine.clock import now_us
from engine.errors import AvatarError
from engine.events import EventKind, SessionEvent
from engine.session import AvatarSession, SessionConfig
from engine.types import EXPRESSIONS, POSE_AXES, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, AvatarState

_LOG = logging.getLogger(__name__)

DEFAULT_PORT = 8766
_LIMITS = Limits(sessions=1, connections=8)
_STOP_S, _CLOSE_S = 2.0, 0.5
_PING_S, _PONG_S = 5.0, 10.0


class SocketSource:
    """See apps.desktop.audio.source.Source. Its packets need no gate."""

    def __init__(
        self,
        puppet: Puppet,
        caption: Callable[[str], None],
        port: int = DEFAULT_PORT,
        token: str | None = None,
        host: str = "127.0.0.1",
        open_speaker: Callable[[], Speaker | None] = installed_speaker,
    ) -> None:
        """caption: gets what a text says at each moment, in a thread. port: 0 for any free one. token: needed
        by whoever connects; None only on the loopback. open_speaker: for texts; may take a while. Raises ArgumentError.
        """
        self.name = f"{host}:{port}"
        self._puppet, self._caption, self._port = puppet, caption, port
        self._open_speaker = open_speaker
        self._access = Access(AccessConfig(host=host, token=token))
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """For the chatbot's settings; the port is known once the source listens."""
        return f"ws://{self._access.config.host}:{self._port}"

    def start(self, deliver: Deliver, notice: Tell) -> None:
        if self._thread is None:
            work = self._run(deliver, notice)
            self._thread = threading.Thread(target=_run_all, args=(work,), name="visavis-socket", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and self._stopping is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
        if thread is not threading.current_thread():
            thread.join(_STOP_S)

    async def _run(self, deliver: Deliver, notice: Tell) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        if self._thread is None:
            return
        speech = SpeechDesk(await asyncio.to_thread(self._open_speaker))
        room = _Room(self._access, deliver, self._puppet, speech, CaptionClock(self._caption))
        try:
            listener = await room.listen(self._port)
        except OSError:
            text = (
                f"Chatbots cannot connect: port {self._port} is in use. Choose another port, or end the other program."
            )
            notice(Notice("port_in_use", text, "error"))
            return
        self._port = int(next(iter(listener.sockets)).getsockname()[1])
        notice(Notice("socket_ready", f"Chatbots can connect to {self.url} now.", "info"))
        await self._stopping.wait()
        await room.aclose(listener)
        await speech.aclose()


class _Room:
    """The House of one avatar, and the door to it."""

    def __init__(
        self, access: Access, deliver: Deliver, puppet: Puppet, speech: SpeechDesk, captions: CaptionClock
    ) -> None:
        self.limits = _LIMITS
        self._speech, self._captions = speech, captions
        self._texts: dict[int, str] = {}
        """Of utterances that are not heard yet."""
        self._access, self._deliver, self._puppet = access, deliver, puppet
        self._gate, self._figures = Gate(_LIMITS, 1), Figures()
        self._admitted: dict[ServerConnection, Place] = {}
        self._connections: set[Connection] = set()

    async def listen(self, port: int) -> Listener:
        """Raises OSError."""
        logger = logging.getLogger(f"{__name__}.socket")
        logger.addFilter(StrangersFilter())
        logger.addFilter(TokenFilter(self._access.config.token))
        return await serve(
            self._serve,
            self._access.config.host,
            port,
            process_request=self._answer,
            select_subprotocol=lambda socket, offered: Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None,
            compression=None,
            max_size=HEADER.size + MAX_PAYLOAD_BYTES,
            max_queue=8,
            open_timeout=_LIMITS.handshake_s,
            ping_interval=_PING_S,
            ping_timeout=_PONG_S,
            close_timeout=_CLOSE_S,
            server_header=None,
            logger=logger,
            create_connection=bounded(_LIMITS.connections),
        )

    async def aclose(self, listener: Listener) -> None:
        for connection in list(self._connections):
            connection.stop(Leave(CLOSE_GOING_AWAY))
        listener.close(close_connections=not self._connections)
        await asyncio.wait([asyncio.ensure_future(listener.wait_closed())], timeout=2 * _CLOSE_S)

    # The House that a Connection knows.

    async def open(self, hello: Hello, upload: Callable[[int], Awaitable[bytes]], place: Place | None) -> Opened:
        """A portrait is not asked for: the window's is shown."""
        if hello.resume is not None or place is None:
            raise SessionGoneError("the window keeps no sessions; say hello without resume")
        place.confirm()
        deal = Deal(
            codec="none",
            side_px=0,
            quality=0,
            window=0,
            audio=hello.audio,
            voice_rate_hz=hello.voice_rate_hz,
            listening_rate_hz=hello.listening_rate_hz,
            live=hello.live,
            portrait=None,
        )
        session = ServedSession(deal, Stats(now_us(), self._figures))
        seat = Seat(session, place, Meter(_LIMITS))
        # Of the engine's session the server uses what a Caller has.
        self._texts.clear()
        caller = Caller(self._deliver, self._puppet, lambda event: self._on_event(seat, caller, event))
        await seat.begin(cast(AvatarSession, caller))
        return Opened(seat, None, _welcome(seat, hello, self._speech.voices), session.journal.newest)

    async def encode(self, encoder: Encoder, image: Pixels, pts_us: int, key: bool) -> Encoded:
        raise AssertionError("no pictures are sent")

    def speak(self, seat: Seat, wish: Speak) -> None:
        self._speech.speak(seat.session, wish)
        live = [one.number for one in seat.session.utterances.live]
        self._texts = {number: text for number, text in self._texts.items() if number in live} | {live[-1]: wish.text}

    def _on_event(self, seat: Seat, caller: Caller, event: SessionEvent) -> None:
        one = seat.session.utterances.of_turn(event.turn_id)
        text = self._texts.pop(one.number, None) if one is not None else None
        if event.kind == EventKind.TURN_STARTED and text is not None:
            self._captions.begin(text, caller.buffered_ms / 1000)
        elif event.kind == EventKind.TURN_FINISHED and not event.complete:
            self._captions.cut()
        seat.session.on_event(event)

    def leave(self, seat: Seat) -> None:
        seat.session.detach()
        self._later = asyncio.ensure_future(seat.aclose("disconnected"))

    async def end(self, seat: Seat) -> None:
        await seat.aclose()

    # The door.

    async def _answer(self, socket: ServerConnection, request: Request) -> Response | None:
        peer = socket.remote_address[0] if socket.remote_address else ""
        try:
            caller = self._access.check(request.headers, request.path, peer)
            if request.path.partition("?")[0] != PATH:
                return not_found()
            if "upgrade" not in request.headers.get("Connection", "").lower():
                return upgrade_required()
            self._admitted[socket] = self._gate.admit(caller)
        except AvatarError as error:
            return refusal(error)
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        connection = Connection(socket, self, self._admitted.pop(socket, None))
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)


def _welcome(seat: Seat, hello: Hello, voices: list[str] | None) -> str:
    deal = seat.session.deal
    sound = {"codec": "pcm_s16le", "sample_rate": SAMPLE_RATE_HZ, "samples_per_frame": SAMPLES_PER_FRAME}
    return say(
        "welcome",
        hello.id,
        protocol=PROTOCOL,
        server=f"visavis/{engine.__version__}",
        ai_generated=True,
        session=seat.id,
        epoch=0,
        resumed=False,
        resume=seat.token,
        grace_s=0,
        model="window",
        backend="window",
        portrait={"library": None},
        video=None,
        audio=sound if deal.audio else None,
        input={
            "sample_rate": deal.voice_rate_hz,
            "live": deal.live,
            "first_audio_ms": 0,
            "high_ms": HIGH_MS,
            "low_ms": LOW_MS,
            "full_ms": round(1000 * SessionConfig().buffer_seconds),
        },
        listening={"sample_rate": deal.listening_rate_hz},
        states=[state.name.lower() for state in AvatarState],
        expressions=list(EXPRESSIONS),
        pose_axes=list(POSE_AXES),
        speech=None if voices is None else {"voices": voices},
        limits={
            "max_text_bytes": MAX_TEXT_BYTES,
            "max_payload_bytes": MAX_PAYLOAD_BYTES,
            "max_speak_chars": MAX_SPEAK_CHARS,
            "controls_per_s": _LIMITS.control_per_s,
            "session_s": 0,
            "idle_s": 0,
        },
    )


def _run_all(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(work)
    except Exception:
        _LOG.exception("the socket for chatbots failed")
