"""A screen that nobody sees: Xvfb with a window manager, its pixels as an array, its keys and mouse.

Xvfb keeps its picture in a mapped file (-fbdir), so looking costs the X server nothing and a single byte's change is
seen within a millisecond: what is timed is the window, not the screenshot.
"""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apps.bench.desktop.children import Children, find_program

START_S = 15.0
_HEADER_WORDS = 25
"""Of an XWD file: big-endian words, of which some are read here by their place."""
_HEADER_BYTES, _HEIGHT, _LINE_BYTES, _COLOURS, _WIDTH = 0, 5, 12, 19, 4
_COLOUR_BYTES = 12
_COMMAND_S = 10.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the screen in pixels."""

    x: int
    y: int
    width: int
    height: int

    def inner(self, left: float, top: float, right: float, bottom: float) -> Box:
        """The part between fractions of its sides, at least a pixel each way."""
        x, y = self.x + round(left * self.width), self.y + round(top * self.height)
        return Box(x, y, max(1, round((right - left) * self.width)), max(1, round((bottom - top) * self.height)))


class Screen:
    """with Screen(children, folder) as a started display; `environment` is for programs that shall appear on it."""

    def __init__(self, children: Children, folder: Path, width: int = 1280, height: int = 800) -> None:
        """folder: for the mapped picture. Raises ExtraMissingError or BackendUnavailableError."""
        reader, writer = os.pipe()
        try:
            self._server = children.start(
                "Xvfb", "-displayfd", str(writer), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp",
                "-noreset", "-fbdir", str(folder), keep=[writer],
            )  # fmt: skip
            os.close(writer)
            os.set_blocking(reader, False)
            number = children.wait(self._server, lambda: _line(reader), START_S)
        finally:
            os.close(reader)
        self.display = f":{number}"
        self.environment = {"DISPLAY": self.display, "QT_QPA_PLATFORM": "xcb"}
        self._children = children
        self._pixels = children.wait(self._server, lambda: _mapped(folder / "Xvfb_screen0"), START_S)

    def manage(self, program: str = "openbox", *arguments: str) -> subprocess.Popen[bytes]:
        """Start a window manager, or a compositor, here."""
        return self._children.start(program, *arguments, env=self._env())

    def colour_root(self, picture: Path) -> None:
        """Paint the desktop behind all windows with a picture file, as a compositor will see it, too."""
        self._run("hsetroot", "-fill", str(picture))

    def look(self, box: Box | None = None) -> NDArray[np.uint8]:
        """What is shown now, [H, W, 4] as BGRX: a view of the screen itself, which goes on to change."""
        if box is None:
            return self._pixels
        return self._pixels[box.y : box.y + box.height, box.x : box.x + box.width]

    def shot(self, box: Box | None = None) -> NDArray[np.uint8]:
        """A copy of what is shown now, RGB [H, W, 3]."""
        return np.ascontiguousarray(self.look(box)[..., 2::-1])

    def key(self, *names: str) -> None:
        """Press and release keys of the window that has the focus, as `space`, `ctrl+r`, `F1`."""
        self._run("xdotool", "key", "--clearmodifiers", *names)

    def hold(self, name: str, down: bool) -> None:
        self._run("xdotool", "keydown" if down else "keyup", name)

    def click(self, x: int, y: int, button: int = 1) -> None:
        self._run("xdotool", "mousemove", str(x), str(y), "click", str(button))

    def windows(self, title: str) -> list[int]:
        """Visible windows whose title contains a text, oldest first."""
        found = self._run("xdotool", "search", "--onlyvisible", "--name", title, check=False)
        return [int(line) for line in found.split()]

    def focus(self, window: int) -> None:
        self._run("xdotool", "windowactivate", "--sync", str(window))

    def place(self, window: int) -> Box:
        """Where a window lies."""
        words = dict(
            line.split("=", 1)
            for line in self._run("xdotool", "getwindowgeometry", "--shell", str(window)).splitlines()
            if "=" in line
        )
        return Box(*(int(words[name]) for name in ("X", "Y", "WIDTH", "HEIGHT")))

    def _run(self, program: str, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [find_program(program), *arguments],
            env=self._env(),
            check=check,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
        )
        return done.stdout

    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


def _line(reader: int) -> str | None:
    """What Xvfb says once it can be reached: the number of its display."""
    try:
        text = os.read(reader, 64).decode("ascii")
    except BlockingIOError:
        return None
    return text.strip() or None


def _mapped(path: Path) -> NDArray[np.uint8] | None:
    try:
        head = struct.unpack(f">{_HEADER_WORDS}I", path.read_bytes()[: 4 * _HEADER_WORDS])
    except (OSError, struct.error):
        return None
    offset = head[_HEADER_BYTES] + _COLOUR_BYTES * head[_COLOURS]
    raw = np.memmap(path, np.uint8, "r", offset, (head[_HEIGHT], head[_LINE_BYTES]))
    return np.asarray(raw.reshape(head[_HEIGHT], -1, 4)[:, : head[_WIDTH]])
