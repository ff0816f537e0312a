"""What the window remembers between runs: one JSON file in the user's config folder.

    {"version": 1, "portrait": "anna", "microphone": "USB Audio", "mic_mode": "push", ...}

Keys that this version does not know are kept, so that an older and a newer version can share the file. A value that
cannot be used becomes the usual one; a file that is no JSON is put aside; both are told. Nothing secret is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apps.desktop.folders import config_folder, recordings_folder
from apps.desktop.notice import Notice
from engine.backends.registry import CHOICES
from engine.engine import DEFAULT_SIZE_PX, MAX_SIZE_PX, MIN_SIZE_PX, SIZE_STEP_PX
from engine.errors import ArgumentError, OutputNotWritableError

FILE = "settings.json"
BROKEN_FILE = "settings.broken.json"
VERSION = 1

SOURCES = ("microphone", "loopback", "file", "socket")
MODES = ("speak", "listen")
MIC_MODES = ("open", "push", "muted")

_MOST_BYTES = 1 << 20
_LONGEST_TEXT = 4096
_FARTHEST_PX = 1 << 20
_MOST_THREADS = 1024
_VERSION_KEY = "version"

Check = Callable[[Any], Any]
"""Gives the value as it is to be kept, or raises ValueError with what is allowed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a window was, in the desktop's pixels; negative on screens left of or above the first one."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


def _setting(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise ValueError(f"a line of at most {_LONGEST_TEXT} characters")
    return value


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return value

    return check


def _size(value: Any) -> int:
    number = _whole(value, MIN_SIZE_PX, MAX_SIZE_PX)
    if number % SIZE_STEP_PX:
        raise ValueError(f"a multiple of {SIZE_STEP_PX}")
    return number


def _threads(value: Any) -> int | None:
    return None if value is None else _whole(value, 1, _MOST_THREADS)


def _server(value: Any) -> str:
    """A server's address without anything secret in it."""
    parts = urlsplit(_text(value))
    if value and (parts.scheme not in ("ws", "wss") or not parts.hostname or parts.query or "@" in parts.netloc):
        raise ValueError("an address like wss://host/v1/avatar, without a token in it")
    return str(value)


def _place(value: Any) -> Place | None:
    """From a Place, or the four numbers that one is written as."""
    if value is None or isinstance(value, Place):
        return value
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError("four whole numbers: x, y, width, height")
    x, y = (_whole(number, -_FARTHEST_PX, _FARTHEST_PX) for number in value[:2])
    width, height = (_whole(number, 1, _FARTHEST_PX) for number in value[2:])
    return Place(x, y, width, height)


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"a whole number from {low} to {high}")
    return value


@dataclass(frozen=True, slots=True)
class Settings:
    """portrait: name of a card of the library, empty for the first. source: what is heard; file: of the source "file";
    microphone, loopback, speaker: devices by name, empty for the system's own choice. mode: the voice is the avatar's
    own, or its partner's. mic_mode: always open, push to talk, or muted. headphones: no echo to guard against.
    hear_aloud: the avatar's sound is played. panel, hud, captions, badge, on_top: what is shown. hotkey: of push to
    talk from anywhere, as Qt writes key sequences; empty for none. size_px: of the picture. window, pet: where they
    were. maximised: the window fills the screen. threads: None for the backend's own choice. server: compute there,
    empty for here. recordings: folder, empty for the usual one. version: of the file, which a newer
    program may have written; kept: what only that one knows. Raises
    ArgumentError for values outside what is allowed.
    """

    portrait: str = _setting("", _text)
    source: str = _setting("microphone", _one_of(*SOURCES))
    file: str = _setting("", _text)
    microphone: str = _setting("", _text)
    loopback: str = _setting("", _text)
    speaker: str = _setting("", _text)
    mode: str = _setting("speak", _one_of(*MODES))
    mic_mode: str = _setting("open", _one_of(*MIC_MODES))
    headphones: bool = _setting(False, _flag)
    hear_aloud: bool = _setting(False, _flag)
    panel: bool = _setting(True, _flag)
    hud: bool = _setting(False, _flag)
    captions: bool = _setting(False, _flag)
    badge: bool = _setting(True, _flag)
    on_top: bool = _setting(False, _flag)
    hotkey: str = _setting("", _text)
    size_px: int = _setting(DEFAULT_SIZE_PX, _size)
    window: Place | None = _setting(None, _place)
    maximised: bool = _setting(False, _flag)
    pet: Place | None = _setting(None, _place)
    model: str = _setting("auto", _text)
    backend: str = _setting("auto", _one_of(*CHOICES))
    threads: int | None = _setting(None, _threads)
    server: str = _setting("", _server)
    recordings: str = _setting("", _text)
    version: int = VERSION
    kept: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            try:
                check(getattr(self, name))
            except ValueError as error:
                raise ArgumentError(f"{name} must be {error}, not {getattr(self, name)!r}") from error

    @property
    def recordings_path(self) -> Path:
        """Where films and pictures go; not made here."""
        return Path(self.recordings) if self.recordings else recordings_folder()


