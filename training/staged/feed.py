"""What a stage learns from: a stream of takes into a pool on the device, and a few held-out takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from training.data.stream import Stream, StreamSettings
from training.data.takes import Arrays
from training.run import Batch

MOST_AT_ONCE = 8
"""Takes moved into the pool between two steps: enough for any stream, too few to be felt."""


class Pool(Protocol):
    """What a feed fills: PairPool and SequencePool."""

    @property
    def frames(self) -> int: ...

    def add(self, take: Arrays) -> None: ...


P = TypeVar("P", bound=Pool)


@dataclass(slots=True)
class Feed(Generic[P]):
    """A pool that is refreshed whenever a batch is drawn from it; drawing never waits once it holds `fill` takes."""

    stream: Stream
    pool: P
    fill: int
    taken: int = 0
    drawn: int = 0

    def refresh(self, timeout_s: float = 0.0) -> None:
        """Move what is ready into the pool. Raises StreamLostError."""
        for take in self.stream.ready(timeout_s, MOST_AT_ONCE):
            self.pool.add(take)
            self.taken += 1

    def wait(self) -> None:
        """Until the pool holds enough to begin. Raises StreamLostError."""
        while self.taken < self.fill:
            self.refresh(1.0)

    def batches(self, draw: Callable[[P], Batch], size: int) -> Iterator[Batch]:
        """Endless batches of `size` frames or sequences."""
        self.wait()
        while True:
            self.refresh()
            self.drawn += size
            yield draw(self.pool)

    def figures(self) -> dict[str, float]:
        """What the stream gave and how often it was used."""
        counts = self.stream.counts
        return {
            "takes": self.taken,
            "frames_drawn": counts.frames,
            "draws_per_frame": round(self.drawn / max(1, self.taken * self.pool.frames), 3),
            "worker_deaths": counts.deaths,
            "people_failed": counts.failures,
        }


def held_out(settings: StreamSettings, pool: P, takes: int) -> P:
    """Fill a pool with so many takes of the test split, drawn by a stream of its own."""
    workers = min(settings.workers, takes, 4)
    test = replace(settings, split="test", workers=workers, takes_per_person=1, seed=settings.seed + 1)
    filled = 0
    with Stream(test) as stream:
        while filled < takes:
            for take in stream.ready(1.0, takes - filled):
                pool.add(take)
                filled += 1
    return pool
