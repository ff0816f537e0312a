"""Keeps a device open: finds it by name, notices when it is lost, says so once, and opens it again when it is back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from apps.desktop.audio.devices import choose, sound_host
from apps.desktop.audio.errors import DeviceBusyError, NoSuchDeviceError, SoundDeviceError, SoundLibraryMissingError
from apps.desktop.audio.host import Device, Host, Stream
from apps.desktop.audio.source import Tell, clock_us
from apps.desktop.notice import Level, Notice

_LOG = logging.getLogger(__name__)

_STOP_S = 2.0
_MISSING_LOOKS = 2
"""Looks in which a device must be absent: a sound server that is slow to answer once has lost nothing."""

_NOTHING_CAME = "nothing ever came"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. first_s: until a stream's first callback; an idle null sink of PulseAudio takes two. silent_s: without a
    callback, from then on. look_s: between looks at what is plugged in. again_s: after a look that missed the device.
    retry_s: between attempts to open.
    """

    step_s: float = 0.1
    first_s: float = 5.0
    silent_s: float = 1.0
    look_s: float = 1.5
    again_s: float = 0.3
    retry_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Ways:
    """What differs between microphone and speaker. kind: its name in sentences and codes. consequence: what its user
    has to do without meanwhile.
    """

    kind: str
    consequence: str
    devices: Callable[[Host], list[Device]]
    open: Callable[[Host, Device], Stream]


class Keeper:
    """Works in a thread of its own. `beat` is to be called with each callback of the stream."""

    def __init__(
        self, ways: Ways, name: str | None, host: Host | None = None, patience: Patience | None = None
    ) -> None:
        """name: of the device, see `choose`; None for the default one, also when that changes."""
        self._ways, self._name, self._given_host = ways, name, host
        self._patience = patience or Patience()
        self._tell: Tell = _nobody
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.stream: Stream | None = None
        self.device: Device | None = None
        self._opened_us = self._beat_us = self._looked_us = self._tried_us = 0
        self._missing = 0
        self._trouble = ""
        """Code of the notice that stands."""

    def start(self, tell: Tell) -> None:
        if self._thread is None:
            self._tell = tell
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name=f"visavis-{self._ways.kind}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Close the device. Idempotent; a driver that hangs is left behind."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread is not None:
            thread.join(_STOP_S)

    def beat(self) -> None:
        self._beat_us = clock_us()

    def _run(self) -> None:
        self._try_open()
        while not self._stopping.wait(self._patience.step_s):
            if self.stream is None:
                if _passed(self._tried_us, self._patience.retry_s):
                    self._try_open()
            elif (why := self._lost()) is not None:
                _LOG.info("the %s is lost: %s", self._ways.kind, why)
                if why == _NOTHING_CAME:
                    self._complain_of_silence()
                self._drop()
                self._try_open(lost=True)
            elif self._trouble and self._beat_us:
                self._recovered()
        self._drop()

    def _try_open(self, lost: bool = False) -> None:
        try:
            host = self._given_host or sound_host()
            device = choose(self._ways.devices(host), self._name, self._ways.kind)
            self.device = device
            self._opened_us, self._beat_us, self._missing = clock_us(), 0, 0
            self.stream = self._ways.open(host, device)
        except (SoundDeviceError, SoundLibraryMissingError) as error:
            self._complain(error, lost)
        else:
            self._looked_us = clock_us()
        self._tried_us = clock_us()

    def _lost(self) -> str | None:
        """Why the stream is of no use any more."""
        assert self.stream is not None
        if not self.stream.alive:
            return "the stream ended"
        if not self._beat_us:
            return _NOTHING_CAME if _passed(self._opened_us, self._patience.first_s) else None
        if _passed(self._beat_us, self._patience.silent_s):
            return "it fell silent"
        if _passed(self._looked_us, self._patience.again_s if self._missing else self._patience.look_s):
            return self._look()
        return None

    def _look(self) -> str | None:
        """A sound server moves streams of a device that is gone to another one, and says nothing."""
        assert self.device is not None
        self._looked_us = clock_us()
        try:
            wanted = choose(self._ways.devices(self._given_host or sound_host()), self._name, self._ways.kind)
        except SoundDeviceError:
            wanted = None
        self._missing = 0 if wanted is not None and wanted.id == self.device.id else self._missing + 1
        return "another one stands for it now" if self._missing >= _MISSING_LOOKS else None

    def _drop(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.close()

    def _complain(self, error: SoundDeviceError | SoundLibraryMissingError, lost: bool) -> None:
        kind, name = self._ways.kind, self._name or (self.device.name if self.device else "")
        called = f"The {kind} “{name}”" if name else f"The {kind}"
        level: Level = "warning"
        if isinstance(error, SoundLibraryMissingError):
            code, text, level = error.code, f"There is no sound: {error}", "error"
        elif isinstance(error, DeviceBusyError):
            code, text = f"{kind}_busy", f"{called} is used by another program. Close it there; {self._again()}"
        elif isinstance(error, NoSuchDeviceError) and (lost or self._trouble == f"{kind}_lost"):
            code, text = f"{kind}_lost", f"{called} is gone. Plug it in again, or choose another one; {self._again()}"
        elif isinstance(error, NoSuchDeviceError) and not name:
            code, text = f"no_{kind}", f"There is no {kind}. Plug one in; {self._again()}"
        elif isinstance(error, NoSuchDeviceError):
            code, text = f"no_{kind}", f"{called} is not there. Plug it in, or choose another one; {self._again()}"
        else:
            code, text = f"{kind}_failed", f"{called} does not open: {error}. {self._again().capitalize()}"
        if code != self._trouble:
            self._trouble = code
            self._tell(Notice(code, text, level))

    def _complain_of_silence(self) -> None:
        """It opens, and nothing comes: so a sound server treats what a program that is not its own has taken."""
        kind, name = self._ways.kind, self.device.name if self.device else ""
        code = f"{kind}_busy"
        if code != self._trouble:
            self._trouble = code
            text = f"The {kind} “{name}” gives no sound. Close the program that holds it, or choose another one"
            self._tell(Notice(code, f"{text}; {self._again()}", "warning"))

    def _again(self) -> str:
        return f"it goes on by itself then. {self._ways.consequence}"

    def _recovered(self) -> None:
        """Not before the first callback: what was opened may still be silent."""
        self._trouble = ""
        kind, name = self._ways.kind, self.device.name if self.device else ""
        self._tell(Notice(f"{kind}_back", f"The {kind} “{name}” works.", "info"))


def _passed(since_us: int, seconds: float) -> bool:
    return clock_us() - since_us > seconds * 1e6


def _nobody(notice: Notice) -> None:
    """Whom a keeper tells that has not started."""
