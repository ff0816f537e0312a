"""Echo taken away by WebRTC's audio processing module, so that the avatar can be interrupted without headphones.

The module comes with `livekit` (Apache-2.0), in wheels for Linux, macOS and Windows: `visavis[echo]`. It wants what is
played and what is recorded in blocks of 10 ms, in the order of time, and finds the delay between both by itself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from functools import cache
from typing import Any

import numpy as np

from apps.desktop.audio.rate import QuickRateChange
from apps.desktop.audio.source import Packet, Samples
from engine.errors import ExtraMissingError
from engine.types import SAMPLE_RATE_HZ

_LOG = logging.getLogger(__name__)

BLOCK = SAMPLE_RATE_HZ // 100
_FULL_SCALE = 32_767

_MOST_BLOCKS = 50
"""Played blocks that may wait for recorded ones, half a second; the oldest go first."""

_EAGER_BLOCKS = 6
"""Played blocks above which two go with each recorded one: a speaker's callback brings several at once."""

_DELAY_MS = 100
"""Where the module begins to look for the echo."""


@cache
def usual_canceller() -> EchoCanceller | None:
    """The app's one, which its speaker and its gate both know; None where the extra is not installed."""
    try:
        return EchoCanceller()
    except ExtraMissingError as error:
        _LOG.info("the gate is half duplex: %s", error)
        return None


class EchoCanceller:
    """Tell it what is played, by `played`; see apps.desktop.audio.gate.Canceller for the rest."""

    def __init__(self) -> None:
        """Raises ExtraMissingError."""
        try:
            from livekit.rtc import AudioFrame
            from livekit.rtc.apm import AudioProcessingModule
        except ImportError as error:
            raise ExtraMissingError("taking echo away needs: pip install 'visavis[echo]'") from error
        self._frame = AudioFrame
        self._module: Any = AudioProcessingModule(echo_cancellation=True)
        self._lock = threading.Lock()
        self._rate: QuickRateChange | None = None
        self._far = np.zeros(0, np.float32)
        self._blocks: deque[Samples] = deque(maxlen=_MOST_BLOCKS)
        self._near = np.zeros(0, np.float32)

    def played(self, packet: Packet) -> None:
        """What is given to the speaker, all of it; from the speaker's thread."""
        with self._lock:
            if self._rate is None or self._rate.from_hz != packet.rate_hz:
                self._rate = QuickRateChange(packet.rate_hz, SAMPLE_RATE_HZ)
            samples, _ = self._rate.push(packet.samples, packet.captured_us)
            self._far = np.concatenate((self._far, samples))
            while len(self._far) >= BLOCK:
                self._blocks.append(self._far[:BLOCK])
                self._far = self._far[BLOCK:]

    def clean(self, samples: Samples, captured_us: float) -> tuple[Samples, float]:
        """See Canceller."""
        begins_us = captured_us - len(self._near) * 1e6 / SAMPLE_RATE_HZ
        self._near = np.concatenate((self._near, samples))
        whole = len(self._near) // BLOCK * BLOCK
        blocks = [self._clean(self._near[at : at + BLOCK]) for at in range(0, whole, BLOCK)]
        self._near = self._near[whole:]
        return np.concatenate([np.zeros(0, np.float32), *blocks]), begins_us

    def _clean(self, near: Samples) -> Samples:
        for far in self._due():
            self._module.process_reverse_stream(self._framed(far))
        self._module.set_stream_delay_ms(_DELAY_MS)
        frame = self._framed(near)
        self._module.process_stream(frame)
        return np.asarray(np.frombuffer(frame.data, np.int16) / _FULL_SCALE, np.float32)

    def _due(self) -> list[Samples]:
        with self._lock:
            count = min(len(self._blocks), 2 if len(self._blocks) > _EAGER_BLOCKS else 1)
            return [self._blocks.popleft() for _ in range(count)]

    def _framed(self, samples: Samples) -> Any:
        pcm = np.round(np.clip(samples, -1, 1) * _FULL_SCALE).astype(np.int16)
        return self._frame(bytearray(pcm.tobytes()), SAMPLE_RATE_HZ, 1, len(pcm))
