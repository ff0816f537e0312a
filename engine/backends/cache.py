"""A folder of the user's for things that are quicker to keep than to make again. Nothing depends on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
