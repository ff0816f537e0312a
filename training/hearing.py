"""A denoiser learns to hear through another audio encoder: where it listens is turned once, linearly, before training.

An audio encoder can be trained for hours on voices alone (training/audio.py). A denoiser that was trained with an
earlier one would hear noise from it; the least-squares map from the new embeddings to the old ones, folded into its
input layers, starts it where it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.model.audio import AudioEncoder
from engine.model.denoiser import Conditioner, Denoiser

_RIDGE = 1e-5
"""Added to the diagonal, as a share of its mean: embeddings have directions that hardly vary."""


@dataclass(frozen=True, slots=True)
class EarMap:
    """Old embedding = weight [D, D] @ new + bias [D]; unexplained: share of the old ones' variance that is lost."""

    weight: Tensor
    bias: Tensor
    unexplained: float


@torch.no_grad()
def fit_ears(old: AudioEncoder, new: AudioEncoder, windows: Tensor) -> EarMap:
    """windows [N, W, 80]: log-mel windows of voices, several times as many as an embedding has numbers."""
    heard, wanted = new(windows).float(), old(windows).float()
    middle, aim = heard.mean(0), wanted.mean(0)
    square = (heard - middle).T @ (heard - middle)
    square.diagonal().add_(_RIDGE * square.diagonal().mean())
    weight = torch.linalg.solve(square, (heard - middle).T @ (wanted - aim)).T
    lost = ((heard - middle) @ weight.T - (wanted - aim)).var(0).sum() / wanted.var(0).sum()
    return EarMap(weight, aim - weight @ middle, float(lost))


@torch.no_grad()
def turn_ears(denoiser: Denoiser, ears: EarMap) -> None:
    """Fold the map into every layer that takes an embedding, in place; `null_audio` becomes what maps to it."""
    for module in denoiser.modules():
        if isinstance(module, Conditioner):
            _fold(module.audio, ears)
            _fold(module.listening, ears)
    wanted = (denoiser.null_audio - ears.bias)[:, None]
    denoiser.null_audio.copy_(torch.linalg.lstsq(ears.weight, wanted).solution[:, 0])


def _fold(layer: nn.Linear, ears: EarMap) -> None:
    layer.bias += layer.weight @ ears.bias
    layer.weight.copy_(layer.weight @ ears.weight)
