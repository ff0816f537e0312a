"""PortAudio behind one thin protocol, through either of two Python packages.

PyAudio is taken when it can be imported. It has wheels for Windows and macOS; on Linux it is compiled, against
`portaudio19-dev`, and so it is an extra of its own: `visavis[pyaudio]`. `sounddevice`, of the extra `desktop`, has a
wheel everywhere, which brings PortAudio on Windows and macOS and wants `libportaudio2` on Linux. On Windows
PyAudioWPatch, a build of PyAudio that can record what is played, goes before both.

PortAudio learns what is plugged in when it starts, and only then; see `restart`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeAlias

from apps.desktop.audio.errors import DeviceBusyError, NoSuchDeviceError, SoundDeviceError, SoundLibraryMissingError
from apps.desktop.audio.source import PACKET_MS

RawTake: TypeAlias = Callable[[bytes, float], None]
"""Called with interleaved float32 samples and how many seconds ago the first of them was captured."""

RawFill: TypeAlias = Callable[[int, float], bytes]
"""Called with a number of frames, and in how many seconds the first will sound; gives interleaved float32 samples."""

_BUSY, _NO_DEVICE = (-9985,), (-9996, -9984)
"""PortAudio's paDeviceUnavailable; paInvalidDevice and paIncompatibleHostApiSpecificStreamInfo."""

_ALSA_S = 0.06
"""ALSA's buffer: three blocks. PortAudio takes two by itself, and a busy machine then loses one now and then; what is
recorded comes no later for it.
"""

_LONGEST_S = 2.0
"""Times beyond it are what a driver says that does not know."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A device in PortAudio's table. inputs, outputs: channels. host: the name of its interface, as `ALSA`."""

    index: int
    name: str
    host: str
    inputs: int
    outputs: int
    rate_hz: int
    default_input: bool
    default_output: bool
    loopback: bool = False


class Running(Protocol):
    """An open stream."""

    @property
    def latency_us(self) -> int: ...

    @property
    def active(self) -> bool: ...

    def close(self) -> None: ...


class Library(Protocol):
    """A Python package on PortAudio. Not to be called by two threads at once."""

    name: str

    def entries(self) -> list[Entry]:
        """What was plugged in when the library started."""
        ...

    def record(self, index: int, rate_hz: int, channels: int, take: RawTake) -> Running:
        """Raises SoundDeviceError."""
        ...

    def play(self, index: int, rate_hz: int, channels: int, fill: RawFill) -> Running:
        """Raises SoundDeviceError."""
        ...

    def restart(self) -> None:
        """Look for devices anew. Every stream must be closed before."""
        ...


def open_library() -> Library:
    """PyAudio when there, else sounddevice. Raises SoundLibraryMissingError."""
    for name, library in (("pyaudiowpatch", PyAudioLibrary), ("pyaudio", PyAudioLibrary)):
        try:
            return library(import_module(name))
        except ImportError:
            continue
        except OSError as error:
            raise SoundLibraryMissingError(f"PortAudio cannot be started: {error}") from error
    try:
        return SoundDeviceLibrary(import_module("sounddevice"))
    except ImportError as error:
        raise SoundLibraryMissingError("sound needs: pip install 'visavis[desktop]'") from error
    except OSError as error:
        way = "; install it: apt install libportaudio2" if sys.platform == "linux" else ""
        raise SoundLibraryMissingError(f"PortAudio is not there ({error}){way}") from error


class PyAudioLibrary:
    """PyAudio, and PyAudioWPatch, which has the same names."""

    def __init__(self, module: Any) -> None:
        self.name = module.__name__
        self._module = module
        self._pa = self._begin()

    def entries(self) -> list[Entry]:
        first_in, first_out = self._default("input"), self._default("output")
        found = []
        for index in range(self._pa.get_device_count()):
            info = self._pa.get_device_info_by_index(index)
            host = self._pa.get_host_api_info_by_index(info["hostApi"])["name"]
            found.append(
                Entry(
                    index,
                    info["name"],
                    host,
                    info["maxInputChannels"],
                    info["maxOutputChannels"],
                    round(info["defaultSampleRate"]),
                    index == first_in,
                    index == first_out,
                    bool(info.get("isLoopbackDevice")),
                )
            )
        return found

    def record(self, index: int, rate_hz: int, channels: int, take: RawTake) -> Running:
        block_s = PACKET_MS / 1000

        def hear(data: bytes, frames: int, times: dict[str, float], status: int) -> tuple[None, int]:
            age_s = times["current_time"] - times["input_buffer_adc_time"]
            take(data, _sensible(age_s, block_s))
            return None, self._module.paContinue

        return self._open(hear, rate_hz, channels, input=True, input_device_index=index)

    def play(self, index: int, rate_hz: int, channels: int, fill: RawFill) -> Running:
        def sound(data: None, frames: int, times: dict[str, float], status: int) -> tuple[bytes, int]:
            ahead_s = times["output_buffer_dac_time"] - times["current_time"]
            return fill(frames, _sensible(ahead_s, 0.0)), self._module.paContinue

        return self._open(sound, rate_hz, channels, output=True, output_device_index=index)

    def restart(self) -> None:
        self._pa.terminate()
        self._pa = self._begin()

    def _begin(self) -> Any:
        with _hushed():
            return self._module.PyAudio()

    def _default(self, kind: str) -> int:
        try:
            return int(getattr(self._pa, f"get_default_{kind}_device_info")()["index"])
        except OSError:
            return -1

    def _open(self, callback: Callable[..., Any], rate_hz: int, channels: int, **way: Any) -> Running:
        try:
            stream = self._pa.open(
                rate=rate_hz,
                channels=channels,
                format=self._module.paFloat32,
                frames_per_buffer=rate_hz * PACKET_MS // 1000,
                stream_callback=callback,
                **way,
            )
        except (OSError, ValueError) as error:
            raise _refusal(error.args[0] if error.args else 0, str(error.args[-1])) from error
        return _PyAudioStream(stream, recording="input" in way)


