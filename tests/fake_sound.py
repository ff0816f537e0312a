"""Sound devices that do what a test says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from apps.desktop.audio.errors import DeviceBusyError, NoSuchDeviceError
from apps.desktop.audio.host import Device, Fill, Stream, Take
from apps.desktop.audio.keeper import Patience
from apps.desktop.audio.source import Packet, Samples, clock_us

QUICK = Patience(step_s=0.005, first_s=0.5, silent_s=0.25, look_s=0.03, again_s=0.01, retry_s=0.02)


@dataclass(eq=False)
class FakeStream:
    device: Device
    take: Take | None = None
    fill: Fill | None = None
    rate_hz: int = 16_000
    latency_us: int = 10_000
    alive: bool = True

    def close(self) -> None:
        self.alive = False


@dataclass
class FakeHost:
    """moved: a sound server's bad habit, streams of a device that is gone go on."""

    microphones: list[Device] = field(default_factory=list)
    speakers: list[Device] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    moved: bool = False
    streams: list[FakeStream] = field(default_factory=list)
    name: str = "fake"

    def inputs(self) -> list[Device]:
        return list(self.microphones)

    def outputs(self) -> list[Device]:
        return list(self.speakers)

    def record(self, device: Device, take: Take) -> Stream:
        return self._open(device, self.microphones, FakeStream(device, take=take, rate_hz=device.rate_hz))

    def play(self, device: Device, fill: Fill) -> Stream:
        return self._open(device, self.speakers, FakeStream(device, fill=fill, rate_hz=device.rate_hz))

    def unplug(self, name: str) -> None:
        for there in (self.microphones, self.speakers):
            there[:] = [device for device in there if device.name != name]
        for stream in self.streams:
            if stream.device.name == name and not self.moved:
                stream.alive = False

    def hear(self, samples: Samples) -> None:
        """What every open microphone hears now, at its own rate."""
        for stream in self.open:
            if stream.take is not None:
                age_us = len(samples) * 1_000_000 // stream.rate_hz
                stream.take(samples, stream.rate_hz, clock_us() - age_us)

    def pull(self, count: int, sounds_us: int) -> Samples:
        """What the open speaker plays next."""
        (stream,) = [stream for stream in self.open if stream.fill is not None]
        assert stream.fill is not None
        return stream.fill(count, stream.rate_hz, sounds_us)

    @property
    def open(self) -> list[FakeStream]:
        return [stream for stream in self.streams if stream.alive]

    def _open(self, device: Device, there: list[Device], stream: FakeStream) -> FakeStream:
        if device not in there:
            raise NoSuchDeviceError("gone")
        if device.name in self.busy:
            raise DeviceBusyError("busy")
        self.streams.append(stream)
        return stream


def microphone(name: str = "Yeti", rate_hz: int = 48_000, default: bool = True, loopback: bool = False) -> Device:
    return Device(name, rate_hz, 1, "fake", default, loopback, id=name.lower())


def tone(seconds: float, rate_hz: int, hz: float = 440.0, level: float = 0.5) -> Samples:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def packets(pcm: Samples, rate_hz: int, begins_us: int = 0) -> list[Packet]:
    """A voice in pieces of 20 ms."""
    step = rate_hz // 50
    return [
        Packet(pcm[at : at + step], rate_hz, begins_us + at * 1_000_000 // rate_hz) for at in range(0, len(pcm), step)
    ]


def soon(what: Callable[[], object], within_s: float = 5.0) -> None:
    """Wait until something holds."""
    until_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < until_s, "it never came true"
        time.sleep(0.002)
