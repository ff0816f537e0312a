"""A server as users run it: `visavis serve` in a process of its own, with the mock model, on a free port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
_START_S, _STOP_S = 60, 40


@dataclass
class Served:
    """url: of the WebSocket. page: of HTTP, with a slash."""

    url: str
    page: str
    pid: int
    sessions: int
    process: subprocess.Popen[str]
    errors: IO[str]

    def log(self) -> str:
        """All that it has written to its log so far."""
        self.errors.seek(0)
        return self.errors.read()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body."""
        request = urllib.request.Request(self.page + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def figure(self, name: str) -> float:
        """One of /metrics; 0 where it is not there yet."""
        lines = self.get("metrics")[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split(" ")[0] == f"visavis_{name}")

    def stop(self) -> int:
        """As an operator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_S)


@contextmanager
def serving(*options: str, sessions: int = 4, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """Killed in the end, if it has not stopped by itself."""
    command = [sys.executable, "-m", "apps.cli", "serve", "--model", "mock", "--port", "0", "--json", "--size", "128"]
    command += ["--sessions", str(sessions), *options]
    paths = os.pathsep.join((str(ROOT), str(ROOT / "apps" / "api")))
    surroundings = {**os.environ, "PYTHONPATH": paths, **(environment or {})}
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=surroundings) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            errors.seek(0)
            assert line, errors.read()
            ready = json.loads(line)
            yield Served(ready["websocket"], ready["url"], ready["pid"], ready["sessions"], process, errors)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
