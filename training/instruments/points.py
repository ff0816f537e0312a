"""The probe's face points alone, as a graph that OpenCV runs: for the desktop app, which has no torch.

python -m training.instruments.points assets/instruments/probe.safetensors assets/instruments/points.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.model.face_reader import export_aligner
from training.instruments.probe import Probe

_SMALLEST = 64
"""Constants with fewer numbers stay as they are; they are shapes and scales, and weigh nothing."""


def write_points(probe: Path, path: Path) -> None:
    """`image` float32 [1, 3, 128, 128] in [-1, 1] to `landmarks` [1, 28, 2], fractions of it; weights in float16."""
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "points.onnx"
        export_aligner(Probe.load(probe).reader, whole)
        model = onnx.load(whole)
    _halve(model.graph)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _halve(graph: onnx.GraphProto) -> None:
    """Keep large weights in float16, and make them float32 again where they are used."""
    casts = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < _SMALLEST:
            continue
        name = weight.name
        half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half")
        weight.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


if __name__ == "__main__":
    write_points(Path(sys.argv[1]), Path(sys.argv[2]))
