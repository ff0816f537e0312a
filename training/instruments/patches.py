"""The probe's close look: eyes and mouth of a frame beside those of the reference, to what the face does differently.

Lids are 4 pixels of 128 apart when open, so a network that sees the whole crop at once hardly notices them; and whether
a mouth smiles cannot be told without knowing that mouth at rest. So small squares are cut around the points that the
probe has found, turned upright, and read in pairs. Their answer is a difference to the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.portrait.landmarks import INDEX
from training.codec import to_tensor
from training.data.loading import ClipSequences
from training.data.media import Bytes
from training.data.truth import ARKIT_UNITS, UNIT, Floats
from training.evaluate.metrics import correlation
from training.instruments import augment
from training.run import Batch

_EYES = (("eye_left_outer", "eye_left_inner"), ("eye_right_outer", "eye_right_inner"))
_BLINKS = [UNIT["eyeBlinkLeft"], UNIT["eyeBlinkRight"]]
_BLINK_SHARE = 0.3
"""Share of a batch drawn from frames with lids half shut, which are 3 % of all: left alone, `always open` wins."""
_BLINKING, _SHUT = 0.3, 0.5
_SMALLEST_SPREAD = 0.05
_UNCERTAIN = 0.045
_PARTS = ("eyes", "mouth", "still_eyes", "still_mouth")
_EYE_POINTS = [INDEX[name] for pair in _EYES for name in pair]
_MOUTH_POINTS = [INDEX["mouth_right"], INDEX["mouth_left"]]


@dataclass(frozen=True, slots=True)
class PatchConfig:
    """px: side of the pictures that are cut from. eye_px, mouth_px: sides of the patches, multiples of 8.

    eye_side, mouth_side: what a patch covers, in distances between the eyes; eye_up, mouth_down: how far its centre
    lies above the eye (towards the brow) and below the corners of the mouth.
    """

    px: int = 128
    eye_px: int = 24
    mouth_px: int = 32
    eye_side: float = 0.85
    eye_up: float = 0.12
    mouth_side: float = 1.35
    mouth_down: float = 0.15
    width: int = 24
    hidden: int = 128


@dataclass(frozen=True, slots=True)
class Patches:
    """eyes uint8 [B, 2, e, e, 3], the person's left one mirrored so that both look alike; mouth uint8 [B, m, m, 3]."""

    eyes: Bytes
    mouth: Bytes

    def tensors(self) -> tuple[Tensor, Tensor]:
        """eyes [B, 2, 3, e, e] and mouth [B, 3, m, m] in [-1, 1]."""
        return to_tensor(self.eyes.reshape(-1, *self.eyes.shape[2:])).unflatten(0, (-1, 2)), to_tensor(self.mouth)


class PatchReader(nn.Module):
    """Patches of frame and reference to differences of units [B, 52]."""

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.eye = _tower(w, config.eye_px, w * 2)
        self.mouth = _tower(w, config.mouth_px, w * 4)
        self.head = nn.Sequential(
            nn.Linear(8 * w, config.hidden), nn.SiLU(), nn.Linear(config.hidden, len(ARKIT_UNITS))
        )
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(len(ARKIT_UNITS)))

    def forward(self, eyes: Tensor, mouth: Tensor, still_eyes: Tensor, still_mouth: Tensor) -> Tensor:
        pairs = _pair(eyes.flatten(0, 1), still_eyes.flatten(0, 1))
        seen = torch.cat((self.eye(pairs).unflatten(0, (-1, 2)).flatten(1), self.mouth(_pair(mouth, still_mouth))), 1)
        return self.head(seen).float() * self.scale

    def read(self, images: Bytes, points: Floats, reference: Bytes, reference_points: Floats) -> Tensor:
        """Pictures uint8 [B, S, S, 3] with landmarks [B, 28, 2], and the reference [S, S, 3] with its own [28, 2], to
        differences [B, 52].
        """
        distance = eye_distance(reference_points[None])
        still = cut_patches(reference[None], reference_points[None], distance, self.config).tensors()
        parts = cut_patches(images, points, np.repeat(distance, len(images)), self.config).tensors()
        return self(*parts, *(part.expand(len(images), *part.shape[1:]) for part in still))


