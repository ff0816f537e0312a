"""The log of the desktop app, and what to attach to a bug report.

The log turns over at a megabyte and keeps two older files. A report holds the logs, the settings and what `visavis
doctor` finds: no picture, no sound, the home folder written as ~ and the user's name nowhere.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import platform
import re
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import engine
from apps.desktop.folders import state_folder
from apps.desktop.settings import Settings, to_values
from engine.errors import AvatarError, OutputNotWritableError

FILE, CRASH_FILE = "visavis.log", "crash.log"
MOST_BYTES, OLDER_FILES = 1_000_000, 2

_PERSONAL = ("portrait", "file", "recordings")
_SHORTEST_LOGIN = 3
_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(threadName)s %(name)s: %(message)s"
_TIME = "%Y-%m-%dT%H:%M:%S"
_log = logging.getLogger("visavis.desktop")

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


@dataclass
class Log:
    """An open log. path: of its newest file, None where nothing can be kept. crashes: where what ends the process at
    once, as a driver may, leaves its traces.
    """

    path: Path | None
    _handler: logging.Handler | None = None
    _crashes: IO[str] | None = None
    _hooks: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        """Put back what was there before; idempotent."""
        while self._hooks:
            self._hooks.pop()()
        if self._handler is not None:
            logging.getLogger("visavis").removeHandler(self._handler)
            self._handler.close()
            self._handler = None
        if self._crashes is not None:
            faulthandler.disable()
            self._crashes.close()
            self._crashes = None


def open_log(folder: Path | None = None, on_crash: Callable[[str], None] | None = None) -> Log:
    """Log what visavis says to a file, and every exception that nobody catches. folder: the usual one if None.

    on_crash: told one sentence that names the log, in the thread that failed. Where nothing can be written the app
    runs without a log.
    """
    logger = logging.getLogger("visavis")
    logger.setLevel(logging.INFO)
    log = Log(None)
    try:
        folder = folder or state_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        log._handler = RotatingFileHandler(path, maxBytes=MOST_BYTES, backupCount=OLDER_FILES, encoding="utf-8")
        log._crashes = _open_crashes(folder / CRASH_FILE)
    except (OSError, RuntimeError) as error:
        _log.warning("no log is kept: %s", error)
    else:
        log.path = path
        log._handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
        logger.addHandler(log._handler)
        faulthandler.enable(log._crashes)
        _log.info("visavis %s, Python %s, %s", engine.__version__, platform.python_version(), platform.platform())
    log._hooks = [_hook_main(log.path, on_crash), _hook_threads(log.path, on_crash)]
    return log


def export(path: Path, settings: Settings, folder: Path | None = None) -> None:
    """Write a zip for a bug report; takes a second or two. folder: of the log, the usual one if None.

    Raises OutputNotWritableError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, text in _parts(settings, folder or state_folder()).items():
                    archive.writestr(name, scrubbed(text))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        raise OutputNotWritableError(f"{path} cannot be written: {error}; choose another folder") from error


def scrubbed(text: str) -> str:
    """Without what tells who the user is: home folder, login, tokens."""
    for pattern, stand_in in _secrets():
        text = pattern.sub(stand_in, text)
    return text


def _secrets() -> list[tuple[re.Pattern[str], str]]:
    found = [(re.compile(r"(?i)(token[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,}]+"), r"\1[token]")]
    try:
        home = Path.home()
    except RuntimeError:
        return found
    forms = {str(home), home.as_posix(), str(home).replace("\\", "\\\\")}
    if len(home.parts) > 1:  # Else it is the root of everything.
        found += [(re.compile(rf"{re.escape(form)}(?=[\\/\"'\s:,;)]|$)"), "~") for form in sorted(forms, reverse=True)]
        if len(home.name) >= _SHORTEST_LOGIN:
            found.append((re.compile(rf"(?<![\w-]){re.escape(home.name)}(?![\w-])"), "[user]"))
    return found


def _parts(settings: Settings, folder: Path) -> dict[str, str]:
    """The report's files."""
    values = {key: _told(key, value) for key, value in to_values(settings).items()}
    parts = {"settings.json": json.dumps(values, indent=1), "doctor.json": json.dumps(_doctor(), indent=1, default=str)}
    names = [FILE, *(f"{FILE}.{number}" for number in range(1, OLDER_FILES + 1)), CRASH_FILE]
    return parts | {name: _tail(folder / name) for name in names if (folder / name).is_file()}


def _told(key: str, value: Any) -> Any:
    """Of what may name a person only whether there is something."""
    return "[set]" if key in _PERSONAL and value else value


def _doctor() -> dict[str, Any]:
    from apps.doctor.examine import examine

    try:
        report = examine()
    except (AvatarError, OSError, RuntimeError) as error:
        report = {"failed": repr(error)}
    return {"exported": datetime.now(UTC).strftime(f"{_TIME}Z"), "visavis": engine.__version__, **report}


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MOST_BYTES))
        return file.read(MOST_BYTES).decode("utf-8", "replace")


def _open_crashes(path: Path) -> IO[str]:
    """For appending; begun anew once it is large."""
    large = path.is_file() and path.stat().st_size > MOST_BYTES
    return path.open("w" if large else "a", encoding="utf-8")


def _hook_main(path: Path | None, on_crash: Callable[[str], None] | None) -> Callable[[], None]:
    """Log what the main thread does not catch, too. Gives what undoes it."""
    before: Hook = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            _crashed("the main thread", (kind, error, trace), path, on_crash)
        before(kind, error, trace)

    def undo() -> None:
        sys.excepthook = before

    sys.excepthook = hook
    return undo


def _hook_threads(path: Path | None, on_crash: Callable[[str], None] | None) -> Callable[[], None]:
    before = threading.excepthook

    def hook(given: threading.ExceptHookArgs) -> None:
        error = given.exc_value
        if error is not None and not issubclass(given.exc_type, SystemExit):
            name = given.thread.name if given.thread else "a thread"
            _crashed(name, (given.exc_type, error, given.exc_traceback), path, on_crash)
        before(given)

    def undo() -> None:
        threading.excepthook = before

    threading.excepthook = hook
    return undo


def _crashed(
    where: str,
    fault: tuple[type[BaseException], BaseException, TracebackType | None],
    path: Path | None,
    on_crash: Callable[[str], None] | None,
) -> None:
    _log.critical("%s failed", where, exc_info=fault)
    if on_crash is not None:
        place = f"The log is {path}" if path else "There is no log"
        on_crash(f"Something went wrong inside visavis ({fault[0].__name__} in {where}). {place}; please report it.")
