"""Pairs from a film: the frames of one shot in which one face is seen well, cut as the portrait is cut.

Tracking, gates and crops are those that make clips of films (training.data.videos); sound does not matter here.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import numpy as np

from engine.portrait.crop import CropBox
from engine.types import FPS
from training.data.media import Bytes
from training.data.videos.config import Gates
from training.data.videos.faces import Finder
from training.data.videos.framing import crop_path, cut_out
from training.data.videos.gates import bridged, frame_reasons, good_stretches
from training.data.videos.labels import choose_reference
from training.data.videos.reading import pictures
from training.data.videos.shots import Range, shots
from training.data.videos.watch import Seen, watch
from training.personal.pairs import PersonPairs, PersonUnusable

_MAX_FRAMES = 120 * FPS
_MAX_PAIRS = 600
_EVERY = 3
"""Neighbouring frames differ too little to teach more."""
_LEAST_PAIRS = 40
_LEAST_STRETCH = FPS
_GROUP_FRAMES = 36


def pairs_of_film(path: Path, find: Finder, size_px: int) -> PersonPairs:
    """The face's frames beside the one that makes the best portrait. Raises PersonUnusable, VideoUnusable.

    The film is read twice, since its pictures together would fill the memory and the crops are known only at its end.
    """
    gates = Gates()
    begin = takewhile(lambda picture: picture.index < _MAX_FRAMES, pictures(path))
    seen = bridged(watch(begin, find), gates.dropout_frames)
    stretches = _longest_shot(seen, gates)
    if not stretches:
        raise _too_little(path, 0)
    reference = choose_reference(seen, max(stretches, key=lambda stretch: stretch[1] - stretch[0]))
    crops = _crops(seen, stretches, reference)
    chosen = sorted(crops)[:: max(_EVERY, -(-len(crops) // _MAX_PAIRS))]
    if len(chosen) < _LEAST_PAIRS:
        raise _too_little(path, len(chosen))
    cuts, whole = _cut(path, {index: crops[index] for index in {*chosen, reference}}, reference, size_px)
    return PersonPairs(
        path,
        cuts[reference],
        np.stack([cuts[index] for index in chosen]),
        np.stack([crops[index].to_crop(seen.points[index]) for index in chosen]).astype(np.float32),
        np.array([index // _GROUP_FRAMES for index in chosen]),
        portrait=whole,
    )


def _longest_shot(seen: Seen, gates: Gates) -> list[Range]:
    """The good stretches of the shot that has most of them: another shot may show another person."""
    found = [good_stretches(frame_reasons(seen, shot, gates), shot, _LEAST_STRETCH)[0] for shot in shots(seen)]
    return max(found, key=lambda stretches: sum(stop - first for first, stop in stretches), default=[])


def _crops(seen: Seen, stretches: list[Range], reference: int) -> dict[int, CropBox]:
    """By frame. The reference's crop holds wherever the face keeps near its place there."""
    return {
        first + i: crop
        for first, stop in stretches
        for i, crop in enumerate(crop_path(seen.points[first:stop], seen.points[reference]))
    }


def _cut(path: Path, crops: dict[int, CropBox], reference: int, size_px: int) -> tuple[dict[int, Bytes], Bytes]:
    """The frames' crops, and the reference's whole picture."""
    last, cuts = max(crops), {}
    whole = np.zeros((0, 0, 3), np.uint8)
    for picture in takewhile(lambda picture: picture.index <= last, pictures(path)):
        if picture.index in crops:
            cuts[picture.index] = cut_out(picture.image, crops[picture.index], size_px)
        if picture.index == reference:
            whole = picture.image
    return cuts, whole


def _too_little(path: Path, found: int) -> PersonUnusable:
    return PersonUnusable(
        f"{path} shows one face well in {found} looked-at frames of a shot, and {_LEAST_PAIRS} are needed; give a film"
        " of at least 10 s in which the person faces the camera alone, in good light"
    )
