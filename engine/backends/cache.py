"""A folder of the user's for things that are quicker to keep than to make again. Nothing depends on it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "VISAVIS_CACHE"
"""Environment variable with the folder to use instead of the system's usual one; empty to keep nothing."""


def cache_folder(name: str) -> Path | None:
    """A writable folder of that name, made if need be; None where there is none to be had."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own == "":
        return None
    try:
        folder = (Path(own) if own else _usual_folder()) / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder.
        return None
    return folder if os.access(folder, os.W_OK) else None


def _usual_folder() -> Path:
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "visavis"


class Memory:
    """What was found out, by key, in one small file; the oldest is forgotten. Unreadable or absent, it is empty."""

    def __init__(self, name: str, most: int = 64) -> None:
        self._name, self._most = name, most

    def recall(self) -> dict[str, dict[str, Any]]:
        """Everything, the newest last."""
        path = self._path()
        try:
            values = json.loads(path.read_text(encoding="utf-8")) if path else {}
        except (OSError, ValueError):
            return {}
        kept = values.items() if isinstance(values, dict) else ()
        return {key: value for key, value in kept if isinstance(value, dict)}

    def keep(self, key: str, value: dict[str, Any]) -> None:
        """Remember; without a folder, or on a full disk, it will be found out again."""
        path = self._path()
        if path is None:
            return
        kept = {k: v for k, v in self.recall().items() if k != key} | {key: value}
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(OSError):
            temporary.write_text(json.dumps(dict(list(kept.items())[-self._most :])), encoding="utf-8")
            temporary.replace(path)

    def _path(self) -> Path | None:
        folder = cache_folder("choices")
        return folder / self._name if folder else None
