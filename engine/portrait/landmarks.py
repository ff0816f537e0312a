"""The 28 named face points that training data, portrait finder and instruments agree on.

`left` and `right` are the person's own, as in ARKit. Coordinates are fractions of the picture:
x in [0, 1] from the left edge, y in [0, 1] from the top edge. Each point names the index it has in the
478-point mediapipe Face Landmarker topology, which the data engine uses to find it on photographs.
"""

from __future__ import annotations

MEDIAPIPE_INDEX: dict[str, int] = {
    "eye_right_outer": 33,
    "eye_right_inner": 133,
    "eye_left_inner": 362,
    "eye_left_outer": 263,
    "lid_right_upper": 159,
    "lid_right_lower": 145,
    "lid_left_upper": 386,
    "lid_left_lower": 374,
    "brow_right_outer": 70,
    "brow_right_middle": 105,
    "brow_right_inner": 107,
    "brow_left_inner": 336,
    "brow_left_middle": 334,
    "brow_left_outer": 300,
    "nose_bridge": 168,
    "nose_tip": 1,
    "nostril_right": 98,
    "nostril_left": 327,
    "mouth_right": 61,
    "mouth_left": 291,
    "lip_upper_outer": 0,
    "lip_upper_inner": 13,
    "lip_lower_inner": 14,
    "lip_lower_outer": 17,
    "chin": 152,
    "forehead": 10,
    "cheek_right": 234,
    "cheek_left": 454,
}

LANDMARKS: tuple[str, ...] = tuple(MEDIAPIPE_INDEX)
"""Names in array order; a landmark array is float32 [28, 2]."""

INDEX: dict[str, int] = {name: i for i, name in enumerate(LANDMARKS)}
