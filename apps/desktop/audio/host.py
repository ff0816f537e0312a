"""Sound devices and running streams, whichever library stands behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from apps.desktop.audio.source import Samples

Take: TypeAlias = Callable[[Samples, int, int], None]
"""Called by the device's thread with mono samples [n], their rate in Hz, and when the first was captured, in
microseconds.
"""

Fill: TypeAlias = Callable[[int, int, int], Samples]
"""Called by the device's thread for mono samples [n] of a rate in Hz, and told when the first will sound, in
microseconds.
"""


@dataclass(frozen=True, slots=True)
class Device:
    """name: for people, unique among its kind, and how a device is remembered. rate_hz: its own. host: what it is
    reached through, as WASAPI or PulseAudio. is_loopback: it hears what the machine plays. id: its name at the host.
    """

    name: str
    rate_hz: int
    channels: int
    host: str
    is_default: bool = False
    is_loopback: bool = False
    id: str = ""


class Stream(Protocol):
    """Sound that runs until it is closed, or its device is lost."""

    rate_hz: int

    @property
    def latency_us(self) -> int:
        """Of the device and the buffers before or behind it, as far as they tell."""
        ...

    @property
    def alive(self) -> bool:
        """False once the device has ended it."""
        ...

    def close(self) -> None:
        """Idempotent; no callback comes once it has returned."""
        ...


class Host(Protocol):
    """What plays and records on this machine. All methods may be called from any thread and may take a second."""

    name: str

    def inputs(self) -> list[Device]:
        """Microphones and loopbacks that are plugged in now. Running streams are left alone."""
        ...

    def outputs(self) -> list[Device]: ...

    def record(self, device: Device, take: Take) -> Stream:
        """Blocks of 20 ms, at a rate that the host chooses. Raises SoundDeviceError."""
        ...

    def play(self, device: Device, fill: Fill) -> Stream:
        """At a rate that the host chooses, see Stream. Raises SoundDeviceError."""
        ...
