"""The worker's process: the stages on one side, a pair of pipes on the other.

Started as `python -m engine.worker --model NAME --backend NAME ...`; it speaks engine.worker.messages over stdin and
stdout, and its log over stderr. It ends when its stdin does, so it never outlives whoever started it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from threading import Lock

from engine.backends.base import Backend
from engine.backends.registry import CHOICES
from engine.errors import AvatarError, BackendFailedError
from engine.worker.base import Pictures, WorkerInfo
from engine.worker.line import Line
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
from engine.worker.stages import Stages
from engine.worker.wire import Decoder, WireError, encode

EXIT_BROKEN = 3
"""Exit status when the model could not be loaded or the stages failed; a Broken message has been sent before."""
EXIT_PIPE = 4
"""Exit status when the pipes broke or carried garbage."""

_CLOSE_S = 1.0
_READ_BYTES = 1 << 18


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stdin ends; returns the exit status. Threads may still be inside the model, so leave by os._exit."""
    # Ctrl-C reaches the whole group; the process that owns this one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments = _parser().parse_args(argv)
    incoming, outgoing = claim_pipes()
    outbox = _Outbox(outgoing)
    try:
        line, model = _open_line(arguments)
    except AvatarError as error:
        outbox.broken(error)
        return EXIT_BROKEN
    except Exception as error:  # A module of the user's may raise anything.
        outbox.broken(BackendFailedError(f"the model could not be loaded: {error!r}"))
        return EXIT_BROKEN
    stages = Stages(line, model, arguments.picture_px, outbox, arguments.capacity)
    stages.start()
    try:
        return _serve(incoming, stages, outbox)
    finally:
        stages.close(_CLOSE_S)
        line.front.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.worker", description="One worker process, run by visavis.")
    add_model_options(parser)
    parser.add_argument("--picture-px", type=int, default=512)
    parser.add_argument("--capacity", type=int)
    parser.add_argument("--pipeline", help="stages on places of their own, as engine.pipeline.plan writes it")
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What says which model a child process runs; see open_model."""
    parser.add_argument("--model", default="auto")
    parser.add_argument("--backend", default="auto", choices=CHOICES)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--backend-module", help="a module with open_backend() -> Backend, instead of a backend and a model of ours"
    )


def open_model(arguments: argparse.Namespace) -> tuple[Backend, str]:
    """The backend that the options ask for, and its model's name. Raises what opening it does."""
    if arguments.backend_module:
        backend: Backend = import_module(arguments.backend_module).open_backend()
        return backend, arguments.backend_module
    from engine.engine import load

    engine = load(arguments.model, arguments.backend, arguments.threads)
    return engine.backend, engine.model


def _open_line(arguments: argparse.Namespace) -> tuple[Line, str]:
    if arguments.pipeline is None:
        backend, model = open_model(arguments)
        return Line.of(backend), model
    from engine.engine import load

    engine = load(arguments.model, arguments.backend, arguments.threads, arguments.pipeline)
    return engine.line, engine.model


def claim_pipes() -> tuple[int, int]:
    """Descriptors of the two pipes, while stdin becomes empty and stdout becomes stderr: whatever a library prints
    cannot end up between our messages.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (incoming, outgoing):
            msvcrt.setmode(descriptor, os.O_BINARY)
    return incoming, outgoing


def _serve(incoming: int, stages: Stages, outbox: _Outbox) -> int:
    """Read messages until the other end closes. The only thing done here is queueing, so a ping is answered at once."""
    decoder = Decoder()
    while data := os.read(incoming, _READ_BYTES):
        try:
            for frame in decoder.feed(data):
                _handle(from_frame(frame), stages, outbox)
        except WireError as error:
            sys.stderr.write(f"visavis worker: {error}\n")
            return EXIT_PIPE
        if outbox.is_broken:
            return EXIT_BROKEN
    return 0


def _handle(message: Message, stages: Stages, outbox: _Outbox) -> None:
    match message:
        case Open(slot, face):
            stages.open(slot, face)
        case Submit(slot, step):
            stages.submit(slot, step)
        case Cancel(slot, generation):
            stages.cancel(slot, generation)
        case Remove(slot):
            stages.remove(slot)
        case Ping(number):
            outbox.send(Pong(number, *stages.overdue()))
        case _:
            raise WireError(f"a worker is not told {type(message).__name__}")


class _Outbox:
    """A Sink that writes. Writing waits while the pipe is full: so the stages make no more than is taken from them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, Lock()
        self.is_broken = False

    def send(self, message: Message) -> None:
        """Write one message whole. When nobody reads any more, the process ends: all its work was for the reader."""
        buffers = encode(to_frame(message))
        try:
            with self._lock:
                for buffer in buffers:
                    self._write(memoryview(buffer))
        except OSError:
            os._exit(EXIT_PIPE)

    def _write(self, left: memoryview) -> None:
        while left:
            left = left[os.write(self._descriptor, left) :]

    def ready(self, info: WorkerInfo) -> None:
        self.send(Ready(info))

    def opened(self, slot: int) -> None:
        self.send(Opened(slot))

    def pictures(self, slot: int, pictures: Pictures) -> None:
        self.send(Arrived(slot, pictures))

    def lost(self, slot: int, error: AvatarError) -> None:
        self.send(Lost(slot, error))

    def broken(self, error: AvatarError) -> None:
        with suppress(WireError):
            self.send(Broken(error))
        self.is_broken = True
