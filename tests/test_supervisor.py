"""The worker's process and its supervisor: crashes, hangs, memory, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_backend import CRASH, HANG, MEMORY, RAISE
from workers import Watcher, make_face, make_step, ordered, run, run_blocks, submit_blocks

from engine.backends.mock import MockBackend
from engine.errors import (
    BackendFailedError,
    BundleMissingError,
    EngineFullError,
    WorkerBrokenError,
    WorkerLostError,
)
from engine.supervisor import Limits, SupervisedWorker, resident_bytes
from engine.worker.process import ProcessWorker, worker_command
from engine.worker.thread import ThreadWorker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the faults are sent as signals")

ROOT = Path(__file__).resolve().parent.parent
TOLD_S = 1.0
"""A lost process's sessions are told within this time."""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds faulty_backend beside this file."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    BEFORE.clear()
    BEFORE.update(children())


@asynccontextmanager
async def supervised(**options: Any) -> AsyncIterator[SupervisedWorker]:
    limits = options.pop("limits", Limits())
    worker = SupervisedWorker(
        **{"capacity": 4, "picture_px": 16, "backend_module": "faulty_backend", "limits": limits, **options}
    )
    try:
        await worker.start()
        yield worker
    finally:
        await worker.aclose()
        await worker.aclose()
        assert_no_children()