class _PyAudioStream:
    def __init__(self, stream: Any, recording: bool) -> None:
        self._stream, self._closed = stream, False
        seconds = stream.get_input_latency() if recording else stream.get_output_latency()
        self.latency_us = round(_sensible(seconds, 0.0) * 1e6)

    @property
    def active(self) -> bool:
        try:
            return not self._closed and bool(self._stream.is_active())
        except OSError:
            return False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stream.close()


class SoundDeviceLibrary:
    """The package `sounddevice`, by its raw streams."""

    def __init__(self, module: Any) -> None:
        self.name = "sounddevice"
        self._sd = module

    def entries(self) -> list[Entry]:
        hosts = self._sd.query_hostapis()
        first_in, first_out = (int(index) for index in self._sd.default.device)
        return [
            Entry(
                info["index"],
                info["name"],
                hosts[info["hostapi"]]["name"],
                info["max_input_channels"],
                info["max_output_channels"],
                round(info["default_samplerate"]),
                info["index"] == (first_in if first_in >= 0 else hosts[0]["default_input_device"]),
                info["index"] == (first_out if first_out >= 0 else hosts[0]["default_output_device"]),
            )
            for info in self._sd.query_devices()
        ]

    def record(self, index: int, rate_hz: int, channels: int, take: RawTake) -> Running:
        block_s = PACKET_MS / 1000

        def hear(data: Any, frames: int, times: Any, status: Any) -> None:
            take(bytes(data), _sensible(times.currentTime - times.inputBufferAdcTime, block_s))

        return self._open(self._sd.RawInputStream, hear, index, rate_hz, channels)

    def play(self, index: int, rate_hz: int, channels: int, fill: RawFill) -> Running:
        def sound(data: Any, frames: int, times: Any, status: Any) -> None:
            data[:] = fill(frames, _sensible(times.outputBufferDacTime - times.currentTime, 0.0))

        return self._open(self._sd.RawOutputStream, sound, index, rate_hz, channels)

    def restart(self) -> None:
        # The package has no other way; its documentation names these two for this very purpose.
        self._sd._terminate()
        self._sd._initialize()

    def _open(self, kind: Any, callback: Callable[..., None], index: int, rate_hz: int, channels: int) -> Running:
        try:
            stream = kind(
                samplerate=rate_hz,
                blocksize=rate_hz * PACKET_MS // 1000,
                device=index,
                channels=channels,
                dtype="float32",
                latency=_ALSA_S if sys.platform.startswith("linux") else "low",
                callback=callback,
            )
            stream.start()
        except self._sd.PortAudioError as error:
            raise _refusal(error.args[1] if len(error.args) > 1 else 0, str(error.args[0])) from error
        except ValueError as error:
            raise NoSuchDeviceError(str(error)) from error
        return _SoundDeviceStream(stream)


class _SoundDeviceStream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.latency_us = round(_sensible(float(stream.latency), 0.0) * 1e6)

    @property
    def active(self) -> bool:
        return bool(self._stream.active)

    def close(self) -> None:
        self._stream.close(ignore_errors=True)


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what ALSA and JACK write to the terminal for all that is not there; `sounddevice` does the same."""
    if not sys.platform.startswith("linux"):
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _sensible(seconds: float, least_s: float) -> float:
    """A time that a driver tells; `least_s` where it cannot be."""
    return max(least_s, seconds) if 0 <= seconds <= _LONGEST_S else least_s


def _refusal(code: object, text: str) -> SoundDeviceError:
    if code in _BUSY:
        return DeviceBusyError("another program uses the device; close it there")
    if code in _NO_DEVICE:
        return NoSuchDeviceError("the device is no longer there; plug it in, or choose another one")
    return SoundDeviceError(f"the device cannot be opened ({text}); try another one")
