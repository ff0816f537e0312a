"""A clip: one subject drawn through one performance, with everything that is known about every frame.

Flow is kept as displacement from the identity grid in fp16: absolute coordinates in fp16 would be off by a quarter of
a pixel at 512 px, displacements are exact to 0.01 px for the motions a head makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from engine.types import SAMPLES_PER_FRAME
from training.data.truth import ARKIT_UNITS, TRUTH_GRID, UNIT, Drawn, Floats, FramePose, Performance, Subject

REST_REFERENCE_SHARE = 0.65
"""Share of clips whose reference is the subject at rest (for a puppet: the photograph itself)."""

MAX_DISPLACEMENT = 2.0
"""Displacements beyond this (in picture sides) mean nothing; they are clipped so that fp16 stays finite."""

BLANK_SPREAD = 2.0
"""A picture whose grey levels spread less than this shows nobody: a renderer failed without saying so."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ClipTruth:
    """What is known about the F frames of a clip. Landmarks and flow are fractions of the picture.

    units [F, 52], head [F, 3], gaze [F, 2], tongue [F], expression [F, 8], landmarks [F, 28, 2]: float32; expression is
    negative where nobody knows it (real films). state [F]: int8. The dense maps exist for the T frames named by
    map_frames [T] (int32): displacement [T, 64, 64, 2]: fp16, flow minus the identity grid. known, mouth [T, 64, 64]:
    uint8, 255 is one; known is 0 all over where nobody knows the flow (real films).
    reference_landmarks [28, 2], reference_units [52], reference_head [3], reference_gaze [2]: float32.
    """

    units: Floats
    head: Floats
    gaze: Floats
    tongue: Floats
    state: NDArray[np.int8]
    expression: Floats
    landmarks: Floats
    map_frames: NDArray[np.int32]
    displacement: NDArray[np.float16]
    known: Bytes
    mouth: Bytes
    reference_landmarks: Floats
    reference_units: Floats
    reference_head: Floats
    reference_gaze: Floats

    @property
    def flow(self) -> Floats:
        """[T, 64, 64, 2]: where each place of the frame lies in the reference (x, y)."""
        return self.displacement.astype(np.float32) + identity_grid()


TRUTH_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(ClipTruth))


@dataclass(frozen=True, slots=True)
class Clip:
    """frames: uint8 [F, S, S, 3]. reference: uint8 [S, S, 3]. voice, partner: float32 [F * 640] at 16 kHz.

    meta is JSON: subject, kind, reference (`rest` or `posed`), phones, performance, and what the maker adds.
    """

    key: str
    frames: Bytes
    reference: Bytes
    truth: ClipTruth
    voice: Floats
    partner: Floats
    meta: dict[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frames)


def identity_grid(side: int = TRUTH_GRID) -> Floats:
    """[side, side, 2]: x, y of the cell centres as fractions of the picture."""
    centres = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], -1)


def posed_reference(head: Floats, rng: np.random.Generator) -> FramePose:
    """A pose a user's photo may have: mild smile, mouth a little open, small turn, brows and gaze of its own.

    head [F, 3]: the turns of the performance, one of which it resembles.
    """
    units = np.zeros(len(ARKIT_UNITS), np.float32)
    smile, opening, brow = rng.uniform(0.0, 0.5), rng.beta(1.0, 3.0) * 0.35, rng.uniform(-0.3, 0.4)
    for side in ("Left", "Right"):
        units[UNIT[f"mouthSmile{side}"]] = smile * rng.uniform(0.85, 1.0)
        units[UNIT[f"cheekSquint{side}"]] = 0.4 * smile
        units[UNIT[f"browDown{side}"]] = max(-brow, 0.0)
        units[UNIT[f"browOuterUp{side}"]] = max(brow, 0.0) * 0.6
    units[UNIT["browInnerUp"]] = max(brow, 0.0)
    units[UNIT["jawOpen"]] = opening
    turn = head[rng.integers(len(head))] * rng.uniform(0.5, 1.0)
    head = turn + rng.normal(0.0, (3.0, 2.0, 1.5))
    limits = np.array([14.0, 9.0, 7.0])
    gaze = np.clip(rng.normal(0.0, (5.0, 3.0)), -10.0, 10.0)
    return FramePose(units, np.clip(head, -limits, limits).astype(np.float32), gaze.astype(np.float32), 0.0)


