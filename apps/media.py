"""Sound out of any audio or video file, and pictures with sound into an MP4, through PyAV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

import engine
from engine.audio.resample import Resampler
from engine.errors import (
    AudioEmptyError,
    AudioTooLongError,
    FileMissingError,
    NoAudioStreamError,
    OutputFolderMissingError,
    OutputNotWritableError,
    UnreadableFileError,
    UnreadableMediaError,
)
from engine.types import FPS, SAMPLE_RATE_HZ

MAX_SECONDS = 3600
_TRACK_RATES_HZ = (48_000, 44_100, 32_000, 24_000, 22_050, 16_000)
"""Rates the sound track may have; others become 48 kHz."""

_VIDEO_OPTIONS = {"preset": "veryfast", "crf": "18", "tune": "film"}
_AUDIO_BITS_PER_SECOND = 128_000
_AAC_FRAME = 1024
_BT709 = 1
"""Number of BT.709 in H.264's tables of matrices, primaries and transfer curves."""
_MAX_BAD_PACKETS = 100
_VOICE_CHANNELS = 3
"""Front left, front right and centre come first in every layout; a voice is nowhere else."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A recording twice, mono: pcm, float32 [N] at 16 kHz for the model; track, int16 at track_rate_hz for the film."""

    pcm: NDArray[np.float32]
    track: NDArray[np.int16]
    track_rate_hz: int

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE_HZ


def read_sound(path: str | os.PathLike[str]) -> Sound:
    """The first sound track of any file that PyAV reads, channels mixed to one. At most an hour.

    Raises FileMissingError, UnreadableFileError, UnreadableMediaError, NoAudioStreamError, AudioEmptyError or
    AudioTooLongError.
    """
    place = Path(path)
    _check_input(place)
    try:
        # Playlists may name other files or hosts; a voice is one local file.
        only_files = {"protocol_whitelist": "file"}
        with av.open(str(place.resolve()), metadata_errors="ignore", options=only_files) as container:
            if not container.streams.audio:
                raise NoAudioStreamError(f"{place} has no sound; give an audio file, or a video with an audio track")
            return _decode(container, place)
    except av.error.FFmpegError as error:
        raise UnreadableMediaError(
            f"{place} is not an audio or video file that can be read ({error.strerror})"
        ) from error


def _check_input(place: Path) -> None:
    try:
        if not place.exists():
            raise FileMissingError(f"there is no file {place}")
        if not place.is_file():
            raise UnreadableFileError(f"{place} is not a file; give an audio or video file")
    except OSError as error:
        raise UnreadableFileError(f"{place} cannot be opened: {error}") from error
    if not os.access(place, os.R_OK):
        raise UnreadableFileError(f"{place} may not be read; check its permissions")


def _decode(container: Any, place: Path) -> Sound:
    stream = container.streams.audio[0]
    rate = stream.rate or 0
    to_model = Resampler(rate)
    track_rate = rate if rate in _TRACK_RATES_HZ else _TRACK_RATES_HZ[0]
    to_track = Resampler(rate, track_rate)
    heard, kept, samples = [], [], 0
    for chunk in _chunks(container, stream):
        samples += len(chunk)
        if samples > MAX_SECONDS * rate:
            raise AudioTooLongError(f"{place} has more than {MAX_SECONDS // 60} minutes of sound; cut it into parts")
        heard.append(to_model.push(chunk))
        kept.append(_to_int16(to_track.push(chunk)))
    if not samples:
        raise AudioEmptyError(f"{place} has a sound track without a single readable sample")
    pcm = np.concatenate([*heard, to_model.flush()])
    return Sound(pcm, np.concatenate([*kept, _to_int16(to_track.flush())]), track_rate)


def _chunks(container: Any, stream: Any) -> Iterator[NDArray[np.float32]]:
    """Decoded sound [n, channels]. Damaged packets are passed over, as players do; too many of them are an error."""
    to_float = av.AudioResampler(format="fltp")
    bad_packets = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            bad_packets += 1
            if bad_packets > _MAX_BAD_PACKETS:
                raise
            continue
        for frame in frames:
            for converted in to_float.resample(frame):
                yield converted.to_ndarray()[:_VOICE_CHANNELS].T


