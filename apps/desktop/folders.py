"""Where the desktop app keeps what it remembers, what it logs, and what its user records.

VISAVIS_CONFIG names one folder for all of it but recordings: for an installation on a stick, and for tests. What
is only quicker to keep than to make again lies elsewhere, see engine.backends.cache.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

FOLDER_VARIABLE = "VISAVIS_CONFIG"
NAME = "visavis"

_VIDEOS_LINE = re.compile(r'^XDG_VIDEOS_DIR="(?P<folder>[^"]+)"', re.MULTILINE)


def config_folder() -> Path:
    """Settings and the user's portraits; not made here. Raises RuntimeError when the user has no home folder."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / NAME
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / NAME
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / NAME


def state_folder() -> Path:
    """Logs; not made here. Raises RuntimeError when the user has no home folder."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return Path(own) / "state"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / NAME / "state"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Logs" / NAME
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / NAME


def recordings_folder() -> Path:
    """Where films and pictures go until the user says otherwise: beside the other films. Not made here."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Movies" / NAME
    if sys.platform == "win32":
        return home / "Videos" / NAME
    return _linux_videos(home) / NAME


def _linux_videos(home: Path) -> Path:
    """As the desktop has named it, which is a matter of language (the xdg-user-dirs convention)."""
    dirs = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "user-dirs.dirs"
    try:
        found = _VIDEOS_LINE.search(dirs.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found is None:
        return home / "Videos"
    return Path(found["folder"].replace("$HOME", str(home)))
