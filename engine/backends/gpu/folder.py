"""Where a bundle's exported engines are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from engine.backends.artefacts import MANIFEST
from engine.bundle import Bundle

FOLDER_VARIABLE = "VISAVIS_ENGINES"
"""Environment variable with a folder of engines to use instead of the bundle's own."""
OWN_FOLDER = "tensorrt"
"""Folder of a bundle's engines within the bundle."""


def engines_folder(bundle: Bundle) -> Path:
    """The one folder that counts, whether there is anything in it or not."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else bundle.root / OWN_FOLDER


def has_engines(bundle: Bundle) -> bool:
    """Whether somebody exported engines of a bundle; they may still be stale."""
    return (engines_folder(bundle) / MANIFEST).is_file()
