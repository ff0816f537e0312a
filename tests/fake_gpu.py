"""A GPU made of numpy arrays, and a TensorRT on it whose engines are ONNX graphs run by ONNX Runtime.

Queues are exact: what is queued while a stream captures is only noted, and a launch does what was noted. So a wrong
address, a missing copy or a stale buffer shows in the results.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from engine.backends.gpu.device import Work
from engine.backends.gpu.library import Library
from engine.errors import BackendFailedError

_NUMPY = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint8)": np.uint8}


class FakeStream:
    """See engine.backends.gpu.device.Stream."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.handle, self.closed = next(gpu.numbers), False
        self._gpu, self._addresses, self._noting = gpu, list[int](), None

    def allocate(self, size: int) -> int:
        address = next(self._gpu.numbers)
        self._gpu.memory[address] = np.full(size, 0xAA, np.uint8)
        self._addresses.append(address)
        return address

    def pinned(self, size: int) -> NDArray[np.uint8]:
        return np.zeros(size, np.uint8)

    def upload(self, address: int, host: NDArray[np.uint8]) -> None:
        def copy() -> None:
            self._gpu.uploads += 1
            np.copyto(self._gpu.memory[address], host)

        self.queue(copy)

    def download(self, host: NDArray[np.uint8], address: int) -> None:
        self.queue(lambda: np.copyto(host, self._gpu.memory[address]))

    def queue(self, work: Work) -> None:
        if self._noting is None:
            work()
        else:
            self._noting.append(work)

    def capture(self, work: Work) -> Work | None:
        if not self._gpu.captures:
            return None
        self._noting = noted = []
        work()
        self._noting = None

        def launch() -> None:
            self._gpu.launches += 1
            for part in noted:
                part()

        return launch

    def wait(self) -> None:
        if self._gpu.broken:
            raise BackendFailedError("CUDA says an illegal memory access was encountered (700)")

    def close(self) -> None:
        self.closed = True
        for address in self._addresses:
            self._gpu.memory.pop(address, None)


class FakeGpu:
    """See engine.backends.gpu.device.Device."""

    def __init__(self, architecture: str = "sm_86", captures: bool = True) -> None:
        self.name, self.architecture, self.driver = "Fake GPU", architecture, "13.0"
        self.captures, self.broken = captures, False
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.streams: dict[int, FakeStream] = {}
        self.numbers = count(1)
        self.launches, self.queued, self.contexts, self.uploads = 0, 0, 0, 0

    def stream(self) -> FakeStream:
        stream = FakeStream(self)
        self.streams[stream.handle] = stream
        return stream


def fake_library(
    gpu: FakeGpu, name: str = "tensorrt_rtx", version: str = "1.0", loads: bool = True, builds: bool = True
) -> Library:
    """A TensorRT on that GPU. loads, builds: whether it accepts engines and graphs."""
    logger = SimpleNamespace(last="the fake says no")
    api: dict[str, Any] = {
        "__version__": version,
        "TensorIOMode": SimpleNamespace(INPUT="in", OUTPUT="out"),
        "ExecutionContextAllocationStrategy": SimpleNamespace(USER_MANAGED="managed"),
        "Runtime": lambda _: SimpleNamespace(deserialize_cuda_engine=lambda b: _Engine(gpu, b) if loads else None),
        "nptype": lambda kind: kind,
        "NetworkDefinitionCreationFlag": SimpleNamespace(STRONGLY_TYPED=1),
        "BuilderFlag": SimpleNamespace(TF32="tf32", REQUIRE_USER_ALLOCATION="user"),
        "Builder": lambda _: _Builder(builds),
        "OnnxParser": _Parser,
    }
    if name == "tensorrt_rtx":
        api |= {
            "IRuntimeCache": object,
            "DynamicShapesKernelSpecializationStrategy": SimpleNamespace(EAGER="eager"),
            "CudaGraphStrategy": SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
            "ComputeCapability": SimpleNamespace(SM75=1, SM80=2, SM86=3, SM89=4, SM120=5, NONE=0),
        }
    return Library(name, SimpleNamespace(**api), logger)


