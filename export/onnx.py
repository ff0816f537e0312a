"""Stages to ONNX graphs of standard operators, with weights in half precision in one file that they share.

ONNX Runtime and OpenVINO both fold the cast back to float32 when they load a graph, so half precision costs nothing
at run time and halves the download.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import warnings
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from engine.backends.staged import WEIGHTS
from export.stages import Stage

OPSET = 18

_LARGE = 1024
"""Weights with fewer elements stay in the graph, in float32: biases and norms gain nothing by being small."""
_LARGEST_HALF = 65504.0
_ALIGNMENT = 4096
"""Runtimes map weights that start on a page instead of copying them."""


def to_onnx(stage: Stage, half: bool = True) -> onnx.ModelProto:
    """Trace a stage. half: store large weights as float16 with a cast behind them."""
    graph = _trace(stage)
    for node in graph.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    if half:
        _halve_weights(graph.graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _trace(stage: Stage) -> onnx.ModelProto:
    names = {axis for axes in stage.dynamic.values() for axis in axes.values()}
    dims = {name: torch.export.Dim(name, min=1) for name in names}
    shapes = {name: {i: dims[axis] for i, axis in stage.dynamic.get(name, {}).items()} or None for name in stage.inputs}
    # The exporter tells at length about operators that no stage uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            stage.module.eval(), (), kwargs=stage.inputs, dynamic_shapes=shapes, input_names=list(stage.inputs),
            output_names=list(stage.outputs), opset_version=OPSET, dynamo=True, verbose=False, external_data=False,
        )  # fmt: skip
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    return onnx.load_from_string(buffer.getvalue())


def _halve_weights(graph: onnx.GraphProto) -> None:
    casts = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        if values.size < _LARGE or np.abs(values).max() > _LARGEST_HALF:
            continue
        name, stored = weight.name, f"{weight.name}.half"
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def share_weights(graphs: Mapping[str, onnx.ModelProto]) -> bytes:
    """Move the large weights of all graphs to one block, equal ones once; the graphs then refer to the file WEIGHTS."""
    block, places = bytearray(), {}
    for graph in graphs.values():
        for weight in graph.graph.initializer:
            data = weight.raw_data
            if math.prod(weight.dims) < _LARGE or not data:
                continue
            key = hashlib.sha256(data).digest()
            if key not in places:
                block.extend(bytes(-len(block) % _ALIGNMENT))
                places[key] = len(block)
                block.extend(data)
            external_data_helper.set_external_data(weight, WEIGHTS, places[key], len(data))
            weight.ClearField("raw_data")
    return bytes(block)
