"""The rows of `visavis bench gpu` as a table for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = ("", "on", "pixels", "parity, dB", "fps, one", "fps, many", "sessions at 25", "first block, ms", "open, s")


def print_gpu(report: Mapping[str, Any], console: Console) -> None:
    """What was measured, and below it why the rest was not."""
    machine = report["machine"]
    console.print(
        f"{report['model']}; {', '.join([machine['cpu'], *machine['gpus']])}, {machine['cores']} cores; "
        f"torch's weights: {report['torch_weights']}",
        highlight=False,
    )
    table = Table()
    for index, column in enumerate(_COLUMNS):
        table.add_column(column, no_wrap=index == 0)
    for row in report["rows"]:
        if row["fps"] is not None:
            table.add_row(*_cells(row, set(report["yardstick"].values())))
    console.print(table)
    reasons = {row["name"] + ", " + row["device"]: row["why_not"] for row in report["rows"] if row["why_not"]}
    for name, reason in reasons.items():
        console.print(f"not measured: {name}: {reason}", highlight=False, markup=False)


def _cells(row: Mapping[str, Any], yardsticks: Collection[str]) -> list[str]:
    parity = f"{row['parity_db']:.1f}" if row["parity_db"] is not None else "yardstick"
    if row["parity_db"] is None and row["name"] not in yardsticks:
        parity = "unknown"
    many = max(row["batch_fps"].values())
    figures = (row["fps"], many, row["sessions"], row["first_block_ms"], row["open_s"])
    return [row["name"], row["device"], str(row["size_px"]), parity, *(f"{figure:.4g}" for figure in figures)]
