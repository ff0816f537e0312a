"""Devices of PulseAudio, or of PipeWire, which speaks its protocol.

PortAudio as Linux distributions ship it knows neither: it sees one ALSA device `pulse`, whatever is plugged in. So the
devices are asked of `pactl`, and the ALSA device is sent to one of them by PULSE_SOURCE and PULSE_SINK, which libpulse
reads when it connects (pulseaudio(1), "ENVIRONMENT VARIABLES" of its clients).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from apps.desktop.audio.errors import NoSuchDeviceError
from apps.desktop.audio.host import Device, Fill, Stream, Take
from apps.desktop.audio.portaudio import Entry, Library
from apps.desktop.audio.streams import Desk
from engine.types import SAMPLE_RATE_HZ

NAME = "PulseAudio"
_ANSWER_S = 2.0
_ALSA_NAME = "pulse"
_UNPLUGGED = "not available"
"""What a port says whose socket holds no plug."""


def is_running() -> bool:
    """Whether a sound server answers."""
    return shutil.which("pactl") is not None and _ask("info") is not None


class PulseHost:
    """All that the sound server has, through PortAudio. Streams are mono and of the model's rate: the server converts,
    in less time than a filter of ours takes to fill.
    """

    name = NAME

    def __init__(self, library: Library) -> None:
        """Raises NoSuchDeviceError where PortAudio cannot reach the server: ALSA's plugin for it is absent."""
        self._desk = Desk(library)
        self._entry()

    def inputs(self) -> list[Device]:
        return _devices("source")

    def outputs(self) -> list[Device]:
        return _devices("sink")

    def record(self, device: Device, take: Take) -> Stream:
        with self._desk.lock, _sent_to("PULSE_SOURCE", device.id):
            return self._desk.record(self._entry(), SAMPLE_RATE_HZ, [1], take)

    def play(self, device: Device, fill: Fill) -> Stream:
        with self._desk.lock, _sent_to("PULSE_SINK", device.id):
            return self._desk.play(self._entry(), SAMPLE_RATE_HZ, [1], fill)

    def _entry(self) -> Entry:
        with self._desk.lock:
            for _ in range(2):
                for entry in self._desk.library.entries():
                    if entry.name == _ALSA_NAME:
                        return entry
                # The server was not there when PortAudio looked.
                self._desk.restart()
        raise NoSuchDeviceError("ALSA has no way to the sound server; install it: apt install libasound2-plugins")


def _devices(kind: str) -> list[Device]:
    info, found = _ask("info"), _ask("list", f"{kind}s")
    if not isinstance(info, dict) or not isinstance(found, list):
        return []
    default = str(info.get(f"default_{kind}_name", ""))
    plugged = [one for one in found if isinstance(one, dict) and _is_plugged(one)]
    named = Counter(str(one.get("description")) for one in plugged)
    return [_device(one, default, alone=named[str(one.get("description"))] == 1) for one in plugged]


def _device(one: Mapping[str, Any], default: str, alone: bool) -> Device:
    pulse_name = str(one["name"])
    channels, rate_hz = _format(str(one.get("sample_specification", "")))
    # A monitor that the server takes as its default, for lack of microphones, is still none.
    is_loopback = bool(one.get("monitor_source")) and pulse_name.endswith(".monitor")
    return Device(
        name=str(one["description"]) if alone else f"{one['description']} ({pulse_name})",
        rate_hz=rate_hz,
        channels=channels,
        host=NAME,
        is_default=pulse_name == default and not is_loopback,
        is_loopback=is_loopback,
        id=pulse_name,
    )


def _format(specification: str) -> tuple[int, int]:
    """Channels and rate of, say, `s16le 2ch 48000Hz`."""
    parts = specification.split()
    if len(parts) != 3 or not parts[1].endswith("ch") or not parts[2].endswith("Hz"):
        return 2, 48_000
    return int(parts[1].removesuffix("ch")), int(parts[2].removesuffix("Hz"))


def _is_plugged(one: Mapping[str, Any]) -> bool:
    """Whether any port of a device can carry sound; devices without ports can."""
    ports: Sequence[Any] = one.get("ports") or []
    return not ports or any(isinstance(port, dict) and port.get("availability") != _UNPLUGGED for port in ports)


def _ask(*question: str) -> Any:
    """What `pactl` answers, None when there is no server."""
    try:
        done = subprocess.run(
            ["pactl", "--format=json", *question],
            capture_output=True,
            timeout=_ANSWER_S,
            check=True,
            # In some languages it writes decimal commas, which are no JSON.
            env={**os.environ, "LC_ALL": "C"},
        )
        return json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


@contextmanager
def _sent_to(variable: str, name: str) -> Iterator[None]:
    before = os.environ.get(variable)
    os.environ[variable] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
