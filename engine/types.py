"""Vocabulary shared by every package: rates, states, expressions, and the values that cross the API.

Imports numpy only, so that `import engine` stays light.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
"""Rate at which the model hears. Everything else is resampled to it at the door."""

FPS = 25
"""Video frames per second, everywhere."""

SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS


class AvatarState(IntEnum):
    """What the person is doing; a label per frame (LLIA, arXiv 2506.05806)."""

    SPEAKING = 0
    LISTENING = 1
    IDLE = 2


EXPRESSIONS: tuple[str, ...] = (
    "happy",
    "sad",
    "angry",
    "surprised",
    "afraid",
    "disgusted",
    "thinking",
    "sympathetic",
)
"""Named expressions; an expression vector holds one strength in [0, 1] for each."""

POSE_AXES: tuple[str, ...] = ("yaw", "pitch", "roll", "gaze_x", "gaze_y")
"""Degrees. yaw > 0 turns towards the right edge of the picture, pitch > 0 looks down,
roll > 0 turns counter-clockwise in the picture; gaze is relative to the head, same signs as yaw and pitch."""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One picture and the sound that belongs to it.

    image: uint8 [H, W, 3], RGB; of a person that was cut out [H, W, 4], with straight opacity. audio: float32 [640] at
    16 kHz. pts_us: presentation time in microseconds. turn_id: the utterance that is heard, 0 for none; turn_samples:
    how much of it has been heard once this frame is over; end_of_turn: it is complete. frozen: the picture is an
    earlier one, for lack of a fresh one.
    """

    image: NDArray[np.uint8]
    audio: NDArray[np.float32]
    pts_us: int
    state: AvatarState
    timing: dict[str, float] = field(default_factory=dict)
    turn_id: int = 0
    turn_samples: int = 0
    end_of_turn: bool = False
    frozen: bool = False

    @property
    def index(self) -> int:
        """Number of the frame since the session began."""
        return (self.pts_us * FPS + 500_000) // 1_000_000


FRAME_US = 1_000_000 // FPS
"""Microseconds between frames; FPS divides a million."""
