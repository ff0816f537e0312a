"""`visavis train lab`: all cells, one after the other, and the table of those that are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.lab.cells import UNTRAINED, LabConfig, run_cell
from training.lab.table import markdown, plot, rows_of
from training.latents import LatentClips

METHODS = ("consistency", "dmd", "reward", "asd", "mogan", "phased", "tdm", "accvideo", "vdit", "vdot")
TABLE, PLOT, CELLS = "table.md", "table.png", "cells.json"


def run_lab(
    config: LabConfig, methods: Sequence[str], clips: LatentClips, held_out: LatentClips, report: Callable[[str], None]
) -> Path:
    """Train and measure what is missing, seed by seed so that every method has one before any has two; returns the
    table's path. report is told of each cell as it begins.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    for seed in config.seeds:
        for method in (*UNTRAINED, *methods):
            report(f"{method}, seed {seed}")
            run_cell(config, method, seed, clips, held_out)
            write(config.out)
    return write(config.out)


def write(out: Path) -> Path:
    """Table, plot and all figures from the cells under `out`; returns the table's path."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/seed*/cell.json"))]
    cells.sort(key=_order)
    rows = rows_of(cells)
    (out / CELLS).write_text(json.dumps(cells, indent=1), encoding="utf-8")
    (out / TABLE).write_text(markdown(rows), encoding="utf-8")
    plot(rows, out / PLOT)
    return out / TABLE


def _order(cell: dict[str, Any]) -> tuple[int, int]:
    names = (*UNTRAINED, *METHODS)
    return names.index(cell["method"]) if cell["method"] in names else len(names), cell["seed"]
