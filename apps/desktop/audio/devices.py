"""Which microphones and speakers there are, choosing one by name, and noticing when one comes or goes."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Sequence

from apps.desktop.audio import pulse
from apps.desktop.audio.errors import NoSuchDeviceError, SoundDeviceError, SoundLibraryMissingError
from apps.desktop.audio.host import Device, Host
from apps.desktop.audio.plain import PlainHost
from apps.desktop.audio.portaudio import open_library

__all__ = ["Device", "DeviceWatch", "choose", "list_inputs", "list_outputs", "microphones", "sound_host"]

_LOG = logging.getLogger(__name__)

_LOOK_S = 2.0
_opening = threading.Lock()
_opened: list[Host] = []


def sound_host() -> Host:
    """The machine's sound, opened once for the whole process. Raises SoundLibraryMissingError."""
    with _opening:
        if not _opened:
            _opened.append(_open_host())
        return _opened[0]


def list_inputs() -> list[Device]:
    """Microphones and loopbacks that are plugged in. Raises SoundLibraryMissingError."""
    return sound_host().inputs()


def list_outputs() -> list[Device]:
    """Speakers that are plugged in. Raises SoundLibraryMissingError."""
    return sound_host().outputs()


def microphones(devices: Iterable[Device]) -> list[Device]:
    """Inputs that hear the room, not the machine."""
    return [device for device in devices if not device.is_loopback]


def choose(devices: Sequence[Device], name: str | None, kind: str = "microphone") -> Device:
    """The device of that name: exactly, or the host's own name for it, or by a part of it in any case; the default one
    for None, or the first. Devices that hear what the machine plays are taken only when named.

    Raises NoSuchDeviceError, which lists what there is.
    """
    if name is None:
        candidates = microphones(devices)
        if not candidates:
            raise NoSuchDeviceError(f"there is no {kind}; plug one in")
        return next((device for device in candidates if device.is_default), candidates[0])
    part = name.casefold()
    exact = [device for device in devices if name in (device.name, device.id)]
    # Of "Yeti" and "Monitor of Yeti" the first is meant.
    near = sorted((d for d in devices if part in d.name.casefold()), key=lambda d: d.is_loopback)
    if not exact and not near:
        there = ", ".join(f"“{device.name}”" for device in devices) or "none"
        raise NoSuchDeviceError(f"there is no {kind} “{name}”; there is: {there}")
    return (exact or near)[0]


class DeviceWatch:
    """Looks every two seconds, in a thread of its own, for devices that came or went."""

    def __init__(
        self,
        changed: Callable[[list[str], list[str]], None],
        host: Host | None = None,
        every_s: float = _LOOK_S,
    ) -> None:
        """changed: called in the watch's thread with the names that came and those that went, of inputs and outputs
        alike. host: the machine's own when None; then what is not installed is logged, and nothing is watched.
        """
        self._changed, self._host, self._every_s = changed, host, every_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="visavis-devices", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Idempotent. A look that is under way is not waited for."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            host = self._host or sound_host()
        except (SoundDeviceError, SoundLibraryMissingError) as error:
            _LOG.info("devices are not watched: %s", error)
            return
        before = _names(host)
        while not self._stopping.wait(self._every_s):
            now = _names(host)
            came, went = sorted(now - before), sorted(before - now)
            before = now
            if came or went:
                self._changed(came, went)


def _names(host: Host) -> set[str]:
    return {device.name for device in [*host.inputs(), *host.outputs()]}


def _open_host() -> Host:
    library = open_library()
    if sys.platform.startswith("linux") and pulse.is_running():
        try:
            return pulse.PulseHost(library)
        except NoSuchDeviceError as error:
            _LOG.warning("the sound server cannot be reached: %s", error)
    return PlainHost(library)
