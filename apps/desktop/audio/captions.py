"""What a chatbot's texts look like on the picture: a line or two at a time, while they are heard."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

MOST_CHARS = 84
"""Of one caption: two lines of 42, as broadcasters have them."""

_SENTENCE = re.compile(r"(?<=[.!?…。！？])\s+")


def captions(text: str) -> list[str]:
    """Pieces of at most 84 characters, broken after sentences, else between words."""
    pieces: list[str] = []
    for sentence in _SENTENCE.split(" ".join(text.split())):
        line = ""
        for word in sentence.split(" "):
            if line and len(line) + 1 + len(word) > MOST_CHARS:
                pieces.append(line)
                line = ""
            line = f"{line} {word}" if line else word
            # A language without spaces, or a very long address.
            while len(line) > MOST_CHARS:
                pieces.append(line[:MOST_CHARS])
                line = line[MOST_CHARS:]
        if line:
            pieces.append(line)
    return pieces


class CaptionClock:
    """Shows a text's pieces one after the other, each for its share of the text's sound. Belongs to one event loop."""

    def __init__(self, show: Callable[[str], None]) -> None:
        """show: gets each caption at its moment, and an empty one when a text is cut off."""
        self._show = show
        self._timers: list[asyncio.TimerHandle] = []

    def begin(self, text: str, seconds: float) -> None:
        """It is heard from now on, for so long."""
        self._cancel()
        loop, whole, before = asyncio.get_running_loop(), max(1, len(text)), 0
        for piece in captions(text):
            self._timers.append(loop.call_later(seconds * before / whole, self._show, piece))
            before += len(piece) + 1

    def cut(self) -> None:
        """Nothing of it is heard any more."""
        self._cancel()
        self._show("")

    def _cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
