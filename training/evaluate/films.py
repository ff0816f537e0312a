"""Several pictures of one voice side by side in one film with its sound."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from training.data.media import Bytes, write_preview
from training.data.truth import Floats
from training.evaluate.sections import Film
from training.evaluate.walk import Showing

_MOST_PX = 256
"""Side of one picture at most: a report is one page."""
_GAP_PX = 4


def film_of(showing: Showing) -> Film:
    """The reference, then every row, from left to right; the own voice left, the partner's right."""
    clip = showing.clip
    kind, subject = clip.meta.get("kind", "person"), clip.meta.get("subject", clip.key)
    return side_by_side(
        f"{subject}-{clip.key}.mp4", f"{kind} {subject}", clip.reference, showing.rows, clip.voice, clip.partner
    )


def side_by_side(
    name: str, caption: str, portrait: Bytes, rows: Mapping[str, Bytes], voice: Floats, partner: Floats
) -> Film:
    """portrait uint8 [S, S, 3], then rows uint8 [F, S, S, 3] by label, from left to right; voice left, partner right,
    float32 [F * 640] each.
    """
    frames = len(next(iter(rows.values())))
    side = min(_MOST_PX, max(len(row[0]) for row in rows.values()))
    still = np.broadcast_to(_fit(portrait[None], side), (frames, side, side, 3))
    pictures = np.concatenate(_with_gaps([still, *(_fit(row, side) for row in rows.values())]), 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_preview(path, pictures, voice, partner)
        data = path.read_bytes()
    return Film(name, data, caption, ("portrait", *rows), pictures.shape[2], side)


def _fit(frames: Bytes, side: int) -> Bytes:
    if frames.shape[1] == side:
        return frames
    how = cv2.INTER_AREA if frames.shape[1] > side else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (side, side), interpolation=how) for frame in frames]).astype(np.uint8)


def _with_gaps(columns: Sequence[Bytes]) -> list[Bytes]:
    gap = np.full((*columns[0].shape[:2], _GAP_PX, 3), 128, np.uint8)
    return [part for column in columns for part in (column, gap)][:-1]
