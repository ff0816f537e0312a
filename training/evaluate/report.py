"""What an evaluation leaves behind: tables to read, a JSON document, one page with films, sheets and curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.data.clips import Clip
from training.evaluate import plots
from training.evaluate.compare import Difference, Figure, comparison_section
from training.evaluate.expressions import Shown, expression_section, summarise_expressions
from training.evaluate.films import film_of
from training.evaluate.likeness import Gallery
from training.evaluate.measure import ClipFigures, RowFigures
from training.evaluate.page import page_files, save
from training.evaluate.pictures import CodecFigures, Person
from training.evaluate.sections import (
    Film,
    Picture,
    Section,
    Table,
    cell,
    instrument_lines,
    markdown_section,
    markdown_table,
)
from training.evaluate.walk import Showing

_Columns = tuple[tuple[str, str, str], ...]
_LIPS: _Columns = (
    ("r opening", "r_opening", "{:.3f}"),
    ("lag ms", "lag_ms", "{:+.0f}"),
    ("r at lag", "r_at_lag", "{:.3f}"),
    ("amplitude", "amplitude", "{:.2f}"),
    ("silence", "silence_ratio", "{:.1%}"),
    ("motion", "motion_energy", "{:.2f}"),
    ("blinks/min", "blinks_per_minute", "{:.0f}"),
    ("states", "state_accuracy", "{:.1%}"),
    ("points px", "landmark_px", "{:.2f}"),
    ("PSNR", "psnr", "{:.1f}"),
    ("mouth PSNR", "psnr_mouth", "{:.1f}"),
    ("SSIM", "ssim", "{:.3f}"),
)
_LOOKS: _Columns = (
    ("identity", "identity", "{:.2f}"),
    ("recognised", "recognised", "{:.1%}"),
    ("FID-like", "fid", "{:.2f}"),
    ("FVD-like", "fvd", "{:.2f}"),
    ("jerk", "jerk", "{:.2f}"),
    ("seam", "seam", "{:.2f}"),
    ("r head", "r_head", "{:.2f}"),
    ("head speaking", "head_speaking", "{:.2f}"),
    ("head listening", "head_listening", "{:.2f}"),
    ("head idle", "head_idle", "{:.2f}"),
)
_LIPS_NOTES = (
    "r opening: correlation of the mouth's opening with the truth while speaking; lag: how much later it moves; "
    "amplitude, motion: spread of the opening and energy of all landmarks over the truth's; silence: variance of the "
    "opening while not speaking over that while speaking; states: one-state windows named right; points: distance to "
    "the rendered landmarks in 1/128 of the picture; PSNR and SSIM only where pixels can be compared.",
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one run. clips: by row name. instruments: the probe's and the state classifier's own errors.
    comparison: of each generated row from the first one. clip_px, size_px: sides of the true and generated frames.
    facts: versions, machine and seeds.
    """

    rows: tuple[RowFigures, ...]
    clips: dict[str, list[ClipFigures]]
    references: tuple[Clip, ...]
    codec: tuple[CodecFigures, ...]
    people: tuple[Person, ...]
    instruments: Mapping[str, Mapping[str, float]]
    gallery: Gallery
    expressions: tuple[Shown, ...]
    films: tuple[Showing, ...]
    comparison: dict[str, list[Difference]]
    comparable: tuple[Figure, ...]
    generated: tuple[str, ...]
    clip_px: int
    size_px: int
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    more: tuple[Section, ...] = field(default=())
    """Sections that others measured."""

    def as_json(self) -> dict[str, object]:
        return {
            "rows": [row.as_json() for row in self.rows],
            "codec": [figures.as_json() for figures in self.codec],
            "instruments": {**self.instruments, "identity": self.gallery.telling.as_json()},
            "clip_px": self.clip_px,
            "size_px": self.size_px,
            "command": self.command,
            "facts": dict(self.facts),
        } | {section.key: section.figures for section in self.sections()[1:] if section.figures}

    def sections(self) -> list[Section]:
        """In the order of the report; the first one is the table of rows."""
        found = [_rows_section(self)]
        if self.comparison:
            found.append(_comparison(self))
        if self.expressions:
            found.append(_expressions(self))
        if self.codec:
            found.append(_codec_section(self))
        return [*found, *self.more]


def _rows_table(rows: Sequence[RowFigures], columns: _Columns, notes: tuple[str, ...]) -> Table:
    def line(row: RowFigures) -> tuple[str, ...]:
        cells = (cell(getattr(row, name), form) for _, name, form in columns)
        return (row.name, f"{row.clips} ({row.speaking_clips} speak)", *cells)

    return Table(("", "clips", *(title for title, _, _ in columns)), tuple(map(line, rows)), notes=notes)