def children() -> set[int]:
    """Processes of this one, running or zombies; those of other tests' libraries are among them."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name in brackets may hold anything; the parent is the second field after it.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


BEFORE: set[int] = set()


def assert_no_children() -> None:
    """None that this test did not find."""
    assert children() <= BEFORE


async def serves(worker: SupervisedWorker) -> None:
    assert len(await run_blocks(worker, [4, 8])) == 12


def test_pictures_are_those_of_a_worker_in_this_process() -> None:
    """And what a library prints does not get between the messages; a Ctrl-C is not for the child to heed."""

    async def body() -> None:
        local = ThreadWorker(MockBackend(), "mock", 16, 4)
        await local.start()
        face = make_face(3, side=48)
        wanted = await run_blocks(local, [4, 8, 2], face, picture_every=2)
        await local.aclose()
        async with supervised() as worker:
            assert worker.ready and worker.info.block_lengths == local.info.block_lengths and worker.capacity == 4
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGINT)
            np.testing.assert_array_equal(await run_blocks(worker, [4, 8, 2], face, picture_every=2), wanted)
            watcher = Watcher()
            slot = await worker.open(face, watcher)
            slot.submit(make_step(0, 12))
            slot.cancel(1)
            await submit_blocks(slot, watcher, [4], generation=1)
            assert {p.generation for p in watcher.pictures} == {1}
            opened = await asyncio.gather(*(worker.open(face, Watcher()) for _ in range(20)), return_exceptions=True)
            assert sum(isinstance(result, EngineFullError) for result in opened) == 17
            assert worker.restarts == 0 and worker.last_error is None

    run(body)


@pytest.mark.parametrize("order", [RAISE, MEMORY])
def test_an_exception_in_a_step_costs_its_session_only(order: float) -> None:
    async def body() -> None:
        async with supervised() as worker:
            pid, watcher, other = worker.pid, Watcher(), Watcher()
            slot, bystander = await worker.open(make_face(), watcher), await worker.open(make_face(), other)
            bystander.submit(make_step(0, 4))
            slot.submit(ordered(order))
            error = await watcher.until_lost(TOLD_S)
            assert isinstance(error, BackendFailedError) and "as ordered" in str(error) and "denoise" in str(error)
            with pytest.raises(WorkerLostError):
                slot.submit(make_step(4, 4))
            await other.until_done(1)
            await serves(worker)
            assert worker.pid == pid and other.lost is None

    run(body)


def test_crashes_and_hangs_are_survived_until_they_are_too_many() -> None:
    async def body() -> None:
        async with supervised() as worker:
            now = asyncio.get_running_loop().time
            first = worker.pid
            watchers = [Watcher(), Watcher()]
            slots = [await worker.open(make_face(), watcher) for watcher in watchers]
            slots[0].submit(ordered(HANG))
            os.kill(first or 0, signal.SIGKILL)
            for watcher in watchers:
                assert isinstance(await watcher.until_lost(TOLD_S), WorkerLostError)
            assert not worker.ready
            with pytest.raises(WorkerLostError):
                slots[1].submit(make_step(0, 4))
            await serves(worker)
            assert worker.ready and worker.pid != first and worker.restarts == 1
            assert "killed by signal 9" in str(worker.last_error)

            watcher = Watcher()
            slot = await worker.open(make_face(), watcher)
            slot.submit(ordered(HANG))
            hung = now()
            assert "hung" in str(await watcher.until_lost(3))
            assert 0.9 < now() - hung < 2.5
            await serves(worker)
            assert worker.restarts == 2

            watcher = Watcher()
            slot = await worker.open(make_face(), watcher)
            slot.submit(ordered(CRASH))
            await watcher.until_lost(TOLD_S)
            with pytest.raises(WorkerBrokenError, match=r"exit status 7.*about to crash"):
                await serves(worker)
            assert worker.broken and not worker.ready and worker.restarts == 2 and worker.pid is None
            assert_no_children()

            worker.reset()
            await serves(worker)
            assert worker.ready and not worker.broken

    run(body)


def test_a_process_that_stands_still_is_found_by_its_silence() -> None:
    async def body() -> None:
        async with supervised(limits=Limits(answer_s=0.5, crashes=1)) as worker:
            watcher = Watcher()
            await worker.open(make_face(), watcher)
            os.kill(worker.pid or 0, signal.SIGSTOP)
            assert "not answered" in str(await watcher.until_lost(3))

    run(body)


@pytest.mark.skipif(resident_bytes(os.getpid()) is None, reason="this system does not tell memory in /proc")
def test_a_process_that_grows_too_large_is_replaced() -> None:
    async def body() -> None:
        async with supervised(limits=Limits(memory_bytes=1 << 20, crashes=1)) as worker:
            watcher = Watcher()
            await worker.open(make_face(), watcher)
            assert "MB of memory" in str(await watcher.until_lost(3))
            with pytest.raises(WorkerBrokenError, match="MB of memory"):
                await worker.open(make_face(), Watcher())

    run(body)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"backend_module": None, "model": "no-such-model"}, BundleMissingError),
        ({"backend_module": "no_such_module"}, BackendFailedError),
        ({"limits": Limits(start_s=0.05)}, WorkerLostError),
    ],
)
def test_a_first_start_that_fails_says_why_and_leaves_nothing(options: dict[str, Any], error: type[Exception]) -> None:
    async def body() -> None:
        with pytest.raises(error):
            async with supervised(**options):
                pytest.fail("it started")

    run(body)


def test_a_process_that_dies_while_starting_says_its_last_words() -> None:
    async def body() -> None:
        worker = ProcessWorker([sys.executable, "-c", "import sys; sys.exit('no such thing')"], capacity=1)
        with pytest.raises(WorkerLostError):
            await worker.start(20)
        await worker.aclose()
        assert "no such thing" in worker.reason() and "exit status 1" in worker.reason()
        with pytest.raises(WorkerLostError):
            await ProcessWorker(["/no/such/program"]).start(5)

    run(body)


def test_closing_while_others_wait_for_a_new_process() -> None:
    async def body() -> None:
        async with supervised() as worker:
            watcher = Watcher()
            await worker.open(make_face(), watcher)
            os.kill(worker.pid or 0, signal.SIGKILL)
            await watcher.until_lost(TOLD_S)
            waiting = [asyncio.create_task(worker.open(make_face(), Watcher())) for _ in range(6)]
            refused = await asyncio.gather(*waiting[4:], return_exceptions=True)
            assert {type(error) for error in refused} == {EngineFullError}
            await worker.aclose()
            closed = await asyncio.gather(*waiting[:4], return_exceptions=True)
            assert {type(error) for error in closed} == {WorkerLostError}
            with pytest.raises(WorkerLostError):
                await worker.open(make_face(), Watcher())

    run(body)


def test_a_supervisor_that_was_never_started_can_be_closed() -> None:
    run(SupervisedWorker("mock", "mock").aclose)


def test_a_process_worker_ends_politely_even_when_it_hangs() -> None:
    async def body() -> None:
        worker = ProcessWorker(worker_command(backend_module="faulty_backend", picture_px=16), capacity=1)
        await worker.aclose()
        worker = ProcessWorker(worker_command(backend_module="faulty_backend", picture_px=16), capacity=1)
        await worker.start(60)
        watcher = Watcher()
        slot = await worker.open(make_face(), watcher)
        slot.submit(ordered(HANG))
        begun = asyncio.get_running_loop().time()
        await worker.aclose()
        assert asyncio.get_running_loop().time() - begun < 3
        assert watcher.lost is None
        assert_no_children()

    run(body)


def test_the_process_ends_with_the_pipe_of_its_parent() -> None:
    """Also when its parent was killed, and could say nothing."""
    command = worker_command("mock", "mock", picture_px=16)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read(4) == b"VVW1", "it is warm"
        process.stdin.close()
        assert process.wait(5) == 0


def test_garbage_on_its_pipe_ends_the_process() -> None:
    command = worker_command("mock", "mock", picture_px=16)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        _, said = process.communicate(b"hello, is this a worker?", timeout=20)
        assert process.returncode == 4 and b"something else" in said
