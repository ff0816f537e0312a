"""Two rows held against each other: differences with 95 % intervals, so that luck with the clips is not progress.

Clips are drawn again with replacement, the same ones for both rows (paired percentile bootstrap, Efron and Tibshirani
1993), and every figure is computed anew from what was drawn. The intervals cover the choice of clips, not the seed of
the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluate import metrics
from training.evaluate.likeness import Gallery
from training.evaluate.measure import ClipFigures
from training.evaluate.sections import Section, Table, cell
from training.instruments.states import StateNamer, confusion

DRAWS = 1000
FEWEST_CLIPS = 4
"""With fewer, an interval says nothing."""

Sums = NDArray[np.float64]
Finish = Callable[[Sums], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that is computed from sums over clips. parts: [K] of one clip, its true frames and its number; finish:
    the figure from their sum [K]. goal: the best value, infinity for "more", minus infinity for "less".
    """

    name: str
    parts: Callable[[ClipFigures, ClipFigures, int], Sequence[float]]
    finish: Finish
    goal: float
    form: str = "{:+.3f}"


@dataclass(frozen=True, slots=True)
class Difference:
    """Of row `other` from row `base`: the figure of both, their difference, and its interval. verdict: `better`,
    `worse`, or empty where the interval of the gain in closeness to the goal holds zero.
    """

    figure: str
    base: float
    other: float
    difference: float
    low: float
    high: float
    verdict: str

    def as_json(self) -> dict[str, object]:
        return {
            k: round(v, 5) if isinstance(v, float) and np.isfinite(v) else v if isinstance(v, str) else None
            for k, v in asdict(self).items()
        }


def _ratio(sums: Sums) -> float:
    return float(sums[0] / sums[1]) if sums[1] > 0 else float("nan")


def _known(value: float | None) -> tuple[float, float]:
    return (0.0, 0.0) if value is None or np.isnan(value) else (value, 1.0)


def _lag(clip: ClipFigures, truth: ClipFigures, number: int) -> Sequence[float]:
    scores = clip.lag_scores
    return np.zeros(2 * metrics.LAG_REACH_FRAMES + 1) if scores is None else scores


def _lag_ms(sums: Sums) -> float:
    return metrics.lag_of(sums)[0] if sums.any() else float("nan")


def _stillness(clip: ClipFigures, truth: ClipFigures, number: int) -> Sequence[float]:
    return (*metrics.spread(clip.opening, clip.state, False), *metrics.spread(clip.opening, clip.state, True))


def _silence(sums: Sums) -> float:
    still, still_n, busy, busy_n = sums
    return float((still / still_n) / max(busy / busy_n, 1e-12)) if still_n and busy_n else float("nan")


def _head(clip: ClipFigures, truth: ClipFigures, number: int) -> Sequence[float]:
    return clip.head.total.sum(), truth.head.total.sum()


def figures_of(gallery: Gallery, namer: StateNamer | None) -> list[Figure]:
    """The figures that clips can be drawn for. The Fréchet distances are not among them: the same clip drawn twice is
    no second sample of a distribution.
    """
    more, less = float("inf"), float("-inf")

    def faces(clip: ClipFigures, truth: ClipFigures, number: int) -> Sequence[float]:
        return float((clip.faces @ gallery.portraits[number]).mean()), 1.0

    def named(clip: ClipFigures, truth: ClipFigures, number: int) -> Sequence[float]:
        table = confusion(namer, clip.windows) if namer else np.zeros((1, 1))
        return float(np.trace(table)), float(table.sum())

    return [
        Figure("r opening", lambda c, t, i: _known(c.r_opening), _ratio, more),
        Figure("lag ms", _lag, _lag_ms, 0.0, "{:+.1f}"),
        Figure("amplitude", lambda c, t, i: _known(c.amplitude), _ratio, 1.0),
        Figure("silence", _stillness, _silence, less, "{:+.2%}"),
        Figure("motion", lambda c, t, i: (c.energy, t.energy), _ratio, 1.0),
        Figure("head", _head, _ratio, 1.0),
        Figure("blinks to truth", lambda c, t, i: (c.blinks, t.blinks), _ratio, 1.0),
        Figure("states", named, _ratio, more, "{:+.1%}"),
        Figure("jerk", lambda c, t, i: (c.jerk, t.jerk), _ratio, 1.0),
        Figure("identity", faces, lambda sums: gallery.telling.scaled(_ratio(sums)), 1.0),
        Figure("points px", lambda c, t, i: (c.landmark_px, 1.0), _ratio, less),
        Figure("PSNR", lambda c, t, i: _known(c.psnr), _ratio, more, "{:+.2f}"),
        Figure("mouth PSNR", lambda c, t, i: _known(c.psnr_mouth), _ratio, more, "{:+.2f}"),
    ]


