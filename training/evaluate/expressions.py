"""Does the face show the expression it is told to show? Face units with the expression given, and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.types import EXPRESSIONS, FPS
from training.data.behaviour import EXPRESSION_UNITS
from training.data.clips import Clip
from training.data.truth import UNIT, Floats
from training.evaluate.sections import Section, Table, cell

_PRESENT = 0.2
"""An expression weaker than this is hardly seen."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One clip: mean strength of the units that its expression moves, [U] each, over the frames that show it.

    truth: as rendered. by_row: what the probe reads of each row's pictures; free: the same rows without being told.
    """

    name: str
    truth: Floats
    by_row: dict[str, Floats]
    free: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class ExpressionFigures:
    """One row over all clips. error: mean of |strength read - strength rendered|, once told and once not (free, None
    for rows that cannot be told). r: correlation of what is read with what was rendered, over clips and units.
    """

    row: str
    clips: int
    error: float
    free: float | None
    r: float

    @property
    def ratio(self) -> float | None:
        """What telling leaves of the error; None where there is nothing to compare."""
        return self.error / self.free if self.free else None

    def as_json(self) -> dict[str, object]:
        values = {"error": self.error, "free": self.free, "ratio": self.ratio, "r": self.r}
        rounded = {k: None if v is None else round(v, 4) for k, v in values.items()}
        return {"row": self.row, "clips": self.clips, **rounded}


def expression_frames(clip: Clip) -> NDArray[np.bool_]:
    """bool [F]: the frames that show an expression plainly."""
    return np.asarray(clip.truth.expression.max(1) >= _PRESENT)


def is_expressive(clip: Clip) -> bool:
    """Whether a second of the clip or more shows an expression."""
    return int(expression_frames(clip).sum()) >= FPS


def shown(clip: Clip, told: Mapping[str, Floats], free: Mapping[str, Floats]) -> Shown:
    """told, free: units [F, 52] as the probe reads them less what it reads of the portrait, by row: a portrait may have
    an expression of its own.
    """
    frames = expression_frames(clip)
    name = EXPRESSIONS[int(clip.truth.expression[frames].mean(0).argmax())]
    units = [
        UNIT[part + side] for part in EXPRESSION_UNITS[name] for side in ("", "Left", "Right") if part + side in UNIT
    ]

    def mean(read: Floats) -> Floats:
        return np.asarray(read[frames][:, units].mean(0), np.float32)

    truth = mean(clip.truth.units - clip.truth.reference_units)
    return Shown(name, truth, {k: mean(v) for k, v in told.items()}, {k: mean(v) for k, v in free.items()})


def summarise_expressions(clips: Sequence[Shown]) -> list[ExpressionFigures]:
    """One record for each row, in the order of the rows."""
    return [_summarise(row, clips) for row in clips[0].by_row] if clips else []


def _summarise(row: str, clips: Sequence[Shown]) -> ExpressionFigures:
    truth, told = np.concatenate([c.truth for c in clips]), np.concatenate([c.by_row[row] for c in clips])
    free = None
    if row in clips[0].free:
        free = float(np.abs(np.concatenate([c.free[row] for c in clips]) - truth).mean())
    varies = truth.std() > 1e-6 and told.std() > 1e-6
    r = float(np.corrcoef(told, truth)[0, 1]) if varies else 0.0
    return ExpressionFigures(row, len(clips), float(np.abs(told - truth).mean()), free, r)


def expression_section(figures: Sequence[ExpressionFigures], names: Sequence[str], command: str) -> Section:
    """names: the expressions of the clips, for the reader."""
    counts = ", ".join(f"{names.count(n)} {n}" for n in dict.fromkeys(names))
    rows = tuple(
        (f.row, cell(f.error, "{:.3f}"), cell(f.free, "{:.3f}"), cell(f.ratio, "{:.2f}"), cell(f.r, "{:.2f}"))
        for f in figures
    )
    return Section(
        key="expressions",
        title="Expressions",
        text=(
            f"Clips in which the person shows an expression for a second or more ({counts}), generated once with that "
            "expression given and once without. Read are the face units that the expression moves, less those of the "
            "portrait, averaged over the frames that show it, against what was rendered. The row of the ground truth "
            "is the probe's own error: nothing below it can be told.",
        ),
        command=command,
        tables=(Table(("", "error, told", "error, not told", "told / not told", "r, told"), rows),),
        figures={"rows": [f.as_json() for f in figures]},
    )
