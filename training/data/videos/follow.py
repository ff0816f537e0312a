"""Follows one face through a film, and counts the others.

A face that is small in the picture is looked at twice: mediapipe's detector works on 128 x 128 pixels, so its box
around a small face trembles, and the landmarks with it (by 2.1 % of the face's width for one of 208 px in 1080 x 1920;
0.7 % after a second look at its surroundings alone). Once followed, only these are looked at, and the whole picture
five times a second, for others who come in.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.portrait.crop import CropBox, canonical_crop
from engine.portrait.landmarks import MEDIAPIPE_INDEX
from engine.types import FPS
from training.data.media import Bytes
from training.data.videos.faces import Face, Finder

SMALL = 0.25
"""A face whose box is below this share of the picture's longer side is looked at closely."""
RIVAL = 0.6
"""A second face this large against the first makes it unclear whose film it is, as in engine.portrait.detect."""

_AROUND = 2.4
"""Side of the close look over that of the face's box: what the detector sees of a portrait."""
_WHOLE_EVERY = FPS // 5
_NAMED = list(MEDIAPIPE_INDEX.values())


class Follower:
    """The face that is followed is the one nearest to where it was, at first the largest."""

    def __init__(self, find: Finder) -> None:
        self._find = find
        self._last: Face | None = None
        self._others: list[Face] = []
        self._looked_at = -_WHOLE_EVERY

    def look(self, image: Bytes, index: int, *, fresh: bool) -> tuple[Face | None, int]:
        """The face in picture number `index`, and how many there are that matter (0 without one).

        fresh: the picture shows something else than the last one, so all of it is looked at.
        """
        face = None if fresh or index - self._looked_at >= _WHOLE_EVERY else self._closely(image, self._last)
        if face is None:
            self._looked_at = index
            found = self._find(image)
            chosen = followed(found, self._last)
            self._others = [other for other in found if other is not chosen]
            face = self._closely(image, chosen) or chosen
        self._last = face or self._last
        return face, rivals(self._others, face) + 1 if face else 0

    def _closely(self, image: Bytes, around: Face | None) -> Face | None:
        """The face near `around` at a second look; None where it is too large to need one, or no longer there."""
        if around is None or around.width_px >= SMALL * max(image.shape[:2]):
            return None
        half = _AROUND / 2 * around.width_px
        low = np.maximum(np.floor(around.centre_px - half), 0).astype(int)
        high = np.minimum(np.ceil(around.centre_px + half), image.shape[1::-1]).astype(int)
        if (high - low < around.width_px / 2).any():
            return None
        found = self._find(np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]]))
        moved = [replace(face, points=(face.points + low).astype(np.float32)) for face in found]
        nearest = min(moved, key=lambda face: distance(face, around), default=None)
        return nearest if nearest and distance(nearest, around) < around.width_px / 2 else None


def distance(one: Face, other: Face) -> float:
    """Between the middles of two faces, in pixels."""
    return float(np.linalg.norm(one.centre_px - other.centre_px))


def followed(found: list[Face], last: Face | None) -> Face | None:
    """Of the faces found the one that was followed, or the largest."""
    largest = max(found, key=lambda face: face.width_px, default=None)
    if last is None or largest is None:
        return largest
    nearest = min(found, key=lambda face: distance(face, last))
    near = distance(nearest, last) < last.width_px
    return nearest if near and nearest.width_px > RIVAL * largest.width_px else largest


def rivals(others: list[Face], face: Face) -> int:
    """How many others are as large as the face, or look into its crop."""
    crop = canonical_crop(face.points[_NAMED])
    return sum(other.width_px > RIVAL * face.width_px or _inside(crop, other) for other in others)


def _inside(crop: CropBox, other: Face) -> bool:
    return bool((np.abs(crop.to_crop(other.centre_px) - 0.5) < 0.5).all())
