"""The last step of decoding as part of the decoder's graph, so that on a GPU only finished pictures leave it.

On a CPU the same is done outside the graph (engine.backends.compose), in fixed point; the two agree to 50 dB.
GridSample's cubic kernel is the one of cv2 and torch (Keys, a = -0.75).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PORTRAIT, PICTURES = "portrait", "pictures"
_CHANNELS = 1


def with_composition(decode: onnx.ModelProto) -> onnx.ModelProto:
    """The decode graph with one more input, `portrait` float32 [1, 3, P, P] in [-1, 1], and one output instead of two:
    `pictures` uint8 [F, P, P, 3]. P is free. The argument is not changed.
    """
    model = onnx.ModelProto()
    model.CopyFrom(decode)
    graph = model.graph
    displacement, paint = (value.name for value in graph.output)
    frames = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    graph.input.append(helper.make_tensor_value_info(PORTRAIT, TensorProto.FLOAT, [1, 3, "side", "side"]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(PICTURES, TensorProto.UINT8, [frames, "side", "side", 3]))
    _Composition(graph).write(displacement, paint)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Composition:
    """Appends nodes to a graph; every method returns the name of a tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        shape = self._node("Shape", PORTRAIT)
        self._side = self._part(shape, 3, 4, axis=0)

    def write(self, displacement: str, paint: str) -> None:
        layers = self._at_full_size(paint)
        painted, shows = self._part(layers, 0, 3, _CHANNELS), self._part(layers, 3, 4, _CHANNELS)
        moved = self._moved(self._at_full_size(displacement))
        blend = self._node("Add", painted, self._node("Mul", shows, self._node("Sub", moved, painted)))
        # The cast cuts fractions off, so half a step is added: 127.5 (x + 1) + 0.5, as engine.portrait.planes rounds.
        scaled = self._node("Add", self._node("Mul", blend, self._floats(127.5)), self._floats(128.0))
        clipped = self._node("Clip", scaled, self._floats(0.0), self._floats(255.0))
        rows = self._node("Transpose", clipped, perm=[0, 2, 3, 1])
        self._graph.node.append(helper.make_node("Cast", [rows], [PICTURES], name=PICTURES, to=TensorProto.UINT8))

    def _at_full_size(self, maps: str) -> str:
        leading = self._part(self._node("Shape", maps), 0, 2, axis=0)
        sizes = self._node("Concat", leading, self._side, self._side, axis=0)
        return self._node("Resize", maps, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")

    def _moved(self, shift: str) -> str:
        """The portrait's pixels [F, 3, P, P] from where the shift [F, 2, P, P], in halves of the side, says."""
        line = self._positions()
        across = self._node(
            "Add", self._part(shift, 0, 1, _CHANNELS), self._node("Reshape", line, self._ints(1, 1, 1, -1))
        )
        down = self._node(
            "Add", self._part(shift, 1, 2, _CHANNELS), self._node("Reshape", line, self._ints(1, 1, -1, 1))
        )
        places = self._node("Transpose", self._node("Concat", across, down, axis=_CHANNELS), perm=[0, 2, 3, 1])
        # All frames look into one portrait: one tall grid does without a copy of it for each of them.
        tall = self._node("Concat", self._ints(1), self._ints(-1), self._side, self._ints(2), axis=0)
        grid = self._node("Reshape", places, tall)
        sampled = self._node("GridSample", PORTRAIT, grid, mode="bicubic", padding_mode="border", align_corners=0)
        by_frame = self._node("Concat", self._ints(3), self._ints(-1), self._side, self._side, axis=0)
        return self._node("Transpose", self._node("Reshape", sampled, by_frame), perm=[1, 0, 2, 3])

    def _positions(self) -> str:
        """Centres of the pixels of a line, in [-1, 1]."""
        side = self._node("Squeeze", self._side, self._ints(0))
        index = self._node("Range", self._scalar(0), side, self._scalar(1))
        width = self._node("Cast", side, to=TensorProto.FLOAT)
        doubled = self._node("Mul", self._node("Cast", index, to=TensorProto.FLOAT), self._floats(2.0))
        share = self._node("Div", self._node("Add", doubled, self._floats(1.0)), width)
        return self._node("Sub", share, self._floats(1.0))

    def _part(self, tensor: str, start: int, stop: int, axis: int) -> str:
        return self._node("Slice", tensor, self._ints(start), self._ints(stop), self._ints(axis))

    def _node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"compose.{len(self._graph.node)}"
        self._graph.node.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _ints(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _scalar(self, value: int) -> str:
        return self._constant(np.array(value, np.int64))

    def _floats(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def _constant(self, values: np.ndarray) -> str:
        name = f"compose.constant.{len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name
