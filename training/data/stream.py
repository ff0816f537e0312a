"""Takes drawn while training runs, by processes of their own, into memory that they share with the trainer.

Each worker has one ring of takes, a file that is unlinked as soon as both sides have mapped it, and one pipe: the
trainer sends numbers of free places, the worker sends them back filled. Two ends of one pipe need no locks, so a
worker may die at any moment without harming the rest; it is replaced and counted. A worker whose trainer has died reads
the end of its pipe and leaves.

The trainer never waits for a frame: it takes what is ready (`Stream.ready`) and goes on with what it has.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from engine.errors import AvatarError, DataSettingsError, StreamLostError
from training.data.cast import Cast
from training.data.cast.played import Played
from training.data.processes import ONE_THREAD, environment
from training.data.takes import Arrays, TakeSettings, draw_take, take_bytes, take_views
from training.data.truth import Subject

MAX_DEATHS = 5
"""Deaths and failed people in a row, without a take from any worker, after which the set-up must be wrong."""

_LEAVE_S = 5.0

OpenPeople = Callable[[Path, str], "People"]


class People:
    """Where a worker's people and performances come from: a cast, unless a test brings its own."""

    def __init__(self, folder: Path, split: str) -> None:
        self._cast, self._split = Cast.reopen(folder), split
        self.played: Played = self._cast.played(split)

    def next(self, rng: np.random.Generator, size: int) -> Subject:
        """Set up a random person."""
        return self._cast.person(self._cast.choose(rng, self._split), size)


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """cast: folder of an opened cast. workers: processes, one per core is best. places: takes a ring holds.

    takes_per_person: setting a person up costs as much as many frames. patience_s: without a take for so long, the
    stream is given up. people: makes a worker's `People`; importable by name, since workers are spawned.
    """

    cast: Path
    take: TakeSettings = field(default_factory=TakeSettings)
    workers: int = 1
    split: str = "train"
    seed: int = 0
    places: int = 3
    takes_per_person: int = 8
    patience_s: float = 180.0
    people: OpenPeople = People

    def check(self) -> None:
        if self.workers < 1 or self.places < 1 or self.takes_per_person < 1 or self.take.frames < 1:
            raise DataSettingsError("a stream needs at least one worker, place, take per person and frame per take")


@dataclass(slots=True)
class StreamCounts:
    """takes, frames: received so far. deaths: workers that died and were replaced. failures: people replaced."""

    takes: int = 0
    frames: int = 0
    deaths: int = 0
    failures: int = 0
    last_failure: str = ""


