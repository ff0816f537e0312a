"""The note in a folder of shards that says what they were made with, so that settings are never mixed in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from engine.errors import DataSettingsError

SETTINGS_FILE = "settings.json"


def keep_settings(out: Path, settings: Mapping[str, object]) -> None:
    """Write the note into folder `out`, which is made. Raises DataSettingsError when it holds another one."""
    path = out / SETTINGS_FILE
    out.mkdir(parents=True, exist_ok=True)
    note = json.dumps(settings, indent=1) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != note:
        raise DataSettingsError(f"{out} holds shards made with other settings ({path.name}); use another folder")
    path.write_text(note, encoding="utf-8")