def compare_rows(
    base: Sequence[ClipFigures],
    other: Sequence[ClipFigures],
    truth: Sequence[ClipFigures],
    figures: Sequence[Figure],
    draws: int = DRAWS,
) -> list[Difference]:
    """Every figure of two rows over the same clips; figures that a row lacks are left out."""
    drawn = np.random.default_rng(0).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), draws)
    found = (_compare(base, other, truth, figure, drawn) for figure in figures)
    return [difference for difference in found if difference is not None]


def _compare(
    base: Sequence[ClipFigures],
    other: Sequence[ClipFigures],
    truth: Sequence[ClipFigures],
    figure: Figure,
    drawn: NDArray[np.int64],
) -> Difference | None:
    parts = [np.array([figure.parts(c, truth[i], i) for i, c in enumerate(row)], np.float64) for row in (base, other)]
    a, b = (figure.finish(p.sum(0)) for p in parts)
    if np.isnan(a) or np.isnan(b):
        return None
    redrawn = np.array([[figure.finish(sums) for sums in drawn @ p] for p in parts])
    change = redrawn[1] - redrawn[0]
    low, high = np.nanquantile(change, (0.025, 0.975)).tolist()
    gain = _goodness(redrawn[1], figure.goal) - _goodness(redrawn[0], figure.goal)
    gain_low, gain_high = np.nanquantile(gain, (0.025, 0.975)).tolist()
    verdict = "better" if gain_low > 0 else "worse" if gain_high < 0 else ""
    return Difference(figure.name, a, b, b - a, low, high, verdict)


def _goodness(values: Sums, goal: float) -> Sums:
    """Larger is better."""
    return values * np.sign(goal) if np.isinf(goal) else -np.abs(values - goal)


def comparison_section(
    base: str, differences: dict[str, list[Difference]], figures: Sequence[Figure], clips: int, command: str
) -> Section:
    """One table for each row that is held against `base`."""
    forms = {figure.name: figure.form for figure in figures}
    tables = tuple(
        Table(
            ("figure", base, other, "difference", "95 % interval", ""),
            tuple(_table_row(d, forms[d.figure]) for d in found),
            caption=f"{other} against {base}",
        )
        for other, found in differences.items()
    )
    return Section(
        key="comparison",
        title="Comparison",
        text=(
            f"Differences over the same {clips} clips, with the interval that 95 of 100 other choices of such clips "
            "would give (paired bootstrap; it does not cover the seed of the noise). Better and worse are said only "
            "where the whole interval of the gain lies on one side; where a figure has a goal, such as a lag of 0 or "
            "as much motion as the truth, the gain is in closeness to it.",
        ),
        command=command,
        tables=tables,
        figures={"base": base, "rows": {other: [d.as_json() for d in found] for other, found in differences.items()}},
    )


def _table_row(d: Difference, form: str) -> tuple[str, ...]:
    plain = form.replace("+", "")
    interval = f"{cell(d.low, form)} to {cell(d.high, form)}"
    return d.figure, cell(d.base, plain), cell(d.other, plain), cell(d.difference, form), interval, d.verdict
