"""A desk to sit at: a screen, sound devices, and the app before them, all made for one measurement and gone after it.

with Desk() as desk:
    desk.sound.plug_microphone("headset")
    app = desk.open("--mic", "headset").ready()
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from apps.bench.desktop.app import App
from apps.bench.desktop.children import Children
from apps.bench.desktop.screen import Screen
from apps.bench.desktop.sound import SoundServer
from engine.errors import ExtraMissingError

PROGRAMS = ("Xvfb", "openbox", "xdotool", "hsetroot", "pulseaudio", "pactl")
PACKAGES = ("PySide6", "sounddevice")
_SETTLE_S = 0.3
"""A window manager says nothing when it is ready."""


class Desk:
    """No window of the user, no sound device and no setting is touched: everything lies in a folder of its own."""

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        self._size = width, height
        self._stack = ExitStack()

    def __enter__(self) -> Desk:
        """Raises ExtraMissingError or BackendUnavailableError."""
        require()
        with self._stack as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="visavis-desk-")))
            self.children = stack.enter_context(Children(self.folder))
            self.screen = Screen(self.children, self.folder, *self._size)
            self.screen.manage()
            self.sound = SoundServer(self.children, self.folder / "sound")
            time.sleep(_SETTLE_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def open(self, *arguments: str, **environment: str) -> App:
        """Start the app; arguments of `visavis live`, and variables beside those of the desk."""
        settings = self.folder / "settings"
        settings.mkdir(exist_ok=True)
        known = {**self.screen.environment, **self.sound.environment, **environment}
        return App(self.children, settings, known, *arguments)


def missing() -> list[str]:
    """What this machine lacks for a desk; empty when nothing is."""
    if not sys.platform.startswith("linux"):
        return [f"Linux, not {sys.platform}"]
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    return programs + [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def require() -> None:
    """Raises ExtraMissingError."""
    if lacking := missing():
        raise ExtraMissingError(
            f"a desk to measure at needs {', '.join(lacking)}. On Debian: apt-get install xvfb openbox xdotool "
            "hsetroot pulseaudio libportaudio2, and pip install 'visavis[desktop]'"
        )
