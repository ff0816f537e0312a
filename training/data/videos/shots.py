"""Where one shot ends and the next begins: the colours change at once, or the face is suddenly elsewhere.

Dissolves are not found by colours; a face that fades into another one jumps at some frame, and trembles before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import INDEX
from training.data.media import Floats
from training.data.videos.watch import Seen

CHANGE = 0.3
"""Share of the picture's colours that a cut replaces at least."""
OUTSTANDING = 4.0
"""How far a cut stands above the usual change around it, so that a waving hand or a flash-lit dance is none."""
JUMP = 0.3
"""Movement of the eyes between two frames, over the face's width, that no head makes: 7 widths a second."""
GROWTH = 0.25
"""Natural logarithm of the change in size that no head makes in a frame."""

_AROUND = 12
_EYES = [INDEX[f"eye_{side}_{corner}"] for side in ("right", "left") for corner in ("inner", "outer")]
_OUTLINE = [INDEX[name] for name in ("forehead", "chin", "cheek_right", "cheek_left")]

Range = tuple[int, int]
"""First frame, and the one after the last."""


def shots(seen: Seen) -> list[Range]:
    """The film's shots in order; together they cover all its frames."""
    cuts = [0, *np.flatnonzero(colour_cuts(seen.change) | face_jumps(seen.points)).tolist(), len(seen)]
    return [(first, stop) for first, stop in zip(cuts[:-1], cuts[1:], strict=True) if stop > first]


def colour_cuts(change: Floats) -> NDArray[np.bool_]:
    """Whether a shot begins at each frame [F], from the colours' change against the frame before."""
    padded = np.pad(change, _AROUND, mode="reflect") if len(change) > _AROUND else np.pad(change, _AROUND)
    usual = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1), axis=1)
    return (change > CHANGE) & (change > OUTSTANDING * usual)


def face_jumps(points: Floats) -> NDArray[np.bool_]:
    """Whether the face [F, 28, 2] is elsewhere, or of another size, than in the last frame that showed one."""
    jumps = np.zeros(len(points), bool)
    there = np.flatnonzero(np.isfinite(points[:, 0, 0]))
    if len(there) < 2:
        return jumps
    eyes = points[there][:, _EYES].mean(1)
    width = np.ptp(points[there][:, _OUTLINE], axis=1).max(-1)
    moved = np.linalg.norm(np.diff(eyes, axis=0), axis=-1) / np.minimum(width[1:], width[:-1])
    grown = np.abs(np.diff(np.log(width)))
    frames = np.diff(there)
    jumps[there[1:]] = (moved > JUMP * frames) | (grown > GROWTH * frames)
    return jumps
