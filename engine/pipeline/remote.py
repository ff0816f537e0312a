"""The front in a process of its own, as the line sees it.

One batch is under way at a time. The process keeps the caches; it learns with the next batch whether the last one was
kept, so what is cancelled here never counts there. A process that ends, answers garbage or not at all within its time
is killed, and every later call is a StageLostError: nothing waits for ever.
"""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from typing import IO

from engine.errors import BackendFailedError, StageLostError
from engine.pipeline.placing import on_cores
from engine.pipeline.plan import Place
from engine.pipeline.words import adopt_frame, block_frame, number_of, read_latents
from engine.worker.base import Step
from engine.worker.blocks import Denoised, UnwantedError
from engine.worker.messages import error_of
from engine.worker.process import child_environment
from engine.worker.slots import SlotState
from engine.worker.wire import Decoder, Frame, WireError, encode

_READ_BYTES = 1 << 18
_LOOK_S = 0.01
"""How often it is looked whether a batch is still wanted."""
_TAIL_BYTES = 2_048
_JOIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the process may take. start_s: until its model is loaded. answer_s: over one batch, the first of a
    length included. close_s: to end by itself.
    """

    start_s: float = 120.0
    answer_s: float = 30.0
    close_s: float = 2.0


def front_command(model: str, backend: str, threads: int | None, backend_module: str | None = None) -> list[str]:
    """The argument list that starts such a process; see engine.pipeline.child."""
    options = {"--model": model, "--backend": backend, "--threads": threads, "--backend-module": backend_module}
    given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    return [sys.executable, "-m", "engine.pipeline", *given]


class RemoteFront:
    """A Front over a child process, started at once."""

    def __init__(self, command: Sequence[str], place: Place, patience: Patience | None = None) -> None:
        """Raises StageLostError, or what went wrong while the process loaded its model."""
        self._patience = patience or Patience()
        self._forgotten: deque[int] = deque()
        self._batches = 0
        self._lost = ""
        self._tail = b""
        self._inbox: Queue[Frame | None] = Queue()
        self._outbox: Queue[Frame | None] = Queue()
        self._process = _start(command, place)
        loops = (self._read, self._write, self._read_log)
        self._threads = [Thread(target=loop, name=f"front {loop.__name__}", daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()
        try:
            ready = self._answer(self._patience.start_s, lambda: True)
            if ready.type != "ready":
                raise error_of(ready) if ready.type == "failed" else self._lose("it did not say that it is ready")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def adopt(self, slot: SlotState) -> None:
        self._send(adopt_frame(slot))

    def forget(self, slot: int) -> None:
        self._forgotten.append(slot)

    def denoise(self, slots: Sequence[SlotState], steps: Sequence[Step], wanted: Callable[[], bool]) -> list[Denoised]:
        self._batches += 1
        self._send(block_frame(self._batches, slots, steps))
        answer = self._answer(self._patience.answer_s, wanted)
        try:
            if number_of(answer, "number") != self._batches:
                raise self._lose("it answered something else than it was asked")
            if answer.type == "latents":
                return read_latents(answer)
        except WireError as error:
            raise self._lose(str(error)) from error
        if answer.type == "unwanted":
            raise UnwantedError
        raise error_of(answer) if answer.type == "failed" else BackendFailedError("the denoise stage made no latents")

    def close(self) -> None:
        self._lost = self._lost or "it was closed"
        self._outbox.put(None)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self._patience.close_s)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _answer(self, within_s: float, wanted: Callable[[], bool]) -> Frame:
        """The next frame from the process, which is told once when nobody wants it any more."""
        until, told = monotonic() + within_s, False
        while True:
            if not told and not wanted():
                told = True
                self._send(Frame("cancel", {"number": self._batches}))
            try:
                frame = self._inbox.get(timeout=_LOOK_S)
            except Empty:
                if monotonic() > until:
                    raise self._lose(f"it has not answered for {within_s:g} s") from None
                continue
            if frame is None:
                raise self._lose("it ended")
            return frame

    def _send(self, frame: Frame) -> None:
        if self._lost:
            raise StageLostError(self._reason())
        while self._forgotten:
            self._outbox.put(Frame("forget", {"slot": self._forgotten.popleft()}))
        self._outbox.put(frame)

    def _lose(self, why: str) -> StageLostError:
        """End the process, whatever it does."""
        self._lost = self._lost or why
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self._patience.close_s)
        return StageLostError(self._reason())

    def _reason(self) -> str:
        lines = self._tail.decode(errors="replace").strip().splitlines()
        said = f"; its last line was: {lines[-1][:300]}" if lines else ""
        return f"the process of the denoise stage was lost: {self._lost}{said}. Open the model again"

    # The threads, so that neither a full pipe nor an empty one can hold the caller up.

    def _read(self) -> None:
        decoder, pipe = Decoder(), _pipe(self._process.stdout)
        with suppress(WireError, OSError, ValueError):
            while data := pipe.read1(_READ_BYTES):  # type: ignore[attr-defined]
                for frame in decoder.feed(data):
                    self._inbox.put(frame)
        self._inbox.put(None)

    def _write(self) -> None:
        pipe = _pipe(self._process.stdin)
        with suppress(OSError, ValueError):
            while frame := self._outbox.get():
                for part in encode(frame):
                    pipe.write(part)
                pipe.flush()
        with suppress(OSError):
            pipe.close()

    def _read_log(self) -> None:
        pipe = _pipe(self._process.stderr)
        with suppress(OSError, ValueError):
            while data := pipe.read1(_TAIL_BYTES):  # type: ignore[attr-defined]
                self._tail = (self._tail + data)[-_TAIL_BYTES:]


def _start(command: Sequence[str], place: Place) -> subprocess.Popen[bytes]:
    """On the place's cores, or with its device as the only one."""
    environment = child_environment()
    if place.device.startswith("cuda:"):
        environment["CUDA_VISIBLE_DEVICES"] = _visible(place.device.removeprefix("cuda:"), environment)
    pipe = subprocess.PIPE
    try:
        with on_cores(place):
            return subprocess.Popen(list(command), stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    except OSError as error:
        raise StageLostError(f"the process of the denoise stage could not be started: {error}") from error


def _visible(number: str, environment: dict[str, str]) -> str:
    """The device of that number among those that this process sees."""
    seen = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return seen[int(number)] if int(number) < len(seen) else number


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "all three are pipes"
    return pipe
