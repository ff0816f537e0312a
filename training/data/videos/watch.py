"""The first pass over a film: what is seen in every picture at 25 fps, as arrays.

Only the points that are used later are kept (1 MB a minute of film), never pictures; those are decoded again once it is
known which of them are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.crop import CropBox, canonical_crop
from engine.portrait.landmarks import MEDIAPIPE_INDEX
from engine.portrait.paste import cut
from training.data.media import Bytes, Floats
from training.data.truth import ARKIT_UNITS
from training.data.videos.faces import Face, Finder
from training.data.videos.follow import Follower
from training.data.videos.reading import Picture

INNER_LIPS: tuple[int, ...] = (
    78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95,
)  # fmt: skip
"""mediapipe's points around the mouth's opening, in order."""

_NAMED = list(MEDIAPIPE_INDEX.values())
_LIPS = list(INNER_LIPS)
FRESH = 0.15
"""Share of the picture's colours that changes where the face may be another one: half of what a cut replaces."""
_LOOK_PX = 96
_BINS = (8, 4, 4)


@dataclass(frozen=True, slots=True)
class Seen:
    """What F pictures show; rows without a face are NaN.

    faces [F]: how many faces matter, 0 where nothing was seen. points [F, 28, 2], lips [F, 20, 2]: pixels of the film.
    scores [F, 52]. turn [F, 3, 3]. change [F]: how much the colours differ from the picture before, in [0, 1].
    sharpness [F]: fine detail over contrast; light [F]: mean grey level of the face, in [0, 1].
    gap_s [F]: time between the film's own pictures, infinite where there is none. size: width, height in pixels.
    """

    faces: NDArray[np.int8]
    points: Floats
    lips: Floats
    scores: Floats
    turn: Floats
    change: Floats
    sharpness: Floats
    light: Floats
    gap_s: Floats
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.faces)


@dataclass(frozen=True, slots=True)
class _Row:
    face: Face | None
    faces: int
    change: float
    sharpness: float
    light: float
    gap_s: float


def watch(pictures: Iterable[Picture], find: Finder) -> Seen:
    """Look at every picture; see `training.data.videos.follow` for which face counts."""
    rows: dict[int, _Row] = {}
    follower = Follower(find)
    size = (0, 0)
    before: Floats | None = None
    for picture in pictures:
        size = (picture.image.shape[1], picture.image.shape[0])
        colours = colour_histogram(picture.image)
        change = 0.0 if before is None else 0.5 * float(np.abs(colours - before).sum())
        before = colours
        face, faces = follower.look(picture.image, picture.index, fresh=change > FRESH)
        sharpness, light = _look(picture.image, canonical_crop(face.points[_NAMED])) if face else (np.nan, np.nan)
        rows[picture.index] = _Row(face, faces, change, sharpness, light, picture.gap_s)
    return _stacked(rows, size)


def colour_histogram(image: Bytes) -> Floats:
    """Shares of hue, saturation and brightness bins [128] of a picture uint8 [H, W, 3]; they sum to one."""
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    colours = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([colours], [0, 1, 2], None, list(_BINS), [0, 180, 0, 256, 0, 256])
    return (counts.ravel() / counts.sum()).astype(np.float32)


def sharpness_of(face: Bytes) -> float:
    """Standard deviation of the Laplacian over that of the grey levels: falls with blur, whatever the contrast."""
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std() / max(float(grey.std()), 1.0))


def _look(image: Bytes, crop: CropBox) -> tuple[float, float]:
    """Sharpness and light of the crop's middle, which the face fills."""
    quarter = _LOOK_PX // 4
    face = cut(image, crop, _LOOK_PX)[quarter:-quarter, quarter:-quarter]
    return sharpness_of(face), float(face.mean()) / 255


def _stacked(rows: dict[int, _Row], size: tuple[int, int]) -> Seen:
    count = max(rows) + 1 if rows else 0
    seen = Seen(
        faces=np.zeros(count, np.int8),
        points=np.full((count, len(_NAMED), 2), np.nan, np.float32),
        lips=np.full((count, len(_LIPS), 2), np.nan, np.float32),
        scores=np.full((count, len(ARKIT_UNITS)), np.nan, np.float32),
        turn=np.full((count, 3, 3), np.nan, np.float32),
        change=np.zeros(count, np.float32),
        sharpness=np.full(count, np.nan, np.float32),
        light=np.full(count, np.nan, np.float32),
        gap_s=np.full(count, np.inf, np.float32),
        size=size,
    )
    for index, row in rows.items():
        seen.faces[index], seen.gap_s[index], seen.change[index] = row.faces, row.gap_s, row.change
        seen.sharpness[index], seen.light[index] = row.sharpness, row.light
        if row.face:
            seen.points[index], seen.lips[index] = row.face.points[_NAMED], row.face.points[_LIPS]
            seen.scores[index], seen.turn[index] = row.face.scores, row.face.turn
    return seen
