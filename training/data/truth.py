"""What the data engine knows about every frame, and the two seams it is built from.

A `Performance` says what a person does (units, head, gaze, state, voice). A `Subject` is one person that can be drawn
doing it. `training.data.clips` joins the two into labelled clips.

Conventions: pictures are uint8 [S, S, 3] RGB, y down. Image coordinates are fractions in [0, 1] of the picture
(0 is the left or top edge of the first pixel). Angles are degrees with the signs of `engine.types.POSE_AXES`;
rotations compose as yaw @ pitch @ roll in a y-up frame that looks along +z at the viewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ARKIT_UNITS: tuple[str, ...] = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight",
    "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight",
    "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
"""The 52 face units of ARKit, in alphabetical order; strengths in [0, 1]."""

UNIT: dict[str, int] = {name: i for i, name in enumerate(ARKIT_UNITS)}

TRUTH_GRID = 64
"""Side of the dense truth maps (flow, known, mouth)."""


@dataclass(frozen=True, slots=True)
class Phone:
    """One speech sound as it is heard. symbol: IPA; times in seconds of the own voice."""

    symbol: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Performance:
    """What one person does for F frames at 25 fps.

    units: [F, 52] in the order of ARKIT_UNITS, without eyeLook* (the renderer adds lids for the gaze).
    head: [F, 3] yaw, pitch, roll relative to the reference, degrees. gaze: [F, 2] degrees relative to the head.
    tongue: [F] in [0, 1], tip raised (t, d, n, l, th).
    state: int8 [F], engine.types.AvatarState. expression: [F, 8] strengths in the order of engine.types.EXPRESSIONS.
    voice, partner: [F * 640] at 16 kHz, the own voice and the other party's (zeros where silent).
    """

    units: Floats
    head: Floats
    gaze: Floats
    tongue: Floats
    state: NDArray[np.int8]
    expression: Floats
    voice: Floats
    partner: Floats
    phones: tuple[Phone, ...] = ()
    meta: dict[str, object] = field(default_factory=dict)
    """Must be JSON; at least `voice`, `text`, `seed`."""

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True, slots=True)
class FramePose:
    """One frame of a performance, as a renderer needs it."""

    units: Floats
    head: Floats
    gaze: Floats
    tongue: float

    @staticmethod
    def of(performance: Performance, frame: int) -> FramePose:
        return FramePose(
            performance.units[frame],
            performance.head[frame],
            performance.gaze[frame],
            float(performance.tongue[frame]),
        )

    @staticmethod
    def rest() -> FramePose:
        zeros = np.zeros
        return FramePose(zeros(len(ARKIT_UNITS), np.float32), zeros(3, np.float32), zeros(2, np.float32), 0.0)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One rendered frame and its truth.

    image: uint8 [S, S, 3]. landmarks: [28, 2], see engine.portrait.landmarks.
    The maps are None unless truth was asked for, else on the 64 x 64 grid:
    flow: [64, 64, 2], for each place of this frame where it lies in the reference frame (x, y).
    known: [64, 64] in [0, 1], 1 where that surface is also visible in the reference, 0 where it must be painted
    (mouth interior, what opened lids uncover of the eyeballs, uncovered background).
    mouth: [64, 64] in [0, 1], 1 on the mouth interior (teeth, tongue, gums, cavity).
    """

    image: NDArray[np.uint8]
    landmarks: Floats
    flow: Floats | None = None
    known: Floats | None = None
    mouth: Floats | None = None


class Subject(Protocol):
    """One person, ready to be drawn at one size. Drawing is deterministic; close() frees the GL objects."""

    name: str
    kind: str
    """`puppet` (photograph) or `head` (computer graphics)."""

    def set_reference(self, pose: FramePose | None) -> Drawn:
        """Fix and return the reference frame that later flows point into; None means the subject at rest
        (for a puppet: the photograph itself)."""

    def draw(self, pose: FramePose, truth: bool = False) -> Drawn:
        """Draw one frame in the canonical crop of the rest pose; with truth=True also the dense maps."""

    def close(self) -> None: ...
