"""One engine as a function of arrays: buffers by address, one CUDA graph for each set of shapes, pinned copies.

The first call with new shapes sets everything up and runs twice: once for the library to make up its mind, once to be
captured. Later calls copy the inputs into pinned memory and launch one graph, which uploads, computes and downloads.
Inputs that are the same from call to call, as a portrait is, are uploaded when another array comes in their place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.gpu.device import Device, Stream, Work
from engine.backends.gpu.kernels import Kernels
from engine.backends.gpu.library import Library
from engine.errors import ArtefactStaleError, BackendFailedError

Arrays = Mapping[str, NDArray[Any]]

_MOST_SHAPES = 64
"""Sets of shapes kept ready: five block lengths of eight batch sizes, and some."""


@dataclass(frozen=True, slots=True)
class _Binding:
    """A tensor's places: `host` is a view of pinned memory with the tensor's shape and type."""

    name: str
    host: NDArray[Any]
    memory: NDArray[np.uint8]
    address: int


@dataclass(slots=True)
class _Ready:
    """Everything for one set of shapes. context is held so that what was captured stays valid. held: the arrays that
    the lasting inputs were uploaded from.
    """

    stream: Stream
    context: Any
    inputs: list[_Binding]
    outputs: list[_Binding]
    lasting: list[_Binding]
    launch: Work
    captured: bool = False
    held: dict[str, NDArray[Any]] = field(default_factory=dict)


class EngineStage:
    """A Graph of engine.backends.staged over one engine. One call at a time; different stages may run side by side,
    since each set of shapes has a stream of its own.
    """

    def __init__(
        self,
        stage: str,
        library: Library,
        device: Device,
        engine: bytes,
        kernels: Kernels | None,
        lasting: Collection[str] = (),
    ) -> None:
        """lasting: inputs whose arrays are never written to again, so that the same array means the same numbers.

        Raises ArtefactStaleError when the library does not load the engine.
        """
        self._stage, self._library, self._device, self._kernels = stage, library, device, kernels
        self._runtime = library.api.Runtime(library.logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise ArtefactStaleError(
                f"{library.name} {library.version} does not load the {stage} engine on {device.name}: "
                f"{library.logger.last or 'it gives no reason'}; export the engines again"
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        mode = library.api.TensorIOMode
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.INPUT]
        self._outputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.OUTPUT]
        self._lasting = frozenset(lasting)
        self._ready: OrderedDict[tuple[tuple[int, ...], ...], _Ready] = OrderedDict()

    @property
    def captured(self) -> int:
        """Sets of shapes that run as one CUDA graph."""
        return sum(ready.captured for ready in self._ready.values())

    def __call__(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        shapes = tuple(inputs[name].shape for name in self._inputs)
        ready = self._ready.get(shapes)
        if ready is None:
            ready = self._prepare(inputs, shapes)
        else:
            self._ready.move_to_end(shapes)
            _fill(ready, inputs)
            ready.launch()
            ready.stream.wait()
        return [binding.host.copy() for binding in ready.outputs]

    def close(self) -> None:
        for ready in self._ready.values():
            ready.stream.close()
        self._ready.clear()

    def _prepare(self, inputs: Arrays, shapes: tuple[tuple[int, ...], ...]) -> _Ready:
        """Set up for these shapes, and run."""
        if len(self._ready) >= _MOST_SHAPES:
            self._ready.popitem(last=False)[1].stream.close()
        stream = self._device.stream()
        sizes = dict(zip(self._inputs, shapes, strict=True))
        try:
            ready = self._first_run(stream, sizes, inputs, own_graphs=False)
            if not _capture(ready) and self._library.compiles_on_device:
                ready = self._first_run(stream, sizes, inputs, own_graphs=True)
        except BaseException:
            stream.close()
            raise
        self._ready[shapes] = ready
        return ready

    def _first_run(
        self, stream: Stream, sizes: Mapping[str, tuple[int, ...]], inputs: Arrays, own_graphs: bool
    ) -> _Ready:
        ready = self._bind(stream, self._context(own_graphs), sizes)
        _fill(ready, inputs)
        ready.launch()
        stream.wait()
        return ready

    def _context(self, own_graphs: bool) -> Any:
        """An execution context without memory of its own. own_graphs: TensorRT-RTX captures, in place of us."""
        api = self._library.api
        managed = api.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._library.compiles_on_device:
            return self._need(self._engine.create_execution_context(managed))
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(managed)
        # Kernels that are swapped for better ones later would be missing from what is captured now.
        strategies = api.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if own_graphs:
            config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._kernels is not None:
            self._kernels.attach(config)
        return self._need(self._engine.create_execution_context(config))

    def _need(self, context: Any) -> Any:
        if context is None:
            raise BackendFailedError(
                f"{self._library.name} makes no context for {self._stage}: {self._library.logger.last}"
            )
        return context

    def _bind(self, stream: Stream, context: Any, shapes: Mapping[str, tuple[int, ...]]) -> _Ready:
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise BackendFailedError(
                    f"the {self._stage} engine was not built for {name} of shape {shape}; "
                    f"{self._limits(name)}: use smaller batches or pictures"
                )
        context.infer_shapes()
        size = int(context.update_device_memory_size_for_shapes())
        context.set_device_memory(stream.allocate(size), size)
        placed = {name: self._place(stream, context, name) for name in self._inputs}
        inputs = [binding for name, binding in placed.items() if name not in self._lasting]
        lasting = [binding for name, binding in placed.items() if name in self._lasting]
        outputs = [self._place(stream, context, name) for name in self._outputs]
        return _Ready(stream, context, inputs, outputs, lasting, lambda: _queue(stream, context, inputs, outputs))

    def _limits(self, name: str) -> str:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        return f"it takes {tuple(least)} to {tuple(most)}"

    def _place(self, stream: Stream, context: Any, name: str) -> _Binding:
        shape = tuple(context.get_tensor_shape(name))
        kind = np.dtype(self._library.api.nptype(self._engine.get_tensor_dtype(name)))
        size = int(np.prod(shape)) * kind.itemsize
        memory, address = stream.pinned(size), stream.allocate(size)
        context.set_tensor_address(name, address)
        return _Binding(name, memory.view(kind).reshape(shape), memory, address)


def _fill(ready: _Ready, inputs: Arrays) -> None:
    """Put the inputs where the device takes them from, and queue the upload of lasting ones that have changed."""
    for binding in ready.inputs:
        np.copyto(binding.host, inputs[binding.name], casting="same_kind")
    for binding in ready.lasting:
        given = inputs[binding.name]
        if ready.held.get(binding.name) is not given:
            np.copyto(binding.host, given, casting="same_kind")
            ready.stream.upload(binding.address, binding.memory)
            ready.held[binding.name] = given


def _queue(stream: Stream, context: Any, inputs: Sequence[_Binding], outputs: Sequence[_Binding]) -> None:
    """Queue copies in, the engine, and copies out."""
    for binding in inputs:
        stream.upload(binding.address, binding.memory)
    if not context.execute_async_v3(stream.handle):
        raise BackendFailedError("TensorRT could not queue the engine")
    for binding in outputs:
        stream.download(binding.memory, binding.address)


def _capture(ready: _Ready) -> bool:
    """Make `launch` one CUDA graph where that can be."""
    can = getattr(ready.context, "is_stream_capturable", None)
    if can is not None and not can(ready.stream.handle):
        return False
    graph = ready.stream.capture(ready.launch)
    if graph is None:
        return False
    ready.launch, ready.captured = graph, True
    return True
