"""Pictures to bytes: one encoder per connection. Every call may take milliseconds, so it belongs in a thread.

What an encoder refers to is always there: a picture that was encoded and then not sent is followed by a key frame. That
one may have the same pts_us, when it takes the place of another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av
import cv2
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from apps.server.fmp4 import TIME_SCALE, Fragments, codec_string, init_segment
from engine.types import FPS, FRAME_US

Pixels = NDArray[np.uint8]

RGBA = "rgba"
"""The one codec that wants pictures with alpha."""

_KEY_EVERY_FRAMES = 10 * FPS
_BT709 = 1
_BEST_CRF, _CRF_STEPS = 14, 0.4
"""x264's constant rate factor at quality 100, and how it grows as quality falls: 20 at 85, 34 at 50, at most 51."""


@dataclass(frozen=True, slots=True)
class Encoded:
    payload: bytes
    key: bool


class Encoder(Protocol):
    """codec_string, mime: for the client's decoder. head: what goes before the first picture, as an init segment."""

    codec_string: str | None
    mime: str | None
    head: bytes

    def encode(self, image: Pixels, pts_us: int, key: bool) -> Encoded:
        """RGB uint8 [H, W, 3], or with alpha [H, W, 4] for `rgba`. key: a key frame is wanted."""
        ...


class _Jpeg:
    codec_string: str | None = None
    mime: str | None = "image/jpeg"
    head = b""

    def __init__(self, quality: int) -> None:
        self._settings = [cv2.IMWRITE_JPEG_QUALITY, quality]

    def encode(self, image: Pixels, pts_us: int, key: bool) -> Encoded:
        done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), self._settings)
        assert done
        return Encoded(data.tobytes(), key=True)


class _Raw:
    codec_string: str | None = None
    mime: str | None = None
    head = b""

    def encode(self, image: Pixels, pts_us: int, key: bool) -> Encoded:
        return Encoded(image.tobytes(), key=True)


class _H264:
    """Constrained baseline by x264, one picture in, one access unit out."""

    mime: str | None = None
    head = b""

    def __init__(self, side_px: int, quality: int) -> None:
        context: Any = av.CodecContext.create("libx264", "w")
        context.width = context.height = side_px
        context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, TIME_SCALE), Fraction(FPS, 1)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        context.gop_size, context.max_b_frames, context.thread_count = _KEY_EVERY_FRAMES, 0, 1
        # Parameter sets then are not in the stream: they are put before key frames here, or into the init segment.
        context.flags |= av.codec.context.Flags.global_header
        context.options = {
            "preset": "superfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "crf": str(min(51, round(_BEST_CRF + _CRF_STEPS * (100 - quality)))),
            "forced-idr": "1",
            # A nod is no new scene.
            "sc_threshold": "0",
        }
        context.open()
        self._context = context
        self._moment = -1
        self._reformatter = VideoReformatter()
        self._parameters = bytes(context.extradata)
        self.codec_string: str | None = codec_string(self._parameters)

    def encode(self, image: Pixels, pts_us: int, key: bool) -> Encoded:
        unit, is_key = self._unit(image, pts_us, key)
        return Encoded(self._parameters + unit if is_key else unit, is_key)

    def _unit(self, image: Pixels, pts_us: int, key: bool) -> tuple[bytes, bool]:
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        # One thread: for small pictures a pool costs more than it saves, and much more while the model computes.
        frame = self._reformatter.reformat(
            rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
        )
        # x264 wants moments that grow, and a picture may be made again.
        self._moment = max(self._moment + 1, pts_us)
        frame.pts, frame.time_base = self._moment, Fraction(1, TIME_SCALE)
        frame.pict_type = PictureType.I if key else PictureType.NONE
        packets = self._context.encode(frame)
        assert len(packets) == 1, "an encoder without look-ahead gives one packet for one picture"
        return bytes(packets[0]), bool(packets[0].is_keyframe)


class _FragmentedMp4(_H264):
    def __init__(self, side_px: int, quality: int) -> None:
        super().__init__(side_px, quality)
        self.mime = f'video/mp4; codecs="{self.codec_string}"'
        self.head = init_segment(self._parameters, side_px, side_px)
        self._fragments = Fragments()

    def encode(self, image: Pixels, pts_us: int, key: bool) -> Encoded:
        unit, is_key = self._unit(image, pts_us, key)
        return Encoded(self._fragments.fragment(unit, pts_us, FRAME_US, is_key), is_key)


ENCODERS: Mapping[str, Callable[[int, int], Encoder]] = {
    "h264": _H264,
    "fmp4": _FragmentedMp4,
    "jpeg": lambda side_px, quality: _Jpeg(quality),
    "rgb24": lambda side_px, quality: _Raw(),
    RGBA: lambda side_px, quality: _Raw(),
}
"""By codec: opened for pictures of so many pixels a side, and a quality from 1 to 100."""
