"""The bundle's graphs on OpenVINO's CPU plugin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from engine.backends.cache import cache_folder
from engine.backends.staged import BF16_KEY, Arrays, StagedBackend, stage_files
from engine.bundle import Bundle
from engine.errors import BackendUnavailableError
from engine.pipeline.placing import is_kept

_DEVICE = "CPU"


class _Graph:
    """Compiled once for any number of frames: on two cores a graph per block length is 3 % faster in all, and each
    would cost 0.4 s the first time it is met.
    """

    def __init__(self, core: ov.Core, path: Path, settings: dict[str, Any]) -> None:
        self._request = core.compile_model(core.read_model(path), _DEVICE, settings).create_infer_request()

    def __call__(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        self._request.infer(dict(inputs), share_inputs=True)
        return [np.array(tensor.data) for tensor in self._request.output_tensors]


def open_backend(bundle: Bundle, threads: int | None = None) -> StagedBackend:
    """Compile every stage. threads: per stage, None for one a core.

    Stages that the manifest says bear it are computed in bfloat16 where the CPU has it; the others in float32.
    Raises BundleCorruptError, or BackendUnavailableError when this OpenVINO cannot run the graphs.
    """
    core = _open_core()
    native = core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    coarse = bundle.manifest.get(BF16_KEY, ()) if "BF16" in native else ()
    graphs = {}
    for stage, path in stage_files(bundle, coarse).items():
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if stage in coarse else "f32",
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        if is_kept():
            # Otherwise it moves the calling thread to cores of its own choice, and forgets which it was on.
            settings["ENABLE_CPU_PINNING"] = False
        try:
            graphs[stage] = _Graph(core, path, settings)
        except RuntimeError as error:
            raise BackendUnavailableError(
                f"OpenVINO {ov.__version__} cannot load {path.name} of model {bundle.name}: {error}"
            ) from error
    return StagedBackend("openvino", bundle, graphs)


def _open_core() -> ov.Core:
    """With compiled graphs kept between runs, where there is a folder for them."""
    try:
        core = ov.Core()
        folder = cache_folder("openvino")
        if folder is not None:
            core.set_property({"CACHE_DIR": str(folder)})
        if not core.available_devices:
            raise BackendUnavailableError("OpenVINO finds no device on this machine; use --backend onnxruntime")
    except RuntimeError as error:
        raise BackendUnavailableError(f"OpenVINO {ov.__version__} does not start: {error}") from error
    return core
