"""PortAudio's streams in the app's terms: mono arrays, microseconds, and streams that a restart ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from weakref import WeakSet

import numpy as np

from apps.desktop.audio.errors import SoundDeviceError
from apps.desktop.audio.host import Fill, Take
from apps.desktop.audio.portaudio import Entry, Library, RawFill, RawTake, Running
from apps.desktop.audio.source import Samples, clock_us

_LOG = logging.getLogger(__name__)

_CLOSE_S = 1.0


class RunningStream:
    """See apps.desktop.audio.host.Stream."""

    def __init__(self, running: Running, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._running = running
        self._closed = False

    @property
    def latency_us(self) -> int:
        return self._running.latency_us

    @property
    def alive(self) -> bool:
        return not self._closed and self._running.active

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # A driver whose device was pulled out may never come back from this.
        closing = threading.Thread(target=self._running.close, name="visavis-sound-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            _LOG.warning("a sound device does not close; it is left behind")


class Desk:
    """A library of PortAudio and its open streams. `lock` is to be held around all that is done with it."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.lock = threading.RLock()
        self._open: WeakSet[RunningStream] = WeakSet()

    def record(self, entry: Entry, rate_hz: int, channels: Sequence[int], take: Take) -> RunningStream:
        """channels: numbers to try. Raises SoundDeviceError."""
        return self._first(
            channels,
            rate_hz,
            lambda count: self.library.record(entry.index, rate_hz, count, _taking(take, rate_hz, count)),
        )

    def play(self, entry: Entry, rate_hz: int, channels: Sequence[int], fill: Fill) -> RunningStream:
        """channels: numbers to try. Raises SoundDeviceError."""
        return self._first(
            channels,
            rate_hz,
            lambda count: self.library.play(entry.index, rate_hz, count, _filling(fill, rate_hz, count)),
        )

    def restart(self) -> None:
        """Look for devices anew. Ends every open stream; whoever holds one opens it again."""
        for stream in list(self._open):
            stream.close()
        self.library.restart()

    def _first(self, channels: Sequence[int], rate_hz: int, open_: Callable[[int], Running]) -> RunningStream:
        refusals = []
        for count in dict.fromkeys(channels):
            try:
                stream = RunningStream(open_(count), rate_hz)
            except SoundDeviceError as error:
                refusals.append(error)
                continue
            self._open.add(stream)
            return stream
        raise refusals[0]


def _taking(take: Take, rate_hz: int, channels: int) -> RawTake:
    def raw(data: bytes, age_s: float) -> None:
        try:
            samples = np.frombuffer(data, np.float32).reshape(-1, channels)
            take(samples.mean(1, dtype=np.float32), rate_hz, clock_us() - round(age_s * 1e6))
        except Exception:
            # PortAudio would end the stream, and nobody would learn why.
            _LOG.exception("sound that was recorded is lost")

    return raw


def _filling(fill: Fill, rate_hz: int, channels: int) -> RawFill:
    def raw(frames: int, ahead_s: float) -> bytes:
        try:
            samples: Samples = fill(frames, rate_hz, clock_us() + round(ahead_s * 1e6))
            return np.repeat(samples.astype(np.float32), channels).tobytes()
        except Exception:
            _LOG.exception("sound that was to be played is lost")
            return bytes(4 * frames * channels)

    return raw