def render_clip(
    subject: Subject,
    performance: Performance,
    *,
    truth_stride: int = 4,
    rng: np.random.Generator,
    key: str = "clip",
) -> Clip:
    """Draw every frame of the performance; every truth_stride-th one (from a random first one) with dense maps.

    Raises ValueError when the performance is empty, its parts differ in length, or the subject draws nothing.
    """
    _check(performance)
    rest = rng.random() < REST_REFERENCE_SHARE
    pose = None if rest else posed_reference(performance.head, rng)
    first = int(rng.integers(min(truth_stride, len(performance))))
    reference = subject.set_reference(pose)
    map_frames = np.arange(first, len(performance), truth_stride, dtype=np.int32)
    with_maps = set(map_frames.tolist())
    drawn = [subject.draw(FramePose.of(performance, i), truth=i in with_maps) for i in range(len(performance))]
    _check_seen([reference.image, drawn[0].image, drawn[-1].image])
    return Clip(
        key=key,
        frames=np.stack([d.image for d in drawn]),
        reference=reference.image,
        truth=_truth(performance, drawn, map_frames, reference, pose or FramePose.rest()),
        voice=performance.voice.astype(np.float32),
        partner=performance.partner.astype(np.float32),
        meta={
            "subject": subject.name,
            "kind": subject.kind,
            "reference": "rest" if rest else "posed",
            "performance": dict(performance.meta),
            "phones": [[p.symbol, round(p.start_s, 4), round(p.end_s, 4)] for p in performance.phones],
        },
    )


def _check(performance: Performance) -> None:
    frames = len(performance)
    per_frame = ("head", "gaze", "tongue", "state", "expression")
    odd = [name for name in per_frame if len(getattr(performance, name)) != frames]
    odd += [name for name in ("voice", "partner") if len(getattr(performance, name)) != frames * SAMPLES_PER_FRAME]
    if not frames or odd:
        raise ValueError(f"a performance of {frames} frames is empty or has parts of other lengths: {', '.join(odd)}")


def _check_seen(pictures: list[Bytes]) -> None:
    if any(picture.std() < BLANK_SPREAD for picture in pictures):
        raise ValueError("the subject drew a blank picture")


def _truth(
    performance: Performance, drawn: list[Drawn], map_frames: NDArray[np.int32], reference: Drawn, pose: FramePose
) -> ClipTruth:
    maps = [drawn[i] for i in map_frames]
    displacement = np.stack(list(_flows(maps))) - identity_grid()
    single = np.float32
    return ClipTruth(
        units=performance.units.astype(single),
        head=performance.head.astype(single),
        gaze=performance.gaze.astype(single),
        tongue=performance.tongue.astype(single),
        state=performance.state.astype(np.int8),
        expression=performance.expression.astype(single),
        landmarks=np.stack([d.landmarks for d in drawn]).astype(single),
        map_frames=map_frames,
        displacement=np.clip(displacement, -MAX_DISPLACEMENT, MAX_DISPLACEMENT).astype(np.float16),
        known=np.stack([_to_bytes(d.known) for d in maps]),
        mouth=np.stack([_to_bytes(d.mouth) for d in maps]),
        reference_landmarks=reference.landmarks.astype(single),
        reference_units=pose.units.astype(single),
        reference_head=pose.head.astype(single),
        reference_gaze=pose.gaze.astype(single),
    )


def _flows(maps: list[Drawn]) -> Iterator[Floats]:
    for drawn in maps:
        if drawn.flow is None or not np.isfinite(drawn.flow).all():
            raise ValueError("the subject drew a frame without a finite flow although truth was asked for")
        yield drawn.flow


def _to_bytes(weights: Floats | None) -> Bytes:
    if weights is None:
        raise ValueError("the subject drew a frame without its masks although truth was asked for")
    return (np.clip(weights, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
