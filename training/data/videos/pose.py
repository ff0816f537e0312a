"""What the landmark model's scores and matrices mean in the data engine's terms: units, head, gaze.

A puppet's truth is counted from its portrait: zero units, head and gaze are the photograph's. So a film's are counted
from what is usual for its person: scores from their own low values, angles from the reference frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.media import Floats
from training.data.truth import ARKIT_UNITS, UNIT

NEUTRAL_PERCENTILE = 10.0
"""A score's low value, which stands for the face at rest: faces differ, and few score zero in anything."""

GAZE_DEG = (30.0, 12.0)
"""Degrees of gaze for a score of one, sideways and up or down: least squares against 8 clips of rendered people whose
gaze is known. Up and down are seen badly, so little is made of them."""

_SHUT = 0.5
"""Score of eyeBlink at which the lids are shut: between 0.44 and 0.62 in rendered people that shut them fully."""
_LEAST_SPAN = 0.25
_BLINKS = [UNIT[f"eyeBlink{side}"] for side in ("Left", "Right")]
_LOOKS = [i for i, name in enumerate(ARKIT_UNITS) if name.startswith("eyeLook")]


def head_angles(turn: Floats) -> Floats:
    """Yaw, pitch, roll [F, 3] in degrees of rotations [F, 3, 3], signs of engine.types.POSE_AXES."""
    yaw = np.arctan2(turn[:, 0, 2], turn[:, 2, 2])
    pitch = np.arcsin(np.clip(-turn[:, 1, 2], -1.0, 1.0))
    roll = np.arctan2(turn[:, 1, 0], turn[:, 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], -1)).astype(np.float32)


def head_from(turn: Floats, rest: Floats) -> Floats:
    """Yaw, pitch, roll [F, 3] by which the head was turned from its rest [3, 3], about the camera's axes."""
    return head_angles(np.asarray(turn, np.float32) @ np.asarray(rest, np.float32).T)


def gaze_from(scores: Floats, rest: Floats) -> Floats:
    """Gaze [F, 2] in degrees against that of rest [52], from the eyeLook scores [F, 52]."""
    return (_gaze(scores) - _gaze(rest[None])).astype(np.float32)


def neutral_scores(scores: Floats) -> Floats:
    """Scores [52] of a person's face at rest, from many frames [F, 52]."""
    return np.percentile(scores, NEUTRAL_PERCENTILE, axis=0).astype(np.float32)


def units_from(scores: Floats, neutral: Floats) -> Floats:
    """Strengths [F, 52] above the person's own rest [52]; eyeLook is left at 0, since the gaze says it."""
    full = np.ones(len(ARKIT_UNITS), np.float32)
    full[_BLINKS] = np.maximum(_SHUT, neutral[_BLINKS] + _LEAST_SPAN)
    units = (scores - neutral) / np.maximum(full - neutral, _LEAST_SPAN)
    units[:, _LOOKS] = 0.0
    return np.clip(units, 0.0, 1.0).astype(np.float32)


def _gaze(scores: Floats) -> NDArray[np.float32]:
    def score(name: str) -> NDArray[np.float32]:
        return scores[:, UNIT[name]]

    # The person's left is the picture's right.
    right = score("eyeLookOutLeft") + score("eyeLookInRight") - score("eyeLookInLeft") - score("eyeLookOutRight")
    down = score("eyeLookDownLeft") + score("eyeLookDownRight") - score("eyeLookUpLeft") - score("eyeLookUpRight")
    return (np.stack([right, down], -1) / 2 * GAZE_DEG).astype(np.float32)
