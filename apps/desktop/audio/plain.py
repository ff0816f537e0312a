"""PortAudio's own devices: Windows, macOS, and Linux without a sound server.

To see what was plugged in since, PortAudio must be started anew, which would end every stream. So the table is read by
another process, `python -m apps.desktop.audio.plain`, and this one starts PortAudio anew only to open what is new.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict

from apps.desktop.audio.errors import NoSuchDeviceError, SoundLibraryMissingError
from apps.desktop.audio.host import Device, Fill, Stream, Take
from apps.desktop.audio.portaudio import Entry, Library, open_library
from apps.desktop.audio.streams import Desk

_LOOK_S = 10.0
_FRESH_S = 2.0
"""For so long a look counts for whoever asks next."""

_BEST_HOSTS = ("Windows WASAPI", "Core Audio", "ALSA")
"""Windows shows each device once for each of its four interfaces; this one has full names and is the fastest."""

_ALSA_ALIASES = ("default", "sysdefault", "pipewire", "pulse", "jack")


class PlainHost:
    """Devices by PortAudio's names."""

    name = "PortAudio"

    def __init__(self, library: Library) -> None:
        self._desk = Desk(library)
        self._looking = threading.Lock()
        self._seen = library.entries()
        self._seen_s = time.monotonic()

    def inputs(self) -> list[Device]:
        return _inputs(self._look())

    def outputs(self) -> list[Device]:
        return _outputs(self._look())

    def record(self, device: Device, take: Take) -> Stream:
        with self._desk.lock:
            entry = self._entry(device, recording=True)
            return self._desk.record(entry, device.rate_hz, [min(entry.inputs, 2), entry.inputs, 1], take)

    def play(self, device: Device, fill: Fill) -> Stream:
        with self._desk.lock:
            entry = self._entry(device, recording=False)
            return self._desk.play(entry, device.rate_hz, [min(entry.outputs, 2), entry.outputs, 1], fill)

    def _entry(self, device: Device, recording: bool) -> Entry:
        """Raises NoSuchDeviceError."""
        for again in (True, False):
            for entry in self._desk.library.entries():
                if (entry.name, entry.host) == (device.id, device.host) and (
                    entry.inputs if recording else entry.outputs
                ):
                    return entry
            if again:
                self._desk.restart()
        raise NoSuchDeviceError(f"“{device.name}” is no longer there; plug it in, or choose another device")

    def _look(self) -> list[Entry]:
        with self._looking:
            if time.monotonic() - self._seen_s > _FRESH_S:
                self._seen = _look_elsewhere() or self._seen
                self._seen_s = time.monotonic()
            return self._seen


def _inputs(entries: Sequence[Entry]) -> list[Device]:
    return [
        Device(entry.name, entry.rate_hz, entry.inputs, entry.host, entry.default_input, entry.loopback, entry.name)
        for entry in _worth_showing(entries)
        if entry.inputs
    ]


def _outputs(entries: Sequence[Entry]) -> list[Device]:
    return [
        Device(entry.name, entry.rate_hz, entry.outputs, entry.host, entry.default_output, False, entry.name)
        for entry in _worth_showing(entries)
        if entry.outputs
    ]


def _worth_showing(entries: Sequence[Entry]) -> list[Entry]:
    """One interface's, and of ALSA's names those that are hardware or somebody's choice."""
    there = {entry.host for entry in entries}
    host = next((name for name in _BEST_HOSTS if name in there), None)
    mine = [entry for entry in entries if host is None or entry.host == host]
    if host == "ALSA":
        return [entry for entry in mine if "hw:" in entry.name or entry.name in _ALSA_ALIASES]
    if not any(entry.default_input for entry in mine):
        return _with_defaults(mine)
    return mine


def _with_defaults(entries: Sequence[Entry]) -> list[Entry]:
    """PortAudio's default may be one of another interface; then the first of each kind stands for it."""
    first_in = next((entry.index for entry in entries if entry.inputs and not entry.loopback), -1)
    first_out = next((entry.index for entry in entries if entry.outputs), -1)
    fields = [
        asdict(entry) | {"default_input": entry.index == first_in, "default_output": entry.index == first_out}
        for entry in entries
    ]
    return [Entry(**one) for one in fields]


def _look_elsewhere() -> list[Entry]:
    """What a fresh PortAudio sees; empty when that could not be found out."""
    # Windows would open a terminal for a moment.
    quiet = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__],
            capture_output=True,
            timeout=_LOOK_S,
            check=True,
            creationflags=quiet,
        )
        return [Entry(**one) for one in json.loads(done.stdout.splitlines()[-1])]
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, IndexError):
        return []


def main() -> int:
    """Write PortAudio's table as JSON."""
    try:
        entries = open_library().entries()
    except SoundLibraryMissingError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps([asdict(entry) for entry in entries]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
