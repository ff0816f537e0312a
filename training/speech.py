"""Directions of motion latents in which a mouth speaks and the head stays: for engine.diffusion.rollout.articulate.

What a linear probe reads from latents is not what moves in the picture when they are changed: a regression's weights
are filters, and moving along them leaves the latents that people make, where the decoder hardly listens. So the decoder
is asked. With J_m and J_h its pictures' derivatives near the mouth and well above it, and S the latents' covariance, a
change d of the latents is seen in whitened coordinates, z = S^(-1/2) d, where ridge regressions say what of it moves
the head, P_h = (J_h' J_h + h I)^(-1) J_h' J_h (derivatives include S^(1/2)), and what the mouth, P_m likewise. A
mouth's own part is what moves it and not the head:

    z_m = (I - P_h) P_m (I - P_h) z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.model.avatar import AvatarModel
from engine.portrait.landmarks import INDEX
from training.codec import to_tensor
from training.latents import LatentClips

_MOUTH = [place for name, place in INDEX.items() if name.startswith(("mouth", "lip"))]
_GRID = 64
_CHUNK = 64
_STEP = 0.05
"""Of the differences that stand for derivatives, in latents, which have unit variance."""
_LEAST = 1e-8
_EDGE = 0.02


@dataclass(frozen=True, slots=True)
class SpeechConfig:
    """people: whose decoded pictures are asked. mouth, head: ridges, as shares of the strongest direction's energy.
    size: width and height of the hill that counts as mouth, as fractions of the picture; above: how far over the mouth
    begins what tells the head's motion, since cheeks and chin belong to both. kept: share of the map's energy that the
    directions keep.
    """

    people: int = 16
    mouth: float = 3e-3
    head: float = 3e-2
    size: tuple[float, float] = (0.09, 0.07)
    above: float = 0.16
    kept: float = 0.999
    seed: int = 0


def find_speech(model: AvatarModel, clips: LatentClips, config: SpeechConfig | None = None) -> NDArray[np.float16]:
    """[2, K, C * G * G]: what reads K directions out of a difference of latents, and what a unit of each moves."""
    config = config or SpeechConfig()
    mouth, head = _sensitivity(model.eval(), clips, config)
    return split_speech(mouth, head, _covariance(clips), config)


def split_speech(mouth: Tensor, head: Tensor, covariance: Tensor, config: SpeechConfig) -> NDArray[np.float16]:
    """The same from J'J of mouth and head and the latents' covariance, float64 [D, D] each."""
    root, inverse = _roots(covariance)
    moves_mouth, moves_head = _part(root @ mouth @ root, config.mouth), _part(root @ head @ root, config.head)
    stays = torch.eye(len(covariance), dtype=covariance.dtype) - moves_head
    u, s, v = torch.linalg.svd(root @ stays @ moves_mouth @ stays @ inverse)
    share = s.square().cumsum(0) / s.square().sum()
    count = int((share < config.kept).sum()) + 1
    strength = s[:count].sqrt()[:, None]
    found: NDArray[np.float16] = (
        torch.stack((strength * v[:count], strength * u[:, :count].T)).numpy().astype(np.float16)
    )
    return found


def _part(energy: Tensor, ridge: float) -> Tensor:
    """What of a change is seen, by ridge regression; energy: of derivatives, [D, D]."""
    strongest = torch.linalg.eigvalsh(energy)[-1]
    return torch.linalg.solve(energy + ridge * strongest * torch.eye(len(energy), dtype=energy.dtype), energy)


def _covariance(clips: LatentClips) -> Tensor:
    """Of latents minus their reference's [D, D]."""
    owner = np.repeat(np.arange(len(clips)), np.diff(clips.start))
    rows = np.arange(0, len(clips.latent), max(1, len(clips.latent) // 20_000))
    moved = (clips.latent[rows].astype(np.float32) - clips.reference[owner[rows]]).reshape(len(rows), -1)
    x = torch.from_numpy(moved).double()
    return x.T @ x / len(x)


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Its square root and that one's inverse."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(_LEAST)
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T


def _sensitivity(model: AvatarModel, clips: LatentClips, config: SpeechConfig) -> tuple[Tensor, Tensor]:
    """Mean of J'J [D, D] of the pictures near the mouth, and well above it, over people caught in a frame each."""
    random = np.random.default_rng(config.seed)
    chosen = random.choice(len(clips), min(config.people, len(clips)), replace=False)
    mouth = head = torch.zeros((), dtype=torch.float64)
    for clip in chosen:
        portrait = to_tensor(clips.portrait[clip][None])
        frame = int(random.integers(clips.start[clip], clips.start[clip + 1]))
        change = _derivatives(model, portrait, torch.from_numpy(clips.latent[frame].astype(np.float32)))
        near, above = _places(clips.reference_landmarks[clip], config)
        mouth, head = mouth + _energy(change, near) / len(chosen), head + _energy(change, above) / len(chosen)
    return mouth, head


def _energy(change: Tensor, weight: Tensor) -> Tensor:
    """J'J [D, D] of derivatives [D, 3, 64, 64], pixels weighted [64, 64]."""
    seen = (change * weight.sqrt()).flatten(1).double()
    return seen @ seen.T


@torch.no_grad()
def _derivatives(model: AvatarModel, portrait: Tensor, latent: Tensor) -> Tensor:
    """[D, 3, 64, 64]: of the decoded picture by each number of a latent [C, G, G]."""
    reference = model.codec.encode_reference(portrait)

    def picture(latents: Tensor) -> Tensor:
        n = len(latents)
        image = model.codec.decode(latents, reference.expand(n), portrait.expand(n, -1, -1, -1)).image
        return F.adaptive_avg_pool2d(image, _GRID)

    still = picture(latent[None])
    steps = _STEP * torch.eye(latent.numel()).view(-1, *latent.shape)
    return torch.cat([(picture(latent + part) - still) / _STEP for part in steps.split(_CHUNK)])


def _places(landmarks: NDArray[np.float32], config: SpeechConfig) -> tuple[Tensor, Tensor]:
    """[64, 64] each: a Gaussian hill on the mouth of landmarks [28, 2]; and 1 above it, with a soft edge."""
    x, y = (float(value) for value in landmarks[_MOUTH].mean(0))
    cells = (torch.arange(_GRID) + 0.5) / _GRID
    across, down = (torch.exp(-0.5 * ((cells - at) / size) ** 2) for at, size in zip((x, y), config.size, strict=True))
    above = torch.sigmoid((y - config.above - cells) / _EDGE)
    return down[:, None] * across, above[:, None].expand(-1, _GRID)
