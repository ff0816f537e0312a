"""Pictures and sound of the wire made into frames: decoded in order, and paired by their moment.

Sound comes just before its picture. A picture that the server left out for a slow reader leaves its sound behind, which
goes out with the last picture shown again; so no sound is lost with it. Pictures are decoded when they are taken, and
those of an earlier epoch, too, since later ones build upon them; these are not shown.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from apps.server.protocol import AUDIO, END_OF_UTTERANCE, FROZEN, STATE_SHIFT, Media
from engine.errors import ArgumentError
from engine.types import SAMPLES_PER_FRAME, AvatarState, VideoFrame

Pixels = NDArray[np.uint8]

CODECS = ("h264", "jpeg", "rgb24", "rgba", "none")
WAITING = 50
"""Messages that wait for the user, two seconds; the oldest gives way. With a window, the server stops long before."""


class DamagedPictureError(Exception):
    """A picture could not be decoded. Never leaves the client: a key frame is asked for."""


class Decoder(Protocol):
    def __call__(self, payload: bytes | memoryview) -> Pixels | None:
        """RGB or RGBA pixels [H, W, 3 or 4]; None when the decoder keeps the picture back."""
        ...


def open_decoder(codec: str, height: int, width: int) -> Decoder:
    """For a codec of CODECS. Raises ArgumentError."""
    if codec == "h264":
        return _H264()
    if codec == "jpeg":
        return _jpeg
    if codec in ("rgb24", "rgba"):
        shape = (height, width, 3 if codec == "rgb24" else 4)
        return lambda payload: _raw(payload, shape)
    raise ArgumentError(f"this client cannot decode {codec!r}; choose one of {', '.join(CODECS)}")


class _H264:
    def __init__(self) -> None:
        self._context: Any = av.CodecContext.create("h264", "r")
        self._context.thread_count = 1
        self._context.flags |= av.codec.context.Flags.low_delay

    def __call__(self, payload: bytes | memoryview) -> Pixels | None:
        try:
            frames = self._context.decode(av.Packet(bytes(payload)))
        except av.error.FFmpegError as error:
            raise DamagedPictureError(str(error)) from error
        if not frames:
            return None
        return np.asarray(
            frames[-1].to_ndarray(
                format="rgb24",
                src_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
            ),
            np.uint8,
        )


def _jpeg(payload: bytes | memoryview) -> Pixels:
    picture = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise DamagedPictureError("no JPEG")
    return np.asarray(picture, np.uint8)


def _raw(payload: bytes | memoryview, shape: tuple[int, int, int]) -> Pixels:
    if len(payload) != np.prod(shape):
        raise DamagedPictureError(f"{len(payload)} bytes are no picture of {shape}")
    return np.frombuffer(payload, np.uint8).reshape(shape)


@dataclass(frozen=True, slots=True)
class _Moment:
    """What belongs to one moment of the stream; one of the two at least."""

    picture: Media | None
    sound: Media | None

    @property
    def epoch(self) -> int:
        return self._any.epoch

    @property
    def _any(self) -> Media:
        media = self.sound or self.picture
        assert media is not None
        return media

    def frame(self, image: Pixels, repeated: bool) -> VideoFrame:
        media = self._any
        pcm = _to_float(self.sound.payload) if self.sound else _SILENCE
        return VideoFrame(
            image=image,
            audio=pcm,
            pts_us=media.pts_us,
            state=AvatarState(min(media.flags >> STATE_SHIFT & 3, AvatarState.IDLE)),
            turn_id=media.utterance,
            turn_samples=media.value + SAMPLES_PER_FRAME if media.utterance else 0,
            end_of_turn=bool(media.flags & END_OF_UTTERANCE),
            frozen=repeated or bool(media.flags & FROZEN),
        )


_SILENCE = np.zeros(SAMPLES_PER_FRAME, np.float32)


def _to_float(payload: bytes | memoryview) -> NDArray[np.float32]:
    return np.frombuffer(payload, "<i2").astype(np.float32) / np.float32(32_768)


class Frames:
    """Messages in at one end as they come, frames out at the other. One reader."""

    def __init__(self, on_taken: Callable[[int], None], on_damaged: Callable[[], None]) -> None:
        """on_taken: the sequence of a picture that was shown or dropped. on_damaged: a key frame is needed."""
        self.dropped = 0
        self._on_taken, self._on_damaged = on_taken, on_damaged
        self._epoch = 0
        self._decode: Decoder | None = None
        self._last: Pixels = np.zeros((0, 0, 3), np.uint8)
        self._sounds: deque[Media] = deque()
        self._moments: deque[_Moment] = deque()
        self._offered = asyncio.Event()
        self._closed = False

    def begin(self, decode: Decoder | None, epoch: int) -> None:
        """A connection stands; its first picture is a key frame. Without a decoder there is only sound."""
        self._decode, self._epoch = decode, epoch
        self._sounds.clear()
        self._moments.clear()

    def cut(self, epoch: int) -> None:
        """An interrupt: what waits with another epoch is not handed on."""
        self._epoch = epoch
        self._sounds = deque(sound for sound in self._sounds if sound.epoch == epoch & 0xFFFF)

    def add(self, media: Media) -> None:
        """A video or audio message, in the order of the wire."""
        if media.kind != AUDIO:
            while self._sounds and self._sounds[0].pts_us < media.pts_us:
                self._offer(_Moment(None, self._sounds.popleft()))
            sound = self._sounds.popleft() if self._sounds and self._sounds[0].pts_us == media.pts_us else None
            self._offer(_Moment(media, sound))
        elif self._decode is None:
            self._offer(_Moment(None, media))
        else:
            self._sounds.append(media)
            if len(self._sounds) > WAITING:
                self._sounds.popleft()
                self.dropped += 1

    def close(self) -> None:
        """No more frames; what waits may still be taken."""
        self._closed = True
        self._offered.set()

    async def take(self) -> VideoFrame | None:
        """The next frame, None when closed."""
        while True:
            while self._moments:
                moment = self._moments.popleft()
                image = self._image(moment)
                if moment.epoch == self._epoch & 0xFFFF:
                    return moment.frame(self._last if image is None else image, image is None)
            if self._closed:
                return None
            self._offered.clear()
            await self._offered.wait()

    def _offer(self, moment: _Moment) -> None:
        self._moments.append(moment)
        if len(self._moments) > WAITING:
            # Decoded all the same, since the ones after it build upon it.
            self._image(self._moments.popleft())
            self.dropped += 1
        self._offered.set()

    def _image(self, moment: _Moment) -> Pixels | None:
        """The moment's own picture; None when there is none."""
        if moment.picture is None or self._decode is None:
            return None
        self._on_taken(moment.picture.sequence)
        try:
            image = self._decode(moment.picture.payload)
        except DamagedPictureError:
            self._on_damaged()
            return None
        if image is not None:
            self._last = image
        return image
