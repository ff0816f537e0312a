"""The layers of a graph that 8 bits can serve: convolutions and matrix products against weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

LEAST_WEIGHTS = 4096
"""Layers with fewer weights stay as they are: they cost nothing, and many of them read what is often zero."""
LEAST_CHANNELS = 24
"""Convolutions with fewer outputs stay as they are: flow, mask and paint, whose errors are seen directly."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One product with constant weights. label: the parameter behind it, where the graph still tells. weight, bias:
    names of initialisers (a weight may stand behind a cast). axis: of the weight's output channels.
    """

    node: str
    label: str
    kind: str
    activation: str
    output: str
    weight: str
    bias: str
    axis: int
    weights: int


@dataclass(frozen=True, slots=True)
class Graph:
    """A stage's graph without its external weights, and the folder where those lie."""

    model: onnx.ModelProto
    folder: Path

    @staticmethod
    def read(path: Path) -> Graph:
        return Graph(onnx.load(path, load_external_data=False), path.parent)

    def weight(self, layer: Layer) -> NDArray[np.float32]:
        """The layer's weights in float32."""
        tensor = self._tensors()[layer.weight]
        return numpy_helper.to_array(tensor, str(self.folder)).astype(np.float32)

    def bias(self, layer: Layer) -> NDArray[np.float32]:
        return numpy_helper.to_array(self._tensors()[layer.bias], str(self.folder)).astype(np.float32)

    def _tensors(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}


def find_layers(graph: Graph) -> list[Layer]:
    """Every layer worth quantising, in the graph's order."""
    return [
        layer for layer in all_layers(graph.model) if layer.weights >= LEAST_WEIGHTS and not _is_narrow(graph, layer)
    ]


def all_layers(model: onnx.ModelProto) -> Iterator[Layer]:
    """Every product with constant weights."""
    sizes = {t.name: t for t in model.graph.initializer}
    casts = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Cast" and n.input[0] in sizes}
    added = _added_constants(model, {**sizes, **casts})
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        weight = casts.get(node.input[1], node.input[1])
        if weight not in sizes:
            continue
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in sizes else ""
        label = _label(bias or added.get(node.output[0], ""), node.input[1], node.name)
        yield Layer(
            node.name, label, node.op_type, node.input[0], node.output[0], weight, bias,
            _channel_axis(node), int(np.prod(sizes[weight].dims)),
        )  # fmt: skip


def _channel_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else 1


def _added_constants(model: onnx.ModelProto, constants: Mapping[str, object]) -> dict[str, str]:
    """What is added to a tensor, by its name: a linear layer's bias, which kept its parameter's name."""
    return {
        tensor: constant
        for node in model.graph.node
        if node.op_type == "Add"
        for tensor, constant in (tuple(node.input), tuple(reversed(node.input)))
        if constant in constants
    }


def _label(bias: str, weight: str, node: str) -> str:
    for name, ending in ((weight, ".weight"), (bias, ".bias")):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return node


def _is_narrow(graph: Graph, layer: Layer) -> bool:
    if layer.kind != "Conv":
        return False
    dims = next(t.dims for t in graph.model.graph.initializer if t.name == layer.weight)
    return int(dims[0]) < LEAST_CHANNELS
