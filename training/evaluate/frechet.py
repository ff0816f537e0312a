"""Fréchet distances between sets of pictures and of short films, in what the probe makes of them.

FID and FVD (Heusel et al. 2017; Unterthiner et al. 2019) compare Gaussians fitted to the features of a fixed network.
Here the network is the probe, which ships in assets/instruments, so the figures are "FID-like": smaller is better,
they compare rows of one report and nothing else, and they see what the probe sees (shape, pose, lips and lids, the
general look), hardly any grain of skin. Both grow when there are fewer frames, equally for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data.media import Bytes
from training.data.truth import Floats
from training.instruments.probe import Probe, Reading

FILM_FRAMES, FILM_HOP = 16, 8
"""Length and distance of the films that the FVD-like figure compares: 0.64 s."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A probe's reading of F pictures and the features [F, K] that it was read off."""

    reading: Reading
    features: Floats


class Observer:
    """A probe whose last hidden layer is kept, so that one pass gives readings and features."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._kept: list[Tensor] = []
        last = [layer for layer in probe.reader.head.modules() if isinstance(layer, nn.Linear)][-1]
        last.register_forward_pre_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._kept.append(inputs[0].detach())

    def read(self, frames: Bytes, reference: Bytes | None = None) -> Seen:
        """frames uint8 [F, S, S, 3], canonical crops of any size; reference uint8 [S, S, 3]: see Probe.read."""
        self._kept.clear()
        reading = self.probe.read(frames, reference)
        # The probe may have looked at more than these pictures, after them.
        features = torch.cat(self._kept)[: len(frames)].float().cpu().numpy()
        self._kept.clear()
        return Seen(reading, features)


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Mean [K] and covariance [K, K] of N points."""

    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @staticmethod
    def of(points: NDArray[np.floating]) -> Gaussian:
        """points [N, K], N at least 2."""
        x = np.asarray(points, np.float64)
        return Gaussian(len(x), x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau 1982)."""
    root = _square_root(a.covariance)
    # C_a C_b and this symmetric matrix have the same eigenvalues, and only this one keeps them real under rounding.
    between = np.linalg.eigvalsh(root @ b.covariance @ root)
    shared = np.sqrt(np.clip(between, 0.0, None)).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared
    return float(max(0.0, ((a.mean - b.mean) ** 2).sum() + spread))


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T)


def films(curves: Floats) -> Floats:
    """Short films of one clip as points [N, 2 C]: mean and mean speed of curves [F, C] over 16 frames, every 8 frames.

    A clip that is shorter than a film is one film.
    """
    length = min(FILM_FRAMES, len(curves))
    speed = np.abs(np.diff(curves, axis=0, prepend=curves[:1]))
    starts = range(0, len(curves) - length + 1, FILM_HOP)
    return np.stack([np.concatenate((curves[i : i + length].mean(0), speed[i : i + length].mean(0))) for i in starts])


def distance_to(truth: Sequence[Floats], made: Sequence[Floats]) -> float:
    """Fréchet distance of points [N, K] of many clips; each feature is counted in units of its spread in the truth, so
    that it does not matter what the network calls one. NaN with fewer than two points on a side.
    """
    a, b = np.concatenate(list(truth)), np.concatenate(list(made))
    if min(len(a), len(b)) < 2:
        return float("nan")
    scale = a.std(0) + 1e-3 * max(float(a.std()), 1e-9)
    return frechet_distance(Gaussian.of(a / scale), Gaussian.of(b / scale))
