"""Microphone to picture for models whose people never hold still: how far the mouth on the screen lags behind the mouth
that the same model gives the same voice when it has all the time.

Frame f of `AvatarEngine.generate` shows samples 640 f onwards, so its mouth is where a picture without any delay would
be. The lag at which the screen's mouth is most like it is the delay, phrase by phrase.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apps.bench.desktop.delay import MOUTH
from apps.bench.desktop.eye import Seen, darkest_tenth
from apps.bench.stats import Spread, spread
from engine.engine import load
from engine.types import FPS

_GRID_HZ = 200
_LONGEST_LAG_S = 0.8
_PHRASE_S = 8.0
_SLOW_S = 0.6
_SEEDS = 4
_SURE = 0.35
"""Correlation below which a phrase says nothing about its lag: of unlike mouths the best of all lags reaches 0.25."""


@dataclass(frozen=True, slots=True)
class Follow:
    """lag_ms: of the phrases whose mouth was recognised; likeness: median correlation of those."""

    lag_ms: Spread
    likeness: float | None


def mouth_curve(
    portrait: Path, pcm: NDArray[np.float32], model: str, backend: str, size_px: int
) -> NDArray[np.float64]:
    """How dark the mouth is in each frame of a voice, float32 [N] at 16 kHz: [F], the mean over some seeds, since what
    chance adds to one of them is not what it adds on the screen. Raises AvatarError.
    """
    left, top, right, bottom = (round(side * size_px) for side in MOUTH)
    with load(model, backend) as engine:
        drawn = [
            [darkest_tenth(frame.image[top:bottom, left:right]) for frame in frames]
            for frames in (engine.generate(portrait, pcm, size=size_px, seed=seed) for seed in range(_SEEDS))
        ]
    return np.asarray(np.mean(drawn, 0), np.float64)


def follow(seen: Seen, sounds_s: float, curve: NDArray[np.float64]) -> list[tuple[float, float]]:
    """(lag in milliseconds, correlation) of each phrase of 8 s. seen: changes of the mouth on the screen; sounds_s:
    when the voice's first sample sounded, on the same clock; curve: see mouth_curve.
    """
    found = []
    lags = np.arange(0, round(_LONGEST_LAG_S * _GRID_HZ))
    length = round(_PHRASE_S * _GRID_HZ)
    screen = _quick(_held(seen.moment_s - sounds_s, seen.dark, len(curve) / FPS + _LONGEST_LAG_S))
    model = _quick(np.repeat(curve, _GRID_HZ // FPS))
    for start in range(0, len(model) - length + 1, length):
        wanted = model[start : start + length]
        like = [_correlation(screen[start + lag : start + lag + length], wanted) for lag in lags]
        best = int(np.argmax(like))
        found.append((1e3 * best / _GRID_HZ, like[best]))
    return found


def summary(phrases: list[tuple[float, float]]) -> Follow:
    """Phrases that were not recognised count as missed."""
    sure = [like for _, like in phrases if like >= _SURE]
    return Follow(
        spread([lag if like >= _SURE else None for lag, like in phrases]),
        float(np.median(sure)) if sure else None,
    )


def _held(moment_s: NDArray[np.float64], value: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """What was last seen at each point of the grid."""
    grid = np.arange(round(seconds * _GRID_HZ)) / _GRID_HZ
    places = np.searchsorted(moment_s, grid, side="right") - 1
    return np.asarray(value[np.maximum(places, 0)], np.float64)


def _quick(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Less its mean over 0.6 s around: the lips, and not the head, which is free to move otherwise each time."""
    width = round(_SLOW_S * _GRID_HZ) // 2 * 2 + 1
    kernel = np.ones(width) / width
    return np.asarray(value - np.convolve(np.pad(value, width // 2, mode="edge"), kernel, mode="valid"))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """0 for what does not move at all."""
    if len(a) != len(b) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
