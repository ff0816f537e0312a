"""Graphs that are tried, in memory, on the two CPU runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import external_data_helper, helper

from engine.backends.base import Backend
from engine.backends.staged import STAGES, StagedBackend
from engine.backends.staged import Graph as Running
from engine.bundle import Bundle
from export.quantize.layers import Graph

Arrays = Mapping[str, NDArray[Any]]
Runtime = Literal["onnxruntime", "openvino"]
_ONLY_ERRORS = 3


def runtimes() -> list[Runtime]:
    """Those that are installed."""
    names: tuple[Runtime, ...] = ("openvino", "onnxruntime")
    return [name for name in names if find_spec(name)]


def open_graph(graph: Graph, runtime: Runtime, bf16: bool = False, threads: int = 1) -> Running:
    """A graph ready to run. threads: more would spend processor time on waiting for each other."""
    content = _whole(graph)
    return _onnxruntime(content, threads) if runtime == "onnxruntime" else _openvino(content, threads, bf16)


def open_stages(bundle: Bundle, runtime: Runtime) -> Backend:
    """The bundle in float32."""
    running = {stage: open_graph(read_stage(bundle, stage), runtime) for stage in STAGES}
    return StagedBackend(runtime, bundle, running)


def read_stage(bundle: Bundle, stage: str) -> Graph:
    return Graph.read(bundle.file(f"{stage}.onnx"))


def expose(graph: Graph, tensors: Sequence[str]) -> Graph:
    """The graph with inner tensors as its outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    return Graph(model, graph.folder)


def _whole(graph: Graph) -> bytes:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    external_data_helper.load_external_data_for_model(model, str(graph.folder))
    return model.SerializeToString()


def _onnxruntime(content: bytes, threads: int) -> Running:
    options = ort.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    known = {entry.name for entry in session.get_inputs()}

    def run(inputs: Arrays) -> Sequence[NDArray[Any]]:
        outputs: Sequence[NDArray[Any]] = session.run(None, {k: v for k, v in inputs.items() if k in known})
        return outputs

    return run


def _openvino(content: bytes, threads: int, bf16: bool) -> Running:
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
    }  # fmt: skip
    request = ov.Core().compile_model(ov.Core().read_model(content, b""), "CPU", settings).create_infer_request()

    def run(inputs: Arrays) -> Sequence[NDArray[Any]]:
        request.infer(dict(inputs), share_inputs=True)
        return [np.array(tensor.data) for tensor in request.output_tensors]

    return run
