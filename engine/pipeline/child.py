"""The process of a front: the block loop and the caches on one side, a pair of pipes on the other.

Started as `python -m engine.pipeline --model NAME --backend NAME`; it speaks engine.pipeline.words over stdin and
stdout, and ends when its stdin does. The cores it runs on are those of whoever started it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Queue
from threading import Lock, Thread

import numpy as np

from engine.backends.base import Backend
from engine.pipeline.words import failed_frame, latents_frame, number_of, read_steps
from engine.worker.base import Face, Step
from engine.worker.blocks import Denoised, UnwantedError, denoise_batch
from engine.worker.child import EXIT_BROKEN, EXIT_PIPE, add_model_options, claim_pipes, open_model
from engine.worker.slots import SlotState
from engine.worker.wire import Decoder, Frame, WireError, encode

_READ_BYTES = 1 << 18


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stdin ends; returns the exit status. Leave by os._exit: a thread may still be inside the model."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="python -m engine.pipeline", description="A stage's process, run by visavis.")
    add_model_options(parser)
    arguments = parser.parse_args(argv)
    incoming, outgoing = claim_pipes()
    send = _Pipe(outgoing)
    try:
        backend, _ = open_model(arguments)
    except Exception as error:  # A module of the user's may raise anything.
        send(failed_frame(error))
        return EXIT_BROKEN
    send(Frame("ready", {"backend": backend.name}))
    service = Service(backend, send)
    Thread(target=service.run, name="visavis front", daemon=True).start()
    return _serve(incoming, service)


def _serve(incoming: int, service: Service) -> int:
    """The only thing done here is queueing, so that a cancel is heard at once."""
    decoder = Decoder()
    while data := os.read(incoming, _READ_BYTES):
        try:
            for frame in decoder.feed(data):
                service.take(frame)
        except WireError as error:
            sys.stderr.write(f"visavis front: {error}\n")
            return EXIT_PIPE
    return 0


class _Pipe:
    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, Lock()

    def __call__(self, frame: Frame) -> None:
        """When nobody reads any more, the process ends: all its work was for the reader."""
        try:
            with self._lock:
                for part in encode(frame):
                    left = memoryview(part)
                    while left:
                        left = left[os.write(self._descriptor, left) :]
        except OSError:
            os._exit(EXIT_PIPE)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The last block of a slot, which counts once the next message says so."""

    step: Step
    block: Denoised


class Service:
    """Answers frames, one after the other, in its own thread."""

    def __init__(self, backend: Backend, send: _Pipe) -> None:
        self._backend, self._send = backend, send
        self._frames: Queue[Frame] = Queue()
        self._cancelled = 0
        self._slots: dict[int, SlotState] = {}
        self._last: dict[int, _Kept] = {}

    def take(self, frame: Frame) -> None:
        """Queue it, or heed it at once when it cancels. Raises WireError."""
        if frame.type == "cancel":
            self._cancelled = number_of(frame, "number")
        else:
            self._frames.put(frame)

    def run(self) -> None:
        while True:
            frame = self._frames.get()
            number = 0
            try:
                if frame.type == "block":
                    number = number_of(frame, "number")
                    self._denoise(number, frame)
                elif frame.type == "adopt":
                    self._adopt(frame)
                elif frame.type == "forget":
                    self._forget(number_of(frame, "slot"))
            except UnwantedError:
                self._send(Frame("unwanted", {"number": number}))
            except Exception as error:  # The libraries' own share no base class; whoever waits must hear of it.
                self._send(failed_frame(error, number))

    def _adopt(self, frame: Frame) -> None:
        number, nothing = number_of(frame, "slot"), np.zeros(0, np.float32)
        self._forget(number)
        slot = SlotState(number, Face(nothing, nothing, number_of(frame, "seed")), self._backend.config)
        slot.adopt(frame.arrays)
        self._slots[number] = slot

    def _forget(self, number: int) -> None:
        self._slots.pop(number, None)
        self._last.pop(number, None)

    def _denoise(self, number: int, frame: Frame) -> None:
        slots, steps = [], []
        for row, follows, step in read_steps(frame):
            if row not in self._slots:
                raise WireError(f"a step came for slot {row}, which was not opened")
            self._settle(self._slots[row], follows)
            slots.append(self._slots[row])
            steps.append(step)
        blocks = denoise_batch(self._backend, slots, steps, lambda: self._cancelled < number)
        self._last |= {slot.number: _Kept(step, block) for slot, step, block in zip(slots, steps, blocks, strict=True)}
        self._send(latents_frame(number, blocks))

    def _settle(self, slot: SlotState, follows: int | None) -> None:
        """Commit the slot's last block if the other side did; else it was never made."""
        last = self._last.pop(slot.number, None)
        if last is not None and follows == last.step.start_frame + last.step.frames:
            slot.commit(last.step, last.block.cache)
