"""A take: a stretch of one person's performance as drawn for training, in the plain arrays that processes share.

Two kinds. Pairs (for the codec) are frames from anywhere in a performance, each with dense truth. Sequences (for the
denoiser) are frames in a row with both voices' log-mel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.audio.features import N_MELS
from engine.audio.windows import MELS_PER_FRAME
from engine.portrait.landmarks import LANDMARKS
from engine.types import EXPRESSIONS
from training.data.cast.played import Played
from training.data.clips import BLANK_SPREAD, MAX_DISPLACEMENT, REST_REFERENCE_SHARE, identity_grid, posed_reference
from training.data.truth import ARKIT_UNITS, TRUTH_GRID, Drawn, FramePose, Subject

Kind = Literal["pairs", "sequences"]
Arrays = dict[str, NDArray[np.generic]]
Layout = Mapping[str, tuple[tuple[int, ...], type]]
"""Shape and type of each array of a take; those that start with `reference` have no frame axis."""

_LABELS: Layout = {
    "landmarks": ((len(LANDMARKS), 2), np.float32),
    "units": ((len(ARKIT_UNITS),), np.float32),
    "head": ((3,), np.float32),
    "gaze": ((2,), np.float32),
}
_MAPS: Layout = {
    "displacement": ((TRUTH_GRID, TRUTH_GRID, 2), np.float16),
    "known": ((TRUTH_GRID, TRUTH_GRID), np.uint8),
    "mouth": ((TRUTH_GRID, TRUTH_GRID), np.uint8),
}
_MOVES: Layout = {
    "state": ((), np.int8),
    "expression": ((len(EXPRESSIONS),), np.float32),
    "mel": ((MELS_PER_FRAME, N_MELS), np.float16),
    "partner_mel": ((MELS_PER_FRAME, N_MELS), np.float16),
}


@dataclass(frozen=True, slots=True)
class TakeSettings:
    """kind: see above. size: side of the pictures. frames: per take."""

    kind: Kind = "pairs"
    size: int = 128
    frames: int = 24

    def layout(self) -> Layout:
        """Arrays of one take: reference uint8 [S, S, 3], image uint8 [F, S, S, 3], reference_* and labels; maps as in
        training.data.clips.ClipTruth for pairs; state, expression, mel and partner_mel [F, 4, 80] for sequences."""
        picture = (self.size, self.size, 3)
        per_frame = {"image": (picture, np.uint8), **_LABELS, **(_MAPS if self.kind == "pairs" else _MOVES)}
        one = {f"reference_{name}": spec for name, spec in _LABELS.items()}
        many = {name: ((self.frames, *shape), kind) for name, (shape, kind) in per_frame.items()}
        return {"reference": (picture, np.uint8), "is_puppet": ((), np.uint8), **one, **many}


def take_bytes(layout: Layout) -> int:
    """Size of one take, every array starting at a multiple of 64 bytes."""
    return sum(_aligned(shape, kind) for shape, kind in layout.values())


def take_views(buffer: NDArray[np.uint8], layout: Layout) -> Arrays:
    """The arrays of a take as views into its bytes [take_bytes]."""
    views: Arrays = {}
    offset = 0
    for name, (shape, kind) in layout.items():
        used = int(np.prod(shape)) * np.dtype(kind).itemsize
        views[name] = buffer[offset : offset + used].view(kind).reshape(shape)
        offset += _aligned(shape, kind)
    return views


def _aligned(shape: tuple[int, ...], kind: type) -> int:
    return -(-int(np.prod(shape)) * np.dtype(kind).itemsize // 64) * 64


def draw_take(subject: Subject, played: Played, settings: TakeSettings, rng: np.random.Generator, out: Arrays) -> None:
    """Fill the arrays of one take. Raises ValueError when the subject draws nothing or no finite flow."""
    rows = _rows(played, settings, rng)
    with_maps = settings.kind == "pairs"
    rest = rng.random() < REST_REFERENCE_SHARE
    pose = FramePose.rest() if rest else posed_reference(played.head[rows], rng)
    reference = subject.set_reference(None if rest else pose)
    out["reference"][:] = reference.image
    out["is_puppet"][...] = subject.kind == "puppet"
    _label(out, "reference_", ..., reference, pose)
    for i, row in enumerate(rows):
        pose = played.pose(int(row))
        drawn = subject.draw(pose, truth=with_maps)
        out["image"][i] = drawn.image
        _label(out, "", i, drawn, pose)
        if with_maps:
            _map(out, i, drawn)
    if not with_maps:
        _voices(out, played, rows)
    if min(out["reference"].std(), out["image"][0].std(), out["image"][-1].std()) < BLANK_SPREAD:
        raise ValueError("the subject drew a blank picture")


def _rows(played: Played, settings: TakeSettings, rng: np.random.Generator) -> NDArray[np.int64]:
    """Frames of one performance: any for pairs, a stretch for sequences."""
    lengths = np.diff(played.start)
    long_enough = np.flatnonzero(lengths >= settings.frames)
    if not len(long_enough):
        raise ValueError(f"no performance has {settings.frames} frames")
    chosen = int(rng.choice(long_enough))
    first, length = int(played.start[chosen]), int(lengths[chosen])
    if settings.kind == "pairs":
        return first + np.sort(rng.choice(length, settings.frames, replace=False))
    return first + int(rng.integers(length - settings.frames + 1)) + np.arange(settings.frames)


def _label(out: Arrays, prefix: str, at: object, drawn: Drawn, pose: FramePose) -> None:
    labels = {"landmarks": drawn.landmarks, "units": pose.units, "head": pose.head, "gaze": pose.gaze}
    for name, value in labels.items():
        out[prefix + name][at] = value


def _map(out: Arrays, i: int, drawn: Drawn) -> None:
    if drawn.flow is None or drawn.known is None or drawn.mouth is None or not np.isfinite(drawn.flow).all():
        raise ValueError("the subject drew a frame without finite truth")
    out["displacement"][i] = np.clip(drawn.flow - identity_grid(), -MAX_DISPLACEMENT, MAX_DISPLACEMENT)
    out["known"][i] = np.clip(drawn.known, 0, 1) * 255 + 0.5
    out["mouth"][i] = np.clip(drawn.mouth, 0, 1) * 255 + 0.5


def _voices(out: Arrays, played: Played, rows: NDArray[np.int64]) -> None:
    out["state"][:] = played.state[rows]
    out["expression"][:] = played.expression[rows]
    for name in ("mel", "partner_mel"):
        mel = getattr(played, name).reshape(-1, MELS_PER_FRAME, N_MELS)
        out[name][:] = mel[rows]
