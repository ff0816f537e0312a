"""What adapting gained: the same held-out frames by the decoder before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.codec import PortraitCodec
from engine.portrait.landmarks import INDEX, LANDMARKS
from training.codec import mouth_box, psnr, to_tensor
from training.personal.pairs import PersonPairs

REGIONS = ("whole", "face", "mouth", "eyes")
_EYES = [INDEX[n] for n in LANDMARKS if n.startswith(("eye_", "lid_"))]
_LEAST_GAIN_DB = 0.1
_ALLOWED_LOSS_DB = 0.1
_ALLOWED_LOSS_OF_LIKENESS = 0.005
_WORSE_DB = 0.3
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Quality:
    """psnr_db by region [N] for N frames, and likeness [N]: correlation of the face's features (what is left of the
    grey picture between blurs of 1 and 4 % of its side) with the true frame's: eyes, nose and mouth as they are.
    """

    psnr_db: dict[str, np.ndarray]
    likeness: np.ndarray

    @staticmethod
    def join(parts: Sequence[Quality]) -> Quality:
        """Of several sources, one after the other."""
        regions = {name: np.concatenate([p.psnr_db[name] for p in parts]) for name in REGIONS}
        return Quality(regions, np.concatenate([p.likeness for p in parts]))


@dataclass(frozen=True, slots=True)
class Gain:
    """Means over held-out frames. psnr_db: region to (before, after). likeness: (before, after).

    frames_worse: share of frames whose face lost more than 0.3 dB; worst_db: the largest loss of a frame's face.
    """

    frames: int
    psnr_db: dict[str, tuple[float, float]]
    likeness: tuple[float, float]
    frames_worse: float
    worst_db: float

    @property
    def losses(self) -> list[str]:
        """What became worse, in words."""
        worse = [name for name, (a, b) in self.psnr_db.items() if b < a - _ALLOWED_LOSS_DB]
        return worse + (["likeness"] if self.likeness[1] < self.likeness[0] - _ALLOWED_LOSS_OF_LIKENESS else [])

    @property
    def gained(self) -> bool:
        """Whether face, mouth or eyes are better and nothing is worse."""
        better = any(self.psnr_db[n][1] >= self.psnr_db[n][0] + _LEAST_GAIN_DB for n in ("face", "mouth", "eyes"))
        return better and not self.losses

    def sentence(self) -> str:
        """For people: `face 27.1 to 27.9 dB, ...`."""
        parts = [f"{name} {a:.2f} to {b:.2f} dB" for name, (a, b) in self.psnr_db.items()]
        return f"{', '.join(parts)}, likeness {self.likeness[0]:.3f} to {self.likeness[1]:.3f}"


def gain(before: Quality, after: Quality) -> Gain:
    """The difference of two measurements of the same frames."""
    face = after.psnr_db["face"] - before.psnr_db["face"]
    return Gain(
        len(face),
        {n: (round(float(before.psnr_db[n].mean()), 3), round(float(after.psnr_db[n].mean()), 3)) for n in REGIONS},
        (round(float(before.likeness.mean()), 4), round(float(after.likeness.mean()), 4)),
        round(float((face < -_WORSE_DB).mean()), 3),
        round(float(face.min()), 3),
    )


@torch.no_grad()
def measure(codec: PortraitCodec, pairs: PersonPairs) -> Quality:
    """The frames through encoder and decoder, against themselves."""
    codec.eval()
    made = reconstruct(codec, pairs)
    regions: dict[str, list[float]] = {name: [] for name in REGIONS}
    likeness = []
    for picture, frame, points in zip(made, pairs.frames, pairs.landmarks, strict=True):
        truth, landmarks = to_tensor(frame[None]), torch.from_numpy(points[None])
        masks = {"face": face_mask(landmarks, truth.shape[-1]), "mouth": mouth_box(landmarks, truth.shape[-1])}
        masks["eyes"] = _box(landmarks[:, _EYES], truth.shape[-1], 0.15)
        regions["whole"].append(psnr(picture[None], truth))
        for name, mask in masks.items():
            regions[name].append(psnr(picture[None], truth, mask))
        likeness.append(_likeness(picture[None], truth, masks["face"]))
    return Quality({name: np.array(values) for name, values in regions.items()}, np.array(likeness))


@torch.no_grad()
def reconstruct(codec: PortraitCodec, pairs: PersonPairs) -> Tensor:
    """[N, 3, S, S] in [-1, 1]."""
    portrait = to_tensor(pairs.reference[None])
    small = resize_area(portrait, codec.config.encode_px)
    reference = codec.encode_reference(small)
    out = []
    for first in range(0, len(pairs), _BATCH):
        frames = resize_area(to_tensor(pairs.frames[first : first + _BATCH]), codec.config.encode_px)
        n = len(frames)
        latent = codec.encode(frames, small.expand(n, -1, -1, -1))
        out.append(codec.decode(latent, reference.expand(n), portrait.expand(n, -1, -1, -1)).image)
    return torch.cat(out).clamp(-1, 1)


def resize_area(images: Tensor, side: int) -> Tensor:
    """Averages where the picture is a multiple of `side`; else bilinear with antialiasing."""
    if images.shape[-1] == side:
        return images
    if images.shape[-1] % side == 0:
        return F.avg_pool2d(images, images.shape[-1] // side)
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def face_mask(landmarks: Tensor, side: int) -> Tensor:
    """Mask [B, 1, side, side] of the ellipse in the box of all face points."""
    low, high = landmarks.amin(1), landmarks.amax(1)
    centre, radius = (low + high) / 2, (high - low) / 2
    line = (torch.arange(side) + 0.5) / side
    x = (line[None] - centre[:, :1]) / radius[:, :1]
    y = (line[None] - centre[:, 1:]) / radius[:, 1:]
    return ((x[:, None, :] ** 2 + y[:, :, None] ** 2) < 1)[:, None].float()


def _box(points: Tensor, side: int, grow: float) -> Tensor:
    low, high = points.amin(1), points.amax(1)
    more = grow * (high[:, :1] - low[:, :1])
    line = (torch.arange(side) + 0.5) / side
    x = (line[None] >= low[:, :1] - more) & (line[None] <= high[:, :1] + more)
    y = (line[None] >= low[:, 1:] - more) & (line[None] <= high[:, 1:] + more)
    return (y[:, :, None] & x[:, None, :])[:, None].float()


def _likeness(a: Tensor, b: Tensor, mask: Tensor) -> float:
    bands = [_band(picture)[mask > 0] for picture in (a, b)]
    x, y = (band - band.mean() for band in bands)
    return float((x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-8))


def _band(picture: Tensor) -> Tensor:
    grey, side = picture.mean(1, keepdim=True), picture.shape[-1]
    fine, coarse = (F.avg_pool2d(grey, size, 1, size // 2) for size in (odd(0.01 * side), odd(0.04 * side)))
    return fine - coarse


def odd(width: float) -> int:
    """The nearest odd whole number, at least 1."""
    return max(1, 2 * round((width - 1) / 2) + 1)


def trainable(codec: nn.Module, prefixes: Sequence[str]) -> list[str]:
    """Names of the parameters that begin with one of the prefixes; only these keep their gradients."""
    names = [n for n, _ in codec.named_parameters() if n.startswith(tuple(prefixes)) and ".norm." not in n]
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(name in names)
    return names
