"""The codec's linear probe fitted to clips, for a model that has none, such as one restored from a bundle."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from engine.model.avatar import AvatarModel
from training.codec import ANGLE_SCALE, LANDMARK_SCALE, PROBE_OUTPUTS
from training.latents import LatentClips

_RIDGE = 1e-3
"""Of the latents' mean variance: latents are many and clips few."""


def ensure_probe(model: AvatarModel, clips: LatentClips) -> None:
    """Give the model's codec a probe if it has none."""
    if model.codec.probe is None:
        model.codec.probe = fit_probe(clips)


def fit_probe(clips: LatentClips) -> nn.Linear:
    """Linear map from latents minus the reference's [N, C * G * G] to what `training.codec.probe_targets` names.

    Least squares on how latents and targets differ from their mean over a clip: so nothing of the reference but its
    latent needs to be known, and a latent that equals the reference's reads as no change at all.
    """
    owner = np.repeat(np.arange(len(clips)), np.diff(clips.start))
    latent = _centred(clips.latent.astype(np.float32).reshape(len(owner), -1), owner)
    targets = _centred(
        np.concatenate(
            (
                clips.units, clips.head / ANGLE_SCALE, clips.gaze / ANGLE_SCALE,
                LANDMARK_SCALE * clips.landmarks.reshape(len(owner), -1),
            ),
            1,
        ).astype(np.float32),
        owner,
    )  # fmt: skip
    gram = (latent.T @ latent).astype(np.float64)
    gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weight = np.linalg.solve(gram, (latent.T @ targets).astype(np.float64)).T
    probe = nn.Linear(weight.shape[1], PROBE_OUTPUTS)
    with torch.no_grad():
        probe.weight.copy_(torch.from_numpy(weight).float())
        probe.bias.zero_()
    return probe


def _centred(x: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """x [N, D] minus its mean over the rows of the same owner."""
    sums = np.zeros((owner.max() + 1, x.shape[1]))
    np.add.at(sums, owner, x)
    return x - (sums / np.bincount(owner)[:, None]).astype(np.float32)[owner]
