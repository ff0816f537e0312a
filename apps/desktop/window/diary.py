"""Once a second, one line of JSON about how it goes: for bug reports, and for measuring from outside."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PySide6.QtCore import QTimer

from apps.desktop.window.actions import Actions
from apps.desktop.window.main import MainWindow
from engine.errors import OutputNotWritableError

_EVERY_MS = 1000


class Diary:
    """Writes what it can; a disk that is full costs the diary, not the conversation."""

    def __init__(self, path: Path, actions: Actions, window: MainWindow) -> None:
        """Raises OutputNotWritableError."""
        self._actions, self._window = actions, window
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputNotWritableError(f"{path} cannot be written: {error}") from error
        self._timer = QTimer(window, interval=_EVERY_MS)
        self._timer.timeout.connect(self._write)
        self._timer.start()

    def close(self) -> None:
        self._timer.stop()
        try:
            self._file.close()
        except OSError:
            pass  # What was not written is lost already.

    def line(self) -> dict[str, Any]:
        """Milliseconds, megabytes, dB; picture: left, top, width, height in the screen's own pixels."""
        desk, area = self._actions.desk, self._window.picture_on_screen()
        stats = {
            name: value if not isinstance(value, float) or math.isfinite(value) else None
            for name, value in asdict(desk.stage.stats()).items()
        }
        return {
            "moment_s": time.monotonic(),
            "phase": self._actions.phase,
            "picture": [area.x(), area.y(), area.width(), area.height()],
            "painted": self._window.face.painted,
            "sheet": self._window.sheet is not None,
            "overtaken": self._actions.bridge.overtaken,
            "level_db": round(desk.ears.level_db, 1),
            "mic_state": desk.ears.state,
            "microphone": desk.ears.device_state,
            "aloud": desk.settings.hear_aloud,
            "memory_mb": memory_mb(),
            **stats,
        }

    def _write(self) -> None:
        try:
            self._file.write(json.dumps(self.line()) + "\n")
            self._file.flush()
        except OSError:
            self._timer.stop()


def memory_mb() -> float | None:
    """Of this process, resident; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
