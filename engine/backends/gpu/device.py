"""The seam to a GPU: memory, copies, streams and captured graphs, by address. `CudaDevice` is the real one.

Nothing here knows TensorRT, and TensorRT's part knows nothing of CUDA's calls, so that it runs in tests on a machine
without a GPU, over plain arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendFailedError, BackendUnavailableError

Work = Callable[[], None]

_EXTRA = "pip install 'visavis[tensorrt]'"


class Stream(Protocol):
    """An ordered queue of work on a device, with the memory that its work uses. One thread at a time."""

    @property
    def handle(self) -> int:
        """What CUDA calls the stream."""
        ...

    def allocate(self, size: int) -> int:
        """Address of so many bytes on the device, kept until `close`."""
        ...

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """So many bytes of the host's memory that the device copies from and to by itself, kept until `close`."""
        ...

    def upload(self, address: int, host: NDArray[np.uint8]) -> None:
        """Queue a copy of pinned memory to the device."""
        ...

    def download(self, host: NDArray[np.uint8], address: int) -> None:
        """Queue a copy from the device to pinned memory."""
        ...

    def capture(self, work: Work) -> Work | None:
        """What queues `work` again as one launch (a CUDA graph); None when it cannot be captured."""
        ...

    def wait(self) -> None:
        """Return once everything queued is done. Raises BackendFailedError for whatever went wrong in it."""
        ...

    def close(self) -> None:
        """Free the stream and its memory; idempotent."""
        ...


class Device(Protocol):
    """One GPU."""

    @property
    def name(self) -> str: ...

    @property
    def architecture(self) -> str:
        """Compute capability, as "sm_90"."""
        ...

    @property
    def driver(self) -> str:
        """The newest CUDA that the driver serves, as "13.0"."""
        ...

    def stream(self) -> Stream: ...


def open_device(index: int = 0) -> Device:
    """A GPU of this machine. Raises BackendUnavailableError, which says what is missing."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendUnavailableError(f"running on an NVIDIA GPU needs cuda-bindings ({error}): {_EXTRA}") from error
    status, count = runtime.cudaGetDeviceCount()
    if int(status) or not count:
        reason = runtime.cudaGetErrorString(status)[1]
        raise BackendUnavailableError(f"there is no NVIDIA GPU with a working driver here ({_text(reason)})")
    return CudaDevice(runtime, index)


class CudaDevice:
    """A GPU through cuda.bindings.runtime."""

    def __init__(self, runtime: Any, index: int) -> None:
        self._cuda = runtime
        check(runtime, runtime.cudaSetDevice(index))
        properties = check(runtime, runtime.cudaGetDeviceProperties(index))
        self.name = _text(properties.name)
        self.architecture = f"sm_{properties.major}{properties.minor}"
        newest = int(check(runtime, runtime.cudaDriverGetVersion()))
        self.driver = f"{newest // 1000}.{newest % 1000 // 10}"

    def stream(self) -> Stream:
        return CudaStream(self._cuda)


class CudaStream:
    """A non-blocking stream and its memory."""

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        self._stream = self._do(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking)
        self._on_device: list[int] = []
        self._on_host: list[int] = []
        self._graphs: list[Any] = []

    @property
    def handle(self) -> int:
        return int(self._stream)

    def allocate(self, size: int) -> int:
        address = int(self._do(self._cuda.cudaMalloc, max(1, size)))
        self._on_device.append(address)
        return address

    def pinned(self, size: int) -> NDArray[np.uint8]:
        from ctypes import c_uint8

        address = int(self._do(self._cuda.cudaMallocHost, max(1, size)))
        self._on_host.append(address)
        return np.ctypeslib.as_array((c_uint8 * size).from_address(address))

    def upload(self, address: int, host: NDArray[np.uint8]) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._do(self._cuda.cudaMemcpyAsync, address, host.ctypes.data, host.nbytes, kind, self._stream)

    def download(self, host: NDArray[np.uint8], address: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._do(self._cuda.cudaMemcpyAsync, host.ctypes.data, address, host.nbytes, kind, self._stream)

    def capture(self, work: Work) -> Work | None:
        # Of this thread alone: another stage's first calls allocate memory while this one is captured.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._do(self._cuda.cudaStreamBeginCapture, self._stream, mode)
        try:
            work()
        except BackendFailedError:
            self._cuda.cudaStreamEndCapture(self._stream)
            return None
        status, *graphs = self._cuda.cudaStreamEndCapture(self._stream)
        if int(status):
            return None
        ready = self._do(self._cuda.cudaGraphInstantiate, graphs[0], 0)
        self._do(self._cuda.cudaGraphDestroy, graphs[0])
        self._graphs.append(ready)
        return lambda: self._launch(ready)

    def _launch(self, graph: Any) -> None:
        self._do(self._cuda.cudaGraphLaunch, graph, self._stream)

    def wait(self) -> None:
        self._do(self._cuda.cudaStreamSynchronize, self._stream)

    def close(self) -> None:
        if self._stream is None:
            return
        # Whatever still runs may use the memory; a failure of it was told to its own caller.
        self._cuda.cudaStreamSynchronize(self._stream)
        for graph in self._graphs:
            self._cuda.cudaGraphExecDestroy(graph)
        for address in self._on_device:
            self._cuda.cudaFree(address)
        for address in self._on_host:
            self._cuda.cudaFreeHost(address)
        self._cuda.cudaStreamDestroy(self._stream)
        self._stream, self._graphs, self._on_device, self._on_host = None, [], [], []

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return check(self._cuda, call(*arguments))


def check(runtime: Any, answer: tuple[Any, ...]) -> Any:
    """What a call of cuda.bindings gave. Raises BackendFailedError when it failed."""
    status, *values = answer
    if int(status):
        raise BackendFailedError(f"CUDA says {_text(runtime.cudaGetErrorString(status)[1])} ({int(status)})")
    return values[0] if values else None


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace").rstrip("\0") if isinstance(value, bytes) else str(value)
