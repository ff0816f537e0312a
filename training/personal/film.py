"""Pairs from a film: the frames in which one face is seen, cut as the portrait is cut.

The face finder is the one that makes puppets (training.data.puppets.landmarks).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from engine.portrait.crop import CropBox, canonical_crop
from engine.portrait.landmarks import MEDIAPIPE_INDEX
from engine.portrait.paste import cut
from training.data.puppets.landmarks import find_faces
from training.data.truth import UNIT, Floats
from training.personal.pairs import PersonPairs, PersonUnusable

_NAMED = list(MEDIAPIPE_INDEX.values())
_MAX_FRAMES = 600
_MAX_SECONDS = 120.0
_MAX_SIDE_PX = 1280
_PER_S = 8.0
"""Frames of a second that are looked at: neighbours differ too little to teach more."""
_LEAST_FRAMES = 40
_GROUP_FRAMES = 12
_WITHIN = 0.25
"""Largest distance of a face box from the portrait's, in sides of its crop: beyond, it is another shot."""
_MOVING = [UNIT[n] for n in ("jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "mouthSmileLeft", "mouthPucker")]


@dataclass(frozen=True, slots=True)
class _Seen:
    """index of the looked-at picture. points: the 28 face points in its pixels. unrest: how far from a face at rest."""

    index: int
    points: Floats
    unrest: float


def pairs_of_film(path: Path, assets: Path, size_px: int) -> PersonPairs:
    """The face's frames beside the calmest of them. Raises PersonUnusable, AssetsMissing.

    The film is read twice, since its pictures together would fill the memory and the crop is known only at its end.
    """
    seen = [face for i, picture in enumerate(_pictures(path)) if (face := _look(i, picture, assets)) is not None]
    if len(seen) < _LEAST_FRAMES:
        raise PersonUnusable(
            f"{path} shows one face in {len(seen)} looked-at frames, and {_LEAST_FRAMES} are needed; give a film of at"
            " least 10 s in which the person faces the camera alone"
        )
    calm = min(seen, key=lambda face: face.unrest)
    box = canonical_crop(calm.points)
    near = {face.index: face for face in seen if _distance(canonical_crop(face.points), box) < _WITHIN}
    if len(near) < _LEAST_FRAMES:
        raise PersonUnusable(f"the person in {path} moves about too much, or the film is cut; give one steady shot")
    crops: dict[int, NDArray[np.uint8]] = {}
    whole = None
    for i, picture in enumerate(_pictures(path)):
        whole = picture if i == calm.index else whole
        if i in near:
            crops[i] = cut(picture, box, size_px)
    return PersonPairs(
        path,
        crops[calm.index],
        np.stack([crops[i] for i in near]),
        np.stack([box.to_crop(face.points) for face in near.values()]),
        np.arange(len(near)) // _GROUP_FRAMES,
        portrait=whole,
    )


def _pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            due_s, given = 0.0, 0
            for frame in container.decode(video=0):
                at_s = float(frame.time or 0.0)
                if at_s > _MAX_SECONDS or given == _MAX_FRAMES:
                    return
                if at_s >= due_s:
                    due_s, given = at_s + 1 / _PER_S, given + 1
                    yield _small(frame)
    except (av.error.FFmpegError, OSError, IndexError, ValueError) as error:
        raise PersonUnusable(f"{path} cannot be read as a film ({error}); give an MP4") from error


def _small(frame: av.VideoFrame) -> NDArray[np.uint8]:
    scale = min(1.0, _MAX_SIDE_PX / max(frame.width, frame.height))
    return frame.reformat(round(frame.width * scale), round(frame.height * scale), "rgb24").to_ndarray()


def _look(index: int, picture: NDArray[np.uint8], assets: Path) -> _Seen | None:
    faces = find_faces(picture, assets)
    if len(faces) != 1:
        return None
    points = faces[0].points[_NAMED].astype(np.float32)
    middle = float(points[:, 0].mean())
    span = np.ptp(points[:, 0])
    turned = abs(middle - float(points[[points[:, 0].argmin(), points[:, 0].argmax()], 0].mean())) / max(span, 1e-6)
    return _Seen(index, points, float(faces[0].scores[_MOVING].sum()) + 4 * turned)


def _distance(a: CropBox, b: CropBox) -> float:
    centre = np.hypot(a.left + a.side / 2 - b.left - b.side / 2, a.top + a.side / 2 - b.top - b.side / 2)
    return float((centre + abs(a.side - b.side)) / b.side)
