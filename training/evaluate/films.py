"""The same clip as every row shows it, side by side in one film with its sound."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from training.data.media import Bytes, write_preview
from training.evaluate.sections import Film
from training.evaluate.walk import Showing

_MOST_PX = 256
"""Side of one picture at most: a report is one page."""
_GAP_PX = 4


def film_of(showing: Showing) -> Film:
    """The reference, then every row, from left to right; the own voice left, the partner's right."""
    side = min(_MOST_PX, max(len(frames[0]) for frames in showing.rows.values()))
    still = np.broadcast_to(_fit(showing.clip.reference[None], side), (len(showing.clip), side, side, 3))
    columns = _with_gaps([still, *(_fit(frames, side) for frames in showing.rows.values())])
    pictures = np.concatenate(columns, 2)
    kind, subject = showing.clip.meta.get("kind", "person"), showing.clip.meta.get("subject", showing.clip.key)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_preview(path, pictures, showing.clip.voice, showing.clip.partner)
        data = path.read_bytes()
    name = f"{subject}-{showing.clip.key}.mp4"
    return Film(name, data, f"{kind} {subject}", ("portrait", *showing.rows), pictures.shape[2], side)


def _fit(frames: Bytes, side: int) -> Bytes:
    if frames.shape[1] == side:
        return frames
    how = cv2.INTER_AREA if frames.shape[1] > side else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (side, side), interpolation=how) for frame in frames]).astype(np.uint8)


def _with_gaps(columns: Sequence[Bytes]) -> list[Bytes]:
    gap = np.full((*columns[0].shape[:2], _GAP_PX, 3), 128, np.uint8)
    return [part for column in columns for part in (column, gap)][:-1]