class _Engine:
    def __init__(self, gpu: FakeGpu, graph: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.gpu = gpu
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self._names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.inputs else "out"

    def get_tensor_dtype(self, name: str) -> type:
        return _NUMPY[(self.inputs | self.outputs)[name].type]

    def get_tensor_profile_shape(self, name: str, _: int) -> list[tuple[int, ...]]:
        shape = self.inputs[name].shape
        return [tuple(n if isinstance(x, str) else x for x in shape) for n in (1, 8, 1024)]

    def create_runtime_config(self) -> Any:
        made = SimpleNamespace(set_execution_context_allocation_strategy=lambda _: None, cuda_graph_strategy="off")
        cache = SimpleNamespace(deserialize=lambda _: True, serialize=lambda: b"kernels")
        made.create_runtime_cache, made.set_runtime_cache = lambda: cache, lambda _: True
        return made

    def create_execution_context(self, config: Any) -> _Context:
        self.gpu.contexts += 1
        return _Context(self, getattr(config, "cuda_graph_strategy", "off") == "whole")


class _Context:
    def __init__(self, engine: _Engine, own_graphs: bool) -> None:
        self._engine, self._own_graphs = engine, own_graphs
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        fits = len(shape) == len(least) and all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))
        self._shapes[name] = shape
        return fits

    def infer_shapes(self) -> list[str]:
        """By running on zeros, as nothing else here knows the graph."""
        zeros = {n: np.zeros(s, self._engine.get_tensor_dtype(n)) for n, s in self._shapes.items()}
        outputs = self._engine.session.run(None, zeros)
        self._shapes |= {name: value.shape for name, value in zip(self._engine.outputs, outputs, strict=True)}
        return []

    def update_device_memory_size_for_shapes(self) -> int:
        return 64

    def set_device_memory(self, address: int, size: int) -> None:
        assert len(self._engine.gpu.memory[address]) >= size

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def is_stream_capturable(self, handle: int) -> bool:
        return handle in self._engine.gpu.streams and self._engine.gpu.captures

    def execute_async_v3(self, handle: int) -> bool:
        self._engine.gpu.queued += 1
        self._engine.gpu.streams[handle].queue(self._compute)
        return True

    def _compute(self) -> None:
        inputs = {name: self._view(name) for name in self._engine.inputs}
        for name, value in zip(self._engine.outputs, self._engine.session.run(None, inputs), strict=True):
            np.copyto(self._view(name), value)

    def _view(self, name: str) -> NDArray[Any]:
        memory = self._engine.gpu.memory[self._addresses[name]]
        return memory.view(self._engine.get_tensor_dtype(name)).reshape(self._shapes[name])


class _Builder:
    """Builds nothing: the engine of a graph is the graph."""

    def __init__(self, builds: bool) -> None:
        self._builds = builds

    def create_network(self, _: int) -> Any:
        return SimpleNamespace(graph=b"", num_inputs=0, get_input=None)

    def create_builder_config(self) -> Any:
        nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
        return SimpleNamespace(
            clear_flag=nothing, set_flag=nothing, set_compute_capability=nothing, add_optimization_profile=nothing,
            num_compute_capabilities=0, set_timing_cache=nothing, create_timing_cache=lambda _: None,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"timings"),
        )  # fmt: skip

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda *_: None)

    def build_serialized_network(self, network: Any, _: Any) -> bytes | None:
        return network.graph if self._builds else None


class _Parser:
    def __init__(self, network: Any, _: Any) -> None:
        self._network, self.num_errors = network, 1

    def parse(self, graph: bytes) -> bool:
        try:
            onnx.load_from_string(graph)
        except Exception:  # protobuf's, which onnx does not name.
            return False
        self._network.graph = graph
        return True

    def get_error(self, _: int) -> Any:
        return SimpleNamespace(desc=lambda: "no graph")
