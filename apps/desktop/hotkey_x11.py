"""A key of the whole X11 display, by the library that every X11 program has."""

from __future__ import annotations

import ctypes
import select
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_ulong, c_void_p
from ctypes.util import find_library
from itertools import product
from typing import Any

from apps.desktop.hotkey import Combination, NoHotkeyError

_MASKS = {"shift": 1 << 0, "ctrl": 1 << 2, "alt": 1 << 3, "meta": 1 << 6}
_LOCKS = (0, 1 << 1), (0, 1 << 4)
"""Caps Lock and Num Lock count as modifiers, so the key is asked for with and without them."""
_KEY_PRESS, _KEY_RELEASE = 2, 3
_ASYNC = 1
_EVENT_BYTES = 192

_Handler = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)


class X11Watcher:
    """See apps.desktop.hotkey.Watcher. A connection of its own, which ends with the thread's use of it."""

    def __init__(self, combination: Combination) -> None:
        """Raises NoHotkeyError."""
        self._x = _library()
        self._display: int | None = self._x.XOpenDisplay(None)
        if not self._display:
            raise NoHotkeyError("there is no X11 display")
        self._event = ctypes.create_string_buffer(_EVENT_BYTES)
        try:
            self._grab(combination)
        except NoHotkeyError:
            self.close()
            raise
        # Else a key that is held would come up and go down thirty times a second.
        self._x.XkbSetDetectableAutoRepeat(self._display, 1, byref(c_int()))

    def next(self, timeout_s: float) -> bool | None:
        if not self._x.XPending(self._display):
            select.select([self._x.XConnectionNumber(self._display)], [], [], timeout_s)
            if not self._x.XPending(self._display):
                return None
        self._x.XNextEvent(self._display, self._event)
        kind = c_int.from_buffer(self._event).value
        return {_KEY_PRESS: True, _KEY_RELEASE: False}.get(kind)

    def close(self) -> None:
        if self._display:
            self._x.XCloseDisplay(self._display)
            self._display = None

    def _grab(self, combination: Combination) -> None:
        code = self._x.XKeysymToKeycode(self._display, self._x.XStringToKeysym(combination.key.encode()))
        if not code:
            raise NoHotkeyError(f"this keyboard has no key {combination.key}")
        mask = sum(_MASKS[name] for name in combination.modifiers)
        refused: list[bool] = []

        def on_error(display: int, error: int) -> int:
            refused.append(True)
            return 0

        handler = _Handler(on_error)
        # Xlib's own handler ends the program.
        before = self._x.XSetErrorHandler(handler)
        try:
            root = self._x.XDefaultRootWindow(self._display)
            for locks in product(*_LOCKS):
                self._x.XGrabKey(self._display, code, mask | sum(locks), root, 0, _ASYNC, _ASYNC)
            self._x.XSync(self._display, 0)
        finally:
            self._x.XSetErrorHandler(ctypes.cast(before, _Handler))
        if refused:
            raise NoHotkeyError("another program has this key")


def _library() -> Any:
    """libX11 with the types of what is used. Raises NoHotkeyError."""
    name = find_library("X11")
    if name is None:
        raise NoHotkeyError("libX11 is not installed")
    try:
        x = ctypes.CDLL(name)
    except OSError as error:
        raise NoHotkeyError(f"libX11 cannot be loaded ({error})") from error
    signatures: tuple[tuple[Any, Any, list[Any]], ...] = (
        (x.XOpenDisplay, c_void_p, [c_char_p]),
        (x.XCloseDisplay, c_int, [c_void_p]),
        (x.XDefaultRootWindow, c_ulong, [c_void_p]),
        (x.XStringToKeysym, c_ulong, [c_char_p]),
        (x.XKeysymToKeycode, ctypes.c_ubyte, [c_void_p, c_ulong]),
        (x.XGrabKey, c_int, [c_void_p, c_int, c_uint, c_ulong, c_int, c_int, c_int]),
        (x.XSync, c_int, [c_void_p, c_int]),
        (x.XPending, c_int, [c_void_p]),
        (x.XConnectionNumber, c_int, [c_void_p]),
        (x.XNextEvent, c_int, [c_void_p, c_char_p]),
        (x.XSetErrorHandler, c_void_p, [c_void_p]),
        (x.XkbSetDetectableAutoRepeat, c_int, [c_void_p, c_int, POINTER(c_int)]),
    )
    for function, result, arguments in signatures:
        function.restype, function.argtypes = result, arguments
    return x
