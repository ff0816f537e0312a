"""The machine check of a first run: what will compute, how quickly, and what to use until that is known.

A process of its own looks, builds and measures (apps/desktop/checkup.py), so that a driver that hangs or crashes takes
nothing with it, and so that it can be stopped at any moment. What was found is remembered until model, machine or
libraries change.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from typing import IO, Any, Protocol

from apps.desktop.notice import Notice
from engine.backends.cache import Memory
from engine.backends.choose import situation
from engine.backends.registry import candidates, kind_of, usual_backend
from engine.bundle import AUTO, Bundle, find_bundle
from engine.errors import AvatarError
from engine.pipeline.opening import MOCK
from engine.types import FPS

LIMIT_S = 1800.0
"""Longer than any engine takes to build."""
COMFORT = 1.5
"""How many times the frames that are shown a machine should compute, so as to have time for everything else."""

_GRACE_S = 2.0
_POLL_S = 0.1
_LONGEST_LINE = 1 << 16
_MEMORY = Memory("desktop.json")
_log = logging.getLogger("visavis.desktop")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be checked: as engine.engine.load takes it."""

    model: str = AUTO
    backend: str = "auto"
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """step: "looking", "opening", "building" or "measuring". fraction: of the whole check, in [0, 1]; None while
    nobody can say. text: one line for people.
    """

    step: str
    fraction: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """backend: what computes best here, empty when nothing can. fps: frames a second, voice to JPEG, by the side of the
    picture. advice: what would help, the most urgent first.
    """

    backend: str
    fps: Mapping[int, float]
    advice: tuple[str, ...] = ()

    @property
    def size_px(self) -> int | None:
        """The largest picture that this machine computes with ease; the smallest that was measured when none is."""
        easy = [side for side, rate in self.fps.items() if rate >= COMFORT * FPS]
        return max(easy) if easy else min(self.fps, default=None)

    @property
    def text(self) -> str:
        """One sentence for people."""
        if not self.backend:
            return "This machine cannot run the model yet."
        if self.size_px is None:
            return f"{self.backend} will compute the picture."
        rate = self.fps[self.size_px]
        if rate >= FPS:
            return f"Smooth at {self.size_px} pixels: {rate:.0f} frames a second by {self.backend}, {FPS} are shown."
        return f"Too slow to be smooth: {rate:.0f} of {FPS} frames a second at {self.size_px} pixels by {self.backend}."


class CheckListener(Protocol):
    """Called in the check's thread; must not block."""

    def on_progress(self, progress: Progress) -> None: ...

    def on_backend(self, backend: str) -> None:
        """Open the model with this one now: first as soon as there is one to start with, again if a better is ready."""
        ...

    def on_verdict(self, verdict: Verdict) -> None:
        """Once at most; not when the check was cancelled or failed."""
        ...

    def on_notice(self, notice: Notice) -> None: ...


