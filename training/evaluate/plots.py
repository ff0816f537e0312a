"""The report's plots and contact sheets, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.types import FPS, AvatarState
from training.data.clips import Clip
from training.data.media import Bytes
from training.evaluate.measure import ClipFigures, RowFigures, strip
from training.evaluate.pictures import Person

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHEET_CLIPS, _PLOT_CLIPS, _COMPARED_CLIPS = 12, 6, 4
_DPI = 90

_PANELS: tuple[tuple[str, str, float | None], ...] = (
    ("r of mouth opening", "r_opening", 1.0),
    ("states named right", "state_accuracy", 1.0),
    ("motion / truth", "motion_energy", 1.0),
    ("identity", "identity", 1.0),
    ("FID-like", "fid", 0.0),
    ("FVD-like", "fvd", 0.0),
)
"""Title, field of RowFigures, and where the truth would be."""


def png(picture: Bytes) -> bytes:
    """A picture uint8 [H, W, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """A figure that needs no display, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_png(figure: Figure) -> bytes:
    """Without a date, so that equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def sheet(references: Sequence[Clip], clips: Sequence[ClipFigures]) -> bytes:
    """One line a clip: the reference, a gap, ten frames."""
    return png(np.concatenate([_line(r, c) for r, c in zip(references[:_SHEET_CLIPS], clips, strict=False)]))


def comparison(references: Sequence[Clip], rows: Mapping[str, Sequence[ClipFigures]]) -> bytes:
    """The same moments of the first clips, every row's version below the other."""
    blocks = []
    for i, reference in enumerate(references[:_COMPARED_CLIPS]):
        blocks += [_line(reference, clips[i]) for clips in rows.values()]
        blocks.append(np.full((8, blocks[-1].shape[1], 3), 255, np.uint8))
    return png(np.concatenate(blocks))


def codec_sheet(people: Sequence[Person]) -> bytes:
    """True frames above decoded ones."""
    lines = [np.concatenate(list(s), 1) for p in people[:_SHEET_CLIPS] for s in (p.true_strip, p.strip)]
    return png(np.concatenate(lines))


def _line(reference: Clip, clip: ClipFigures) -> Bytes:
    portrait = strip(reference.reference[None])[0]
    gap = np.full((len(portrait), 8, 3), 255, np.uint8)
    return np.concatenate([portrait, gap, *clip.strip], 1)


def openings(rows: Mapping[str, Sequence[ClipFigures]]) -> bytes:
    """Mouth opening of every row against the truth; the background says who is speaking."""
    first = next(iter(rows.values()))
    count = min(_PLOT_CLIPS, len(first))
    figure = new_figure(9, 1.5 * count + 0.6)
    axes = figure.subplots(count, 1, squeeze=False)[:, 0]
    for i, axis in enumerate(axes):
        time_s = np.arange(len(first[i].opening)) / FPS
        axis.fill_between(time_s, 0, 1, where=first[i].state == AvatarState.SPEAKING, color="0.92",
                          transform=axis.get_xaxis_transform(), step="mid")  # fmt: skip
        axis.plot(time_s, first[i].truth_opening, color="black", linewidth=2, label="as rendered")
        for name, clips in rows.items():
            axis.plot(time_s, clips[i].opening, linewidth=1, label=name)
        axis.set_ylabel(first[i].key, fontsize=7)
        axis.margins(x=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=3, loc="outside upper center", frameon=False)
    axes[-1].set_xlabel("seconds; grey: speaking")
    return figure_png(figure)


def panels(rows: Sequence[RowFigures]) -> bytes:
    """Bars of the figures that say most, one panel each; the dotted line is where the truth is."""
    figure = new_figure(9, 1.1 + 0.5 * len(rows))
    axes = figure.subplots(2, len(_PANELS) // 2).ravel()
    names = [row.name for row in rows]
    for axis, (title, field, goal) in zip(axes, _PANELS, strict=True):
        values = [getattr(row, field) for row in rows]
        axis.barh(names, np.nan_to_num(values), color=[f"C{i}" for i in range(len(rows))])
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.axvline(goal, color="black", linestyle=":", linewidth=1)
    for axis in axes[1:3].tolist() + axes[4:].tolist():
        axis.set_yticklabels([])
    return figure_png(figure)
