"""What an evaluation leaves behind: a table to read, a JSON document, contact sheets and curves to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engine.types import FPS, AvatarState
from training.data.clips import Clip
from training.evaluate.measure import ClipFigures, RowFigures, strip
from training.evaluate.pictures import CodecFigures, Person

_COLUMNS: tuple[tuple[str, str, str], ...] = (
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
_SHEET_CLIPS, _PLOT_CLIPS = 12, 8


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one run. clips: by row name. instruments: the probe's and the state classifier's own errors."""

    rows: tuple[RowFigures, ...]
    clips: dict[str, list[ClipFigures]]
    references: tuple[Clip, ...]
    codec: tuple[CodecFigures, ...]
    people: tuple[Person, ...]
    instruments: dict[str, dict[str, float]]

    def as_json(self) -> dict[str, object]:
        return {
            "rows": [row.as_json() for row in self.rows],
            "codec": [figures.as_json() for figures in self.codec],
            "instruments": self.instruments,
        }


def markdown(evaluation: Evaluation) -> str:
    """The tables as markdown, with the instruments' own errors below."""
    heads = ["", "clips", *(title for title, _, _ in _COLUMNS)]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in evaluation.rows:
        cells = [_cell(getattr(row, name), form) for _, name, form in _COLUMNS]
        lines.append(_line([row.name, f"{row.clips} ({row.speaking_clips} speak)", *cells]))
    lines += ["", *_codec_lines(evaluation.codec)] if evaluation.codec else []
    for name, errors in evaluation.instruments.items():
        lines.append("")
        lines.append(f"{name} on held-out people: " + ", ".join(f"{k} {v:g}" for k, v in errors.items()))
    return "\n".join(lines) + "\n"


def _codec_lines(figures: Sequence[CodecFigures]) -> list[str]:
    heads = ["codec", "people", "size", "PSNR", "mouth PSNR", "SSIM", "copying", "mouth, copying", "worst person"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for f in figures:
        values = (f.psnr, f.psnr_mouth, f.ssim, f.psnr_copy, f.psnr_copy_mouth, f.psnr_worst_person)
        lines.append(_line([f.kind, str(f.people), f"{f.size_px}", *(f"{v:.2f}" for v in values)]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: float, form: str) -> str:
    return "-" if np.isnan(value) else form.format(value)


def write(evaluation: Evaluation, out: Path) -> list[Path]:
    """Tables, sheets and plots into folder `out`; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(evaluation.as_json(), indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown(evaluation), encoding="utf-8")
    files = [out / "figures.json", out / "report.md"]
    for name, clips in evaluation.clips.items():
        files.append(out / f"sheet-{_slug(name)}.png")
        _sheet(evaluation.references, clips, files[-1])
    files.append(out / "compare.png")
    _comparison(evaluation, files[-1])
    files.append(out / "opening.png")
    _openings(evaluation, files[-1])
    if evaluation.people:
        files.append(out / "codec.png")
        rows = [np.concatenate(list(s), 1) for p in evaluation.people[:_SHEET_CLIPS] for s in (p.true_strip, p.strip)]
        Image.fromarray(np.concatenate(rows)).save(files[-1])
    return files


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _sheet(references: Sequence[Clip], clips: Sequence[ClipFigures], path: Path) -> None:
    """One line a clip: the reference, a gap, ten frames."""
    lines = [_sheet_line(r, c) for r, c in zip(references[:_SHEET_CLIPS], clips, strict=False)]
    Image.fromarray(np.concatenate(lines)).save(path)


def _sheet_line(reference: Clip, clip: ClipFigures) -> np.ndarray:
    portrait = strip(reference.reference[None])[0]
    gap = np.full((len(portrait), 8, 3), 255, np.uint8)
    return np.concatenate([portrait, gap, *clip.strip], 1)


def _comparison(evaluation: Evaluation, path: Path) -> None:
    """The same moments of the first clips, every row's version below the other."""
    blocks = []
    for i, reference in enumerate(evaluation.references[:4]):
        blocks += [_sheet_line(reference, clips[i]) for clips in evaluation.clips.values()]
        blocks.append(np.full((8, blocks[-1].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.concatenate(blocks)).save(path)


def _openings(evaluation: Evaluation, path: Path) -> None:
    """Mouth opening of every row against the truth; the background says who is speaking."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    count = min(_PLOT_CLIPS, len(evaluation.references))
    figure, axes = pyplot.subplots(count, 1, figsize=(12, 1.9 * count), squeeze=False)
    for i, axis in enumerate(axes[:, 0]):
        first = next(iter(evaluation.clips.values()))[i]
        time_s = np.arange(len(first.opening)) / FPS
        axis.fill_between(time_s, 0, 1, where=first.state == AvatarState.SPEAKING, color="0.92",
                          transform=axis.get_xaxis_transform(), step="mid")  # fmt: skip
        axis.plot(time_s, first.truth_opening, color="black", linewidth=2, label="rendered truth")
        for name, clips in evaluation.clips.items():
            axis.plot(time_s, clips[i].opening, linewidth=1, label=name)
        axis.set_ylabel(first.key, fontsize=7)
        axis.margins(x=0)
    axes[0, 0].legend(fontsize=7, ncols=6, loc="upper right")
    axes[-1, 0].set_xlabel("seconds; grey: speaking")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