def _rows_section(evaluation: Evaluation) -> Section:
    telling = evaluation.gallery.telling
    looks = (
        f"identity: likeness to the portrait, 1 as the true frames, 0 as other people ({telling.people} people; the "
        f"description tells a true frame's own portrait from another person's in {cell(telling.auc, '{:.2%}')} of "
        "pairs); recognised: frames liker their own portrait than any other; FID-like and FVD-like: Fréchet distances "
        "of the probe's features, 0 is the truth; jerk: of landmarks over the truth's; seam: change across the edges "
        "of blocks over that inside; r head: of yaw and pitch with the truth, which only the codec can follow; head: "
        "mean squared speed over the truth's, by state.",
    )
    return Section(
        key="rows",
        title="Held-out clips",
        text=_size_notes(evaluation),
        command=evaluation.command,
        facts=evaluation.facts,
        tables=(
            _rows_table(evaluation.rows, _LIPS, (*_LIPS_NOTES, *instrument_lines(evaluation.instruments))),
            _rows_table(evaluation.rows, _LOOKS, looks),
        ),
    )


def _size_notes(evaluation: Evaluation) -> tuple[str, ...]:
    size = f"True frames are {evaluation.clip_px} px"
    if evaluation.size_px == evaluation.clip_px:
        return (f"{size}, and so are all others.",)
    return (
        f"{size}; only the bundles' frames are {evaluation.size_px} px, from portraits of {evaluation.clip_px} px. "
        f"The codec's row and all pixel figures are at {evaluation.clip_px} px and say nothing about detail at "
        f"{evaluation.size_px} px. For that, make clips of that size: "
        f"visavis data make --split test --size {evaluation.size_px}.",
    )


def _comparison(evaluation: Evaluation) -> Section:
    return comparison_section(
        evaluation.generated[0], evaluation.comparison, evaluation.comparable, len(evaluation.references),
        evaluation.command,
    )  # fmt: skip


def _expressions(evaluation: Evaluation) -> Section:
    names = [shown.name for shown in evaluation.expressions]
    return expression_section(summarise_expressions(evaluation.expressions), names, evaluation.command)


def _codec_section(evaluation: Evaluation) -> Section:
    heads = ("codec", "people", "size", "PSNR", "mouth PSNR", "SSIM", "copying", "mouth, copying", "worst person")
    rows = []
    for f in evaluation.codec:
        values = (f.psnr, f.psnr_mouth, f.ssim, f.psnr_copy, f.psnr_copy_mouth, f.psnr_worst_person)
        rows.append((f.kind, str(f.people), f"{f.size_px}", *(f"{v:.2f}" for v in values)))
    return Section(
        key="codec_people",
        title="The codec alone, by kind of person",
        text=("True frames through the codec; copying is showing the portrait instead.",),
        command=evaluation.command,
        tables=(Table(heads, tuple(rows)),),
    )


def markdown(evaluation: Evaluation) -> str:
    """The tables as markdown, with the instruments' own errors below."""
    first, *others = evaluation.sections()
    lines = [line for table in first.tables for line in (*markdown_table(table), "")]
    return "\n".join([*lines, *first.text, "", *(line for s in others for line in markdown_section(s))]) + "\n"


def write(evaluation: Evaluation, out: Path) -> list[Path]:
    """Tables, films, sheets and plots into folder `out`, and `report.html` with all of them; returns the files.

    Raises OutputNotWritableError.
    """
    pictures, films = _pictures(evaluation), [film_of(showing) for showing in evaluation.films]
    sections = [_with(evaluation.sections()[0], pictures, films), *evaluation.sections()[1:]]
    files = {
        "figures.json": (json.dumps(evaluation.as_json(), indent=1) + "\n").encode(),
        "report.md": markdown(evaluation).encode(),
        **_sheets(evaluation),
    }
    return save(files | page_files(sections), out)


def _with(section: Section, pictures: Sequence[Picture], films: Sequence[Film]) -> Section:
    return replace(section, pictures=tuple(pictures), films=tuple(films))


def _pictures(evaluation: Evaluation) -> list[Picture]:
    names = ", ".join(evaluation.clips)
    return [
        Picture("figures.png", plots.panels(evaluation.rows), f"Bars of the main figures of {names}"),
        Picture("opening.png", plots.openings(evaluation.clips), f"Mouth opening over time of {names}"),
    ]


def _sheets(evaluation: Evaluation) -> dict[str, bytes]:
    """Contact sheets: too large for the page, they lie beside it."""
    sheets = {f"sheet-{_slug(n)}.png": plots.sheet(evaluation.references, c) for n, c in evaluation.clips.items()}
    sheets["compare.png"] = plots.comparison(evaluation.references, evaluation.clips)
    if evaluation.people:
        sheets["codec.png"] = plots.codec_sheet(evaluation.people)
    return sheets


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
