"""Who is it? A fixed description of a face that no model here was trained with or against, and what it can tell.

The face is laid over a canonical one by its eyes and mouth corners, so that pose and size count little; its upper part
(brows, eyes, nose, cheeks) is described by oriented gradients (Dalal and Triggs 2005) and by coarse CIELAB colours. The
mouth is left out because speech moves it. No learned weights, so nothing could have been optimised for it; a face
recogniser would tell more, so every figure is put on the scale that the true frames of the same clips give:
1 is as like the portrait as true frames are, 0 is as unlike as other people are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import INDEX
from training.data.clips import Clip
from training.data.media import Bytes
from training.data.truth import Floats

SIDE_PX = 64
EVERY_FRAMES = 10
_EYES_Y, _MOUTH_Y, _EYE_X = 0.38, 0.78, 0.31
"""Where the canonical face has its eyes and mouth corners, as fractions of its picture."""
_UPPER = 0.62
"""The part above the mouth."""
_CELLS, _BINS, _COLOUR_GRID = 8, 9, 4
_COLOUR_SCALE = 40.0
"""CIELAB distance that counts as much as gradients that have nothing in common."""


@dataclass(frozen=True, slots=True)
class Telling:
    """What the description tells apart on true frames. same, other: mean likeness of frames to their own portrait and
    to other people's. auc: chance that a frame is liker its own portrait than another person's (0.5: it tells nothing).
    """

    people: int
    same: float
    other: float
    auc: float

    def scaled(self, likeness: float) -> float:
        """Likeness with 1 for the true frames and 0 for other people; NaN where there is nobody else."""
        return (likeness - self.other) / (self.same - self.other) if self.same > self.other else float("nan")

    def as_json(self) -> dict[str, object]:
        return {k: None if np.isnan(v) else round(v, 4) for k, v in asdict(self).items()}


def describe(picture: Bytes, landmarks: Floats) -> Floats:
    """Unit vector of a face, float32 [D], from a picture uint8 [S, S, 3] and its landmarks [28, 2]."""
    face = aligned(picture, landmarks)[: round(_UPPER * SIDE_PX)]
    lab = cv2.cvtColor(face.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    colours = cv2.resize(lab, (_COLOUR_GRID, _COLOUR_GRID), interpolation=cv2.INTER_AREA).reshape(-1) / _COLOUR_SCALE
    joined = np.concatenate((_gradients(lab[..., 0]), colours / _COLOUR_GRID))
    return (joined / max(float(np.linalg.norm(joined)), 1e-9)).astype(np.float32)


def aligned(picture: Bytes, landmarks: Floats) -> Bytes:
    """The face in its canonical place, uint8 [64, 64, 3]: the similarity that fits eyes and mouth corners best."""
    right = landmarks[[INDEX["eye_right_outer"], INDEX["eye_right_inner"]]].mean(0)
    left = landmarks[[INDEX["eye_left_outer"], INDEX["eye_left_inner"]]].mean(0)
    mouth = landmarks[[INDEX["mouth_right"], INDEX["mouth_left"]]].mean(0)
    seen = np.stack([right, left, mouth]) * len(picture)
    wanted = np.array([[_EYE_X, _EYES_Y], [1 - _EYE_X, _EYES_Y], [0.5, _MOUTH_Y]]) * SIDE_PX
    matrix = _similarity(seen, wanted)
    shrinking = float(np.linalg.norm(matrix[0, :2]))
    # Without it, what is larger than the canonical face is sampled with gaps.
    soft = cv2.GaussianBlur(picture, (0, 0), 0.5 / shrinking) if shrinking < 0.7 else picture
    return cv2.warpAffine(soft, matrix, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)


def _similarity(seen: NDArray[np.floating], wanted: NDArray[np.floating]) -> NDArray[np.float64]:
    """Least-squares rotation, scale and shift [2, 3] of points [N, 2], as complex numbers."""
    a, b = seen[:, 0] + 1j * seen[:, 1], wanted[:, 0] + 1j * wanted[:, 1]
    centred = a - a.mean()
    turn = (np.conj(centred) * (b - b.mean())).sum() / max(float((np.abs(centred) ** 2).sum()), 1e-9)
    turn = turn if abs(turn) > 1e-6 else 1.0 + 0j
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _gradients(grey: NDArray[np.floating]) -> NDArray[np.float64]:
    """Histograms of gradient directions over cells of 8 x 8, each cell and its right and lower neighbours together
    normalised, so that contrast does not count; the whole has unit norm.
    """
    dx, dy = cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1)
    place = (np.arctan2(dy, dx) % np.pi) / np.pi * _BINS
    away = np.abs((place - np.arange(_BINS)[:, None, None] + _BINS / 2) % _BINS - _BINS / 2)
    planes = np.hypot(dx, dy) * np.clip(1 - away, 0, 1)
    rows, columns = grey.shape[0] // _CELLS, grey.shape[1] // _CELLS
    whole = planes[:, : rows * _CELLS, : columns * _CELLS]
    cells = whole.reshape(_BINS, rows, _CELLS, columns, _CELLS).sum((2, 4))
    blocks = np.stack([cells[:, y : rows - 1 + y, x : columns - 1 + x] for y in (0, 1) for x in (0, 1)])
    blocks = blocks / np.sqrt((blocks**2).sum((0, 1), keepdims=True) + 1.0)
    flat = np.sqrt(blocks).reshape(-1)
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-9))


def describe_frames(frames: Bytes, landmarks: Floats) -> Floats:
    """Of every tenth frame, [N, D]."""
    chosen = range(0, len(frames), EVERY_FRAMES)
    return np.stack([describe(frames[i], landmarks[i]) for i in chosen])


def person_of(clip: Clip) -> str:
    """Whose face it is: variations of one photograph, which end in a number of their own, are one person."""
    kind, subject = str(clip.meta.get("kind", "person")), str(clip.meta.get("subject", clip.key))
    return f"{kind}-{subject.rpartition('-')[0] or subject}" if kind == "puppet" else f"{kind}-{subject}"


@dataclass(frozen=True, slots=True)
class Gallery:
    """The portraits [D] of the clips, whose they are, and what true frames say about the description."""

    portraits: tuple[Floats, ...]
    people: tuple[str, ...]
    telling: Telling

    @staticmethod
    def of(portraits: Sequence[Floats], people: Sequence[str], truth: Sequence[Floats]) -> Gallery:
        """truth: descriptions [N, D] of every clip's true frames."""
        return Gallery(tuple(portraits), tuple(people), tell(truth, portraits, people))

    def likeness(self, clips: Sequence[Floats]) -> float:
        """Mean likeness of clips' frames [N, D] to their own portraits."""
        return float(np.mean([(frames @ self.portraits[i]).mean() for i, frames in enumerate(clips)]))

    def identity(self, clips: Sequence[Floats]) -> float:
        """The same on the scale from other people to true frames."""
        return self.telling.scaled(self.likeness(clips))

    def recognised(self, clips: Sequence[Floats]) -> float:
        """Share of frames that are liker their own portrait than that of anybody else; NaN where there is nobody."""
        return float(np.mean([self._recognised(i, frames) for i, frames in enumerate(clips)]))

    def _recognised(self, clip: int, frames: Floats) -> float:
        others = [p for p, who in zip(self.portraits, self.people, strict=True) if who != self.people[clip]]
        if not others:
            return float("nan")
        return float((frames @ self.portraits[clip] > (frames @ np.stack(others).T).max(1)).mean())


def tell(frames: Sequence[Floats], portraits: Sequence[Floats], people: Sequence[str]) -> Telling:
    """What true frames [N, D] of each clip and portraits [D] say about the description itself."""
    own = [frame @ portraits[i] for i, clip in enumerate(frames) for frame in clip]
    pairs = [(clip, j) for i, clip in enumerate(frames) for j in range(len(frames)) if people[i] != people[j]]
    others = [float(frame @ portraits[j]) for clip, j in pairs for frame in clip]
    count = len(set(people))
    if not others:
        return Telling(count, float(np.mean(own)), float("nan"), float("nan"))
    ranks = np.searchsorted(np.sort(others), own) / len(others)
    return Telling(count, float(np.mean(own)), float(np.mean(others)), float(np.mean(ranks)))
