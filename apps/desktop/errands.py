"""Work that may take a while, done elsewhere than in the window's thread: opening devices, reading pictures.

Of errands with one key only the newest counts; so the queue is no longer than the keys are many, and a list that is
scrolled through quickly does not open every microphone on its way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_LOG = logging.getLogger(__name__)

Errand = Callable[[], None]


class Errands:
    """One thread, which the program's end does not wait for."""

    def __init__(self, name: str) -> None:
        self._waiting: dict[str, Errand] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, key: str, errand: Errand) -> None:
        """Soon, in place of what waits under that key; returns at once. Nothing happens once `close` was called."""
        with self._changed:
            if not self._closing:
                self._waiting.pop(key, None)
                self._waiting[key] = errand
                self._changed.notify()

    def close(self, last: Errand | None = None) -> None:
        """Forget what waits, do `last`, and end; returns at once. Idempotent."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._waiting = {"last": last} if last is not None else {}
            self._changed.notify()

    def join(self, timeout_s: float) -> bool:
        """Whether all is done in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                errand = self._waiting.pop(next(iter(self._waiting)))
            try:
                errand()
            except Exception:
                # One that fails in a way that nobody foresaw must not end those after it.
                _LOG.exception("an errand failed")
