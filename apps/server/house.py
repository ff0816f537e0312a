"""What all sessions of a server share: the worker, the portraits, the encoders' threads, and how a session begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import engine
from apps.server.config import ServeConfig
from apps.server.connection import Opened
from apps.server.desk import PortraitDesk
from apps.server.errors import BadFieldError, SessionGoneError, UnsupportedCodecError
from apps.server.health import Figures
from apps.server.limits import Meter, Place
from apps.server.messages import say
from apps.server.protocol import (
    MAX_PAYLOAD_BYTES,
    MAX_SPEAK_CHARS,
    MAX_TEXT_BYTES,
    MAX_UPLOAD_BYTES,
    PROTOCOL,
    Hello,
    Speak,
)
from apps.server.seats import Seat, Seats
from apps.server.session import HIGH_MS, LOW_MS, Deal, ServedSession
from apps.server.speech import SpeechDesk
from apps.server.stats import Stats
from apps.server.video import ENCODERS, RGBA, Encoded, Encoder, Pixels
from engine.backends.hardware import usable_cores
from engine.clock import now_us
from engine.engine import MIN_SIZE_PX, SIZE_STEP_PX
from engine.session import AvatarSession, SessionConfig
from engine.timeline.lane import START_SAMPLES
from engine.types import EXPRESSIONS, FPS, POSE_AXES, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, AvatarState
from engine.worker.base import Face, Worker

MAX_ENCODERS = 4
"""Threads that encode; each session has one picture in them at most."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A hello that this server can serve, and what shows it."""

    deal: Deal
    encoder: Encoder | None
    face: Face