CHECKS: Mapping[str, Check] = {f.name: f.metadata["check"] for f in fields(Settings) if f.metadata}


@dataclass(frozen=True, slots=True)
class Loaded:
    """notices: what could not be used."""

    settings: Settings
    notices: tuple[Notice, ...] = ()


def settings_path() -> Path:
    """Raises RuntimeError when the user has no home folder."""
    return config_folder() / FILE


def load(path: Path | None = None) -> Loaded:
    """What was remembered, else the usual settings; whatever is wrong is told. path: the usual one if None."""
    try:
        path = path or settings_path()
        values = _read(path)
    except FileNotFoundError:
        return Loaded(Settings())
    except ValueError as error:
        return Loaded(Settings(), (_put_aside(path or Path(FILE), error),))
    except (OSError, RuntimeError) as error:
        text = f"The settings cannot be read ({error}); the usual ones are used. Check the folder's permissions."
        return Loaded(Settings(), (Notice("settings_unreadable", text, "warning"),))
    return from_values(values)


def from_values(values: Mapping[str, Any]) -> Loaded:
    """Of the keys of a file; those that cannot be used are left at the usual value, and told."""
    known: dict[str, Any] = {}
    wrong = []
    for name, check in CHECKS.items():
        if name not in values:
            continue
        try:
            known[name] = check(values[name])
        except ValueError as error:
            wrong.append(f"{name} must be {error}")
    kept = {key: value for key, value in values.items() if key not in CHECKS and key != _VERSION_KEY}
    version = values.get(_VERSION_KEY)
    version = max(version, VERSION) if isinstance(version, int) else VERSION
    text = f"Some settings could not be used and are back to the usual ones: {'; '.join(wrong)}."
    notices = (Notice("settings_changed", text, "warning"),) if wrong else ()
    return Loaded(Settings(**known, version=version, kept=kept), notices)


def to_values(settings: Settings) -> dict[str, Any]:
    """What is written: every setting, and what another version has written."""
    known = {name: getattr(settings, name) for name in CHECKS}
    for name in ("window", "pet"):
        place: Place | None = known[name]
        known[name] = None if place is None else [place.x_px, place.y_px, place.width_px, place.height_px]
    return {_VERSION_KEY: settings.version, **settings.kept, **known}


def save(settings: Settings, path: Path | None = None) -> None:
    """Write the file as a whole or not at all. Raises OutputNotWritableError."""
    try:
        path = path or settings_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(to_values(settings), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        raise OutputNotWritableError(
            f"the settings cannot be kept ({error}); free some space, or set VISAVIS_CONFIG to another folder"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """Raises OSError, or ValueError for anything but an object."""
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError("it is too large")
    try:
        values = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def _put_aside(path: Path, error: ValueError) -> Notice:
    aside = path.with_name(BROKEN_FILE)
    try:
        path.replace(aside)
        where = f"It was put aside as {aside}."
    except OSError:
        where = f"It is left at {path}, and will be written over."
    return Notice(
        "settings_broken", f"The settings file was damaged ({error}); the usual ones are used. {where}", "warning"
    )
