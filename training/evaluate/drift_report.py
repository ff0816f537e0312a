"""The drift section: a table of trends, minute by minute, and one plot."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from training.evaluate.drift import CURVES, CYCLE_FRAMES, PersonDrift, Trend
from training.evaluate.plots import figure_png, new_figure
from training.evaluate.sections import Picture, Section, Table


def drift_section(model: str, drifts: Sequence[PersonDrift], size_px: int, command: str, key: str = "drift") -> Section:
    """One model's minutes. drifts: one for each person. key: also the name of its plot."""
    return Section(
        key=key,
        title=f"{drifts[0].minutes:g} minutes",
        text=(
            f"{model} streams each person at {size_px} px, speaking, listening and idle in turn, without a clock and "
            f"without the session's re-anchoring. Windows of {CYCLE_FRAMES} frames hold one cycle each. A trend is "
            "flat when its 95 % interval, from redrawing windows, holds zero; the band is how far a minute's mean "
            "strays by chance.",
        ),
        command=command,
        tables=(_trends(drifts), *(_minutes(drift) for drift in drifts)),
        pictures=(Picture(f"{key}.png", _plot(drifts), f"Curves of {model} over the minutes, one line a person"),),
        figures={"model": model, "size_px": size_px, "people": [drift.as_json() for drift in drifts]},
    )


def _trends(drifts: Sequence[PersonDrift]) -> Table:
    rows = tuple(
        (f"{drift.person}: {title}", *_cells(drift.trends[name])) for drift in drifts for name, title in CURVES
    )
    return Table(("", "mean", "band", "slope in 10 min", "95 % interval", "trend"), rows, caption="Trends")


def _cells(trend: Trend) -> tuple[str, ...]:
    interval = f"{trend.low:+.3f} to {trend.high:+.3f}"
    if not isfinite(trend.low):
        return f"{trend.mean:.3f}", "-", "-", "-", "too short to tell"
    verdict = "flat within noise" if trend.flat else "drifts"
    return f"{trend.mean:.3f}", f"±{trend.band:.3f}", f"{trend.slope_per_10min:+.3f}", interval, verdict


def _minutes(drift: PersonDrift) -> Table:
    columns = [drift.by_minute(name) for name, _ in CURVES]
    rows = tuple((str(i + 1), *(f"{v:.3f}" for v in values)) for i, values in enumerate(zip(*columns, strict=True)))
    heads = ("minute", "FID-like", "likeness", "colour", "sharpness")
    return Table(heads, rows, caption=f"{drift.person}, minute by minute")


def _plot(drifts: Sequence[PersonDrift]) -> bytes:
    figure = new_figure(9, 6)
    for axis, (name, title) in zip(figure.subplots(2, 2).ravel(), CURVES, strict=True):
        for number, drift in enumerate(drifts):
            values, trend = drift.by_minute(name), drift.trends[name]
            minutes = [i + 0.5 for i in range(len(values))]
            axis.axhspan(trend.mean - trend.band, trend.mean + trend.band, alpha=0.12, color=f"C{number}", linewidth=0)
            axis.plot(minutes, values, marker="o", markersize=3, color=f"C{number}", label=drift.person)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("minutes; shaded: what chance alone does", fontsize=8)
        axis.tick_params(labelsize=8)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=4, loc="outside upper center", frameon=False)
    return figure_png(figure)
