"""Post-training static quantisation of the decoder's convolutions to 8 bits, calibrated on real roll-outs.

Weights per output channel, activations per tensor (Jacob et al., arXiv 1712.05877). The layers that say where pixels go
and what colour they get stay in float: they are small, and their errors are seen directly.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from engine.backends.base import Floats, Reference

_FLOAT_OUTPUTS_BELOW = 24
"""Convolutions with fewer output channels than this stay in float: flow, mask and paint."""


class _Samples(CalibrationDataReader):
    def __init__(self, samples: Iterable[Mapping[str, NDArray[np.float32]]]) -> None:
        self._samples: Iterator[Mapping[str, NDArray[np.float32]]] = iter(samples)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        sample = next(self._samples, None)
        return None if sample is None else dict(sample)


def decode_samples(
    rolls: Iterable[tuple[Floats, Reference]], frames: int = 4, per_roll: int = 8
) -> Iterator[dict[str, Floats]]:
    """Inputs of the decode graph from roll-outs: motion latents [F, C, G, G] and the reference they belong to."""
    for latents, reference in rolls:
        parts = {name: np.asarray(reference[name], np.float32) for name in ("latent", "fine", "coarse")}
        starts = np.linspace(0, max(0, len(latents) - frames), per_roll).astype(int)
        for start in np.unique(starts):
            yield {"latents": latents[start : start + frames], **parts}


def quantize_decode(graph: onnx.ModelProto, samples: Iterable[Mapping[str, Floats]]) -> onnx.ModelProto:
    """The decode graph (float32 weights inside) with its larger convolutions in 8 bits."""
    logging.getLogger("root").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        source, prepared, result = (Path(scratch) / name for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(graph, source)
        # Its symbolic shape inference fails on graphs with a dynamic axis in GridSample; the plain one is enough.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, result, _Samples(samples), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"],
            nodes_to_exclude=_float_convolutions(onnx.load(prepared)), per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": True, "WeightSymmetric": True},
        )  # fmt: skip
        return onnx.load(result)


def _float_convolutions(graph: onnx.ModelProto) -> list[str]:
    outputs = {weight.name: weight.dims[0] if weight.dims else 0 for weight in graph.graph.initializer}
    return [
        node.name
        for node in graph.graph.node
        if node.op_type == "Conv" and outputs.get(node.input[1], 0) < _FLOAT_OUTPUTS_BELOW
    ]
