"""The avatar's own sound on a speaker, and what of it sounds right now.

Without a device the sound goes on in silence at the clock's pace, so whoever follows it is not held up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from apps.desktop.audio.host import Device, Host, Stream
from apps.desktop.audio.keeper import Keeper, Patience, Ways
from apps.desktop.audio.rate import RateChange
from apps.desktop.audio.source import Packet, Samples, Tell, clock_us, level_db
from engine.types import SAMPLE_RATE_HZ

LONGEST_US, TRIMMED_US = 250_000, 140_000
"""Sound that may wait to be played, and what is left of it when it gets longer: delay must not stay."""

PREBUFFER_US = 100_000
"""Sound that must wait before playing begins, and again after it ran out. A frame comes every 40 ms and 20 ms are
taken at once, so this outlives a frame that is 40 ms late; with 60 ms one gap of 19 was heard in ten minutes.
"""

_SILENT_DB = -60.0
_PACE_S = 0.02
_STOP_S = 1.0


@dataclass(slots=True)
class _Chunk:
    """Samples at the device's rate, and when in the stream the first of them is."""

    samples: Samples
    pts_us: float


class Speaker:
    """Plays mono sound at 16 kHz. All methods may be called from any thread and return at once but `stop`."""

    def __init__(
        self,
        device_name: str | None = None,
        host: Host | None = None,
        patience: Patience | None = None,
        played: Callable[[Packet], None] | None = None,
    ) -> None:
        """device_name: see apps.desktop.audio.devices.choose; None for the default one. played: called in the device's
        thread with all that is given to it, and when it sounds, for apps.desktop.audio.echo.
        """
        self._played = played
        self.name = device_name or "speaker"
        self.dropped_us = self.starved = 0
        """Sound that had no room, and how often there was none in time."""
        self._lock = threading.Lock()
        self._chunks: deque[_Chunk] = deque()
        self._waiting = 0
        self._rate_hz = SAMPLE_RATE_HZ
        self._rate: RateChange | None = None
        self._flowing = False
        self._sounding: tuple[float, int] | None = None
        """A moment of the stream, and when it sounds."""
        self._loud_until_us = 0
        self._pacing = threading.Event()
        self._pacer: threading.Thread | None = None
        ways = Ways("speaker", "The avatar goes on in silence meanwhile.", lambda h: h.outputs(), self._open)
        self._keeper = Keeper(ways, device_name, host, patience)

    def start(self, notice: Tell) -> None:
        """Begin, at once; what cannot be opened is told, and tried again."""
        if self._pacer is None:
            self._pacing.clear()
            self._pacer = threading.Thread(target=self._pace, name="visavis-unheard", daemon=True)
            self._pacer.start()
            self._keeper.start(notice)

    def stop(self) -> None:
        """Idempotent, within 3 s."""
        self._keeper.stop()
        pacer, self._pacer = self._pacer, None
        self._pacing.set()
        if pacer is not None:
            pacer.join(_STOP_S)
        self.flush()

    def play(self, samples: Samples, pts_us: int) -> None:
        """samples: float32 [N] at 16 kHz, which follow those before. pts_us: when in the stream they are."""
        with self._lock:
            if self._rate is None:
                self._rate = RateChange(SAMPLE_RATE_HZ, self._rate_hz)
            ready, at_us = self._rate.push(samples, pts_us)
            if len(ready):
                self._append(_Chunk(ready, at_us))

    def flush(self) -> None:
        """Forget what waits, as after an interrupt."""
        with self._lock:
            self._clear()

    @property
    def latency_us(self) -> int:
        """From `play` to being heard, now: what waits, and the device's own."""
        stream = self._keeper.stream
        with self._lock:
            waiting_us = self._waiting * 1_000_000 // self._rate_hz
            return (waiting_us if self._flowing else PREBUFFER_US) + (stream.latency_us if stream else 0)

    def playing_pts_us(self) -> int | None:
        """Which moment of the stream sounds now; None while nothing does. For AvatarSession.played."""
        with self._lock:
            if self._sounding is None:
                return None
            pts_us, at_us = self._sounding
            return round(pts_us + clock_us() - at_us)

    @property
    def heard_until_us(self) -> int:
        """When the last loud sound that was given to the device is over, by clock_us; for the echo gate."""
        return self._loud_until_us if self._keeper.stream is not None else 0

    def _open(self, host: Host, device: Device) -> Stream:
        self.flush()
        return host.play(device, self._fill)

    def _clear(self) -> None:
        self._chunks.clear()
        self._waiting = 0
        self._flowing, self._sounding, self._rate = False, None, None

    def _append(self, chunk: _Chunk) -> None:
        self._chunks.append(chunk)
        self._waiting += len(chunk.samples)
        if self._waiting * 1_000_000 <= LONGEST_US * self._rate_hz:
            return
        while self._waiting * 1_000_000 > TRIMMED_US * self._rate_hz and len(self._chunks) > 1:
            gone = len(self._chunks.popleft().samples)
            self._waiting -= gone
            self.dropped_us += gone * 1_000_000 // self._rate_hz

    def _fill(self, count: int, rate_hz: int, sounds_us: int) -> Samples:
        self._keeper.beat()
        if rate_hz != self._rate_hz:
            with self._lock:
                self._rate_hz = rate_hz
                self._clear()
        samples = self._take(count, sounds_us)
        if self._played is not None:
            self._played(Packet(samples, rate_hz, sounds_us))
        return samples

    def _take(self, count: int, sounds_us: int) -> Samples:
        out = np.zeros(count, np.float32)
        with self._lock:
            if not self._flowing and self._waiting * 1_000_000 >= PREBUFFER_US * self._rate_hz:
                self._flowing = True
            if not self._flowing:
                return out
            if self._chunks:
                self._sounding = (self._chunks[0].pts_us, sounds_us)
            filled = self._move(out)
            if filled < count:
                self.starved += 1
                self._flowing, self._sounding = False, None
            if level_db(out) > _SILENT_DB:
                self._loud_until_us = sounds_us + filled * 1_000_000 // self._rate_hz
        return out

    def _move(self, out: Samples) -> int:
        """Fill `out` from what waits; returns how much of it was there."""
        filled = 0
        while filled < len(out) and self._chunks:
            chunk = self._chunks[0]
            part = chunk.samples[: len(out) - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            if len(part) == len(chunk.samples):
                self._chunks.popleft()
            else:
                chunk.samples = chunk.samples[len(part) :]
                chunk.pts_us += len(part) * 1e6 / self._rate_hz
        self._waiting -= filled
        return filled

    def _pace(self) -> None:
        """While there is no device, take what one would have taken."""
        taken_us = clock_us()
        while not self._pacing.wait(_PACE_S):
            now_us = clock_us()
            if self._keeper.stream is None:
                self._take((now_us - taken_us) * self._rate_hz // 1_000_000, now_us)
            taken_us = now_us
