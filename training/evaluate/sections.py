"""What a report is made of: sections with tables, pictures and films. Whoever measures something returns one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Table:
    """rows: the first cell is the row's name. notes: below it, one sentence each (what a column means, an error)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG or JPEG file's bytes. name: of its file, without a folder. alt: what it shows, for who cannot see it."""

    name: str
    data: bytes
    alt: str


@dataclass(frozen=True, slots=True)
class Film:
    """An MP4 file's bytes. labels: of its equally wide columns, from left to right."""

    name: str
    data: bytes
    caption: str
    labels: tuple[str, ...]
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report. key: its name in figures.json, where `figures` is kept. text: paragraphs of what it tells
    and what it does not. command: what to run to get these figures again; plain facts (versions, seeds) in `facts`.
    """

    key: str
    title: str
    text: tuple[str, ...] = ()
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    films: tuple[Film, ...] = ()
    figures: dict[str, object] = field(default_factory=dict)


def cell(value: float | None, form: str) -> str:
    """A figure as text; a dash where there is none."""
    return "-" if value is None or np.isnan(value) else form.format(value)


def instrument_lines(instruments: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """What every instrument says about itself, one line each."""
    return tuple(
        f"{name} on held-out people: " + ", ".join(f"{k} {v:g}" for k, v in errors.items())
        for name, errors in instruments.items()
    )


def markdown_table(table: Table) -> list[str]:
    """Lines of a markdown table with its notes below."""
    lines = [_line(table.columns), _line(["---"] * len(table.columns)), *map(_line, table.rows)]
    head = [table.caption, ""] if table.caption else []
    return [*head, *lines, *(line for note in table.notes for line in ("", note))]


def markdown_section(section: Section) -> list[str]:
    """A section's words and tables; its pictures and films lie beside the text."""
    lines = [f"## {section.title}", ""]
    for paragraph in section.text:
        lines += [paragraph, ""]
    for table in section.tables:
        lines += [*markdown_table(table), ""]
    if section.command:
        lines += [f"    {section.command}", ""]
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
