"""Saves settings as they change, in a thread of its own, so that a slow disk never holds the window."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from apps.desktop.notice import Notice
from apps.desktop.settings import Settings, load, save
from engine.errors import OutputNotWritableError

REST_S = 0.5
"""Between two writings: while a window is dragged about, it moves a hundred times a second."""


class SettingsKeeper:
    """The settings of a running window. `change` may be called from any thread; only the newest are written."""

    def __init__(self, listener: Callable[[Notice], None], path: Path | None = None) -> None:
        """Reads the file at once. listener: called here and in the keeper's thread. path: the usual one if None."""
        loaded = load(path)
        for notice in loaded.notices:
            listener(notice)
        self._settings, self._listener, self._path = loaded.settings, listener, path
        self._changed = threading.Condition()
        self._pending = self._closing = self._failing = False
        self._thread = threading.Thread(target=self._run, name="visavis-settings", daemon=True)
        self._thread.start()

    @property
    def settings(self) -> Settings:
        return self._settings

    def change(self, **values: Any) -> Settings:
        """Settings by name to new values, which are soon saved. Raises ArgumentError for one that is not allowed."""
        with self._changed:
            changed = replace(self._settings, **values)
            if changed != self._settings:
                self._settings, self._pending = changed, True
                self._changed.notify()
            return changed

    def close(self, timeout_s: float = 1.0) -> bool:
        """Write what is not written yet; idempotent. Whether that was done in time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                settings, pending, closing = self._settings, self._pending, self._closing
                self._pending = False
            if pending:
                self._save(settings)
            if closing:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, REST_S)

    def _save(self, settings: Settings) -> None:
        try:
            save(settings, self._path)
        except OutputNotWritableError as error:
            if not self._failing:
                text = str(error)
                self._listener(Notice("settings_not_kept", text[:1].upper() + text[1:] + ".", "warning"))
            self._failing = True
        else:
            self._failing = False