class Stream:
    """Use as a context manager; leaving it ends the workers."""

    def __init__(self, settings: StreamSettings) -> None:
        """Raises DataSettingsError."""
        settings.check()
        self.settings, self.counts = settings, StreamCounts()
        self.layout = settings.take.layout()
        self._workers: list[_Worker] = []
        self._in_a_row = 0
        self._last_take_s = time.monotonic()

    def __enter__(self) -> Stream:
        self._last_take_s = time.monotonic()
        self._workers = [_Worker(self.settings, index, 0) for index in range(self.settings.workers)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []

    @property
    def worker_pids(self) -> list[int]:
        """Process numbers of the workers there are now."""
        return [worker.pid for worker in self._workers]

    def ready(self, timeout_s: float = 0.0, most: int = 1_000_000) -> Iterator[Arrays]:
        """Takes that are ready, at most so many; waits up to timeout_s for the first. Each is valid until the next.

        Raises StreamLostError when workers keep dying, people keep failing, or nothing has come for too long.
        """
        given = 0
        while given < most:
            places = {worker.pipe: worker for worker in self._workers}
            readable = wait(list(places), 0.0 if given else timeout_s)
            if not readable:
                break
            for pipe in readable:
                take = self._receive(places[pipe])
                if take is not None:
                    given += 1
                    try:
                        yield take
                    finally:
                        self._give_back(places[pipe])
                if given >= most:
                    break
        if time.monotonic() - self._last_take_s > self.settings.patience_s:
            raise StreamLostError(
                f"nothing has been drawn for {self.settings.patience_s:.0f} s; check `visavis data bench` on this cast"
            )

    def _receive(self, worker: _Worker) -> Arrays | None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return None
        if isinstance(message, str):
            self.counts.failures += 1
            self.counts.last_failure = message
            self._count_fault()
            return None
        self._in_a_row, self._last_take_s = 0, time.monotonic()
        self.counts.takes += 1
        self.counts.frames += self.settings.take.frames
        worker.given = message
        return worker.takes[message]

    def _give_back(self, worker: _Worker) -> None:
        # A worker that has died meanwhile is noticed, and replaced, when its pipe is read next.
        try:
            worker.pipe.send(worker.given)
        except OSError:
            pass

    def _replace(self, worker: _Worker) -> None:
        self.counts.deaths += 1
        worker.close()
        self.counts.last_failure = f"worker {worker.index} ended with exit code {worker.exit_code}"
        self._count_fault()
        place = self._workers.index(worker)
        self._workers[place] = _Worker(self.settings, worker.index, worker.generation + 1)

    def _count_fault(self) -> None:
        self._in_a_row += 1
        if self._in_a_row >= MAX_DEATHS * self.settings.workers:
            raise StreamLostError(
                f"{self._in_a_row} people in a row could not be drawn; the last: {self.counts.last_failure}. "
                "Check that OpenGL (EGL) works: `visavis doctor`"
            )


class _Worker:
    """One process, its pipe and its ring, as the trainer sees them."""

    def __init__(self, settings: StreamSettings, index: int, generation: int) -> None:
        self.index, self.generation, self.given = index, generation, 0
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        layout = settings.take.layout()
        size = take_bytes(layout)
        self._path = _shared_file(size * settings.places)
        ring = _map(self._path, size, settings.places)
        self.takes = [take_views(place, layout) for place in ring]
        self._process: BaseProcess = context.Process(
            target=_work, args=(other, self._path, settings, index, generation), daemon=True, name=f"draw-{index}"
        )
        with environment(ONE_THREAD):
            self._process.start()
        other.close()
        for place in range(settings.places):
            self.pipe.send(place)

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    def close(self) -> None:
        """End the process, waiting a little for it to leave by itself."""
        self.pipe.close()
        self._path.unlink(missing_ok=True)
        self._process.join(0.1)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_LEAVE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_LEAVE_S)


def _work(pipe: Connection, path: Path, settings: StreamSettings, index: int, generation: int) -> None:
    """A worker's life: fill places until the trainer is gone."""
    faulthandler.enable()
    layout = settings.take.layout()
    ring = _map(path, take_bytes(layout), settings.places)
    path.unlink(missing_ok=True)
    takes = [take_views(place, layout) for place in ring]
    try:
        for place in _endless(pipe, settings, index, generation, takes):
            pipe.send(place)
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass


def _endless(
    pipe: Connection, settings: StreamSettings, index: int, generation: int, takes: list[Arrays]
) -> Iterator[int | str]:
    """Places as they are filled, and words about people who could not be drawn."""
    rng = np.random.default_rng([settings.seed, index, generation])
    people = settings.people(settings.cast, settings.split)
    place = pipe.recv()
    while True:
        subject: Subject | None = None
        try:
            subject = people.next(rng, settings.take.size)
            for _ in range(settings.takes_per_person):
                draw_take(subject, people.played, settings.take, rng, takes[place])
                yield place
                place = pipe.recv()
        except (EOFError, OSError):
            raise
        except (AvatarError, ValueError, ArithmeticError, IndexError) as error:
            yield f"{type(error).__name__}: {error}"
        finally:
            if subject is not None:
                subject.close()


def _shared_file(size: int) -> Path:
    """An empty file of so many bytes, in memory where there is room, else on disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and _free_bytes(memory) > 4 * size
    handle, name = tempfile.mkstemp(prefix="visavis-takes-", dir=memory if roomy else None)
    with os.fdopen(handle, "wb") as file:
        file.truncate(size)
    return Path(name)


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _map(path: Path, size: int, places: int) -> NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r+", shape=(places, size))
