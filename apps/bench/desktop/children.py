"""Programs that run beside a measurement, and that are all gone after it, whatever happens."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from engine.errors import BackendUnavailableError, ExtraMissingError

Found = TypeVar("Found")

STOP_S = 3.0
"""What a program has to end by itself."""

POLL_S = 0.02


class Children:
    """Started programs, ended in reverse order on leaving.

    with Children(folder) as children:
        children.start("Xvfb", ":7")
    """

    def __init__(self, folder: Path) -> None:
        """folder: where each program's output is kept, NAME.log."""
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self._names: dict[int, str] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._running:
            self.stop(self._running[-1])

    def start(
        self, program: str, *arguments: str, env: Mapping[str, str] | None = None, keep: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """A program with its own log. keep: file descriptors that it inherits. Raises ExtraMissingError."""
        path = find_program(program)
        # When this process is killed outright, the kernel ends what it started.
        orphan_proof = [setpriv, "--pdeathsig", "KILL", "--"] if (setpriv := shutil.which("setpriv")) else []
        with self.log_of(program).open("ab") as log:
            child = subprocess.Popen(
                [*orphan_proof, path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(env) if env is not None else None,
                pass_fds=tuple(keep),
                start_new_session=True,
            )
        self._running.append(child)
        self._names[child.pid] = Path(program).name
        return child

    def stop(self, child: subprocess.Popen[bytes], patience_s: float = STOP_S) -> float:
        """End one program, by force if it does not end by itself; returns the seconds that it took."""
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child in self._running:
            self._running.remove(child)
        return time.monotonic() - began

    @property
    def running(self) -> list[subprocess.Popen[bytes]]:
        """Those that were started and not stopped, oldest first."""
        return list(self._running)

    def log_of(self, program: str) -> Path:
        return self._folder / f"{Path(program).name}.log"

    def wait(self, child: subprocess.Popen[bytes], ready: Callable[[], Found | None], patience_s: float) -> Found:
        """The first answer of `ready` that is not None. Raises BackendUnavailableError when the program ends first, or
        time does; the message ends with what it wrote last.
        """
        deadline = time.monotonic() + patience_s
        while (found := ready()) is None:
            code = child.poll()
            if code is not None or time.monotonic() > deadline:
                name = self._names[child.pid]
                what = f"was not ready within {patience_s:g} s" if code is None else f"ended with code {code}"
                raise BackendUnavailableError(f"{name} {what}. Its last words: {self._last_words(name)}")
            time.sleep(POLL_S)
        return found

    def _last_words(self, name: str) -> str:
        try:
            return self.log_of(name).read_text(encoding="utf-8", errors="replace")[-2000:].strip() or "none"
        except OSError:
            return "none"


def find_program(name: str) -> str:
    """Its path. Raises ExtraMissingError."""
    if path := shutil.which(name):
        return path
    raise ExtraMissingError(f"there is no program {name}; install it with the system's packages")