def _to_int16(pcm: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.round(np.clip(pcm, -1, 1) * 32_767).astype(np.int16)


class Mp4Writer:
    """H.264 and AAC at 25 fps. Use as a context manager: the file appears under its name only when all went well.

        with Mp4Writer(path, (512, 512), sound.track, sound.track_rate_hz) as film:
            film.write(image)

    The sound is cut or padded with silence to the exact length of the pictures. The file says that it is generated.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: tuple[int, int],
        track: NDArray[np.int16],
        track_rate_hz: int,
        threads: int = 0,
    ) -> None:
        """size: width and height; odd ones lose their last pixel, since H.264 halves its colours."""
        self.path = Path(path)
        check_output(self.path)
        self.frames = 0
        self._track, self._rate_hz, self._written = track, track_rate_hz, 0
        self._track_start = 0
        """Position of the track's first sample that is still here."""
        self._width, self._height = size[0] // 2 * 2, size[1] // 2 * 2
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial.mp4")
        try:
            self._container: Any = av.open(
                str(self._partial), "w", format="mp4", options={"movflags": "faststart+use_metadata_tags"}
            )
        except (av.error.FFmpegError, OSError) as error:
            raise OutputNotWritableError(f"{self.path} cannot be written: {error}") from error
        self._container.metadata.update(film_metadata())
        self._video = self._add_video(threads)
        self._audio = self._add_audio()

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, image: NDArray[np.uint8], sound: NDArray[np.int16] | None = None) -> None:
        """One picture, RGB uint8 [H, W, 3], and the sound that goes with it. sound: what the track goes on with, where
        it was not known before. Raises OutputNotWritableError.
        """
        if sound is not None:
            self._track = np.concatenate((self._track[self._written - self._track_start :], sound))
            self._track_start = self._written
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[: self._height, : self._width]), format="rgb24")
        # Without an explicit matrix players guess by picture size, and skin turns green or red.
        frame = rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        frame.pts, frame.time_base = self.frames, Fraction(1, FPS)
        try:
            self._mux(self._video, frame)
            self.frames += 1
            self._write_sound(self.frames * self._rate_hz // FPS, whole=True)
        except (av.error.FFmpegError, OSError) as error:
            raise OutputNotWritableError(f"{self.path} cannot be written: {error}") from error

    def close(self) -> None:
        """Finish the file and give it its name. Raises OutputNotWritableError and leaves nothing if that fails."""
        try:
            self._write_sound(self.frames * self._rate_hz // FPS, whole=False)
            self._mux(self._video, None)
            self._mux(self._audio, None)
            self._container.close()
            self._partial.replace(self.path)
        except (av.error.FFmpegError, OSError) as error:
            self.discard()
            raise OutputNotWritableError(f"{self.path} cannot be written: {error}") from error

    def discard(self) -> None:
        """Give up: close and remove what was written."""
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError):
            pass  # The file is removed next, so it does not matter that its end is missing.
        self._partial.unlink(missing_ok=True)

    def _add_video(self, threads: int) -> Any:
        video = self._container.add_stream("libx264", rate=FPS, options=_VIDEO_OPTIONS)
        video.width, video.height, video.pix_fmt = self._width, self._height, "yuv420p"
        video.time_base = Fraction(1, FPS)
        context = video.codec_context
        context.thread_count = threads
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        return video

    def _add_audio(self) -> Any:
        audio = self._container.add_stream("aac", rate=self._rate_hz, layout="mono")
        audio.bit_rate = _AUDIO_BITS_PER_SECOND
        audio.time_base = Fraction(1, self._rate_hz)
        return audio

    def _write_sound(self, until: int, whole: bool) -> None:
        """Encode the track up to a sample; with whole=True only in whole AAC frames, the rest waits."""
        while self._written < until:
            stop = min(self._written + _AAC_FRAME, until)
            if whole and stop - self._written < _AAC_FRAME:
                return
            samples = np.zeros((1, stop - self._written), np.int16)
            given = self._track[self._written - self._track_start : stop - self._track_start]
            samples[0, : len(given)] = given
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = self._rate_hz, self._written
            frame.time_base = Fraction(1, self._rate_hz)
            self._mux(self._audio, frame)
            self._written = stop

    def _mux(self, stream: Any, frame: Any) -> None:
        for packet in stream.encode(frame):
            self._container.mux(packet)


def check_output(path: Path) -> None:
    """Raise before any work is done if a file cannot be written there."""
    if not path.parent.is_dir():
        raise OutputFolderMissingError(f"the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise OutputNotWritableError(f"{path} is a folder; give a file name such as {path / 'talk.mp4'}")
    if path.suffix.lower() != ".mp4":
        raise OutputNotWritableError(f"{path} must end in .mp4; that is the format that is written")
    if not os.access(path.parent, os.W_OK):
        raise OutputNotWritableError(f"the folder {path.parent} may not be written to; check its permissions")


def film_metadata(kind: str = "video") -> dict[str, str]:
    """What a file says of itself: that it is generated."""
    return {
        "title": f"AI-generated {kind}",
        "comment": f"This {kind} is AI-generated: a portrait animated by a voice. The person shown did not say this.",
        "ai_generated": "true",
        "software": f"visavis {engine.__version__}",
    }
