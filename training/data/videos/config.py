"""Settings of a run over films, and what a stretch of film must fulfil to become a clip."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.errors import DataSettingsError
from engine.types import FPS


@dataclass(frozen=True, slots=True)
class Gates:
    """Limits of what is kept. Angles are of the head against the camera, in degrees.

    Sharpness and light are measured on the face inside the canonical crop (see `training.data.videos.watch`).
    """

    face_px: float = 64.0
    """Longer side of the face's box in the film: below it a 128-pixel crop is enlarged more than the mouth can bear."""
    yaw_deg: float = 35.0
    pitch_deg: float = 28.0
    roll_deg: float = 25.0
    sharpness: float = 0.045
    darkest: float = 0.13
    brightest: float = 0.92
    outside: float = 0.22
    """Largest share of the crop's side that may lie beyond the picture's edge, where it is a mirror image."""
    jitter: float = 0.02
    """Trembling of points that do not move by themselves, over the face's width: a hand before the face, or a guess.
    A steady face has 0.002 to 0.007 (median), a head that turns quickly 0.015."""
    frame_gap_s: float = 0.075
    """Longest time between two pictures of the film: 13.3 pictures a second; slower ones move in jerks."""
    dropout_frames: int = 2
    """So many frames without a face in a row are bridged; a blink in bad light is no reason to cut."""


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """seconds: length of a clip. size: side of its pictures in pixels. split_share: share of people held out for test,
    in [0, 1]. truth_stride: every n-th frame has a mouth mask. clips_per_shard: at most."""

    seconds: float = 4.0
    size: int = 128
    split_share: float = 0.1
    truth_stride: int = 4
    clips_per_shard: int = 16
    gates: Gates = field(default_factory=Gates)

    def __post_init__(self) -> None:
        if self.frames < 1 or self.size < 16 or self.truth_stride < 1 or not 0 <= self.split_share <= 1:
            raise DataSettingsError(
                "seconds must be 0.04 or more, size 16 or more, truth stride 1 or more, split share from 0 to 1"
            )

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return round(self.seconds * FPS)
