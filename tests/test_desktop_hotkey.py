"""The key that works from other windows: how it is written, what is told, and the real thing on an X11 display."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from queue import Empty, Queue

import pytest

from apps.desktop.hotkey import Combination, Hotkey, NoHotkeyError, parse_hotkey
from apps.desktop.hotkey_windows import virtual_key
from apps.desktop.notice import Notice
from engine.errors import ArgumentError


@pytest.mark.parametrize(
    ("text", "key", "modifiers"),
    [
        ("Ctrl+Alt+Space", "space", {"ctrl", "alt"}),
        ("meta+z", "z", {"meta"}),
        (" Shift + F9 ", "F9", {"shift"}),
        ("Pause", "Pause", set()),
    ],
)
def test_keys_are_written_as_qt_writes_them(text: str, key: str, modifiers: set[str]) -> None:
    assert parse_hotkey(text) == Combination(key, frozenset(modifiers))


@pytest.mark.parametrize("text", ["", "+", "Ctrl+", "Ctrl+Hyper+A", "Ctrl+Nonsense", "A", "Shift+Space", "F25"])
def test_keys_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_hotkey(text)


def test_numbers_of_keys_on_windows() -> None:
    assert [virtual_key(name) for name in ("a", "7", "F1", "F24", "space")] == [0x41, 0x37, 0x70, 0x87, 0x20]


class Script:
    """A Watcher that reports what is put into it."""

    def __init__(self) -> None:
        self.events: Queue[bool] = Queue()
        self.closed = False

    def next(self, timeout_s: float) -> bool | None:
        try:
            return self.events.get(timeout=timeout_s)
        except Empty:
            return None

    def close(self) -> None:
        self.closed = True


def test_repeats_are_left_out_and_a_held_key_is_let_go_at_the_end() -> None:
    script = Script()
    heard: list[bool] = []
    thrice = threading.Event()

    def on_key(down: bool) -> None:
        heard.append(down)
        if len(heard) == 3:
            thrice.set()

    key = Hotkey("Pause", on_key, [].append, lambda combination: script)
    for down in (True, True, False, False, True):
        script.events.put(down)
    key.start()
    assert thrice.wait(5)
    assert key.close(5) and script.closed
    assert heard == [True, False, True, False]


def test_a_key_that_is_not_to_be_had_is_told() -> None:
    def refuse(combination: Combination) -> Script:
        raise NoHotkeyError("another program has this key")

    told: list[Notice] = []
    key = Hotkey("Ctrl+Alt+Space", [].append, told.append, refuse)
    key.start()
    assert key.close(5)
    assert [notice.code for notice in told] == ["no_hotkey"] and "Ctrl+Alt+Space" in told[0].text


def test_closing_before_the_start() -> None:
    assert Hotkey("Pause", [].append, [].append).close()


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A display of its own; gives what types on it."""
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if find_library("X11") is None:
        pytest.skip("libX11 is not installed")
    with subprocess.Popen(["Xvfb", "-displayfd", "1", "-nolisten", "tcp"], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        number = server.stdout.readline().decode().strip()
        monkeypatch.setenv("DISPLAY", f":{number}")
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        try:
            yield lambda *words: subprocess.run(["xdotool", *words], check=True, timeout=20)
        finally:
            server.terminate()


def test_a_key_of_the_whole_display(display: Callable[..., None]) -> None:
    heard: Queue[bool] = Queue()
    told: Queue[Notice] = Queue()
    key = Hotkey("Ctrl+Alt+Space", heard.put, told.put)
    key.start()
    for _ in range(100):  # Until the key is held by the thread, presses go nowhere.
        display("keydown", "ctrl+alt+space")
        display("keyup", "ctrl+alt+space")
        if not heard.empty():
            break
    assert (heard.get(timeout=5), heard.get(timeout=5)) == (True, False)
    display("key", "space")
    display("key", "ctrl+space")
    display("key", "Num_Lock")
    display("keydown", "ctrl+alt+space")
    assert heard.get(timeout=5) is True

    other = Hotkey("Ctrl+Alt+Space", heard.put, told.put)
    other.start()
    notice = told.get(timeout=5)
    assert notice.code == "no_hotkey" and "another program" in notice.text
    assert other.close(5) and key.close(5)
    assert heard.get(timeout=5) is False and heard.empty()


def test_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_library("X11") is None:
        pytest.skip("libX11 is not installed")
    monkeypatch.setenv("DISPLAY", ":99999")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    told: list[Notice] = []
    key = Hotkey("Pause", [].append, told.append)
    key.start()
    assert key.close(10) and "no X11 display" in told[0].text


def test_wayland_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.desktop.hotkey.sys.platform", "linux")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    told: list[Notice] = []
    key = Hotkey("Pause", [].append, told.append)
    key.start()
    assert key.close(5) and "Wayland" in told[0].text
