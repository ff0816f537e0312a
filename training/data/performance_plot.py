"""A performance as one picture, for people who check the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.types import EXPRESSIONS, FPS, SAMPLE_RATE_HZ, AvatarState
from training.data.truth import UNIT, Floats, Performance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOUTH = ("jawOpen", "mouthPucker", "mouthFunnel", "mouthPressLeft", "mouthRollLower", "mouthStretchLeft")
FACE = ("eyeBlinkLeft", "browInnerUp", "browDownLeft", "mouthSmileLeft", "eyeWideLeft")


def plot(performance: Performance, path: Path) -> None:
    """Write a PNG: both voices with phones, mouth, tongue, face, head, gaze, states. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 12), layout="constrained")
    FigureCanvasAgg(figure)
    voice, mouth, face, head = figure.subplots(4, 1, sharex=True)
    time_s = (np.arange(len(performance)) + 0.5) / FPS
    _draw_voices(voice, performance)
    _draw_curves(mouth, time_s, _unit_curves(performance, MOUTH) | {"tongue": performance.tongue})
    _draw_curves(face, time_s, _unit_curves(performance, FACE))
    names = ("yaw", "pitch", "roll", "gaze x", "gaze y")
    angles = np.concatenate([performance.head, performance.gaze], 1)
    _draw_curves(head, time_s, dict(zip(names, angles.T, strict=True)))
    for axes in (voice, mouth, face, head):
        _shade_states(axes, performance.state)
    voice.set_title(_title(performance), fontsize=9, loc="left")
    figure.savefig(path, dpi=70)


def _draw_voices(axes: Axes, performance: Performance) -> None:
    seconds = np.arange(len(performance.voice)) / SAMPLE_RATE_HZ
    loudest = max(np.abs(performance.voice).max(), np.abs(performance.partner).max(), 1e-6)
    axes.plot(seconds, performance.voice / loudest, lw=0.4, label="voice")
    axes.plot(seconds, performance.partner / loudest - 2, lw=0.4, label="partner")
    for phone in performance.phones:
        axes.axvline(phone.start_s, lw=0.3, color="0.6")
        axes.text((phone.start_s + phone.end_s) / 2, 1.05, phone.symbol, ha="center", fontsize=8)
    axes.legend(loc="lower right", fontsize=7)


def _unit_curves(performance: Performance, names: tuple[str, ...]) -> dict[str, Floats]:
    return {name: performance.units[:, UNIT[name]] for name in names}


def _draw_curves(axes: Axes, time_s: Floats, curves: dict[str, Floats]) -> None:
    for name, curve in curves.items():
        axes.plot(time_s, curve, marker=".", ms=3, lw=1, label=name)
    axes.legend(loc="upper right", fontsize=7, ncols=len(curves))
    axes.grid(alpha=0.2)


def _shade_states(axes: Axes, state: NDArray[np.int8]) -> None:
    edges = [0, *(np.flatnonzero(np.diff(state)) + 1), len(state)]
    colours = {AvatarState.SPEAKING: "tab:green", AvatarState.LISTENING: "tab:blue", AvatarState.IDLE: "tab:gray"}
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        axes.axvspan(first / FPS, last / FPS, color=colours[AvatarState(int(state[first]))], alpha=0.07)


def _title(performance: Performance) -> str:
    peak = performance.expression.max(0)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in zip(EXPRESSIONS, peak, strict=True) if value > 0)
    meta = performance.meta
    return f"seed {meta['seed']} {meta['split']} | {meta['voice']}: {meta['text']} | {shown or 'neutral'}"
