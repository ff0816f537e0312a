"""Graphs whose tensors say in which precision they are computed, as strongly typed TensorRT networks want them.

TensorRT 10 and later choose no precision of their own: a network is computed in the types that its graph names. So the
bundle's float32 graphs get a type for every tensor here, once, by rules that say where 16 bits are enough.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

PRECISIONS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

HEAVY = frozenset({"Conv", "MatMul", "Gemm"})
"""Nearly all of the arithmetic; always in the wanted precision."""

SENSITIVE = frozenset(
    {
        "InstanceNormalization", "LayerNormalization", "ReduceMean", "Pow", "Sqrt", "Reciprocal", "Div", "Softmax",
        "Exp", "Erf", "Cos", "Sin", "Tanh", "Range", "GridSample",
    }
)  # fmt: skip
"""Sums of squares and steep functions, and what reads places from a grid: 16 bits lose what they are there for."""

_GRID_INPUT = 1
"""Of GridSample: where to look. A place in a picture needs more than the 11 bits of float16."""

_TYPELESS = frozenset({"Shape", "Size"})
"""Take tensors of any type."""


def typed(graph: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The graph in `precision` (a key of PRECISIONS) except where that would show; the argument is not changed.

    In float32 stay: SENSITIVE operators, everything between the last product and a graph's output or a sampling
    position, and the graph's own inputs and outputs, so that callers need not know the precision.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(graph)
    _float_weights(plain.graph)
    low = PRECISIONS[precision]
    if low == TensorProto.FLOAT:
        return plain
    floats = _float_tensors(plain)
    _Typing(plain.graph, floats, low).rewrite()
    # The types that were noted hold no longer.
    del plain.graph.value_info[:]
    # ONNX names bfloat16 among the types of convolutions only from operator set 22 on; TensorRT takes it in any.
    onnx.checker.check_model(plain, full_check=low != TensorProto.BFLOAT16)
    return plain


def _float_weights(graph: onnx.GraphProto) -> None:
    """Turn weights that are stored as float16 with a cast behind them into float32 ones, which every rule knows."""
    stored = {weight.name: weight for weight in graph.initializer}
    kept = []
    for node in graph.node:
        weight = stored.get(node.input[0]) if node.op_type == "Cast" else None
        if weight is None or weight.data_type != TensorProto.FLOAT16:
            kept.append(node)
            continue
        values = numpy_helper.to_array(weight).astype(np.float32)
        weight.CopyFrom(numpy_helper.from_array(values, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of every float32 tensor."""
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    known = [*graph.value_info, *graph.input, *graph.output]
    floats = {value.name for value in known if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return floats | {weight.name for weight in graph.initializer if weight.data_type == TensorProto.FLOAT}


class _Typing:
    """Gives every node one type, and puts casts between nodes of different types."""

    def __init__(self, graph: onnx.GraphProto, floats: set[str], low: int) -> None:
        self._graph, self._floats, self._low = graph, floats, low
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._outputs = {value.name for value in graph.output}
        self._high = {id(node) for node in graph.node if node.op_type in SENSITIVE or self._gives_no_float(node)}
        for name in self._exact():
            self._keep_exact(name)
        self._cast: dict[tuple[str, int], str] = {}

    def _gives_no_float(self, node: onnx.NodeProto) -> bool:
        """Comparisons, and casts to integers."""
        return not any(name in self._floats for name in node.output)

    def _exact(self) -> Iterator[str]:
        """Tensors that must not be rounded to 16 bits."""
        yield from self._outputs
        for node in self._graph.node:
            if node.op_type == "GridSample":
                yield node.input[_GRID_INPUT]

    def _keep_exact(self, name: str) -> None:
        """Keep what leads to a tensor in float32, back to the last products."""
        waiting, seen = [name], set[str]()
        while waiting:
            source = waiting.pop()
            node = self._made_by.get(source)
            if node is None or node.op_type in HEAVY or source in seen:
                continue
            seen.add(source)
            self._high.add(id(node))
            waiting += [name for name in node.input if name in self._floats]

    def rewrite(self) -> None:
        nodes: list[onnx.NodeProto] = []
        types = {value.name: TensorProto.FLOAT for value in self._graph.input if value.name in self._floats}
        for node in self._graph.node:
            wanted = TensorProto.FLOAT if id(node) in self._high else self._low
            for place in self._typed_inputs(node):
                node.input[place] = self._as(node.input[place], wanted, types, nodes)
            nodes.append(node)
            self._retype_cast(node, wanted)
            for name in node.output:
                if name in self._floats:
                    types[name] = wanted
        self._finish(nodes, types)

    def _typed_inputs(self, node: onnx.NodeProto) -> list[int]:
        """Places of the inputs that must have the node's type. Resize takes its scales in float32 always."""
        if node.op_type in _TYPELESS:
            return []
        places = range(1) if node.op_type == "Resize" else range(len(node.input))
        return [place for place in places if node.input[place] in self._floats]

    def _retype_cast(self, node: onnx.NodeProto, wanted: int) -> None:
        """A cast to float32 from integers now gives the node's type."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = wanted

    def _as(self, name: str, wanted: int, types: dict[str, int], nodes: list[onnx.NodeProto]) -> str:
        """The name of a tensor in a type, made if need be."""
        if types.get(name, TensorProto.FLOAT) == wanted:
            return name
        key = (name, wanted)
        if key not in self._cast:
            self._cast[key] = f"{name}.{TensorProto.DataType.Name(wanted).lower()}"
            if name in self._weights:
                self._graph.initializer.append(_rounded(self._weights[name], self._cast[key], wanted))
            else:
                nodes.append(helper.make_node("Cast", [name], [self._cast[key]], name=self._cast[key], to=wanted))
        return self._cast[key]

    def _finish(self, nodes: list[onnx.NodeProto], types: dict[str, int]) -> None:
        """Outputs of heavy nodes get a cast back to float32; weights that nobody reads any more go."""
        for name in sorted(self._outputs & self._floats):
            if types.get(name) == self._low:
                made = self._made_by[name]
                inner = f"{name}.inner"
                made.output[list(made.output).index(name)] = inner
                for node in nodes:
                    for place, source in enumerate(node.input):
                        if source == name:
                            node.input[place] = inner
                nodes.append(helper.make_node("Cast", [inner], [name], name=f"{name}.out", to=TensorProto.FLOAT))
        read = {name for node in nodes for name in node.input}
        unread = [weight for weight in self._graph.initializer if weight.name not in read]
        for weight in unread:
            self._graph.initializer.remove(weight)
        del self._graph.node[:]
        self._graph.node.extend(nodes)


def _rounded(weight: TensorProto, name: str, wanted: int) -> TensorProto:
    values = numpy_helper.to_array(weight)
    if wanted == TensorProto.FLOAT16:
        largest = float(np.finfo(np.float16).max)
        return numpy_helper.from_array(np.clip(values, -largest, largest).astype(np.float16), name)
    return helper.make_tensor(name, wanted, values.shape, _to_bf16(values).tobytes(), raw=True)


def _to_bf16(values: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16, ties to even; finite values only."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
