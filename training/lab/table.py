"""The laboratory's table and plots from its cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.evaluate.plots import new_figure
from training.lab.cells import BEST, START, START_EULER, TEACHER, UNTRAINED, is_euler

Cell = Mapping[str, Any]

COLUMNS = (
    ("r", "mouth r", "{:.3f}"),
    ("lag_ms", "lag, ms", "{:+.0f}"),
    ("opening", "opening", "{:.2f}"),
    ("energy", "motion", "{:.2f}"),
    ("jerk", "jerk", "{:.2f}"),
    ("seam", "seam", "{:.2f}"),
    ("frechet_frame", "FID-like", "{:.2f}"),
    ("frechet_film", "FVD-like", "{:.2f}"),
)


NEARNESS = ("frechet_frame", "frechet_film")


@dataclass(frozen=True, slots=True)
class Row:
    """A method drawn with so many steps: its figures over seeds, and how many seeds come nearer to real faces and to
    real motion (FID-like, FVD-like) than the weights that they began with, drawn alike with the same steps and seed.
    """

    method: str
    steps: int
    figures: dict[str, list[float]]
    updates: float
    minutes: float
    better: tuple[int, int]

    @property
    def seeds(self) -> int:
        return len(self.figures["r"])

    def mean(self, name: str) -> float:
        return float(np.mean(self.figures[name]))

    def spread(self, name: str) -> float:
        """Standard deviation over seeds."""
        return float(np.std(self.figures[name], ddof=1)) if self.seeds > 1 else 0.0


def rows_of(cells: Iterable[Cell]) -> list[Row]:
    """The teacher first, then methods in the order of their cells, by number of steps."""
    cells = list(cells)
    began = {(c["method"], c["seed"], s): f for c in cells if c["method"] in UNTRAINED for s, f in c["steps"].items()}
    methods = list(dict.fromkeys(c["method"] for c in cells))
    rows = []
    for method in methods:
        own = [c for c in cells if c["method"] == method]
        for steps in sorted({int(s) for c in own for s in c["steps"]}):
            told = [(c["seed"], c["steps"][str(steps)], c["cost"]) for c in own if str(steps) in c["steps"]]
            start = START_EULER if is_euler(method) else START
            pairs = [(f, began[start, seed, str(steps)]) for seed, f, _ in told if (start, seed, str(steps)) in began]
            better = tuple(sum(f[name] < old[name] for f, old in pairs) for name in NEARNESS)
            figures = {name: [f[name] for _, f, _ in told] for name, _, _ in COLUMNS}
            updates, minutes = (float(np.mean([cost[k] for _, _, cost in told])) for k in ("updates", "minutes"))
            rows.append(Row(method, steps, figures, updates, minutes, better))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Means over seeds, with the standard deviation of the first and the last column."""
    head = [
        "method",
        "steps",
        *(title for _, title, _ in COLUMNS),
        "seeds nearer than undistilled, by FID, FVD",
        "updates",
        "minutes",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [form.format(row.mean(name)) for name, _, form in COLUMNS]
        for i in (0, len(cells) - 1):
            name, _, form = COLUMNS[i]
            cells[i] += " ± " + form.format(row.spread(name)).lstrip("+")
        ahead = "" if row.method in UNTRAINED else f"{row.better[0]}, {row.better[1]} of {row.seeds}"
        cost = ["", ""] if row.method in UNTRAINED else [f"{row.updates:.0f}", f"{row.minutes:.1f}"]
        lines.append("| " + " | ".join([row.method, str(row.steps), *cells, ahead, *cost]) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], path: Any) -> None:
    """Lips against nearness of motion: every method at every number of steps, with the spread over seeds."""
    figure = new_figure(10, 6)
    axes = figure.add_subplot()
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        x, y = [row.mean("frechet_film") for row in own], [row.mean("r") for row in own]
        errors = [row.spread("frechet_film") for row in own], [row.spread("r") for row in own]
        style = {TEACHER: "k--", START: "k-", START_EULER: "k:"}.get(method, "-")
        axes.errorbar(x, y, errors[1], errors[0], style, marker="o", ms=4, lw=1, elinewidth=0.4, label=method)
        for row, a, b in zip(own, x, y, strict=True):
            axes.annotate(str(row.steps), (a, b), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set_xlabel("FVD-like distance from real motion (less is better)")
    axes.set_ylabel("mouth opening, r (more is better)")
    axes.set_xscale("log")
    axes.set_title(f"numbers: steps; the teacher's own sampling takes {BEST}", fontsize=9)
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=110)
