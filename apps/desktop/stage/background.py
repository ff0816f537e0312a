"""Work that blocks, in threads that nobody has to wait for.

The pools of asyncio and concurrent.futures are joined when the program ends; a model that is still being read, or a
driver that does not answer, must not keep a window open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def _ignore(_: object) -> None:
    """What comes too late is of no use."""


async def in_background(name: str, call: Callable[[], T], unwanted: Callable[[T], None] = _ignore) -> T:
    """What `call` returns or raises, from a thread of its own. unwanted: gets, in that thread, what it returns after
    the caller was cancelled or the loop has ended.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: Exception | None) -> None:
        if result.done():
            if error is None:
                Thread(target=unwanted, args=(value,), name=f"{name} undone", daemon=True).start()
        elif error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, error = None, None
        try:
            value = call()
        except Exception as raised:  # Whatever it is, it belongs to who asked.
            error = raised
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:  # The loop has ended.
            if error is None:
                with suppress(Exception):
                    unwanted(value)  # type: ignore[arg-type]

    Thread(target=run, name=name, daemon=True).start()
    return await result
