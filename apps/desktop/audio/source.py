"""Where a voice comes from: microphone, loopback, file, socket. Each delivers packets as they are heard."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apps.desktop.notice import Notice

Samples: TypeAlias = NDArray[np.float32]
"""Mono sound in [-1, 1], [N]."""

PACKET_MS = 20
"""Sound of one packet."""

QUIET_DB = -120.0
"""The level of no sound at all."""


@dataclass(frozen=True, slots=True)
class Packet:
    """samples: float32 [N], mono. captured_us: when the first of them reached the microphone, by `clock_us`."""

    samples: Samples
    rate_hz: int
    captured_us: int

    @property
    def duration_us(self) -> int:
        return len(self.samples) * 1_000_000 // self.rate_hz


Deliver: TypeAlias = Callable[[Packet], None]
Tell: TypeAlias = Callable[[Notice], None]


class Source(Protocol):
    """A voice. `deliver` and `notice` are called from a thread of the source's, and must not block."""

    name: str

    def start(self, deliver: Deliver, notice: Tell) -> None:
        """Begin, at once; what cannot be opened is told as a notice, and tried again."""
        ...

    def stop(self) -> None:
        """End; nothing is delivered once it has returned. Idempotent, within 2 s."""
        ...


def clock_us() -> int:
    """Monotonic microseconds in any thread: what `engine.clock.now_us` gives within asyncio's own loops."""
    return time.monotonic_ns() // 1000


def level_db(samples: Samples) -> float:
    """Mean power in dB of full scale, QUIET_DB at least."""
    power = float(np.mean(np.square(samples))) if len(samples) else 0.0
    return max(QUIET_DB, 10 * float(np.log10(power + 1e-12)))
