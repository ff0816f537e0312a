"""A worker whose stages run in a process of their own, for one life of that process.

A crash in there costs what was under way and nothing else. engine.supervisor watches such a worker and starts the next.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.backends.notices import pass_on
from engine.errors import AvatarError, WorkerLostError
from engine.worker.base import Face, Listener, Slot, Step, WorkerInfo
from engine.worker.messages import (
    Arrived,
    Broken,
    Cancel,
    Lost,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Ready,
    Remove,
    Submit,
    from_frame,
    to_frame,
)
from engine.worker.places import Places
from engine.worker.wire import BODY_BYTES, Decoder, WireError, encode

CLOSE_S = 2.0
"""How long a process may take to end by itself once its stdin is closed; then it is killed."""

_READ_BYTES = 1 << 18
_TAIL_BYTES = 4_096
_UNSENT_BYTES = 2 * BODY_BYTES
"""Most that may wait for a process that does not read; it reads all the time, so one that does not is lost."""


def worker_command(
    model: str = "auto",
    backend: str = "auto",
    *,
    threads: int | None = None,
    picture_px: int = 512,
    capacity: int | None = None,
    backend_module: str | None = None,
    pipeline: str | None = None,
) -> list[str]:
    """The argument list that starts a worker process; see engine.worker.child for what the options mean."""
    options = {
        "--model": model,
        "--backend": backend,
        "--threads": threads,
        "--picture-px": picture_px,
        "--capacity": capacity,
        "--backend-module": backend_module,
        "--pipeline": pipeline,
    }
    given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    return [sys.executable, "-m", "engine.worker", *given]


@dataclass(frozen=True, slots=True)
class Pulse:
    """A process's last answer to a ping: when (loop time), and of the call that is furthest beyond its prediction."""

    answered_s: float
    took_ms: float
    predicted_ms: float


class ProcessWorker:
    """A Worker over a child process. Its slots are lost, and their listeners told, as soon as the pipe from it ends."""

    def __init__(
        self, command: Sequence[str], capacity: int | None = None, on_lost: Callable[[], None] = lambda: None
    ) -> None:
        """command: see worker_command. on_lost: called when the process is lost, before the slots are told."""
        self._command, self._on_lost = list(command), on_lost
        self._places = Places(_PipePort(self._send), capacity)
        self._process: Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tail = b""
        self._lost = asyncio.Event()
        self._why = ""
        self._pings = 0
        self.pulse = Pulse(0.0, 0.0, 0.0)

    @property
    def info(self) -> WorkerInfo:
        return self._places.info

    @property
    def capacity(self) -> int:
        return self._places.capacity

    @property
    def ready(self) -> bool:
        return self._places.is_ready

    @property
    def places(self) -> int:
        """How many places are taken."""
        return len(self._places)

    @property
    def pid(self) -> int | None:
        """None before it was started."""
        return self._process.pid if self._process else None

    async def start(self, timeout_s: float) -> None:
        """Start the process; wait until it is warm. Raises WorkerLostError or what went wrong there; close it then."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=child_environment()
            )
        except OSError as error:
            raise WorkerLostError(f"the worker process could not be started: {error}") from error
        loops = {"worker messages": self._read_messages, "worker log": self._read_log}
        self._tasks = [asyncio.create_task(loop(self._process), name=name) for name, loop in loops.items()]
        try:
            async with asyncio.timeout(timeout_s):
                await self._places.settle()
        except TimeoutError:
            self.kill(f"it was not ready within {timeout_s:g} s")
            raise WorkerLostError(self.reason()) from None
        self.pulse = Pulse(asyncio.get_running_loop().time(), 0.0, 0.0)

    async def open(self, face: Face, listener: Listener) -> Slot:
        return await self._places.open(face, listener)

    async def wait_lost(self) -> None:
        """Return once the process is of no use any more; its slots have been told."""
        await self._lost.wait()

    def kill(self, why: str) -> None:
        """End the process at once, whatever it is doing, and tell its slots."""
        self._lose(why)
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def ping(self) -> None:
        """Ask for a pulse."""
        self._pings += 1
        self._send(Ping(self._pings))

    def reason(self) -> str:
        """Why the process was lost, how it ended if it has, and the last line that it wrote to stderr."""
        status = self._process.returncode if self._process else None
        ended = "" if status is None else f" (killed by signal {-status})" if status < 0 else f" (exit status {status})"
        lines = self._tail.decode(errors="replace").strip().splitlines()
        said = f"; its last line was: {lines[-1][:300]}" if lines else ""
        return f"the worker was lost: {self._why or 'it ended'}{ended}{said}"

    async def aclose(self, grace_s: float = CLOSE_S) -> None:
        """Take every place back without a word, and end the process: politely, then not. Leaves no zombie."""
        self._places.close()
        self._lost.set()
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            self.kill("it did not end by itself")
            await self._process.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, message: Message) -> None:
        pipe = self._process.stdin if self._process else None
        if pipe is None or pipe.is_closing() or self._lost.is_set():
            return
        if pipe.transport.get_write_buffer_size() > _UNSENT_BYTES:
            # Later, since nobody expects to be called back from within a call.
            asyncio.get_running_loop().call_soon(self.kill, "it stopped reading")
            return
        pipe.writelines(encode(to_frame(message)))

    async def _read_messages(self, process: Process) -> None:
        assert process.stdout is not None
        decoder = Decoder()
        try:
            while data := await process.stdout.read(_READ_BYTES):
                for frame in decoder.feed(data):
                    self._handle(from_frame(frame))
            self._lose("its pipe ended")
        except WireError as error:
            self.kill(str(error))

    def _handle(self, message: Message) -> None:
        match message:
            case Arrived(slot, pictures):
                self._places.pictures(slot, pictures)
            case Opened(slot):
                self._places.opened(slot)
            case Lost(slot, error):
                self._places.lost(slot, error)
            case Ready(info):
                self._places.ready(info)
            case Pong(_, took_ms, predicted_ms):
                self.pulse = Pulse(asyncio.get_running_loop().time(), took_ms, predicted_ms)
            case Broken(error):
                # What failed while warming up may be the caller's to mend, as a missing bundle is.
                self._lose(str(error), None if self.ready else error)
            case _:
                raise WireError(f"a worker does not say {type(message).__name__}")

    def _lose(self, why: str, error: AvatarError | None = None) -> None:
        if not self._lost.is_set():
            self._why = why
            self._lost.set()
            self._on_lost()
            self._places.lose_all(error or WorkerLostError(f"the worker was lost: {why}"))

    async def _read_log(self, process: Process) -> None:
        assert process.stderr is not None
        line = b""
        while data := await process.stderr.read(_TAIL_BYTES):
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            *whole, line = (line + data).split(b"\n")
            line = line[-_TAIL_BYTES:]
            for text in whole:
                pass_on(text.decode("utf-8", "replace").strip())


class _PipePort:
    """The Port that writes."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send

    def open(self, slot: int, face: Face) -> None:
        self._send(Open(slot, face))

    def submit(self, slot: int, step: Step) -> None:
        self._send(Submit(slot, step))

    def cancel(self, slot: int, generation: int) -> None:
        self._send(Cancel(slot, generation))

    def remove(self, slot: int) -> None:
        self._send(Remove(slot))


def child_environment() -> dict[str, str]:
    """This process's, and a way to this very package, wherever it was imported from."""
    root = str(Path(__file__).resolve().parents[2])
    if Path(root).name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
