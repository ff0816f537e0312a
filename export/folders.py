"""Folders that are written aside and moved into place when complete."""

from __future__ import annotations

from pathlib import Path


def replace_folder(new: Path, out: Path) -> None:
    """Put a finished folder in the place of another; the old one is gone only after the new one stands."""
    old = new.parent / "replaced"
    if out.exists():
        out.rename(old)
    new.rename(out)
