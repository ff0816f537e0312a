"""Looks at a part of the screen hundreds of times a second, and notes when it changes and how."""

from __future__ import annotations

import threading
import time
from array import array
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from apps.bench.desktop.screen import Box, Screen

LOOK_S = 0.002
_KEPT = 25 * 3600
"""Changes that are remembered: an hour's pictures."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Changes in order: moment_s [N] on time.monotonic; apart [N]: mean distance from the picture at rest, in grey
    levels; dark [N]: brightness of the darkest tenth, which in a mouth is what opens.
    """

    moment_s: NDArray[np.float64]
    apart: NDArray[np.float64]
    dark: NDArray[np.float64]

    def after(self, moment_s: float) -> Seen:
        keep = self.moment_s >= moment_s
        return Seen(self.moment_s[keep], self.apart[keep], self.dark[keep])

    def __len__(self) -> int:
        return len(self.moment_s)


class Eye:
    """with Eye(screen, box) as eye: a thread looks until the end."""

    def __init__(self, screen: Screen, box: Box, look_s: float = LOOK_S) -> None:
        self._view, self._look_s = screen.look(box)[..., :3], look_s
        self._rest = self._view.astype(np.int16)
        self._last = self._view.copy()
        self._moments, self._apart, self._dark = array("d"), array("d"), array("d")
        self._noted = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="bench-eye", daemon=True)

    def __enter__(self) -> Eye:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._thread.join()

    def settle(self) -> None:
        """What is shown now is the picture at rest."""
        with self._noted:
            self._rest = self._view.astype(np.int16)

    def seen(self) -> Seen:
        with self._noted:
            return Seen(*(np.array(notes, np.float64) for notes in (self._moments, self._apart, self._dark)))

    def wait(self, after_s: float, apart: float, patience_s: float) -> float | None:
        """The first moment from `after_s` on at which the picture was so far from rest; None when none comes."""
        deadline = time.monotonic() + patience_s
        seen = 0
        with self._noted:
            while True:
                for moment_s, distance in zip(self._moments[seen:], self._apart[seen:], strict=True):
                    if moment_s >= after_s and distance >= apart:
                        return moment_s
                seen = len(self._moments)
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._noted.wait(left_s):
                    return None

    def _run(self) -> None:
        while self._open:
            moment_s, now = time.monotonic(), self._view.copy()
            if not np.array_equal(now, self._last):
                self._note(moment_s, now)
            time.sleep(self._look_s)

    def _note(self, moment_s: float, now: NDArray[np.uint8]) -> None:
        self._last = now
        with self._noted:
            if len(self._moments) < _KEPT:
                self._moments.append(moment_s)
                self._apart.append(float(np.abs(now - self._rest).mean()))
                self._dark.append(darkest_tenth(now))
            self._noted.notify_all()


def darkest_tenth(picture: NDArray[np.uint8]) -> float:
    """Its brightest pixel, in the green of a picture of three colours [H, W, 3]."""
    return float(np.percentile(picture[..., 1], 10))
