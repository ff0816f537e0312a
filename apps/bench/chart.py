"""The long run as a picture. Needs matplotlib, of the extra `eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.bench.drift import Notes
from engine.errors import ExtraMissingError, OutputNotWritableError
from engine.types import FPS
from engine.watchdog import DriftBounds

_FRAMES_A_MINUTE = 60 * FPS
_POINTS = 400
"""Most points of a curve; frames between are averaged."""


def new_figure() -> Any:
    """Raises ExtraMissingError, so ask before the run and not after it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExtraMissingError("drawing the drift needs matplotlib: pip install 'visavis[eval]'") from error
    return Figure(figsize=(10, 12), layout="constrained")


def draw(figure: Any, notes: Notes, title: str, path: Path) -> None:
    """Six curves over the minutes of the video, as a PNG. Raises OutputNotWritableError."""
    axes = figure.subplots(6, 1, sharex=True)
    figure.suptitle(title)
    bounds, minutes = DriftBounds(), notes.check_frame / _FRAMES_A_MINUTE
    _curve(axes[0], minutes, notes.colour, "colour, CIELAB", [bounds.colour])
    _curve(axes[1], minutes, notes.sharpness, "sharpness, factor", [1 / bounds.sharpness, bounds.sharpness])
    _curve(axes[2], minutes, notes.likeness, "likeness", [bounds.likeness])
    _changes(axes[3], notes)
    _states(axes[4], notes)
    _curve(axes[5], notes.memory_frame / _FRAMES_A_MINUTE, notes.memory_mb, "memory, MB", [])
    axes[5].set_xlabel("minutes of video")
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as error:
        raise OutputNotWritableError(f"{path} cannot be written: {error}") from error


def _curve(axis: Any, x: NDArray[Any], y: NDArray[Any], label: str, bounds: list[float]) -> None:
    axis.plot(x, y, linewidth=1)
    for bound in bounds:
        axis.axhline(bound, color="tab:red", linewidth=0.8, linestyle="--")
    axis.set_ylabel(label)


def _changes(axis: Any, notes: Notes) -> None:
    """Change between frames, apart for pairs inside blocks and across their edges."""
    before, after = notes.blocks[:-1], notes.blocks[1:]
    inside = (before == after) & (before >= 0)
    for chosen, label in ((inside, "inside blocks"), (before != after, "at their edges")):
        chosen = chosen & ~np.isnan(notes.change)
        minutes = notes.frame[1:][chosen] / _FRAMES_A_MINUTE
        axis.plot(*_thinned(minutes, notes.change[chosen]), linewidth=1, label=label)
    axis.set_ylabel("change, of 255")
    axis.legend(loc="upper right")


def _states(axis: Any, notes: Notes) -> None:
    axis.plot(notes.frame / _FRAMES_A_MINUTE, notes.state, linewidth=0.8, drawstyle="steps-post")
    axis.set_yticks([0, 1, 2], ["speaking", "listening", "idle"])


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means of neighbours, so that no more than _POINTS are left."""
    parts = min(_POINTS, len(x))
    if not parts:
        return x, y
    means = ([float(part.mean()) for part in np.array_split(values, parts)] for values in (x, y))
    return np.array(next(means)), np.array(next(means))
