"""What happens while a model is opened and its user should know: one line in the log, and a call to who listens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

_log = logging.getLogger("visavis")


class NoticeKind(StrEnum):
    """building: something is compiled for this machine, which takes a while. fallback: another backend than the
    best or the usual one is used.
    """

    BUILDING = "building"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Notice:
    kind: NoticeKind
    text: str


_PREFIX = {kind: f"visavis: {kind}: " for kind in NoticeKind}
"""What a line begins with, so that the parent of a process that writes it knows it again."""

Listener = Callable[[Notice], None]

_listeners: tuple[Listener, ...] = ()


def tell(kind: NoticeKind, text: str) -> None:
    """One line. Where nothing is set up for logging it goes to stderr."""
    _log.warning("%s%s", _PREFIX[kind], text)
    for listener in _listeners:
        listener(Notice(kind, text))


def pass_on(line: str) -> None:
    """Tell what another process of ours has told on its stderr; other lines are none of ours."""
    for kind, prefix in _PREFIX.items():
        if line.startswith(prefix):
            tell(kind, line.removeprefix(prefix))


@contextmanager
def notices_to(listener: Listener) -> Iterator[None]:
    """Pass every notice of this process to the listener, in the thread that gives it, until the block is left."""
    global _listeners
    _listeners = (*_listeners, listener)
    try:
        yield
    finally:
        _listeners = tuple(other for other in _listeners if other is not listener)
