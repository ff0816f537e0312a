"""Where soft parts touch: lips that meet on the photograph's own lip line, lids that close without a gap.

The fitted mesh leaves a hair's breadth between the lips and, because lids are moved to their landmarks, may stop short
of closing. Both are mended in the image plane with shifts that fade away from the opening.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.puppets.face_model import FaceModel, Rim
from training.data.puppets.mesh import Projection
from training.data.truth import UNIT

Floats = NDArray[np.float32]

INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_LIP_REACH_CM = 0.45
_LIP_OVERLAP_CM = 0.03
_LIP_MARGIN_CM = 0.06
_LID_OVERLAP_CM = 0.05
_SEAM_POINTS = 24
_CANTHUS_CM = 0.12
_LIP_SEAM_RINGS = (5, 9)
_LID_SEAM_RINGS = (1, 5)


def part_lips(model: FaceModel, rest: Floats, points: Floats, view: Projection) -> Floats:
    """Camera-frame vertices with each lip's edge where the photograph shows it, so that no tooth is taken for lip."""
    upper, lower = (view.lift(points[list(row)]).astype(np.float64) for row in (INNER_UPPER, INNER_LOWER))
    margin = np.clip(0.25 * (upper[:, 1] - lower[:, 1]), 0, _LIP_MARGIN_CM)
    upper[:, 1] += margin
    lower[:, 1] -= margin
    return _lips_to(model, rest, upper, lower)


def meet_lips(model: FaceModel, rest: Floats, points: Floats, view: Projection) -> Floats:
    """Camera-frame vertices with both lips moved onto the line between the landmarks of the inner lips."""
    line = (points[list(INNER_UPPER)] + points[list(INNER_LOWER)]) / 2
    line = view.lift(line).astype(np.float64)
    return _lips_to(model, rest, line - (0, _LIP_OVERLAP_CM), line)


def _lips_to(model: FaceModel, rest: Floats, upper_line: NDArray, lower_line: NDArray) -> Floats:
    """Both lips' edges moved onto lines [k, 2] of rising x; the farther they go, the more of the skin goes along."""
    out = rest.copy()
    rim = model.mouth_rim
    for upper, line in ((True, upper_line), (False, lower_line)):
        own = rim.vertices[rim.upper == upper]
        seam = seam_height(rest, rim, upper, _LIP_SEAM_RINGS, rest[own, 0])
        shift = np.interp(rest[own, 0], line[:, 0], line[:, 1]) - seam
        away = np.abs(rest[own, 1] - seam)
        reach = np.maximum(_LIP_REACH_CM, 2.0 * np.abs(shift).max())
        inside = (rest[own, 0] > line[0, 0]) & (rest[own, 0] < line[-1, 0])
        beyond = np.maximum(line[0, 0] - rest[own, 0], rest[own, 0] - line[-1, 0]).clip(0)
        weight = np.exp(-((away / reach) ** 2)) * np.where(inside, 1.0, np.exp(-((beyond / 0.25) ** 2)))
        out[own, 1] += shift * weight
    return out


def close_lids(model: FaceModel, rest: Floats, basis: Floats) -> None:
    """Lengthen the two blink rows of `basis` [53, N, 3] in place so that full blinks of this rest shape close."""
    for side, rim in model.eye_rims.items():
        row = basis[UNIT[f"eyeBlink{side}"]]
        shut = rest + row
        moving, share = lid_share(rest, row, rim)
        gap = seam_height(shut, rim, True, _LID_SEAM_RINGS, shut[moving, 0]) - seam_height(
            shut, rim, False, _LID_SEAM_RINGS, shut[moving, 0]
        )
        row[moving, 1] -= (gap + _LID_OVERLAP_CM).clip(-0.3, 0.8) * share


def lid_share(rest: Floats, row: Floats, rim: Rim) -> tuple[NDArray[np.int64], Floats]:
    """Vertices that a blink [N, 3] moves, and how much of the lid edge's own motion each makes, in [0, 1]."""
    amount = np.maximum(-row[:, 1], 0)
    moving = np.flatnonzero(amount > 0.01 * amount.max())
    edge = rim.vertices[rim.upper & (rim.ring >= _LID_SEAM_RINGS[0]) & (rim.ring < _LID_SEAM_RINGS[1])]
    order = edge[np.argsort(rest[edge, 0])]
    at_edge = np.interp(rest[moving, 0], rest[order, 0], amount[order], left=0, right=0)
    return moving, np.clip(amount[moving] / np.maximum(at_edge, 0.1 * amount.max()), 0, 1).astype(np.float32)


def shut_lids(model: FaceModel, rest: Floats, basis: Floats) -> tuple[Floats, NDArray[np.int32], dict[str, Floats]]:
    """Both lids shut: vertices [N, 3], the lid of each vertex near an eye, the lines [n, 2] they meet on.

    Lids are 1 upper right, 2 upper left, 3 lower right, 4 lower left, 0 elsewhere. Lines are given by side ("right",
    "left"), x and y in cm by rising x.
    """
    shut = rest + basis[UNIT["eyeBlinkRight"]] + basis[UNIT["eyeBlinkLeft"]]
    lid = np.zeros(len(rest), np.int32)
    seams = {}
    for number, (side, rim) in enumerate(model.eye_rims.items(), start=1):
        loop = shut[rim.vertices[rim.ring <= 1]]
        left, right = loop[:, 0].min(), loop[:, 0].max()
        away = np.abs(rest[:, :2] - loop[:, :2].mean(0)) / (right - left)
        near = (away[:, 0] < 0.85) & (away[:, 1] < 0.75)
        corners = rest[rim.vertices[rim.ring <= 1]]
        ends = corners[[corners[:, 0].argmin(), corners[:, 0].argmax()]]
        below = rest[:, 1] < np.interp(rest[:, 0], ends[:, 0], ends[:, 1])
        lid[near] = number + 2 * below[near]
        x = np.linspace(left - _CANTHUS_CM, right + _CANTHUS_CM, _SEAM_POINTS)
        upper, lower = (seam_height(shut, rim, u, _LID_SEAM_RINGS, x) for u in (True, False))
        seams[side.lower()] = np.stack([x, (upper + lower) / 2], 1)
    return shut, lid, seams


def seam_shift(model: FaceModel, before: Floats, after: Floats) -> Floats:
    """How far the middle of the lips' seam moved [3]: what is behind the lips must follow."""
    rim = model.mouth_rim
    seam = rim.vertices[(rim.ring >= _LIP_SEAM_RINGS[0]) & (rim.ring < _LIP_SEAM_RINGS[1])]
    middle = seam[np.abs(model.vertices[seam, 0]) < 1.2]
    return (after[middle] - before[middle]).mean(0)


def seam_height(vertices: Floats, rim: Rim, upper: bool, rings: tuple[int, int], at_x: NDArray) -> NDArray[np.float64]:
    """Height of a lip's or lid's visible edge at the given x: lowest of the upper one, highest of the lower one."""
    edge = np.full(len(at_x), np.inf if upper else -np.inf)
    pick = np.minimum if upper else np.maximum
    for ring in range(*rings):
        row = rim.vertices[(rim.upper == upper) & (rim.ring == ring)]
        order = row[np.argsort(vertices[row, 0])]
        edge = pick(edge, np.interp(at_x, vertices[order, 0], vertices[order, 1]))
    return edge
