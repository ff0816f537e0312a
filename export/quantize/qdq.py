"""Quantised graphs: pairs of QuantizeLinear and DequantizeLinear around chosen layers, which runtimes turn into
8-bit arithmetic (Jacob et al., arXiv 1712.05877).

Where the pairs stand differs by who reads them:

- **CPU** (ONNX Runtime, OpenVINO): activations in uint8 with a zero point, weights in int8 a channel, biases in int32;
  convolutions also round what they give, without which ONNX Runtime computes them in float.
- **GPU** (TensorRT, strongly typed): everything symmetric, only inputs and weights are rounded, biases stay.
  In FP8, only matrix products: TensorRT-RTX has no FP8 convolutions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.quantize.layers import Graph, Layer
from export.quantize.numbers import TENSOR_TYPES, Kind, Steps, stored, weight_steps

Precision = Literal["int8", "fp8"]
Target = Literal["cpu", "gpu"]

GPU_OPSET = 19
"""The first one with 8-bit floats, and with DequantizeLinear to 16 bits, which typed networks need. Nothing else that
the stages use changed its meaning between 18 and 19."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """In which numbers, for whom, and whether activations are rounded as well as weights."""

    precision: Precision = "int8"
    target: Target = "cpu"
    weights_only: bool = False

    @property
    def activations(self) -> Kind:
        if self.precision == "fp8":
            return "fp8"
        return "uint8" if self.target == "cpu" else "int8"

    @property
    def weights_alone(self) -> bool:
        """Whether readers gain by 8-bit weights alone; TensorRT would make them float again when it builds."""
        return self.target == "cpu"

    def takes(self, layer: Layer) -> bool:
        """Whether a layer can be computed so."""
        return self.precision == "int8" or layer.kind != "Conv"

    def tensors(self, layer: Layer) -> tuple[str, ...]:
        """The activations that it rounds for a layer."""
        if self.weights_only:
            return ()
        both = layer.kind == "Conv" and self.target == "cpu"
        return (layer.activation, layer.output) if both else (layer.activation,)


def quantise(
    graph: Graph, layers: Sequence[Layer], scheme: Scheme, steps: Mapping[str, Steps],
    weights_only: Collection[str] = (),
) -> Graph:  # fmt: skip
    """The graph with these layers in 8 bits; the others keep their weights where they are.

    steps: of activations, by tensor. weights_only: nodes whose activations stay as they are.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    writer = _Writer(graph, model, scheme, steps)
    for layer in layers:
        writer.add(layer, replace(scheme, weights_only=scheme.weights_only or layer.node in weights_only))
    writer.finish()
    return Graph(model, graph.folder)


class _Writer:
    """Builds one graph: nodes are collected before the one that first needs them."""

    def __init__(self, graph: Graph, model: onnx.ModelProto, scheme: Scheme, steps: Mapping[str, Steps]) -> None:
        self._graph, self._model, self._scheme, self._steps = graph, model, scheme, steps
        self._nodes = {node.name: node for node in model.graph.node}
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self._after: dict[str, list[onnx.NodeProto]] = {}
        self._pairs: dict[str, str] = {}
        self._first_use: dict[str, str] = {}
        for node in model.graph.node:
            for name in node.input:
                self._first_use.setdefault(name, node.name)

    def add(self, layer: Layer, scheme: Scheme) -> None:
        node = self._nodes[layer.node]
        tensors = scheme.tensors(layer)
        weight = self._weight(layer)
        if tensors:
            node.input[0] = self._pair(layer.activation)
        if layer.output in tensors:
            self._round_output(layer, node)
        if tensors and scheme.target == "cpu" and layer.bias:
            node.input[2] = self._bias(layer, weight)

    def finish(self) -> None:
        nodes = []
        for node in list(self._model.graph.node):
            nodes += [*self._before.get(node.name, ()), node, *self._after.get(node.name, ())]
        del self._model.graph.node[:]
        self._model.graph.node.extend(nodes)
        _drop_unused(self._model.graph)
        if self._scheme.target == "gpu":
            for opset in self._model.opset_import:
                opset.version = max(opset.version, GPU_OPSET)

    def _pair(self, tensor: str) -> str:
        """The name of the rounded tensor; one pair serves all that read it."""
        if tensor not in self._pairs:
            self._pairs[tensor] = f"{tensor}.rounded"
            pair = self._pair_nodes(tensor, f"{tensor}.rounded", tensor)
            self._before.setdefault(self._first_use[tensor], []).extend(pair)
        return self._pairs[tensor]

    def _round_output(self, layer: Layer, node: onnx.NodeProto) -> None:
        node.output[0] = f"{layer.output}.exact"
        pair = self._pair_nodes(node.output[0], layer.output, layer.output)
        self._after.setdefault(layer.node, []).extend(pair)

    def _pair_nodes(self, source: str, result: str, tensor: str) -> list[onnx.NodeProto]:
        steps = self._steps[tensor]
        ends = self._constants(result, steps)
        return [
            helper.make_node("QuantizeLinear", [source, *ends], [f"{result}.stored"], name=f"{result}.q"),
            helper.make_node("DequantizeLinear", [f"{result}.stored", *ends], [result], name=f"{result}.dq"),
        ]

    def _weight(self, layer: Layer) -> Steps:
        kind: Kind = "fp8" if self._scheme.precision == "fp8" else "int8"
        values = self._graph.weight(layer)
        steps = weight_steps(kind, values, layer.axis)
        name = f"quantised.{layer.node}.weight"
        numbers = stored(values, steps, layer.axis)
        self._constant(f"{name}.stored", numbers, TENSOR_TYPES[kind])
        ends = self._constants(name, steps)
        self._dequantise(layer.node, [f"{name}.stored", *ends], name, layer.axis)
        self._nodes[layer.node].input[1] = name
        return steps

    def _bias(self, layer: Layer, weight: Steps) -> str:
        """In int32, in steps of the product of the two scales, as the accumulator counts."""
        scale = weight.scale * self._steps[layer.activation].scale
        name = f"quantised.{layer.node}.bias"
        numbers = np.rint(self._graph.bias(layer) / scale).clip(-(2**31) + 1, 2**31 - 1).astype(np.int32)
        self._constant(f"{name}.stored", numbers, TensorProto.INT32)
        self._constant(f"{name}.scale", scale.astype(np.float32), TensorProto.FLOAT)
        self._dequantise(layer.node, [f"{name}.stored", f"{name}.scale"], name, 0)
        return name

    def _dequantise(self, node: str, inputs: list[str], result: str, axis: int) -> None:
        made = helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}.dq", axis=axis)
        self._before.setdefault(node, []).append(made)

    def _constants(self, name: str, steps: Steps) -> tuple[str, str]:
        self._constant(f"{name}.scale", steps.scale, TensorProto.FLOAT)
        zeros = np.full(np.shape(steps.scale), steps.zero, np.float32)
        self._constant(f"{name}.zero", zeros, TENSOR_TYPES[steps.kind])
        return f"{name}.scale", f"{name}.zero"

    def _constant(self, name: str, values: np.ndarray, kind: int) -> None:
        made = numpy_helper.from_array(np.asarray(values, helper.tensor_dtype_to_np_dtype(kind)), name)
        self._model.graph.initializer.append(made)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Casts and weights that nothing reads any more."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(list(graph.node)):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)
