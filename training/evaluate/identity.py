"""Whose face is it? A classical descriptor, trained on nobody, to notice when one person turns into another.

Local binary patterns in a grid (Ahonen, Hadid and Pietikainen 2006, "Face description with local binary patterns") of
the face alone, upright and without lips, so that neither clothes and background nor speech decide. No learned weights,
so nothing could have been optimised for it. It is a guard against swaps, not a recogniser: pose changes it, too.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import INDEX
from training.data.media import Bytes
from training.data.truth import Floats

_SIDE_PX, _CELLS = 80, 5
_REACH = 2.1
"""Side of the square in distances between the eyes."""
_EYE_LINE = 0.34
_BINS = 59
_LIPS_CELLS = ((4, 1), (4, 2), (4, 3))
"""Cells of the grid (row, column) that hold the mouth."""
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def descriptors(frames: Bytes, landmarks: Floats) -> Floats:
    """[F, K] of frames uint8 [F, S, S, 3] with landmarks [F, 28, 2]; see `similarity`."""
    return np.stack([describe(frame, points) for frame, points in zip(frames, landmarks, strict=True)])


def describe(picture: Bytes, landmarks: Floats) -> Floats:
    """Unit vector [K] of a face, from a picture uint8 [S, S, 3] and its landmarks [28, 2]."""
    return _histograms(upright(picture, landmarks))


def similarity(a: Floats, b: Floats) -> Floats:
    """[N, M] in [0, 1]: overlap of square-rooted histograms (Bhattacharyya), 1 for equal faces."""
    return (a @ b.T).astype(np.float32)


def upright(frame: Bytes, points: Floats) -> Bytes:
    """The face in grey, eyes level, [80, 80]."""
    size = len(frame)
    right = points[[INDEX["eye_right_outer"], INDEX["eye_right_inner"]]].mean(0)
    left = points[[INDEX["eye_left_outer"], INDEX["eye_left_inner"]]].mean(0)
    across = (left - right) * size * _REACH / _SIDE_PX
    axes = np.array(((across[0], -across[1]), (across[1], across[0])))
    first = (left + right) / 2 * size - axes @ np.array((_SIDE_PX / 2, _SIDE_PX * _EYE_LINE))
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    flags = cv2.INTER_AREA | cv2.WARP_INVERSE_MAP
    matrix = np.concatenate((axes, first[:, None]), 1)
    return np.asarray(cv2.warpAffine(grey, matrix, (_SIDE_PX, _SIDE_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _histograms(grey: Bytes) -> Floats:
    codes = _UNIFORM[_codes(cv2.GaussianBlur(grey, (0, 0), 1.0))]
    edges = np.linspace(0, len(codes), _CELLS + 1).astype(int)
    cells = [
        np.bincount(codes[edges[i] : edges[i + 1], edges[j] : edges[j + 1]].ravel(), minlength=_BINS)
        for i in range(_CELLS)
        for j in range(_CELLS)
        if (i, j) not in _LIPS_CELLS
    ]
    counts = np.concatenate(cells).astype(np.float64)
    return np.sqrt(counts / counts.sum()).astype(np.float32)


def _codes(grey: Bytes) -> NDArray[np.int64]:
    """Which of the 8 neighbours are brighter, as a byte, [78, 78]."""
    middle = grey[1:-1, 1:-1].astype(np.int64)
    codes = np.zeros(middle.shape, np.int64)
    side = len(grey)
    for bit, (down, right) in enumerate(_NEIGHBOURS):
        neighbour = grey[1 + down : side - 1 + down, 1 + right : side - 1 + right]
        codes |= (neighbour.astype(np.int64) >= middle) << bit
    return codes


def _uniform_table() -> NDArray[np.int64]:
    """Codes with at most two changes around the circle get a bin of their own, the others share the last."""
    table = np.full(256, _BINS - 1, np.int64)
    codes = [c for c in range(256) if bin(c ^ (c >> 1 | (c & 1) << 7)).count("1") <= 2]
    table[codes] = np.arange(len(codes))
    return table


_UNIFORM = _uniform_table()
