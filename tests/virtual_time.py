"""An event loop whose clock jumps to the next timer: an hour's conversation takes as long as its callbacks."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for a timer, moves the clock on to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing is scheduled and nothing can happen: the test would hang")
        if not ready and timeout:
            # Rounded up, or a timer a hair ahead would be looked at for ever.
            self.now += timeout + 1e-9
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run in virtual time; fails when tasks are left behind."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        results: list[T] = []

        async def watched() -> None:
            # Not returned: asyncio prints a task's result in full when it takes its signal handler back.
            results.append(await work)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left behind: {[t.get_name() for t in left]}"

        runner.run(watched())
        return results[0]
