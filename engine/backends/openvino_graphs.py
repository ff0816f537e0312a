"""Parts of the decoder's graph as OpenVINO's CPU kernels run them faster, with the same result but for rounding.

Graphs in a bundle stay in the form that every library reads; this is done to them when they are compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from engine.backends.base import Floats

REWRITES = 1
"""Raised when what is rewritten changes, so that graphs that were compiled before are not taken."""

_FACTOR = 2
_SPREAD = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)
"""Which taps of a convolution of three, run over doubled pixels, meet the same pixel of those before the doubling."""
_BLOCK_ORDER = {"block_size": _FACTOR, "mode": "depth_first"}
_ENLARGES = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_KEEPS_SIZE = {"strides": [1, 1], "dilations": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1]}


def rewrite(model: ov.Model) -> int:
    """Change the model in place; returns how many places were changed, 0 for graphs without such parts."""
    nodes = model.get_ordered_ops()
    changed = sum(_double_once(node) for node in nodes) + sum(_soften_early(node) for node in nodes)
    if changed:
        model.validate_nodes_and_infer_types()
    return changed


def _double_once(conv: ov.Node) -> bool:
    """Doubling the pixels and then convolving three by three: as one transposed convolution, four by four with stride
    two. It multiplies 4 times for each pixel made instead of 9, and nothing of the doubled size is stored between.
    """
    if not _is(conv, "Convolution", _KEEPS_SIZE):
        return False
    enlarged, weights = conv.input_value(0), _constant(conv.input_value(1))
    if weights is None or weights.shape[2:] != (3, 3) or not _is(enlarged.get_node(), "Interpolate", _ENLARGES):
        return False
    small = enlarged.get_node().input_value(0)
    if not _doubles(small.get_partial_shape(), enlarged.get_partial_shape()):
        return False
    kernel = ops.constant(np.einsum("ar,oirs,bs->ioab", _SPREAD, weights, _SPREAD).astype(np.float32))
    steps, pads = [_FACTOR, _FACTOR], [1, 1]
    _replace(conv, ops.convolution_backprop_data(small, kernel, steps, None, pads, pads))
    return True


def _soften_early(joined: ov.Node) -> bool:
    """The sigmoid of the last channels alone, after channels have become pixels: before that, on all channels, and
    chosen by a factor for each. One channel by itself is computed number by number in the layout that convolutions
    leave behind.
    """
    if not _is(joined, "Concat", {"axis": 1}) or joined.get_input_size() != _FACTOR:
        return False
    plain, soft = (joined.input_value(i).get_node() for i in range(2))
    if plain.get_type_name() != "Slice" or soft.get_type_name() != "Sigmoid":
        return False
    rest, shuffle = soft.input_value(0).get_node(), plain.input_value(0).get_node()
    if rest.get_type_name() != "Slice" or not _is(shuffle, "DepthToSpace", _BLOCK_ORDER):
        return False
    if _channels_of(plain, shuffle) + _channels_of(rest, shuffle) != list(range(_channels(shuffle.output(0)))):
        return False
    grouped = shuffle.input_value(0)
    chosen = np.zeros((1, _channels(grouped), 1, 1), np.float32)
    chosen[:, _channels(plain.output(0)) * _FACTOR**2 :] = 1
    kept = ops.multiply(grouped, ops.constant(1 - chosen))
    softened = ops.multiply(ops.sigmoid(grouped), ops.constant(chosen))
    _replace(joined, ops.depth_to_space(ops.add(kept, softened), _BLOCK_ORDER["mode"], _FACTOR))
    return True


def _is(node: ov.Node, kind: str, attributes: dict[str, Any]) -> bool:
    if node.get_type_name() != kind:
        return False
    found = node.get_attributes()
    return all(found.get(name) == value for name, value in attributes.items())


def _replace(old: ov.Node, new: ov.Node) -> None:
    """Give everything that the old node fed, the graph's outputs too, to the new one."""
    new.output(0).set_names(old.output(0).get_names())
    new.set_friendly_name(old.get_friendly_name())
    for reader in old.output(0).get_target_inputs():
        reader.replace_source_output(new.output(0))


def _constant(output: ov.Output) -> Floats | None:
    """Its value when it is one, also where it is kept in fewer bits."""
    node = output.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    values: NDArray[Any] = node.data
    return values.astype(np.float32)


def _channels(output: ov.Output) -> int:
    """0 where the number is open."""
    channels = output.get_partial_shape()[1]
    return int(channels.get_length()) if channels.is_static else 0


def _channels_of(part: ov.Node, whole: ov.Node) -> list[int]:
    """Which channels of `whole` a slice takes; empty where it takes something else."""
    bounds = [_constant(part.input_value(i)) for i in range(1, part.get_input_size())]
    if part.input_value(0).get_node() != whole or len(bounds) != 4 or any(b is None or b.size != 1 for b in bounds):
        return []
    start, stop, step, axis = (int(bound.item()) for bound in bounds if bound is not None)
    return list(range(_channels(whole.output(0))))[start:stop:step] if axis == 1 else []


def _doubles(before: ov.PartialShape, after: ov.PartialShape) -> bool:
    sides = [(before[axis], after[axis]) for axis in (2, 3)]
    return all(a.is_static and b.is_static and b.get_length() == _FACTOR * a.get_length() for a, b in sides)