class SharedHouse:
    """The House of a server."""

    def __init__(
        self, config: ServeConfig, worker: Worker, desk: PortraitDesk, speech: SpeechDesk, figures: Figures
    ) -> None:
        self.config, self.limits, self.figures = config, config.limits, figures
        self.worker, self.desk, self.speech = worker, desk, speech
        self.seats = Seats(config.grace_s)
        self._encoders = ThreadPoolExecutor(min(MAX_ENCODERS, usable_cores()), thread_name_prefix="visavis-encode")

    async def open(self, hello: Hello, upload: Callable[[int], Awaitable[bytes]], place: Place | None) -> Opened:
        if hello.resume is not None:
            return await self._resume(hello, hello.resume, place)
        if place is None:
            raise SessionGoneError("all places are taken, and kept for clients that resume; try again later")
        hello_us = now_us()
        wanted = await self._check(hello, upload)
        place.confirm()
        session = ServedSession(wanted.deal, Stats(hello_us, self.figures))
        seat = Seat(session, place, Meter(self.limits))
        avatar = AvatarSession(self.worker, wanted.face, SessionConfig(keep_up=hello.live), session.on_event)
        await seat.begin(avatar)
        self.seats.add(seat)
        return self._opened(seat, wanted.encoder, hello, resumed=False)

    async def _resume(self, hello: Hello, token: str, place: Place | None) -> Opened:
        if place is not None:
            place.release()
        seat = self.seats.take_up(token)
        self.figures.resumed.add()
        encoder = await self._open_encoder(seat.session.deal)
        return self._opened(seat, encoder, hello, resumed=True)

    async def encode(self, encoder: Encoder, image: Pixels, pts_us: int, key: bool) -> Encoded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoders, encoder.encode, image, pts_us, key)

    def speak(self, seat: Seat, wish: Speak) -> None:
        self.speech.speak(seat.session, wish)

    def leave(self, seat: Seat) -> None:
        self.seats.leave(seat)

    async def end(self, seat: Seat) -> None:
        await self.seats.end(seat)

    async def aclose(self) -> None:
        """End every session, and free what they shared."""
        await self.seats.end_all()
        await self.speech.aclose()
        await self.desk.aclose()
        self._encoders.shutdown(wait=False, cancel_futures=True)

    def abilities(self) -> dict[str, Any]:
        """What welcome and `/v1/info` both say."""
        voices = self.speech.voices
        return {
            "protocol": PROTOCOL,
            "server": f"visavis/{engine.__version__}",
            "ai_generated": True,
            "model": self.worker.info.model,
            "backend": self.worker.info.backend,
            "states": [state.name.lower() for state in AvatarState],
            "expressions": list(EXPRESSIONS),
            "pose_axes": list(POSE_AXES),
            "speech": None if voices is None else {"voices": voices},
            "limits": self._limits(),
        }

    def codecs(self) -> list[str]:
        return [name for name in ENCODERS if name != RGBA or self.worker.info.moves_alpha]

    def info(self) -> dict[str, Any]:
        """Of `/v1/info`, but for readiness."""
        return {
            **self.abilities(),
            "portraits": self.desk.names,
            "codecs": self.codecs(),
            "size": self.config.size_px,
            "fps": FPS,
        }

    async def _check(self, hello: Hello, upload: Callable[[int], Awaitable[bytes]]) -> _Wanted:
        """Raises BadFieldError, UnsupportedCodecError, PortraitError or what `upload` does."""
        side_px = self._side_px(hello)
        video = hello.video
        deal = Deal(
            codec=video.codec,
            side_px=side_px,
            quality=video.quality,
            window=video.window,
            audio=hello.audio,
            voice_rate_hz=hello.voice_rate_hz,
            listening_rate_hz=hello.listening_rate_hz,
            live=hello.live,
            portrait=None if hello.upload_bytes else self.desk.choose(hello.library),
        )
        if deal.codec not in [*self.codecs(), "none"]:
            raise UnsupportedCodecError(f"this server sends {', '.join(self.codecs())} and none", hello.id)
        encoder = await self._open_encoder(deal)
        alpha = deal.codec == RGBA
        if hello.upload_bytes is None:
            assert deal.portrait is not None
            return _Wanted(deal, encoder, await self.desk.face(deal.portrait, side_px, hello.seed, alpha))
        if hello.upload_bytes > MAX_UPLOAD_BYTES:
            raise BadFieldError(f"portrait.upload_bytes may be {MAX_UPLOAD_BYTES} at most; reduce the picture")
        data = await upload(hello.upload_bytes)
        return _Wanted(deal, encoder, await self.desk.uploaded_face(data, side_px, hello.seed, alpha))

    def _side_px(self, hello: Hello) -> int:
        side_px = self.config.size_px if hello.video.size is None else hello.video.size
        if not MIN_SIZE_PX <= side_px <= self.config.max_size_px or side_px % SIZE_STEP_PX:
            raise BadFieldError(
                f"video.size must be a multiple of {SIZE_STEP_PX} from {MIN_SIZE_PX} to {self.config.max_size_px}",
                hello.id,
            )
        return side_px

    async def _open_encoder(self, deal: Deal) -> Encoder | None:
        if deal.codec == "none":
            return None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoders, ENCODERS[deal.codec], deal.side_px, deal.quality)

    def _opened(self, seat: Seat, encoder: Encoder | None, hello: Hello, resumed: bool) -> Opened:
        deal = seat.session.deal
        size = {"width": deal.side_px, "height": deal.side_px}
        welcome = say(
            "welcome",
            hello.id,
            **self.abilities(),
            session=seat.id,
            epoch=seat.session.epoch,
            resumed=resumed,
            resume=seat.token,
            grace_s=self.seats.grace_s,
            portrait={"library": deal.portrait},
            video=encoder
            and {
                "codec": deal.codec,
                **size,
                "fps": FPS,
                "window": deal.window,
                "codec_string": encoder.codec_string,
                "mime": encoder.mime,
            },
            audio={"codec": "pcm_s16le", "sample_rate": SAMPLE_RATE_HZ, "samples_per_frame": SAMPLES_PER_FRAME}
            if deal.audio
            else None,
            input={
                "sample_rate": deal.voice_rate_hz,
                "live": deal.live,
                "first_audio_ms": START_SAMPLES * 1000 / SAMPLE_RATE_HZ,
                "high_ms": HIGH_MS,
                "low_ms": LOW_MS,
                "full_ms": round(1000 * SessionConfig().buffer_seconds),
            },
            listening={"sample_rate": deal.listening_rate_hz},
        )
        after = hello.after if resumed else seat.session.journal.newest
        return Opened(seat, encoder, welcome, after)

    def _limits(self) -> dict[str, Any]:
        return {
            "max_text_bytes": MAX_TEXT_BYTES,
            "max_payload_bytes": MAX_PAYLOAD_BYTES,
            "min_size": MIN_SIZE_PX,
            "max_size": self.config.max_size_px,
            "max_upload_bytes": MAX_UPLOAD_BYTES,
            "max_speak_chars": MAX_SPEAK_CHARS,
            "controls_per_s": self.limits.control_per_s,
            "session_s": self.limits.session_s or 0,
            "idle_s": self.limits.idle_s or 0,
        }
