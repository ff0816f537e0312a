"""Making the next items while the last ones are being used."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")

_LOOK_S = 0.05
"""How often a full queue's producer looks whether anyone still wants its items."""


class _Raised:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def run_ahead(items: Iterable[T], depth: int, begin: Callable[[], None] = lambda: None) -> Generator[T]:
    """The same items, up to `depth` of them made in advance by a thread, which calls `begin` first.

    What the source raises is raised here, after the items before it. When the caller stops early, the source is
    stopped within an item, and its thread has ended before this returns.
    """
    queue: Queue[T | _Raised] = Queue(depth)
    unwanted = Event()
    producer = Thread(target=_produce, args=(items, queue, unwanted, begin), name="run-ahead", daemon=True)
    producer.start()
    try:
        while not isinstance(item := queue.get(), _Raised):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        unwanted.set()
        producer.join()


def _produce(items: Iterable[T], queue: Queue[T | _Raised], unwanted: Event, begin: Callable[[], None]) -> None:
    error: BaseException | None = None
    try:
        begin()
        for item in items:
            if not _offer(queue, item, unwanted):
                break
    except BaseException as raised:  # Whatever it is, it belongs to the thread that asked for the items.
        error = raised
    if isinstance(items, Generator):
        items.close()  # It may have threads of its own.
    _offer(queue, _Raised(error), unwanted)


def _offer(queue: Queue[T | _Raised], item: T | _Raised, unwanted: Event) -> bool:
    while not unwanted.is_set():
        try:
            queue.put(item, timeout=_LOOK_S)
            return True
        except Full:
            continue
    return False
