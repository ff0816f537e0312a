"""The real section: tables to read, a JSON document, and one page with a contact sheet and films to look at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from engine.types import AvatarState
from training.data.media import Bytes
from training.evaluate.films import side_by_side
from training.evaluate.page import page_files, save
from training.evaluate.plots import png
from training.evaluate.real import RealEvaluation, Take
from training.evaluate.sections import Film, Picture, Section, Table, cell, instrument_lines, markdown_section
from training.evaluate.voice_curves import articulation

_LOUD, _SHEET_PX = 8, 144

_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("r loudness", "r_loudness", "{:.2f}"),
    ("r articulation", "r_articulation", "{:.2f}"),
    ("other voices", "r_articulation_other", "{:.2f}"),
    ("best", "r_articulation_at_lag", "{:.2f}"),
    ("lag ms", "lag_ms", "{:+.0f}"),
    ("silence", "silence_ratio", "{:.0%}"),
    ("blinks/min", "blinks_per_minute", "{:.0f}"),
    ("2nd: r articulation", "second_r_articulation", "{:.2f}"),
    ("silence", "second_silence_ratio", "{:.0%}"),
    ("blinks/min", "second_blinks_per_minute", "{:.0f}"),
    ("agreement", "agreement", "{:.2f}"),
    ("own", "own", "{:.2f}"),
    ("next", "next", "{:.2f}"),
    ("own nearest", "own_share", "{:.0%}"),
)


_NOTE = (
    "r: correlation of the mouth's opening with the voice while speaking; other voices: the same with voices that were "
    "not heard; best: at the lag beside it; silence: variance of the opening in silence over that while speaking; 2nd: "
    "by the second instrument; agreement: r of the two; own, next: likeness to the own portrait and to the best other."
)


def markdown(evaluation: RealEvaluation) -> str:
    """The tables as markdown."""
    return "\n".join(line for section in _plain_sections(evaluation) for line in markdown_section(section)) + "\n"


def write(evaluation: RealEvaluation, out: Path) -> list[Path]:
    """real.json, real.md, real.png, the films and `real.html` into folder `out`; returns the files. What the report on
    held-out clips leaves in the same folder stays.

    Raises OutputNotWritableError.
    """
    files = {
        "real.json": (json.dumps(evaluation.as_json(), indent=1) + "\n").encode(),
        "real.md": markdown(evaluation).encode(),
    }
    return save(files | page_files(real_sections(evaluation), "real.html"), out)


def real_sections(evaluation: RealEvaluation) -> list[Section]:
    """What `markdown` tells, with the sheet and a film of every take."""
    takes, *others = _plain_sections(evaluation)
    picture = Picture("real.png", png(sheet(evaluation.takes)), "Portraits, loud moments and silent ones of each take")
    return [replace(takes, pictures=(picture,), films=tuple(map(_film, evaluation.takes))), *others]


def _plain_sections(evaluation: RealEvaluation) -> list[Section]:
    takes = Section(
        key="real",
        title="Real photographs and voices",
        text=(
            f"{evaluation.model} says recorded lines that nothing was trained on. There is no truth to compare with, "
            "so each figure stands beside what chance gives.",
            *(f"{kind} never trained on: {', '.join(names)}" for kind, names in evaluation.held_out.items()),
        ),
        command=evaluation.command,
        facts=evaluation.facts,
        tables=(_takes_table(evaluation),),
        figures=evaluation.as_json(),
    )
    return [takes, _codec_section(evaluation)] if evaluation.codec else [takes]


def _takes_table(evaluation: RealEvaluation) -> Table:
    """A line for each take and one for their means."""
    rows = []
    for f in evaluation.figures:
        sync = (f"{f.sync.confidence:.2f}", f"{f.sync.offset_frames:+d}") if f.sync else ("-", "-")
        rows.append((f.face, f.voice, *(cell(getattr(f, name), form) for _, name, form in _COLUMNS), *sync))
    summary = evaluation.summary()
    means = (cell(summary[name], form) for _, name, form in _COLUMNS)
    last = (cell(summary["sync_confidence"], "{:.2f}"), cell(summary["sync_in_place_share"], "{:.0%} in place"))
    rows.append(("mean", f"{summary['swaps']:.0f} swaps", *means, *last))
    heads = ("portrait", "voice", *(title for title, _, _ in _COLUMNS), "sync confidence", "sync offset")
    return Table(heads, tuple(rows), notes=(_NOTE, *instrument_lines(evaluation.instruments)))


def _codec_section(evaluation: RealEvaluation) -> Section:
    rows = tuple((c.name, f"{c.psnr:.1f}", f"{c.psnr_face:.1f}", f"{c.psnr_face_copy:.1f}") for c in evaluation.codec)
    return Section(
        key="real_codec",
        title="Moved photographs through the codec",
        text=("The photographs are moved as puppets at 256 px, so that their frames are known.",),
        command=evaluation.command,
        tables=(Table(("", "PSNR", "face box", "face box, portrait unmoved"), rows),),
    )


def _film(take: Take) -> Film:
    caption = f"{take.face} with voice {take.voice}"
    name = f"real-{take.face}-{take.voice}.mp4"
    return side_by_side(name, caption, take.reference, {"generated": take.frames}, take.pcm, np.zeros_like(take.pcm))


def sheet(takes: tuple[Take, ...]) -> Bytes:
    """A line for each take: the portrait, a gap, the loudest moment of each eighth of the speech, two silent ones."""
    return np.concatenate([_strip(take) for take in takes])


def _strip(take: Take) -> Bytes:
    pictures = [take.reference, *take.frames[_moments(take)]]
    small = [cv2.resize(p, (_SHEET_PX, _SHEET_PX), interpolation=cv2.INTER_AREA) for p in pictures]
    gap = np.full((_SHEET_PX, 8, 3), 255, np.uint8)
    return np.concatenate([small[0], gap, *small[1:]], 1).astype(np.uint8)


def _moments(take: Take) -> list[int]:
    """Frames for the sheet: where the voice asks most of the mouth, then how the mouth rests."""
    last, heard = len(take.frames) - 1, articulation(take.pcm)
    spoken = np.flatnonzero(take.states == AvatarState.SPEAKING)
    parts = [part for part in np.array_split(spoken, _LOUD) if len(part)]
    loud = [int(part[heard[part].argmax()]) for part in parts]
    return (loud + [last] * _LOUD)[:_LOUD] + [last - last // 8, last]