class MachineCheck:
    """One check, in the background. `on_backend` is called at least once, whatever happens."""

    def __init__(self, asked: Asked, listener: CheckListener, *, again: bool = False) -> None:
        """again: check whatever is remembered."""
        self._asked, self._listener, self._again = asked, listener, again
        self._cancelled = threading.Event()
        self._current = ""
        self._thread = threading.Thread(target=self._run, name="visavis-check", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """Stop; the model is opened with what there is. Returns at once; idempotent."""
        self._cancelled.set()

    def close(self, timeout_s: float = 2 * _GRACE_S) -> bool:
        """Stop and wait; whether it ended in time."""
        self.cancel()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        kept = None if self._again else remembered(self._asked)
        if kept is not None:
            self._use(kept.backend)
            self._listener.on_verdict(kept)
            return
        try:
            verdict = self._ask_child()
        except OSError as error:
            verdict = None
            self._fail(str(error))
        if verdict is None or not verdict.backend:
            self._use(meanwhile(self._asked))
        else:
            self._use(verdict.backend)
        if verdict is not None:
            self._listener.on_verdict(verdict)

    def _ask_child(self) -> Verdict | None:
        """None when it was cancelled, or failed, which is told. Raises OSError when no process can be started."""
        child = subprocess.Popen(
            command(self._asked), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        last = ""
        try:
            for message in self._messages(child):
                if "verdict" in message:
                    return verdict_from(message["verdict"])
                last = str(message.get("line", last))
                self._hear(message)
        finally:
            _end(child)
        if not self._cancelled.is_set():
            self._fail(last or f"it ended with code {child.returncode}")
        return None

    def _messages(self, child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
        """What the child says, until it ends, the check is cancelled, or the time is over."""
        assert child.stdout is not None
        lines: SimpleQueue[dict[str, Any] | None] = SimpleQueue()  # As much as a child writes in its short life.
        reader = threading.Thread(target=_read, args=(child.stdout, lines), name="visavis-check-reader", daemon=True)
        reader.start()
        until = monotonic() + LIMIT_S
        while not self._cancelled.is_set() and monotonic() < until:
            try:
                message = lines.get(timeout=_POLL_S)
            except Empty:
                continue
            if message is None:
                return
            yield message

    def _hear(self, message: dict[str, Any]) -> None:
        if "step" not in message:
            _log.info("machine check: %s", message.get("line"))
            return
        progress = Progress(str(message["step"]), message.get("fraction"), str(message.get("text", "")))
        if progress.step == "building":  # That may take minutes.
            self._use(meanwhile(self._asked))
        self._listener.on_progress(progress)

    def _use(self, backend: str) -> None:
        if backend and backend != self._current:
            self._current = backend
            self._listener.on_backend(backend)

    def _fail(self, why: str) -> None:
        _log.warning("the machine check failed: %s", why)
        text = f"This machine could not be checked ({why}). It goes on without; `visavis doctor` tells more."
        self._listener.on_notice(Notice("machine_check_failed", text, "warning"))


def command(asked: Asked) -> list[str]:
    """What the check's process is started with."""
    return [sys.executable, "-m", "apps.desktop.checkup", json.dumps(asdict(asked))]


def remembered(asked: Asked) -> Verdict | None:
    """What an earlier check has found, unless something has changed since that matters. Quick."""
    try:
        kept = _MEMORY.recall().get(_key(asked))
    except AvatarError:
        return None
    return verdict_from(kept) if kept else None


def remember(asked: Asked, verdict: Verdict) -> None:
    """For `remembered`. Raises BundleError."""
    _MEMORY.keep(_key(asked), verdict_values(verdict))


def meanwhile(asked: Asked) -> str:
    """A backend that opens within seconds, whatever was asked for; what was asked for when there is none."""
    try:
        bundle = None if asked.backend == MOCK else find_bundle(asked.model)
        names = candidates(bundle) if bundle else []
    except AvatarError:
        return asked.backend
    quick = [name for name in names if not kind_of(name).gpu]
    if not quick or asked.backend in (*quick, MOCK):
        return asked.backend
    usual = usual_backend()
    return usual if usual in quick else quick[0]


def verdict_values(verdict: Verdict) -> dict[str, Any]:
    """As JSON has it."""
    fps = {str(side): rate for side, rate in verdict.fps.items()}
    return {"backend": verdict.backend, "fps": fps, "advice": list(verdict.advice)}


def verdict_from(values: Mapping[str, Any]) -> Verdict | None:
    """None for what another version has written in another way."""
    try:
        fps = {int(side): float(rate) for side, rate in values["fps"].items()}
        return Verdict(str(values["backend"]), fps, tuple(str(line) for line in values["advice"]))
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _key(asked: Asked) -> str:
    if asked.backend == MOCK:
        return MOCK
    bundle: Bundle = find_bundle(asked.model)
    return f"{situation(candidates(bundle), bundle, asked.threads)}-{asked.backend}"


def _read(stream: IO[bytes], lines: SimpleQueue[dict[str, Any] | None]) -> None:
    """Messages of the child, each a line of JSON; other lines are what libraries have to say."""
    with suppress(OSError, ValueError):  # Closed from the other side.
        while data := stream.readline(_LONGEST_LINE):
            line = data.decode("utf-8", "replace").strip()
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if line:
                lines.put(message if isinstance(message, dict) else {"line": line})
    lines.put(None)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the process, by force if need be, and forget it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
