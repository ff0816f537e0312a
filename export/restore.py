"""A bundle's networks back in torch, so that training can go on from a model that is published as a bundle only.

Graphs store weights under other names, transposed or reshaped, and which of them is which depends on the exporter. So
the same exporter is asked: a model whose every weight is a number of its own goes through it, and where each number
turns up tells where that weight lies. What inference does not need is not in a bundle: the codec's probe and the
embedding of no voice; and what precision the bundle has lost stays lost.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from engine.backends.staged import WEIGHTS
from engine.bundle import Bundle
from engine.errors import BundleCorruptError
from engine.model.avatar import AvatarModel
from engine.model.config import ModelConfig
from export.onnx import to_onnx
from export.stages import stages

_HALF = ".half"
_EXACT = 1 << 24
_ONLY_IN_TRAINING = ("denoiser.null_audio",)
_AFTER_SILU = "denoiser.reference_condition"
"""Constant, so its SiLU is in the graph instead."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter lies: in which graph, under which name, and which of its flat elements are the parameter's."""

    stage: str
    name: str
    elements: NDArray[np.int64]


def restore(bundle: Bundle) -> AvatarModel:
    """The bundle's model in eval mode, float32, without a probe. Raises BundleCorruptError when a weight is missing."""
    model = AvatarModel(bundle.config).eval()
    graphs = {stage.name: _weights(bundle, stage.name) for stage in stages(model)}
    places = find_places(bundle.config)
    state = model.state_dict()
    for key, old in state.items():
        if key in _ONLY_IN_TRAINING:
            state[key] = torch.zeros_like(old)
            continue
        if key not in places:
            # A scale of one is folded away when the graph is made.
            state[key] = torch.ones_like(old)
            continue
        place = places[key]
        values = graphs[place.stage].get(place.name)
        if values is None or values.size <= place.elements.max():
            raise BundleCorruptError(f"model bundle {bundle.root} lacks the weight {key}; export it again")
        found = torch.from_numpy(values.astype(np.float32).reshape(-1)[place.elements]).view(old.shape)
        state[key] = before_silu(found) if key == _AFTER_SILU else found
    model.load_state_dict(state)
    return model


@functools.cache
def find_places(config: ModelConfig) -> dict[str, Place]:
    """Where the exporter puts the weights of a model of this config, by their names in its state_dict."""
    model = AvatarModel(config).eval()
    state = model.state_dict()
    # Whole numbers are exact in float32 up to 2^24. As large as can be, none is a constant of the graph by chance.
    number = _EXACT - sum(tensor.numel() for tensor in state.values())
    if number < _EXACT // 8:
        raise ValueError(f"{config.name} has too many weights to give each a number that float32 holds")
    first: dict[str, int] = {}
    with torch.no_grad():
        for key, tensor in state.items():
            first[key] = number
            number += tensor.numel()
            tensor.copy_(torch.arange(first[key], number, dtype=torch.float32).view(tensor.shape))
    owners = {begin: key for key, begin in first.items()}
    places: dict[str, Place] = {}
    for stage in stages(model):
        for weight in to_onnx(stage, half=False).graph.initializer:
            flat = numpy_helper.to_array(weight).astype(np.float64).reshape(-1)
            key = owners.get(int(flat.min())) if flat.size and float(flat.min()).is_integer() else None
            if key is None or key in places or flat.size != state[key].numel():
                continue
            order = np.argsort(flat)
            if np.array_equal(flat[order], np.arange(flat.size) + first[key]):
                places[key] = Place(stage.name, weight.name, order.astype(np.int64))
    return places


def before_silu(y: Tensor) -> Tensor:
    """The larger x of those with x * sigmoid(x) = y, by Newton's method. Below its least value, that of the least."""
    least_at = -1.2784645
    x = y.double().clamp_min(0.0)
    for _ in range(60):
        share = torch.sigmoid(x)
        slope = share * (1 + x * (1 - share))
        x = (x - (x * share - y.double()) / slope.clamp_min(1e-6)).clamp_min(least_at)
    return x.float()


def _weights(bundle: Bundle, stage: str) -> dict[str, NDArray[np.generic]]:
    path = bundle.file(f"{stage}.onnx")
    bundle.file(WEIGHTS)
    try:
        graph = onnx.load(path).graph
    except (OSError, ValueError) as error:
        raise BundleCorruptError(f"{path} cannot be read ({error}); copy or export the bundle again") from error
    return {weight.name.removesuffix(_HALF): numpy_helper.to_array(weight) for weight in graph.initializer}