def _tower(width: int, px: int, out: int) -> nn.Sequential:
    a, b, c = width, width * 3 // 2, width * 2
    return nn.Sequential(
        nn.Conv2d(9, a, 3, 2, 1), nn.SiLU(), nn.Conv2d(a, b, 3, 2, 1), nn.SiLU(), nn.Conv2d(b, c, 3, 2, 1), nn.SiLU(),
        nn.Flatten(), nn.Linear(c * (px // 8) ** 2, out), nn.SiLU(),
    )  # fmt: skip


def _pair(frame: Tensor, reference: Tensor) -> Tensor:
    """Both without the reference's mean colour, and their difference: [B, 9, S, S]."""
    mean = reference.mean((2, 3), keepdim=True)
    return torch.cat((frame - mean, reference - mean, 2 * (frame - reference)), 1)


def eye_distance(points: Floats) -> Floats:
    """[B] in fractions of the picture, from landmarks [B, 28, 2]."""
    left, right = points[:, _EYE_POINTS[:2]].mean(1), points[:, _EYE_POINTS[2:]].mean(1)
    return np.maximum(np.linalg.norm(left - right, axis=1), 0.05).astype(np.float32)


def cut_patches(images: Bytes, points: Floats, distance: Floats, config: PatchConfig) -> Patches:
    """Upright squares of a size that follows `distance` [B], so that a turned head does not magnify its eyes."""
    cuts = [_cut_one(image, *where, config) for image, *where in zip(images, points, distance, strict=True)]
    return Patches(np.stack([np.stack(eyes) for eyes, _ in cuts]), np.stack([mouth for _, mouth in cuts]))


def _cut_one(image: Bytes, points: Floats, unit: float, config: PatchConfig) -> tuple[tuple[Bytes, Bytes], Bytes]:
    across, down = _axes(points)
    small = fit(image, config.px)
    eye = partial(_cut, small, down=down, side=config.eye_side * unit, px=config.eye_px)
    left, right = (points[at].mean(0) - config.eye_up * unit * down for at in (_EYE_POINTS[:2], _EYE_POINTS[2:]))
    return (eye(left, -across), eye(right, across)), _mouth_of(small, points, unit, across, down, config)


def _axes(points: Floats) -> tuple[Floats, Floats]:
    """Unit vectors along the eyes and down the face."""
    line = points[_EYE_POINTS[:2]].mean(0) - points[_EYE_POINTS[2:]].mean(0)
    across = line / max(float(np.linalg.norm(line)), 1e-6)
    return across, np.array((-across[1], across[0]), np.float32)


def _mouth_of(small: Bytes, points: Floats, unit: float, across: Floats, down: Floats, config: PatchConfig) -> Bytes:
    below = points[_MOUTH_POINTS].mean(0) + config.mouth_down * unit * down
    return _cut(small, below, across, down, config.mouth_side * unit, config.mouth_px)


def cut_mouths(images: Bytes, points: Floats, distance: Floats, config: PatchConfig) -> Bytes:
    """The mouths alone, uint8 [B, m, m, 3]."""
    return np.stack(
        [
            _mouth_of(fit(i, config.px), p, d, *_axes(p), config)
            for i, p, d in zip(images, points, distance, strict=True)
        ]
    )


def fit(image: Bytes, px: int) -> Bytes:
    """A picture uint8 [S, S, 3] at px x px."""
    if len(image) == px:
        return image
    return np.asarray(cv2.resize(image, (px, px), interpolation=cv2.INTER_AREA), np.uint8)


def _cut(image: Bytes, centre: Floats, across: Floats, down: Floats, side: float, px: int) -> Bytes:
    """The square [px, px, 3] around `centre` (fractions of the picture) with the axes `across` and `down`."""
    size = len(image)
    step = size * side / px
    axes = np.stack((across, down), 1) * step
    first = centre * size - 0.5 - axes @ np.full(2, (px - 1) / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = np.concatenate((axes, first[:, None]), 1)
    return np.asarray(cv2.warpAffine(image, matrix, (px, px), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


class PatchStage(nn.Module):
    """Squared error of standardised differences: its answer is the mean, where the absolute error's would be `open`."""

    def __init__(self, reader: PatchReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        seen = self.reader(*(batch[name] for name in _PARTS))
        error = ((seen - batch["change"]) / self.reader.scale).square()
        blinks = error[:, _BLINKS].mean()
        loss = error.mean() + 0.2 * blinks
        return loss, {"change": float(error.detach().mean()), "blinks": float(blinks.detach())}


def changes(data: ClipSequences, rows: NDArray[np.integer], clips: NDArray[np.integer]) -> Floats:
    """How the units of frames `rows` of `clips` differ from their reference's: [B, 52]."""
    return np.asarray(data.array("units")[rows] - data.array("reference_units")[clips], np.float32)


def clip_of(data: ClipSequences) -> NDArray[np.int64]:
    """Index of the clip of every frame."""
    return np.repeat(np.arange(len(data)), data.lengths)


def change_scale(data: ClipSequences, most: int = 4096) -> Tensor:
    """Spread of every output over the data, [52]; what hardly ever moves counts little."""
    rows = np.linspace(0, int(data.lengths.sum()) - 1, most).astype(np.int64)
    return torch.from_numpy(np.maximum(changes(data, rows, clip_of(data)[rows]).std(0), _SMALLEST_SPREAD))


def patch_batches(data: ClipSequences, config: PatchConfig, size: int, seed: int) -> Iterator[Batch]:
    """Patches of random frames, a good part of them blinking, cut as carelessly as the probe finds points."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    clips = clip_of(data)
    blinking = np.flatnonzero(np.asarray(data.array("units"))[:, _BLINKS].mean(1) > _BLINKING)
    blinks = round(size * _BLINK_SHARE) if len(blinking) else 0
    while True:
        rows = rng.integers(len(clips), size=size)
        rows[:blinks] = rng.choice(blinking, blinks) if blinks else rows[:0]
        rows.sort()
        yield _spoiled(_mirrored(_cut_pairs(data, rows, clips[rows], config, rng)))


def _cut_pairs(
    data: ClipSequences, rows: NDArray[np.integer], clips: NDArray[np.integer], config: PatchConfig,
    rng: np.random.Generator,
) -> Batch:  # fmt: skip
    """eyes, mouth, still_eyes, still_mouth and `change` [B, 52] of frames `rows` of `clips`."""
    points = np.array(data.array("landmarks")[rows], np.float32)
    still = np.array(data.array("reference_landmarks")[clips], np.float32)
    distance = eye_distance(still) * rng.uniform(0.93, 1.08, len(rows)).astype(np.float32)
    frame = cut_patches(np.asarray(data.frames[rows]), _shaken(points, distance, rng), distance, config)
    reference = cut_patches(np.asarray(data.references[clips]), _shaken(still, distance, rng), distance, config)
    values = (*frame.tensors(), *reference.tensors(), torch.from_numpy(changes(data, rows, clips)))
    return dict(zip((*_PARTS, "change"), values, strict=True))


def _shaken(points: Floats, distance: Floats, rng: np.random.Generator) -> Floats:
    """Landmarks as uncertain as the probe's own: eyes and mouth each off by about a twentieth of the eyes' distance."""
    off = _UNCERTAIN * distance[:, None, None] * rng.standard_normal((len(points), 3, 2)).astype(np.float32)
    moved = points.copy()
    for part, at in enumerate((_EYE_POINTS[:2], _EYE_POINTS[2:], _MOUTH_POINTS)):
        moved[:, at] += off[:, part : part + 1]
    return moved


def _mirrored(batch: Batch) -> Batch:
    """Some of the pairs mirrored, both pictures alike. Eyes change places; they lie mirrored already."""
    flip = torch.rand(len(batch["mouth"])) < 0.5
    turned = {name: batch[name].flip(1) for name in ("eyes", "still_eyes")}
    turned |= {name: batch[name].flip(-1) for name in ("mouth", "still_mouth")}
    turned["change"] = batch["change"][:, augment.MIRROR_UNITS]
    return {k: torch.where(flip.view(-1, *[1] * (v.ndim - 1)), turned[k], v) for k, v in batch.items()}


def _spoiled(batch: Batch) -> Batch:
    """Other colours for both pictures alike, and for the frame what codecs and video files do."""
    flat = {name: batch[name].movedim(-3, 1).flatten(2) for name in _PARTS}
    coloured = augment.colours(torch.cat(list(flat.values()), 2)[..., None], 0.4)[..., 0]
    split = coloured.split([part.shape[2] for part in flat.values()], 2)
    out = dict(batch)
    for name, part in zip(_PARTS, split, strict=True):
        shape = batch[name].movedim(-3, 1).shape
        out[name] = part.unflatten(2, shape[2:]).movedim(1, -3)
    out["eyes"] = _worn(out["eyes"].flatten(0, 1)).unflatten(0, (-1, 2))
    out["mouth"] = _worn(out["mouth"])
    return out


def _worn(image: Tensor) -> Tensor:
    image = augment.some(image.clone(), 0.3, lambda x: augment.soften(x, 0.6))
    image = augment.some(image, 0.3, lambda x: augment.add_noise(x, 0.05))
    return augment.some(image, 0.2, augment.quantise)


def measure_changes(seen: Floats, truth: Floats) -> dict[str, float]:
    """Correlations of differences [N, 52], and how well frames with shut lids are told from the others (AUC)."""
    errors = {f"r_{name}": correlation(seen[:, UNIT[unit]], truth[:, UNIT[unit]]) for name, unit in REPORTED.items()}
    shut = truth[:, _BLINKS].mean(1) > _SHUT
    return errors | {"blink_auc": _auc(seen[:, _BLINKS].mean(1), shut)}


REPORTED = {
    "jawOpen": "jawOpen", "blink": "eyeBlinkLeft", "smile": "mouthSmileLeft", "pucker": "mouthPucker",
    "brows": "browInnerUp",
}  # fmt: skip


def _auc(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve (Mann-Whitney); NaN when one class is missing."""
    n, m = int(positive.sum()), int((~positive).sum())
    ranks = np.argsort(np.argsort(score)) + 1.0
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m)) if n and m else math.nan
