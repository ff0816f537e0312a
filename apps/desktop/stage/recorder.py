"""A film of what is shown, H.264 and AAC in MP4, that survives whatever ends it.

It is written in fragments of a second, each playable as soon as it is on the disk; when a film is ended properly, a
plain MP4 is made of them, which every player and editor reads (FFmpeg's hybrid_fragmented). So a crash or a full disk
costs a second or two at the end.

Picture and sound are placed by the moments of their frames and nothing else, so they cannot drift apart. The sound is
written at 48 kHz: there the 1024 samples that an AAC encoder begins with are 21 ms, and even a player that does not
take them off, as the file tells it to, stays within what ears and eyes take for one.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from struct import Struct
from threading import Condition, Thread
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from apps.desktop.notice import Notice
from apps.desktop.stage.contract import Floats, Pixels, Shown
from apps.desktop.stage.pictures import framed, without_holes
from apps.media import check_output, film_metadata
from engine.audio.resample import Resampler
from engine.clock import MICROSECONDS
from engine.types import FPS, FRAME_US, SAMPLE_RATE_HZ

SOUND_HZ = 48_000
AAC_FRAME = 1024

MOST_PICTURES = 50
"""Pictures that wait to be encoded, 2 s; then the oldest is left out, its sound stays."""

MOST_FRAMES = 60 * FPS
"""Frames of which sound waits; then the disk is too slow, and the film ends."""

CLOSE_S = 1.5
"""How long the program waits at its end for a film to be finished; it is playable without that."""

_MOVFLAGS = "hybrid_fragmented+frag_keyframe+delay_moov+use_metadata_tags"
_VIDEO_OPTIONS = {"preset": "superfast", "crf": "20", "bf": "0", "g": str(FPS), "rc-lookahead": "5"}
_AUDIO_BITS_PER_SECOND = 128_000
_BT709 = 1
_BOX = Struct(">I4s")
"""Length and kind of a part of an MP4; those of a fragment stay far below 4 GB."""

Tell = Callable[[Notice], None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """shown: None where the picture was left out."""

    pts_us: int
    shown: Shown | None
    audio: Floats


class Recorder:
    """Takes frames in any thread and writes them in its own. The file is opened with the first one."""

    def __init__(self, path: Path, tell: Tell) -> None:
        """Raises OutputFolderMissingError or OutputNotWritableError. tell: gets notices in the recorder's thread: that
        the film is done, or what went wrong with it.
        """
        check_output(path)
        self.path, self.missed = path, 0
        self._tell = tell
        self._waiting: deque[_Waiting] = deque()
        self._pictures = 0
        self._changed = Condition()
        self._stopped = self._overrun = False
        self._thread = Thread(target=self._run, name="visavis recorder", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive() and not self._stopped

    def add(self, shown: Shown, audio: Floats) -> None:
        """A frame and its sound, float32 [640] at 16 kHz; returns at once."""
        with self._changed:
            if self._stopped:
                return
            if len(self._waiting) >= MOST_FRAMES:
                self._stopped = self._overrun = True
            else:
                self._waiting.append(_Waiting(shown.pts_us, shown, audio))
                self._pictures += 1
                if self._pictures > MOST_PICTURES:
                    self._leave_out()
            self._changed.notify()

    def _give_up(self) -> None:
        with self._changed:
            self._stopped = True
            self._waiting.clear()

    def stop(self) -> None:
        """No more frames; the film is finished in the recorder's thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def wait(self, timeout_s: float = CLOSE_S) -> bool:
        """Whether the film is finished, after so long at most."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _leave_out(self) -> None:
        for place, one in enumerate(self._waiting):
            if one.shown is not None:
                self._waiting[place] = replace(one, shown=None)
                self._pictures -= 1
                self.missed += 1
                return

    def _take(self) -> _Waiting | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._waiting)
            if not self._waiting or self._overrun:
                return None
            one = self._waiting.popleft()
            self._pictures -= one.shown is not None
            return one

    def _run(self) -> None:
        film: Film | None = None
        try:
            while (one := self._take()) is not None:
                if film is None:
                    if one.shown is None:
                        continue
                    film = Film(self.path, one.shown)
                film.write(one.pts_us, None if one.shown is None else without_holes(one.shown), one.audio)
            if film is not None:
                film.close()
        except (av.error.FFmpegError, OSError) as error:
            self._give_up()
            if film is not None:
                film.abandon()
            self._tell(_failure(self.path, film, error))
            return
        self._tell(_success(self.path, film, self.missed, self._overrun))


class Film:
    """The file: pictures and sound by their moments. Raises FFmpegError or OSError."""

    def __init__(self, path: Path, first: Shown) -> None:
        """Its size and its beginning are those of the first picture; odd sides lose a pixel."""
        self._path = path
        self._start_us = self._end_us = first.pts_us
        self._height, self._width = (side // 2 * 2 for side in first.image.shape[:2])
        self._resampler = Resampler(SAMPLE_RATE_HZ, SOUND_HZ)
        self._sound: NDArray[np.float32] = np.zeros(0, np.float32)
        self._samples = 0
        options = {"movflags": _MOVFLAGS, "flush_packets": "1"}
        self._container: Any = av.open(str(path), "w", format="mp4", options=options)
        self._container.metadata.update(film_metadata())
        self._video, self._audio = self._add_video(), self._add_audio()

    @property
    def seconds(self) -> float:
        return (self._end_us - self._start_us) / MICROSECONDS

    def write(self, pts_us: int, image: Pixels | None, audio: Floats) -> None:
        """image: RGB uint8 [H, W, 3], None to leave the last one. audio: float32 [640] at 16 kHz."""
        missing = round((pts_us - self._end_us) * SAMPLE_RATE_HZ / MICROSECONDS)
        if missing > 0:
            self._hear(np.zeros(missing, np.float32))
        if image is not None:
            self._see(pts_us, image)
        self._hear(audio)
        self._end_us = pts_us + FRAME_US

    def close(self) -> None:
        self._sound = np.concatenate([self._sound, self._resampler.flush()])
        self._encode_sound(whole=False)
        for stream in (self._video, self._audio):
            self._container.mux(stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """After a fault: keep what is whole on the disk."""
        with suppress(av.error.FFmpegError, OSError):
            self._container.close()
        with suppress(OSError):
            cut_to_whole(self._path)

    def _see(self, pts_us: int, image: Pixels) -> None:
        if image.shape[0] // 2 * 2 != self._height or image.shape[1] // 2 * 2 != self._width:
            image = framed(image, self._width, self._height)
        pixels = np.ascontiguousarray(image[: self._height, : self._width])
        rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = rgb.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
        )
        frame.pts, frame.time_base = (pts_us - self._start_us) // FRAME_US, Fraction(1, FPS)
        self._container.mux(self._video.encode(frame))

    def _hear(self, audio: Floats) -> None:
        self._sound = np.concatenate([self._sound, self._resampler.push(audio)])
        self._encode_sound(whole=True)

    def _encode_sound(self, whole: bool) -> None:
        """What there is of it; whole: only in whole AAC frames, the rest waits."""
        while len(self._sound) >= (AAC_FRAME if whole else 1):
            part, self._sound = self._sound[:AAC_FRAME], self._sound[AAC_FRAME:]
            pcm = np.round(np.clip(part, -1, 1) * 32_767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SOUND_HZ, self._samples, Fraction(1, SOUND_HZ)
            self._samples += len(part)
            self._container.mux(self._audio.encode(frame))

    def _add_video(self) -> Any:
        video = self._container.add_stream("libx264", rate=FPS, options=_VIDEO_OPTIONS)
        video.width, video.height, video.pix_fmt = self._width, self._height, "yuv420p"
        video.time_base = Fraction(1, FPS)
        context = video.codec_context
        context.thread_count = 1  # The model needs the others.
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        return video

    def _add_audio(self) -> Any:
        audio = self._container.add_stream("aac", rate=SOUND_HZ, layout="mono")
        audio.bit_rate = _AUDIO_BITS_PER_SECOND
        audio.time_base = Fraction(1, SOUND_HZ)
        return audio


def cut_to_whole(path: Path) -> None:
    """Take away the last fragment of a film if it was cut short, which players stumble over. Raises OSError."""
    size = path.stat().st_size
    whole = at = 0
    with path.open("rb") as file:
        while at + _BOX.size <= size:
            file.seek(at)
            length, kind = _BOX.unpack(file.read(_BOX.size))
            at += max(length, _BOX.size)
            if at <= size and kind != b"moof":  # That tells of the box that follows.
                whole = at
    if whole < size:
        os.truncate(path, whole)


def _failure(path: Path, film: Film | None, error: Exception) -> Notice:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    why = "The disk is full" if full else f"The film cannot be written ({error})"
    if film is None:
        return Notice("recording_failed", f"{why}: nothing was recorded. Choose another folder.", "error")
    kept = f"{path} holds what was recorded until then, about {film.seconds:.0f} s"
    return Notice("recording_failed", f"{why}: {kept}. Make room or choose another folder.", "error")


def _success(path: Path, film: Film | None, missed: int, overrun: bool) -> Notice:
    if film is None:
        return Notice("recording_empty", "Nothing was recorded: no picture came meanwhile.", "warning")
    text = f"{film.seconds:.0f} s were recorded as {path}"
    if overrun:
        text = f"The disk is too slow: only {text}. Choose a folder on another one."
    elif missed:
        text += f"; {missed} pictures are missing, since the machine was too busy"
    return Notice("recording_saved", text, "warning" if overrun or missed else "info")
