"""A worker that outlives its crashes: it watches the worker's process, and starts another when that one is lost.

A lost process costs what was under way: its slots are told as soon as the pipe ends, and sessions open new ones. A
process that does not answer, takes far too long over a step or grows too large is killed. After some crashes in a short
time it is left at that, since whatever causes them would only go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.errors import AvatarError, EngineFullError, WorkerBrokenError, WorkerLostError
from engine.worker.base import Face, Listener, Slot, WorkerInfo
from engine.worker.process import CLOSE_S, ProcessWorker, worker_command

_log = logging.getLogger(__name__)

_CLOSED = "the worker was closed"
_GRACE_S = 0.5
"""How long a lost process may take to end. One that is dead has only to be collected, which tells how it died."""
_HELD_UP_S = 0.5
"""When our own look comes so much late, this process was held up, and silence says nothing about the other one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker's process may take. memory_bytes: resident, where /proc tells it; None for any amount."""

    start_s: float = 120.0
    """From the start of the process until it is warm."""
    open_s: float = 10.0
    """How long `open` waits for a process that is being started."""
    look_s: float = 0.2
    """How often the process is asked how it goes."""
    answer_s: float = 5.0
    step_s: float = 1.0
    """A call of the model may take so long, or step_factor times what was predicted, whichever is more."""
    step_factor: float = 10.0
    memory_bytes: int | None = 8 << 30
    crashes: int = 3
    """So many within crash_window_s, and it is not started again."""
    crash_window_s: float = 60.0


