"""A film as the data engine wants it: upright pictures at exactly 25 a second, and the sound that belongs to them.

Frame f is the picture whose time stamp is nearest to f / 25 s after the first picture's. Counting frames instead would
drift against the sound in every film of 24, 29.97 or a changing number of pictures a second. Sound is laid by its time
stamps, too, so that a track that starts late or has holes stays where it belongs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from engine.audio.resample import MAX_RATE_HZ, MIN_RATE_HZ, Resampler
from engine.types import FPS
from training.data.media import Bytes, Floats
from training.data.videos.errors import VideoUnusable

MAX_SECONDS = 4 * 3600.0
"""What lies beyond is left out: a film this long is a recording that somebody forgot to stop."""

_LONGEST_GAP_S = 60.0
"""A jump of the time stamps beyond this is damage; the film ends there."""
_REPEAT_S = 0.5
"""A picture stands at most this long in place of others that are missing."""
_MAX_BAD_PACKETS = 200
_SLIP_S = 0.03
"""Sound that is off its time stamp by less is left where it is, as players do."""
_VOICE_CHANNELS = 3
"""Front left, front right and centre come first in every layout; a voice is nowhere else."""

_LOCAL_ONLY = {"protocol_whitelist": "file"}
"""Playlists may name other files or hosts; a film is one local file."""


@dataclass(frozen=True, slots=True)
class Picture:
    """index: number at 25 fps. image: uint8 [H, W, 3] RGB, upright. gap_s: time between the film's pictures here."""

    index: int
    image: Bytes
    gap_s: float


class Stamped(Protocol):
    """A decoded picture as `at_frame_rate` needs it."""

    @property
    def time(self) -> float | None: ...


def pictures(path: Path) -> Iterator[Picture]:
    """The film's pictures in order; numbers may be missing where the film has a hole.

    Raises VideoUnusable when there is not one picture. Damage further in ends the film early.
    """
    found = False
    try:
        with av.open(str(path.resolve()), metadata_errors="ignore", options=_LOCAL_ONLY) as container:
            if not container.streams.video:
                raise VideoUnusable(f"{path.name} has no pictures")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # one process per core is faster than threads
            for index, frame, gap_s in at_frame_rate(_frames(container, stream)):
                found = True
                yield Picture(index, _upright(frame, stream.sample_aspect_ratio), gap_s)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if not found:
            raise VideoUnusable(f"{path.name} is no film that can be read ({error})") from error
    if not found:
        raise VideoUnusable(f"{path.name} holds no picture that can be decoded")


def at_frame_rate(frames: Iterator[Any]) -> Iterator[tuple[int, Any, float]]:
    """(index at 25 fps, frame, gap in s) of `Stamped` frames: for each moment the frame with the nearest time stamp.

    Frames that go back in time are passed over. gap is the longer of the intervals to the neighbours.
    """
    before: Any = None
    start_s = before_s = gap_s = 0.0
    index = 0
    for frame in frames:
        at_s = frame.time
        if before is None:
            before, start_s, before_s = frame, at_s or 0.0, at_s or 0.0
            continue
        if at_s is None or at_s <= before_s:
            continue
        if at_s - before_s > _LONGEST_GAP_S or at_s - start_s > MAX_SECONDS:
            break
        gap_before_s, gap_s = gap_s, at_s - before_s
        middle_s = (before_s + at_s) / 2 - start_s
        while index / FPS <= middle_s:
            if abs(index / FPS - (before_s - start_s)) <= _REPEAT_S:
                yield index, before, max(gap_before_s, gap_s)
            index += 1
        before, before_s = frame, at_s
    while before is not None and index / FPS <= before_s - start_s + min(gap_s, 1 / FPS) / 2:
        yield index, before, gap_s
        index += 1


def start_of(path: Path) -> float:
    """Time stamp of the first picture in seconds. Raises VideoUnusable."""
    try:
        with av.open(str(path.resolve()), metadata_errors="ignore", options=_LOCAL_ONLY) as container:
            for frame in _frames(container, container.streams.video[0]):
                return float(frame.time or 0.0)
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        raise VideoUnusable(f"{path.name} is no film that can be read ({error})") from error
    raise VideoUnusable(f"{path.name} holds no picture that can be decoded")


def sound(path: Path, start_s: float) -> Floats | None:
    """The first sound track from time stamp start_s on, mono float32 at 16 kHz; None when there is none to be heard.

    Damage ends the track early.
    """
    heard: list[Floats] = []
    try:
        with av.open(str(path.resolve()), metadata_errors="ignore", options=_LOCAL_ONLY) as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            rate_hz = int(stream.rate or 0)
            if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
                return None
            resampler = Resampler(rate_hz)
            chunks = _chunks(container, stream)
            heard.extend(resampler.push(part) for part in laid_by_time(chunks, start_s, rate_hz))
            heard.append(resampler.flush())
    except (av.error.FFmpegError, OSError, ValueError):
        pass  # what was heard so far is kept
    joined = np.concatenate(heard) if heard else np.zeros(0, np.float32)
    return joined.astype(np.float32) if len(joined) else None


def laid_by_time(chunks: Iterator[tuple[float | None, Floats]], start_s: float, rate_hz: int) -> Iterator[Floats]:
    """Mono chunks [n] that together start at start_s and have silence where the track has holes.

    chunks: (time stamp in seconds or None, samples [n]). What comes before start_s or twice is cut off.
    """
    laid = 0
    for at_s, samples in chunks:
        wanted = laid if at_s is None else round((at_s - start_s) * rate_hz)
        if wanted > MAX_SECONDS * rate_hz:
            return
        slip = wanted - laid
        if slip > _SLIP_S * rate_hz:
            yield np.zeros(slip, np.float32)
            laid = wanted
        elif slip < -_SLIP_S * rate_hz or (slip < 0 and laid == 0):
            samples = samples[-slip:]
        if len(samples):
            yield samples
            laid += len(samples)


def fitted(samples: Floats, count: int) -> Floats:
    """Exactly `count` samples: cut, or silence at the end."""
    whole = np.zeros(count, np.float32)
    part = samples[:count]
    whole[: len(part)] = part
    return whole


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames; damaged packets are passed over, as players do, unless there are too many."""
    bad = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            bad += 1
            if bad > _MAX_BAD_PACKETS:
                return
            continue
        yield from frames


def _chunks(container: Any, stream: Any) -> Iterator[tuple[float | None, Floats]]:
    to_float = av.AudioResampler(format="fltp")
    for frame in _frames(container, stream):
        at_s = frame.time
        for converted in to_float.resample(frame):
            samples: NDArray[np.float32] = converted.to_ndarray()[:_VOICE_CHANNELS].mean(0)
            yield at_s, samples
            at_s = None


def _upright(frame: Any, pixel_ratio: Any) -> Bytes:
    """RGB with square pixels, turned as the film's display matrix says (counter-clockwise)."""
    image = frame.to_ndarray(format="rgb24")
    if pixel_ratio and pixel_ratio != 1:
        size = (max(1, round(image.shape[1] * pixel_ratio)), image.shape[0])
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
