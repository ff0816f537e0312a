"""engine.ahead: order, errors, bounds, and no thread left behind."""

from __future__ import annotations

from collections.abc import Iterator
from threading import active_count
from time import monotonic, sleep

import pytest

from engine.ahead import run_ahead


def test_same_items_in_order() -> None:
    assert list(run_ahead(range(100), 3)) == list(range(100))
    assert list(run_ahead([], 3)) == []


def test_error_comes_after_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    seen = []
    with pytest.raises(ValueError, match="third"):
        for item in run_ahead(source(), 1):
            seen.append(item)
    assert seen == [1, 2]


def test_no_more_than_depth_is_made_in_advance() -> None:
    made = []

    def source() -> Iterator[int]:
        for i in range(50):
            made.append(i)
            yield i

    items = run_ahead(source(), 4)
    next(items)
    sleep(0.3)
    # One was taken, four wait, one is being offered.
    assert 5 <= len(made) <= 6
    items.close()  # type: ignore[attr-defined]


def test_stopping_early_ends_the_thread() -> None:
    before, begun = active_count(), monotonic()
    items = run_ahead(iter(range(10**9)), 2)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert active_count() == before
    assert monotonic() - begun < 2


def test_work_overlaps() -> None:
    def slow() -> Iterator[int]:
        for i in range(10):
            sleep(0.03)
            yield i

    begun = monotonic()
    for _ in run_ahead(slow(), 4):
        sleep(0.03)
    assert monotonic() - begun < 0.55
