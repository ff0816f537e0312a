"""`visavis live`: what the command line says goes into the settings, and the window opens."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ExtraMissingError


@dataclass(frozen=True, slots=True)
class Options:
    """settings: values by name (apps.desktop.settings.Settings), remembered like those chosen in the window. computing:
    model, backend, threads, size_px and server for this run only, so that a try with `mock` is over when it is over.
    portrait: name of a person of the library, or a picture file. theme: auto, light or dark. pet: begin without a
    frame. camera: be one for other programs. stats: file that gets a line of JSON a second. exit_after_s: close by
    itself then. token: what the server of Settings.server asks for; never kept.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    computing: dict[str, Any] = field(default_factory=dict)
    portrait: str = ""
    theme: str = "auto"
    pet: bool = False
    camera: bool = False
    stats: Path | None = None
    exit_after_s: float | None = None
    token: str | None = None


def run(options: Options) -> int:
    """Until the window is closed; returns the exit code. Raises ExtraMissingError without PySide6, ArgumentError for a
    setting that is not allowed, or what opening `portrait` raises.
    """
    if importlib.util.find_spec("PySide6") is None:
        raise ExtraMissingError("the window needs PySide6; pip install 'visavis[desktop]'")
    from apps.desktop.window.run import run_window

    return run_window(options)
