"""From a `FramePose` to row strengths, eye turns and landmarks of one identity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data.heads.base import MIDLINE_LIPS, ROWS, TONGUE_JAW_ROW, TONGUE_ROW, base_head, morph_rows, rotation
from training.data.heads.identity import Identity
from training.data.heads.mesh import Floats
from training.data.truth import ARKIT_UNITS, UNIT, FramePose

UPPER_LIP, LOWER_LIP = MIDLINE_LIPS

LANDMARK_VERTICES: tuple[int, ...] = (
    1061, 70, 6854, 7753,  # eye corners: right outer, right inner, left inner, left outer
    6756, 6774, 13352, 13370,  # lids: right upper, right lower, left upper, left lower
    261, 206, 208, 6983, 6981, 7030,  # brows: right outer to inner, left inner to outer
    132, 297, 318, 7080,  # nose: bridge, tip, right and left nostril
    3735, 10403,  # corners of the mouth, right and left
    455, UPPER_LIP, LOWER_LIP, 492,  # lips: upper outer, inner pair, lower outer
    732, 244, 5235, 11844,  # chin, forehead, cheeks right and left
)  # fmt: skip
"""Body vertex of each of engine.portrait.landmarks.LANDMARKS.

Found with mediapipe's Face Landmarker on 16 random heads drawn at 512 px: the front-facing vertex with the least
median distance to each point, made symmetric by mirroring the right side; the inner lips are the midline pair that
touches while the mouth is closed.
"""

NEUTRAL_UNITS = {
    "browInnerUp": 0.48, "browOuterUpLeft": 0.02, "browOuterUpRight": 0.02,
    "mouthSmileLeft": 0.16, "mouthSmileRight": 0.16, "eyeWideLeft": 0.16, "eyeWideRight": 0.16,
}  # fmt: skip
"""Added to every pose: without them the mesh's neutral face looks stern."""

_LID_TURN_DEG = 25.0
"""Gaze at which the lids have followed by a full eyeLook unit."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What makes a person's rest pose: strengths added to every pose, and head and gaze angles in degrees."""

    rows: Floats
    head: Floats
    gaze: Floats


def rest_of(identity: Identity, head_deg: Floats) -> Rest:
    """Friendly neutral face with touching lips, the head as given, the eyes on the camera."""
    rows = np.zeros(ROWS, np.float32)
    for name, strength in NEUTRAL_UNITS.items():
        rows[UNIT[name]] = strength
    lips = [UPPER_LIP, LOWER_LIP]
    moved = identity.vertices[lips] + np.einsum("r,rvc->vc", rows, morph_rows()[:, lips])
    travel = morph_rows()[UNIT["jawOpen"], lips, 1]
    gap = moved[0, 1] - moved[1, 1]
    rows[UNIT["jawOpen"]] = np.clip(-gap / (travel[0] - travel[1]), -0.08, 0.05)
    return Rest(rows, np.asarray(head_deg, np.float32), np.float32([-head_deg[0], -head_deg[1]]))


def row_strengths(pose: FramePose, rest: Rest) -> Floats:
    """Strengths [ROWS] of the morph rows: units, lids that follow the gaze, tongue, and the rest pose."""
    rows = rest.rows.copy()
    rows[: len(ARKIT_UNITS)] += pose.units
    jaw = max(float(rows[UNIT["jawOpen"]]), 0.0)
    rows[TONGUE_ROW] += pose.tongue
    rows[TONGUE_JAW_ROW] += pose.tongue * jaw
    right, down = (float(g) / _LID_TURN_DEG for g in pose.gaze + rest.gaze)
    open_lids = 1 - np.clip([rows[UNIT["eyeBlinkLeft"]], rows[UNIT["eyeBlinkRight"]]], 0, 1)
    for side, open_lid, outwards in (("Left", open_lids[0], right), ("Right", open_lids[1], -right)):
        rows[UNIT[f"eyeLookOut{side}"]] += max(outwards, 0.0)
        rows[UNIT[f"eyeLookIn{side}"]] += max(-outwards, 0.0)
        rows[UNIT[f"eyeLookDown{side}"]] += max(down, 0.0) * open_lid
        rows[UNIT[f"eyeLookUp{side}"]] += max(-down, 0.0) * open_lid
    return rows


class LandmarkRig:
    """The 28 landmarks (and other chosen vertices) of one identity, moved without the rest of the mesh."""

    def __init__(self, identity: Identity, vertices: tuple[int, ...], pivot: Floats) -> None:
        chosen = np.array(vertices)
        self._base = identity.vertices[chosen]
        self._morph = np.ascontiguousarray(morph_rows()[:, chosen])
        self._weight = base_head().head_weight[chosen][:, None]
        self._pivot = pivot

    def unturned(self, rows: Floats) -> Floats:
        """Places [N, 3] before the head turns."""
        return self._base + np.einsum("r,rvc->vc", rows, self._morph)

    def world(self, rows: Floats, turn: Floats) -> Floats:
        """Places [N, 3] with the head turned."""
        places = self.unturned(rows)
        return places + self._weight * ((places - self._pivot) @ turn.T + self._pivot - places)


def pivot_of(identity: Identity) -> Floats:
    """The point that the head turns about, [3]."""
    joint = identity.vertices[base_head().joint].mean(0)
    return np.float32([0, joint[1] - 0.1, joint[2] - 0.1])


def head_turn(pose: FramePose, rest: Rest) -> Floats:
    """Rotation matrix of the head, [3, 3]."""
    return rotation(*(float(a) for a in pose.head + rest.head))


def gaze_turn(pose: FramePose, rest: Rest) -> Floats:
    """Rotation matrix of the eyes in the head, [3, 3]."""
    yaw, pitch = (float(a) for a in pose.gaze + rest.gaze)
    return rotation(yaw, pitch, 0.0)
