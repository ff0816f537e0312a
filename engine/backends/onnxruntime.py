"""The bundle's graphs on ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from engine.backends.staged import Arrays, StagedBackend, stage_files
from engine.bundle import Bundle
from engine.errors import BackendUnavailableError

_ONLY_ERRORS = 3


class _Graph:
    def __init__(self, path: str, threads: int | None) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _ONLY_ERRORS
        options.intra_op_num_threads = threads or 0
        # Spinning threads would take the cores that the other stages and the video encoder need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self._session.run(None, dict(inputs))
        return outputs


def open_backend(bundle: Bundle, threads: int | None = None) -> StagedBackend:
    """Load every stage. threads: per stage, None for one a core.

    Raises BundleCorruptError, or BackendUnavailableError when this ONNX Runtime cannot run the graphs.
    """
    graphs = {}
    for stage, path in stage_files(bundle).items():
        try:
            graphs[stage] = _Graph(str(path), threads)
        except Exception as error:  # ONNX Runtime's exceptions share no base class.
            raise BackendUnavailableError(
                f"ONNX Runtime {ort.__version__} cannot load {path.name} of model {bundle.name}: {error}"
            ) from error
    return StagedBackend("onnxruntime", bundle, graphs)
