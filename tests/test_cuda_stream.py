"""A GPU's stream by the calls it makes: what fails is told, what was taken is given back."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from engine.backends.gpu.device import CudaDevice, CudaStream
from engine.errors import BackendFailedError


class FakeCuda:
    """Stands in for cuda.bindings.runtime: notes each call, and fails those that it is told to."""

    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self._host: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
            return FakeKinds()

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            return (7,) if name in self.failing else (0, *self._answer(name, arguments))

        return call

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:  # noqa: N802  (the library's name)
        return 0, f"fault {status}".encode()

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if name == "cudaMallocHost":
            self._host.append((ctypes.c_uint8 * arguments[0])())
            return (ctypes.addressof(self._host[-1]),)
        if name == "cudaGetDeviceProperties":
            return (FakeKinds(name=b"Fake\0", major=9, minor=0),)
        if name == "cudaDriverGetVersion":
            return (13020,)
        return (5,) if name in ("cudaStreamCreateWithFlags", "cudaMalloc", "cudaStreamEndCapture") else (9,)


class FakeKinds:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> str:
        return name


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def test_a_device_tells_what_engines_are_kept_by(cuda: FakeCuda) -> None:
    device = CudaDevice(cuda, 0)
    assert (device.name, device.architecture, device.driver) == ("Fake", "sm_90", "13.2")


def test_pinned_memory_is_an_array(cuda: FakeCuda) -> None:
    host = CudaStream(cuda).pinned(16)
    host[:] = np.arange(16)
    assert host.dtype == np.uint8 and host.sum() == 120


def test_everything_is_given_back_once(cuda: FakeCuda) -> None:
    stream = CudaStream(cuda)
    stream.allocate(8), stream.allocate(8), stream.pinned(8)
    assert stream.capture(lambda: None) is not None
    for _ in range(2):
        stream.close()
    freed = {name: cuda.calls.count(name) for name in ("cudaFree", "cudaFreeHost", "cudaGraphExecDestroy")}
    assert freed == {"cudaFree": 2, "cudaFreeHost": 1, "cudaGraphExecDestroy": 1}
    assert cuda.calls.count("cudaStreamDestroy") == 1


def test_a_capture_launches_what_was_queued(cuda: FakeCuda) -> None:
    stream = CudaStream(cuda)
    launch = stream.capture(lambda: cuda.calls.append("work"))
    assert launch is not None
    launch()
    assert cuda.calls.count("work") == 1 and cuda.calls[-1] == "cudaGraphLaunch"


@pytest.mark.parametrize("failing", ["cudaStreamEndCapture", "cudaMemcpyAsync"])
def test_what_cannot_be_captured_is_no_error_and_ends_the_capture(cuda: FakeCuda, failing: str) -> None:
    stream = CudaStream(cuda)
    host = stream.pinned(4)
    cuda.failing.add(failing)
    assert stream.capture(lambda: stream.upload(1, host)) is None
    assert cuda.calls[-1] == "cudaStreamEndCapture"


@pytest.mark.parametrize("failing", ["cudaStreamSynchronize", "cudaMalloc"])
def test_failures_are_told_with_what_cuda_says(cuda: FakeCuda, failing: str) -> None:
    stream = CudaStream(cuda)
    cuda.failing.add(failing)
    with pytest.raises(BackendFailedError, match=r"fault 7 \(7\)"):
        stream.wait() if failing == "cudaStreamSynchronize" else stream.allocate(4)
