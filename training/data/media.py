"""Pictures and sound to bytes and back, through PyAV: the codecs of the shards and of the previews.

Video is H.264 in full-range BT.709. yuv444p keeps the colour edges of lips and lids. x264 runs on one thread, since
its output depends on the number of threads and shards must not; and without its macroblock tree, with which the bytes
of pictures below 64 px varied from call to call.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from engine.types import FPS, SAMPLE_RATE_HZ

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_FULL_SCALE = 32767.0


def encode_video(frames: Bytes, *, crf: float = 8.0, preset: str = "veryfast") -> bytes:
    """MP4 of uint8 [F, H, W, 3] at 25 fps; crf 8 is within about two grey levels of the frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = _video_stream(container, frames.shape[1:3], "yuv444p", crf, preset)
        _encode_frames(container, stream, frames)
    return buffer.getvalue()


def decode_video(data: bytes) -> Bytes:
    """All frames of an MP4 as uint8 [F, H, W, 3]. Raises av.error.FFmpegError on damaged data."""
    with av.open(io.BytesIO(data)) as container:
        pictures = [_to_rgb(frame) for frame in container.decode(video=0)]
    return np.stack(pictures) if pictures else np.zeros((0, 0, 0, 3), np.uint8)


def encode_flac(pcm: Floats) -> bytes:
    """Lossless 16 bit FLAC of float32 [N] in [-1, 1] at 16 kHz."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = cast(av.AudioStream, container.add_stream("flac", rate=SAMPLE_RATE_HZ, layout="mono"))
        stream.codec_context.format = "s16"
        _encode_samples(container, stream, to_int16(pcm)[None], "s16")
    return buffer.getvalue()


def decode_flac(data: bytes) -> Floats:
    """float32 [N] of a mono FLAC. Raises av.error.FFmpegError on damaged data."""
    with av.open(io.BytesIO(data)) as container:
        parts = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    samples = np.concatenate(parts) if parts else np.zeros(0, np.int16)
    return samples.astype(np.float32) / _FULL_SCALE


def to_int16(pcm: Floats) -> NDArray[np.int16]:
    """float32 in [-1, 1] to int16; louder samples are clipped."""
    return np.round(np.clip(pcm, -1.0, 1.0) * _FULL_SCALE).astype(np.int16)


def write_preview(path: Path, frames: Bytes, left: Floats, right: Floats) -> None:
    """A file that any player opens: yuv420p of uint8 [F, H, W, 3] (even sides), stereo AAC of float32 [N] at 16 kHz."""
    with av.open(str(path), "w", format="mp4") as container:
        video = _video_stream(container, frames.shape[1:3], "yuv420p", 16.0, "veryfast")
        audio = cast(av.AudioStream, container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="stereo"))
        _encode_frames(container, video, frames)
        _encode_samples(container, audio, np.stack([left, right]).astype(np.float32), "fltp")


def _video_stream(
    container: av.container.OutputContainer, sides: tuple[int, ...], pixels: str, crf: float, preset: str
) -> av.VideoStream:
    options = {"crf": str(crf), "preset": preset, "mbtree": "0"}
    stream = cast(av.VideoStream, container.add_stream("libx264", rate=FPS, options=options))
    stream.height, stream.width = sides
    stream.pix_fmt = pixels
    context = stream.codec_context
    context.thread_count = 1
    context.color_range, context.colorspace = ColorRange.JPEG, Colorspace.ITU709
    return stream


def _encode_frames(container: av.container.OutputContainer, stream: av.VideoStream, frames: Bytes) -> None:
    pixels = stream.pix_fmt or "yuv444p"
    for i, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format=pixels, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.JPEG)
        frame.pts = i
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _encode_samples(
    container: av.container.OutputContainer, stream: av.AudioStream, samples: NDArray[np.generic], sample_format: str
) -> None:
    layout = "mono" if len(samples) == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=sample_format, layout=layout)
    frame.sample_rate = SAMPLE_RATE_HZ
    frame.pts = 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _to_rgb(frame: av.VideoFrame) -> Bytes:
    full = frame.reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG,
    )
    return full.to_ndarray()
