"""The bundle's graphs on a provider of ONNX Runtime: its CPU, or a GPU by CUDA, TensorRT, DirectML or CoreML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from engine.backends.cache import cache_folder
from engine.backends.staged import STAGES, Arrays, StagedBackend, stage_files
from engine.bundle import Bundle
from engine.errors import BackendUnavailableError

_ONLY_ERRORS = 3

CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Provider:
    """package: which wheel has it. ordered: it allows neither memory plans nor nodes at the same time."""

    name: str
    package: str
    options: Mapping[str, str] = field(default_factory=dict)
    ordered: bool = False


PROVIDERS = {
    CPU: Provider("CPUExecutionProvider", "onnxruntime"),
    # Searching for the best convolution would take seconds at every block length that is met for the first time.
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", {"cudnn_conv_algo_search": "HEURISTIC"}),
    "tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "directml": Provider("DmlExecutionProvider", "onnxruntime-directml", ordered=True),
    "coreml": Provider("CoreMLExecutionProvider", "onnxruntime", {"ModelFormat": "MLProgram"}),
}


class _Graph:
    def __init__(self, path: str, device: str, threads: int | None) -> None:
        provider = PROVIDERS[device]
        options = ort.SessionOptions()
        options.log_severity_level = _ONLY_ERRORS
        options.intra_op_num_threads = threads or 0
        # Spinning threads would take the cores that the other stages and the video encoder need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider.ordered:
            options.enable_mem_pattern = False
            options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        self._session = ort.InferenceSession(path, options, providers=_chain(device))
        # What cannot load its own libraries is left out with a warning, and the CPU computes.
        if self._session.get_providers()[0] != provider.name:
            raise BackendUnavailableError(
                f"{provider.package} has {provider.name}, but it does not start; see its page for the libraries it"
                " needs"
            )

    def __call__(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self._session.run(None, dict(inputs))
        return outputs


def check_device(device: str = CPU) -> None:
    """Raise BackendUnavailableError unless this ONNX Runtime was built with the device's provider."""
    provider = PROVIDERS[device]
    if provider.name not in ort.get_available_providers():
        raise BackendUnavailableError(
            f"ONNX Runtime {ort.__version__} here has no {provider.name}: pip install {provider.package}"
        )


def open_backend(bundle: Bundle, threads: int | None = None, device: str = CPU) -> StagedBackend:
    """Load every stage. threads: of the CPU, per stage, None for one a core. device: a key of PROVIDERS.

    Raises BundleCorruptError, or BackendUnavailableError when this ONNX Runtime cannot run the graphs there.
    """
    check_device(device)
    graphs = {}
    # Elsewhere than on a CPU eight bits were not measured.
    for stage, path in stage_files(bundle, () if device == CPU else STAGES).items():
        try:
            graphs[stage] = _Graph(str(path), device, threads)
        except BackendUnavailableError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class.
            raise BackendUnavailableError(
                f"ONNX Runtime {ort.__version__} cannot load {path.name} of model {bundle.name}: {error}"
            ) from error
    return StagedBackend("onnxruntime" if device == CPU else f"onnxruntime:{device}", bundle, graphs)


def _chain(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """The provider, and those that compute the nodes that it leaves."""
    chain: list[str | tuple[str, dict[str, str]]] = [(PROVIDERS[device].name, _options(device))]
    if device == "tensorrt":
        chain.append((PROVIDERS["cuda"].name, _options("cuda")))
    return chain if device == CPU else [*chain, PROVIDERS[CPU].name]


def _options(device: str) -> dict[str, str]:
    options = dict(PROVIDERS[device].options)
    folder = cache_folder("onnxruntime") if device == "tensorrt" else None
    if folder is not None:
        # Named by it after graph, GPU and version, and built again when they change.
        options |= {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"}
        options |= {"trt_engine_cache_path": str(folder), "trt_timing_cache_path": str(folder)}
    return options
