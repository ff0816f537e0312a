"""A microphone as a source: blocks of 20 ms, bounded, at whatever rate and with however many channels it has."""

from __future__ import annotations

import logging
import threading
from collections import deque

from apps.desktop.audio.host import Device, Host, Stream
from apps.desktop.audio.keeper import Keeper, Patience, Ways
from apps.desktop.audio.source import PACKET_MS, QUIET_DB, Deliver, Packet, Samples, Tell, level_db

_LOG = logging.getLogger(__name__)

RING_PACKETS = 1000 // PACKET_MS
"""Sound that may wait to be delivered, a second; the oldest goes first."""

_STOP_S = 1.0
_FALL_DB = 1.0
"""How far the meter falls with each packet, 50 dB a second: seen, and soon gone."""


class Microphone:
    """See apps.desktop.audio.source.Source. A device that is lost, or not there yet, is opened as soon as it comes."""

    def __init__(
        self, device_name: str | None = None, host: Host | None = None, patience: Patience | None = None
    ) -> None:
        """device_name: see apps.desktop.audio.devices.choose; None for the default one."""
        self.name = device_name or "microphone"
        self.dropped = 0
        """Packets that nobody took in time."""
        self._level_db = QUIET_DB
        self._ring: deque[Packet] = deque()
        self._filled = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running = False
        ways = Ways("microphone", "Nobody is heard meanwhile.", lambda h: h.inputs(), self._open)
        self._keeper = Keeper(ways, device_name, host, patience)

    @property
    def level_db(self) -> float:
        """For a meter: what is heard now, falling slowly; QUIET_DB for nothing at all."""
        return self._level_db if self._keeper.stream is not None else QUIET_DB

    @property
    def device(self) -> Device | None:
        """What is heard now; None while there is none."""
        return self._keeper.device if self._keeper.stream is not None else None

    @property
    def latency_us(self) -> int:
        """Of the device and its buffers, as far as they tell; it is taken off `Packet.captured_us`."""
        stream = self._keeper.stream
        return stream.latency_us if stream is not None else 0

    def start(self, deliver: Deliver, notice: Tell) -> None:
        if self._thread is None:
            self._running = True
            self._thread = threading.Thread(
                target=self._deliver_all, args=(deliver,), name="visavis-heard", daemon=True
            )
            self._thread.start()
            self._keeper.start(notice)

    def stop(self) -> None:
        self._keeper.stop()
        thread, self._thread = self._thread, None
        with self._filled:
            self._running = False
            self._ring.clear()
            self._filled.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_S)

    def _open(self, host: Host, device: Device) -> Stream:
        def take(samples: Samples, rate_hz: int, captured_us: int) -> None:
            self._keeper.beat()
            self._put(Packet(samples, rate_hz, captured_us))

        return host.record(device, take)

    def _put(self, packet: Packet) -> None:
        level = level_db(packet.samples)
        self._level_db = max(level, self._level_db - _FALL_DB)
        with self._filled:
            if not self._running:
                return
            if len(self._ring) >= RING_PACKETS:
                self._ring.popleft()
                self.dropped += 1
            self._ring.append(packet)
            self._filled.notify()

    def _deliver_all(self, deliver: Deliver) -> None:
        while (packet := self._next()) is not None:
            try:
                deliver(packet)
            except Exception:
                # One packet that cannot be used must not make the microphone deaf.
                _LOG.exception("a packet of sound was not taken")

    def _next(self) -> Packet | None:
        with self._filled:
            self._filled.wait_for(lambda: self._ring or not self._running)
            return self._ring.popleft() if self._running else None
