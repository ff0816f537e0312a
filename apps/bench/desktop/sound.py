"""Sound devices that nobody hears: a PulseAudio of one's own, with microphones and speakers that come and go.

A microphone is a source that repeats what is played into a null sink, as a headset's is what is said into it; a speaker
is a null sink, whose monitor hears it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apps.bench.desktop.children import Children, find_program
from engine.errors import BackendFailedError, ExtraMissingError

START_S = 15.0
_COMMAND_S = 10.0
_FEED = "_feed"
"""What follows a microphone's name in that of its sink."""


class SoundServer:
    """A private PulseAudio. `environment` is for programs that shall use it, and nothing else."""

    def __init__(self, children: Children, folder: Path) -> None:
        """folder: for its socket and files. Raises ExtraMissingError or BackendUnavailableError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket = folder / "native"
        self._modules: dict[str, list[int]] = {}
        self.environment = {
            "PULSE_SERVER": f"unix:{socket}",
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_COOKIE": str(folder / "cookie"),
            "XDG_RUNTIME_DIR": str(folder),
        }
        server = children.start(
            "pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disallow-exit",
            "--high-priority=no", "--log-target=stderr",
            "-L", f"module-native-protocol-unix socket={socket} auth-anonymous=1",
            env={**os.environ, **self.environment, "HOME": str(folder)},
        )  # fmt: skip
        children.wait(server, lambda: True if self._answers() else None, START_S)

    def plug_microphone(self, name: str, rate_hz: int = 48_000, channels: int = 1) -> None:
        """name: a plain word, by which programs know it."""
        sink = f"sink_name={name}{_FEED}"
        self._load(name, "module-null-sink", sink, f"rate={rate_hz}", f"channels={channels}")
        described = f"source_properties=device.description={name}"
        self._load(name, "module-remap-source", f"master={name}{_FEED}.monitor", f"source_name={name}", described)

    def plug_speaker(self, name: str, rate_hz: int = 48_000, channels: int = 2) -> None:
        """The newest one is the default."""
        described = f"sink_properties=device.description={name}"
        self._load(name, "module-null-sink", f"sink_name={name}", f"rate={rate_hz}", f"channels={channels}", described)
        self._pactl("set-default-sink", name)

    def unplug(self, name: str) -> None:
        """Take a device away, whoever uses it."""
        for module in reversed(self._modules.pop(name)):
            self._pactl("unload-module", str(module))

    def suspend(self, name: str, held: bool) -> None:
        """What PulseAudio does to a microphone while a program that is not its own holds it: nobody hears anything."""
        self._pactl("suspend-source", name, str(int(held)))

    def listeners(self) -> int:
        """Streams that record now."""
        return len(self._pactl("list", "short", "source-outputs").splitlines())

    def play(self, name: str, rate_hz: int = 48_000) -> Voice:
        """A way into a microphone."""
        return Voice(self.environment["PULSE_SERVER"], f"{name}{_FEED}", rate_hz)

    def record(self, name: str, rate_hz: int = 48_000) -> Ear:
        """A way to hear what a speaker plays."""
        return Ear(self.environment["PULSE_SERVER"], f"{name}.monitor", rate_hz)

    def _load(self, name: str, module: str, *arguments: str) -> None:
        self._modules.setdefault(name, []).append(int(self._pactl("load-module", module, *arguments)))

    def _answers(self) -> bool:
        try:
            self._pactl("info")
        except subprocess.CalledProcessError:
            return False
        return True

    def _pactl(self, *arguments: str) -> str:
        done = subprocess.run(
            [find_program("pactl"), *arguments],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
        )
        return done.stdout


class _Spec(ctypes.Structure):
    _fields_ = [("format", ctypes.c_int), ("rate", ctypes.c_uint32), ("channels", ctypes.c_uint8)]


class _Buffer(ctypes.Structure):
    """-1 leaves a field to the server."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("longest", "target", "prebuffer", "least", "fragment")]


_FLOAT32LE, _PLAYBACK, _RECORD = 5, 1, 2
_SERVERS_CHOICE = 0xFFFFFFFF
_BUFFER_S = 0.01


class _Stream:
    """One stream of libpulse's simple interface, mono float32, in pieces of 10 ms."""

    def __init__(self, server: str, device: str, rate_hz: int, direction: int) -> None:
        path = ctypes.util.find_library("pulse-simple")
        if path is None:
            raise ExtraMissingError("libpulse-simple is missing; install pulseaudio-utils or libpulse0")
        self.rate_hz, self.step = rate_hz, round(rate_hz * _BUFFER_S)
        self._library = ctypes.CDLL(path)
        self._library.pa_simple_new.restype = ctypes.c_void_p
        self._library.pa_simple_get_latency.restype = ctypes.c_uint64
        size = 4 * self.step
        buffer = _Buffer(_SERVERS_CHOICE, 2 * size, 0, _SERVERS_CHOICE, size)
        fault = ctypes.c_int(0)
        self._handle = ctypes.c_void_p(
            self._library.pa_simple_new(
                server.encode(), b"visavis bench", direction, device.encode(), b"probe",
                ctypes.byref(_Spec(_FLOAT32LE, rate_hz, 1)), None, ctypes.byref(buffer), ctypes.byref(fault),
            )
        )  # fmt: skip
        if not self._handle:
            raise BackendFailedError(f"PulseAudio opens no stream for {device} (code {fault.value})")

    def close(self) -> None:
        """Idempotent."""
        handle, self._handle = self._handle, ctypes.c_void_p(None)
        if handle:
            self._library.pa_simple_free(handle)

    def latency_us(self) -> int:
        """How long until what is written next sounds, or since what was read last did."""
        return int(self._library.pa_simple_get_latency(self._handle, None))

    def _move(self, call: str, data: NDArray[np.float32]) -> None:
        function = getattr(self._library, call)
        fault = ctypes.c_int(0)
        pointer = ctypes.c_void_p(data.ctypes.data)
        if function(self._handle, pointer, ctypes.c_size_t(data.nbytes), ctypes.byref(fault)) < 0:
            raise BackendFailedError(f"PulseAudio gave a stream up (code {fault.value})")


class Voice(_Stream):
    """Plays into a microphone. `write` returns when there is room, so its caller is paced by the device."""

    def __init__(self, server: str, device: str, rate_hz: int) -> None:
        super().__init__(server, device, rate_hz, _PLAYBACK)

    def write(self, samples: NDArray[np.float32]) -> None:
        """float32 [N], mono."""
        self._move("pa_simple_write", np.ascontiguousarray(samples, np.float32))


class Ear(_Stream):
    """Hears a speaker."""

    def __init__(self, server: str, device: str, rate_hz: int) -> None:
        super().__init__(server, device, rate_hz, _RECORD)

    def read(self) -> NDArray[np.float32]:
        """The next 10 ms, float32 [N]."""
        data = np.zeros(self.step, np.float32)
        self._move("pa_simple_read", data)
        return data
