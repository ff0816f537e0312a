"""Two documents side by side: what became slower, and what became faster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from apps.bench.report import FORMAT, at, flat, shown
from engine.errors import ArgumentError, FileMissingError, UnreadableFileError

WORSE = 0.10
"""Share by which a figure may be worse before it is marked. The runs of a busy machine differ by more."""

_MOST_BYTES = 4 << 20
_SAME = ("machine.cpu", "machine.cores", "settings.model", "settings.backend", "settings.size_px", "settings.process")
"""What should be alike, or figures say nothing about the code."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure then and now. ratio: new to old, None when old is 0. worse: by more than WORSE, in its own direction;
    from 0, whatever is worse at all.
    """

    title: str
    old: float
    new: float
    ratio: float | None
    worse: bool


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Of the figures that both documents have."""
    before = {title: value for _, title, value in flat(old)}
    for figure, title, value in flat(new):
        if (was := before.get(title)) is not None:
            ratio = value / was if was else None
            yield Change(title, was, value, ratio, _is_worse(figure.better, was, value))


def _is_worse(better: str, old: float, new: float) -> bool:
    if better == "lower":
        return new > old * (1 + WORSE)
    return better == "higher" and new < old * (1 - WORSE)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What makes the documents hard to compare, in words."""
    return [
        f"{path.partition('.')[2]} was {at(old, path)}, now {at(new, path)}"
        for path in _SAME
        if at(old, path) != at(new, path)
    ]


def print_comparison(old: Mapping[str, Any], new: Mapping[str, Any], console: Console) -> None:
    """A table of all changes; those for the worse are marked."""
    for difference in differences(old, new):
        console.print(f"not the same: {difference}", highlight=False)
    table = Table("", "")
    for title in ("old", "new", "ratio"):
        table.add_column(title, justify="right")
    for change in changes(old, new):
        mark = "worse" if change.worse else ""
        table.add_row(change.title, mark, shown(change.old), shown(change.new), shown(change.ratio))
    console.print(table)


def read_report(path: Path) -> dict[str, Any]:
    """A document that `-o` wrote, or the output of a run, whose last line it is. Raises FileError or ArgumentError."""
    if not path.exists():
        raise FileMissingError(f"there is no report {path}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ArgumentError(f"{path} is too large for a report of `visavis bench`")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from error
    for candidate in (text, text.rstrip().rpartition("\n")[2]):
        try:
            report = json.loads(candidate)
        except json.JSONDecodeError:
            continue
        if isinstance(report, dict) and report.get("format") == FORMAT and "settings" in report:
            return report
    raise ArgumentError(f"{path} is no report of `visavis bench`; write one with -o")
