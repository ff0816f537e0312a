"""What the machine plays, as a source: a call, a player, a chatbot without a protocol.

PulseAudio and PipeWire give each speaker a monitor. Windows can, where PyAudioWPatch is installed. macOS needs a
virtual device, such as BlackHole, which is then chosen as a microphone.
"""

from __future__ import annotations

import sys

from apps.desktop.audio.devices import sound_host
from apps.desktop.audio.errors import LoopbackError
from apps.desktop.audio.host import Device, Host
from apps.desktop.audio.keeper import Patience
from apps.desktop.audio.microphone import Microphone

_WAYS = {
    "win32": "install what can: pip install PyAudioWPatch",
    "darwin": "install a virtual device such as BlackHole, send the sound there, and choose it as the microphone",
    "linux": "a sound server can (PulseAudio or PipeWire), with its tools: apt install pulseaudio-utils",
}


def loopbacks(host: Host | None = None) -> list[Device]:
    """What hears the machine. Raises LoopbackError, or SoundLibraryMissingError."""
    found = [device for device in (host or sound_host()).inputs() if device.is_loopback]
    if not found:
        way = _WAYS.get(sys.platform, "choose a device that can as the microphone")
        raise LoopbackError(f"what this machine plays cannot be heard; {way}")
    return found


class Loopback(Microphone):
    """A loopback device as a microphone is one."""

    def __init__(
        self, device_name: str | None = None, host: Host | None = None, patience: Patience | None = None
    ) -> None:
        """device_name: a loopback's, or a part of it; that of the default speaker when None. Raises LoopbackError."""
        super().__init__(device_name or _default(host).name, host, patience)


def _default(host: Host | None) -> Device:
    found = loopbacks(host)
    speaker = next((device.id for device in (host or sound_host()).outputs() if device.is_default), "")
    return next((device for device in found if speaker and device.id.startswith(speaker)), found[0])
