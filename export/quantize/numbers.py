"""Eight-bit numbers: what scale fits a range, and what a tensor becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from engine.backends.base import Floats

Kind = Literal["uint8", "int8", "fp8"]
"""uint8: with a zero point, for activations of CPUs. int8: symmetric. fp8: E4M3 (arXiv 2209.05433), symmetric."""

FP8_LARGEST = 448.0
_FP8 = ml_dtypes.float8_e4m3fn
_LEAST_SCALE = 1e-8
_SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)

TENSOR_TYPES: dict[Kind, int] = {
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "fp8": TensorProto.FLOAT8E4M3FN,
}


@dataclass(frozen=True, slots=True)
class Steps:
    """How numbers are rounded: x is about (stored - zero) * scale. scale: one, or one a channel."""

    kind: Kind
    scale: Floats
    zero: int = 0


def steps_for(kind: Kind, low: float, high: float) -> Steps:
    """Steps that cover a range; zero is always one of the numbers, since padding is."""
    low, high = min(low, 0.0), max(high, 0.0)
    if kind == "uint8":
        scale = max((high - low) / 255, _LEAST_SCALE)
        return Steps(kind, np.float32(scale), round(-low / scale))
    largest = max(-low, high)
    return Steps(kind, np.float32(max(largest / _largest(kind), _LEAST_SCALE)))


def best_steps(kind: Kind, values: Floats, low: float, high: float) -> Steps:
    """Of several ranges, from the whole one to a third of it, the one with the least squared error on a sample of the
    values: a few outliers may be cut off for finer steps for all others. FP8 keeps the whole: its steps are relative.
    """
    if kind == "fp8":
        return steps_for(kind, low, high)
    tried = [steps_for(kind, low * share, high * share) for share in _SHRINKS]
    errors = [float(np.mean((rounded(values, steps) - values) ** 2)) for steps in tried]
    return tried[int(np.argmin(errors))]


def weight_steps(kind: Kind, weights: Floats, axis: int | None) -> Steps:
    """Symmetric steps, one a channel of the axis, or one for all if axis is None."""
    others = None if axis is None else tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others)
    return Steps(kind, np.maximum(largest / _largest(kind), _LEAST_SCALE).astype(np.float32))


def stored(values: Floats, steps: Steps, axis: int | None = None) -> NDArray[np.generic]:
    """The eight-bit numbers; beyond the range, its end."""
    scaled = values / _along(steps.scale, values.ndim, axis)
    if steps.kind == "fp8":
        return np.clip(scaled, -FP8_LARGEST, FP8_LARGEST).astype(_FP8)
    low, high = (0, 255) if steps.kind == "uint8" else (-127, 127)
    return np.clip(np.rint(scaled) + steps.zero, low, high).astype(steps.kind)


def rounded(values: Floats, steps: Steps, axis: int | None = None) -> Floats:
    """What remains of the values."""
    numbers = stored(values, steps, axis).astype(np.float32) - steps.zero
    result: Floats = numbers * _along(steps.scale, values.ndim, axis)
    return result


def _along(scale: Floats, ndim: int, axis: int | None) -> Floats:
    if axis is None or not np.ndim(scale):
        return scale
    shape: Sequence[int] = [-1 if i == axis else 1 for i in range(ndim)]
    return scale.reshape(shape)


def _largest(kind: Kind) -> float:
    return FP8_LARGEST if kind == "fp8" else 127.0