class SupervisedWorker:
    """A Worker over a succession of processes, one at a time.

    model, backend, threads: see engine.engine.load. picture_px: side of the pictures that are measured. capacity:
    places, None for as many as the first process finds that the machine sustains. backend_module: a module with
    `open_backend() -> Backend`, importable in the child, instead of model and backend. pipeline: a plan's text or file,
    see engine.pipeline.plan.
    """

    def __init__(
        self,
        model: str = "auto",
        backend: str = "auto",
        *,
        threads: int | None = None,
        picture_px: int = 512,
        capacity: int | None = None,
        backend_module: str | None = None,
        pipeline: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._command = partial(
            worker_command,
            model,
            backend,
            threads=threads,
            picture_px=picture_px,
            backend_module=backend_module,
            pipeline=pipeline,
        )
        self._capacity = capacity
        self._limits = limits or Limits()
        self._info: WorkerInfo | None = None
        self._child: ProcessWorker | None = None
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        """Set while there is nothing to wait for: the process is warm, or no other one will come."""
        self._waiting = 0
        self._crashes: deque[float] = deque(maxlen=self._limits.crashes)
        self._broken = self._closed = False
        self.restarts = 0
        self.last_error: AvatarError | None = None
        """Why the last process was lost."""

    @property
    def info(self) -> WorkerInfo:
        """Of the newest process that was warm. Raises WorkerLostError before the first."""
        if self._info is None:
            raise WorkerLostError("the worker is not warm yet; start it, and wait until it is ready")
        return self._info

    @property
    def capacity(self) -> int:
        """0 when it was not given and has not been measured yet."""
        return self._capacity or 0

    @property
    def ready(self) -> bool:
        return self._child is not None and self._child.ready

    @property
    def broken(self) -> bool:
        """Whether it crashed so often that it is left at that; see `reset`."""
        return self._broken

    @property
    def pid(self) -> int | None:
        """Of the process that serves now."""
        return self._child.pid if self._child else None

    async def start(self) -> None:
        """Start the first process and wait until it is warm. Raises what went wrong in it; then nothing runs."""
        child = await self._spawn()
        if self._closed:
            await child.aclose()
            raise WorkerLostError(_CLOSED)
        self._adopt(child)
        self._supervise()

    async def open(self, face: Face, listener: Listener) -> Slot:
        """See Worker.open; WorkerBrokenError when the worker is given up."""
        if self._waiting + (self._child.places if self._child else 0) >= self.capacity > 0:
            raise EngineFullError(f"all {self.capacity} places are taken; try again later")
        self._waiting += 1
        try:
            child = await self._current()
        finally:
            self._waiting -= 1
        return await child.open(face, listener)

    def reset(self) -> None:
        """Forget the crashes; when the worker was given up, start it again."""
        self._crashes.clear()
        if self._broken and not self._closed:
            self._broken = False
            self._settled.clear()
            self._supervise()

    async def aclose(self, grace_s: float = CLOSE_S) -> None:
        """End the process and give up every place without a word; idempotent. grace_s: until it is killed."""
        self._closed = True
        self._settled.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None:
            await child.aclose(grace_s)

    async def _current(self) -> ProcessWorker:
        """The warm process, waited for if need be."""
        if self._closed:
            raise WorkerLostError(_CLOSED)
        try:
            async with asyncio.timeout(self._limits.open_s):
                await self._settled.wait()
        except TimeoutError:
            raise WorkerLostError(f"no worker was ready within {self._limits.open_s:g} s; try again") from None
        if self._closed:
            raise WorkerLostError(_CLOSED)
        if self._broken or self._child is None:
            raise WorkerBrokenError(f"the worker crashed too often and was given up; last: {self.last_error}")
        return self._child

    async def _spawn(self) -> ProcessWorker:
        """A warm process. Raises AvatarError, and leaves none behind."""
        command = self._command(capacity=self._capacity)
        child = ProcessWorker(command, self._capacity, on_lost=self._settled.clear)
        try:
            await child.start(self._limits.start_s)
        except WorkerLostError:
            await child.aclose(_GRACE_S)
            raise WorkerLostError(child.reason()) from None
        except BaseException:
            await child.aclose(_GRACE_S)
            raise
        return child

    def _adopt(self, child: ProcessWorker) -> None:
        self._child, self._info = child, child.info
        # What the first one measured holds for the next, which may be measured while sessions crowd back in.
        self._capacity = child.capacity
        self._settled.set()

    def _supervise(self) -> None:
        self._task = asyncio.create_task(self._keep_alive(), name="worker supervisor")

    async def _keep_alive(self) -> None:
        try:
            while not self._broken:
                if self._child is not None:
                    await self._watch(self._child)
                    await self._bury(self._child)
                if not self._broken:
                    await self._revive()
        except Exception as error:  # A bug of ours; without this, whoever waits would wait for ever.
            _log.exception("the worker supervisor failed")
            self._give_up(WorkerLostError(f"the worker supervisor failed: {error!r}"))

    async def _revive(self) -> None:
        self.restarts += 1
        try:
            self._adopt(await self._spawn())
        except AvatarError as error:
            self._count_crash(error)

    async def _bury(self, child: ProcessWorker) -> None:
        """See a lost process to its end, and note why it was lost."""
        await child.aclose(_GRACE_S)
        self._child = None
        self._count_crash(WorkerLostError(child.reason()))

    def _count_crash(self, error: AvatarError) -> None:
        now = asyncio.get_running_loop().time()
        _log.warning("%s", error)
        self.last_error = error
        self._crashes.append(now)
        if len(self._crashes) == self._limits.crashes and now - self._crashes[0] <= self._limits.crash_window_s:
            self._give_up(error)

    def _give_up(self, error: AvatarError) -> None:
        self.last_error, self._broken = error, True
        self._settled.set()

    async def _watch(self, child: ProcessWorker) -> None:
        """Return once the process is lost, by itself or because it was found at fault and killed."""
        loop, look_s = asyncio.get_running_loop(), self._limits.look_s
        while True:
            child.ping()
            asked_s = loop.time()
            try:
                async with asyncio.timeout(look_s):
                    return await child.wait_lost()
            except TimeoutError:
                held_up = loop.time() - asked_s - look_s > _HELD_UP_S
            if not held_up and (why := self._fault(child, loop.time())):
                child.kill(why)

    def _fault(self, child: ProcessWorker, now_s: float) -> str:
        """What is wrong with a process; empty when nothing is."""
        limits, pulse = self._limits, child.pulse
        if now_s - pulse.answered_s > limits.answer_s:
            return f"it has not answered for {now_s - pulse.answered_s:.1f} s"
        if pulse.took_ms > max(1e3 * limits.step_s, limits.step_factor * pulse.predicted_ms):
            return f"it hung: a step took {pulse.took_ms:.0f} ms so far, {pulse.predicted_ms:.0f} ms were expected"
        used = resident_bytes(child.pid) if limits.memory_bytes is not None else None
        if used is not None and limits.memory_bytes is not None and used > limits.memory_bytes:
            return f"it uses {used >> 20} MB of memory, {limits.memory_bytes >> 20} MB are allowed"
        return ""


def resident_bytes(pid: int | None) -> int | None:
    """Memory that a process holds; None where the system does not tell it in /proc, or the process is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
