"""The app itself, as its user starts it: a process of its own, watched through the figures that it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from apps.bench.desktop.children import Children
from apps.bench.desktop.screen import Box
from engine.supervisor import resident_bytes

START_S = 60.0
CLOSE_S = 2.0
"""What closing may take, in any state."""


class App:
    """`visavis live` with settings of its own in `folder`."""

    program = ("-m", "apps.cli", "live")

    def __init__(self, children: Children, folder: Path, env: Mapping[str, str], *arguments: str) -> None:
        """env: of the screen and the sound server. arguments: more of `visavis live`."""
        self._children, self._stats = children, folder / "stats.jsonl"
        self._stats.unlink(missing_ok=True)
        command = [*self.program, "--stats", str(self._stats), *arguments]
        before = [path] if (path := os.environ.get("PYTHONPATH")) else []
        paths = os.pathsep.join([*before, str(_root()), str(_root() / "apps" / "api")])
        self.process: subprocess.Popen[bytes] = children.start(
            sys.executable, *command, env={**os.environ, **env, "VISAVIS_CONFIG": str(folder), "PYTHONPATH": paths}
        )

    def ready(self, patience_s: float = START_S) -> App:
        """Once it shows the person. Raises BackendUnavailableError with what it wrote."""
        self.until(lambda stats: stats["phase"] == "ready" and stats["picture"] is not None, patience_s)
        return self

    def until(self, holds: Callable[[dict[str, Any]], bool], patience_s: float) -> dict[str, Any]:
        """The first report for which something holds. Raises BackendUnavailableError."""

        def look() -> dict[str, Any] | None:
            stats = self.stats()
            return stats if stats is not None and holds(stats) else None

        return self._children.wait(self.process, look, patience_s)

    def fresh(self, patience_s: float = 20.0) -> dict[str, Any]:
        """The next report that the app writes from now on."""
        now_s = time.monotonic()
        return self.until(lambda stats: bool(stats["moment_s"] > now_s), patience_s)

    def stats(self) -> dict[str, Any] | None:
        """The newest whole line that it wrote; None before the first."""
        try:
            lines = self._stats.read_bytes().split(b"\n")[:-1]
        except OSError:
            return None
        return json.loads(lines[-1]) if lines else None

    def history(self) -> list[dict[str, Any]]:
        """All reports so far, one a second."""
        return [json.loads(line) for line in self._stats.read_bytes().split(b"\n")[:-1]]

    @property
    def picture(self) -> Box:
        """Where on the screen the person is shown."""
        stats = self.stats()
        assert stats is not None, "ready() comes first"
        return Box(*stats["picture"])

    @property
    def memory_mb(self) -> float | None:
        """Resident, of the app and its children, in 10^6 bytes."""
        held = [resident_bytes(pid) for pid in _family(self.process.pid)]
        return sum(size for size in held if size is not None) / 1e6 if held else None

    def close(self) -> float:
        """Ask it to end as a desktop does; returns the seconds that it took."""
        return self._children.stop(self.process, patience_s=5 * CLOSE_S)

    def kill(self) -> None:
        """As a crash does."""
        self.process.send_signal(signal.SIGKILL)


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        below = []
    return [pid, *(member for child in below for member in _family(int(child)))]


def _root() -> Path:
    return Path(__file__).resolve().parents[3]
