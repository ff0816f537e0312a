"""A key of the whole Windows desktop. Windows tells when it goes down; when it comes up, one has to look."""

from __future__ import annotations

import sys
import time

from apps.desktop.hotkey import Combination, NoHotkeyError

_MODIFIERS = {"alt": 0x1, "ctrl": 0x2, "shift": 0x4, "meta": 0x8}
_NO_REPEAT = 0x4000
_HOTKEY, _REMOVE = 0x0312, 0x1
_ID = 1
_LOOK_S = 0.02
_NAMED = {
    "space": 0x20, "Prior": 0x21, "Next": 0x22, "End": 0x23, "Home": 0x24, "Insert": 0x2D, "Pause": 0x13,
    "Scroll_Lock": 0x91,
}  # fmt: skip


def virtual_key(name: str) -> int:
    """Windows' number of a key, by its name in X11."""
    if name in _NAMED:
        return _NAMED[name]
    return 0x6F + int(name[1:]) if len(name) > 1 else ord(name.upper())


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class WindowsWatcher:
        """See apps.desktop.hotkey.Watcher. Windows ties the key to the thread that asked for it."""

        def __init__(self, combination: Combination) -> None:
            """Raises NoHotkeyError."""
            self._user = ctypes.WinDLL("user32", use_last_error=True)
            self._code, self._down = virtual_key(combination.key), False
            modifiers = sum(_MODIFIERS[name] for name in combination.modifiers) | _NO_REPEAT
            if not self._user.RegisterHotKey(None, _ID, modifiers, self._code):
                raise NoHotkeyError("another program has this key")

        def next(self, timeout_s: float) -> bool | None:
            until = time.monotonic() + timeout_s
            message = wintypes.MSG()
            while time.monotonic() < until:
                if self._down and not self._user.GetAsyncKeyState(self._code) & 0x8000:
                    self._down = False
                    return False
                if self._user.PeekMessageW(ctypes.byref(message), None, _HOTKEY, _HOTKEY, _REMOVE):
                    self._down = True
                    return True
                time.sleep(_LOOK_S)
            return None

        def close(self) -> None:
            self._user.UnregisterHotKey(None, _ID)
