"""The real section as a table to read, a JSON document, and a contact sheet to look at."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from engine.types import AvatarState
from training.data.media import Bytes
from training.evaluate.real import RealEvaluation, Take
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


def markdown(evaluation: RealEvaluation) -> str:
    """A line for each take and one for their means, then the codec, then who was held out."""
    heads = ["portrait", "voice", *(title for title, _, _ in _COLUMNS), "sync confidence", "sync offset"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for f in evaluation.figures:
        sync = [f"{f.sync.confidence:.2f}", f"{f.sync.offset_frames:+d}"] if f.sync else ["-", "-"]
        cells = [_cell(getattr(f, name), form) for _, name, form in _COLUMNS]
        lines.append(_line([f.face, f.voice, *cells, *sync]))
    summary = evaluation.summary()
    means = [_cell(summary[name], form) for _, name, form in _COLUMNS]
    last = [_cell(summary["sync_confidence"], "{:.2f}"), _cell(summary["sync_in_place_share"], "{:.0%} in place")]
    lines.append(_line(["mean", f"{summary['swaps']:.0f} swaps", *means, *last]))
    lines += _codec_lines(evaluation) if evaluation.codec else []
    lines += ["", *(f"{kind} never trained on: {', '.join(names)}" for kind, names in evaluation.held_out.items())]
    for name, errors in evaluation.instruments.items():
        lines += ["", f"{name} on held-out people: " + ", ".join(f"{k} {v:g}" for k, v in errors.items())]
    return "\n".join(lines) + "\n"


def _codec_lines(evaluation: RealEvaluation) -> list[str]:
    lines = ["", _line(["codec, 256²", "PSNR", "face box", "face box, portrait unmoved"]), _line(["---"] * 4)]
    for c in evaluation.codec:
        lines.append(_line([c.name, f"{c.psnr:.1f}", f"{c.psnr_face:.1f}", f"{c.psnr_face_copy:.1f}"]))
    return lines


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: float, form: str) -> str:
    return "-" if np.isnan(value) else form.format(value)


def write(evaluation: RealEvaluation, out: Path) -> list[Path]:
    """real.json, real.md and real.png into folder `out`; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "real.json", out / "real.md", out / "real.png"]
    files[0].write_text(json.dumps(evaluation.as_json(), indent=1) + "\n", encoding="utf-8")
    files[1].write_text(markdown(evaluation), encoding="utf-8")
    Image.fromarray(sheet(evaluation.takes)).save(files[2])
    return files


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
