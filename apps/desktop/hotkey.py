"""A key that works whatever window has the focus: push to talk from anywhere.

X11 and Windows let a program ask for one (apps/desktop/hotkey_x11.py, hotkey_windows.py). Wayland does not; macOS does
only for programs that the user has made its assistants. There, a sentence says so.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from apps.desktop.notice import Notice
from engine.errors import ArgumentError, AvatarError

MODIFIERS = {"ctrl": "ctrl", "control": "ctrl", "alt": "alt", "shift": "shift", "meta": "meta", "super": "meta"}
"""Names that are understood, and what they mean."""
KEYS = {
    **{letter: letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"},
    **{f"f{number}": f"F{number}" for number in range(1, 25)},
    "space": "space", "pause": "Pause", "insert": "Insert", "home": "Home", "end": "End",
    "pgup": "Prior", "pgdown": "Next", "scrolllock": "Scroll_Lock",
}  # fmt: skip
"""Key names as Qt writes them, in lower case, to their names in X11."""
_ALONE = {"Pause", "Scroll_Lock", *(f"F{number}" for number in range(1, 25))}
"""Keys that nobody misses when another program has them."""

_POLL_S = 0.1
"""How soon `close` is noticed."""


class NoHotkeyError(AvatarError):
    """This system does not give programs keys, or another program has this one."""

    code = "no_hotkey"


@dataclass(frozen=True, slots=True)
class Combination:
    """key: by its name in X11. modifiers: of ctrl, alt, shift, meta."""

    key: str
    modifiers: frozenset[str] = frozenset()


class Watcher(Protocol):
    """Holds a key for this program; used in one thread."""

    def next(self, timeout_s: float) -> bool | None:
        """Whether the key went down or up; None when neither happened in time."""
        ...

    def close(self) -> None: ...


def parse_hotkey(text: str) -> Combination:
    """Of a text like "Ctrl+Alt+Space". Raises ArgumentError."""
    *modifiers, key = (part.strip().casefold() for part in text.split("+"))
    unknown = [name for name in modifiers if name not in MODIFIERS]
    if unknown or key not in KEYS:
        raise ArgumentError(f"{text!r} is no key that can be used; write one like Ctrl+Alt+Space, Shift+F9 or Pause")
    found = Combination(KEYS[key], frozenset(MODIFIERS[name] for name in modifiers))
    if found.modifiers <= {"shift"} and found.key not in _ALONE:
        raise ArgumentError(f"{text} would be missed in every other program; add Ctrl, Alt or Meta, or take an F key")
    return found


def open_watcher(combination: Combination) -> Watcher:
    """For the thread that will use it. Raises NoHotkeyError."""
    if sys.platform == "win32":
        from apps.desktop.hotkey_windows import WindowsWatcher

        return WindowsWatcher(combination)
    if sys.platform == "darwin":
        raise NoHotkeyError("macOS gives no key to this program while another one has the focus")
    if os.environ.get("WAYLAND_DISPLAY"):
        raise NoHotkeyError(
            "Wayland gives no key to this program while another one has the focus; in an X11 session it does"
        )
    from apps.desktop.hotkey_x11 import X11Watcher

    return X11Watcher(combination)


class Hotkey:
    """Tells of one key, from a thread of its own, until it is closed."""

    def __init__(
        self,
        text: str,
        on_key: Callable[[bool], None],
        tell: Callable[[Notice], None],
        opener: Callable[[Combination], Watcher] = open_watcher,
    ) -> None:
        """text: see parse_hotkey. on_key: told True when the key goes down and False when it comes up; the last word is
        always False. tell: told once when there is no such key to be had. Raises ArgumentError.
        """
        self._combination = parse_hotkey(text)
        self._on_key, self._tell, self._opener, self._text = on_key, tell, opener, text
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="visavis-hotkey", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 1.0) -> bool:
        """Give the key back; idempotent. Whether that was done in time."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            watcher = self._opener(self._combination)
        except NoHotkeyError as error:
            text = f"{self._text} will not work from other windows: {error}. In this window Space and F9 do."
            self._tell(Notice(error.code, text, "warning"))
            return
        down = False
        try:
            while not self._closing.is_set():
                now = watcher.next(_POLL_S)
                if now is not None and now is not down:
                    down = now
                    self._on_key(down)
        finally:
            watcher.close()
            if down:
                self._on_key(False)
