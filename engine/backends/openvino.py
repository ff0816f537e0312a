"""The bundle's graphs on a device of OpenVINO: CPU, GPU or NPU.

Compiled graphs are kept (engine.backends.engines): reading `nano` back takes a third of compiling it.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from engine.backends.artefacts import Origin, graph_hashes, origin_of
from engine.backends.engines import discard, obtained
from engine.backends.hardware import processor_id
from engine.backends.openvino_graphs import REWRITES, rewrite
from engine.backends.staged import BF16_KEY, ONNX, STAGES, Arrays, StagedBackend, made_for, stage_files
from engine.bundle import Bundle
from engine.errors import ArtefactStaleError, BackendUnavailableError
from engine.pipeline.placing import is_kept

LIBRARY = "openvino"
CPU = "CPU"
IR, _BLOB = ".xml", ".blob"


class _Graph:
    """Compiled once for any number of frames: on two cores a graph per block length is 3 % faster in all, and each
    would cost 0.4 s the first time it is met.
    """

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        self._request.infer(dict(inputs), share_inputs=True)
        return [np.array(tensor.data) for tensor in self._request.output_tensors]


def check_device(device: str = CPU) -> None:
    """Raise BackendUnavailableError unless OpenVINO finds the device here."""
    _open_core(device)


def open_backend(bundle: Bundle, threads: int | None = None, device: str = CPU) -> StagedBackend:
    """Compile every stage, or read what was compiled before. threads: per stage, None for one a core.

    device: a name of OpenVINO's. On the CPU, stages that the manifest says bear it are computed in bfloat16 where the
    CPU has it, the others in float32; elsewhere the device's own choice is taken, which is float16 as a rule.
    Raises BundleCorruptError, or BackendUnavailableError when this OpenVINO cannot run the graphs there.
    """
    core = _open_core(device)
    try:
        compiled = _Compiler(core, bundle, threads, device).open()
    except RuntimeError as error:
        raise BackendUnavailableError(
            f"OpenVINO {ov.__version__} cannot run model {bundle.name} on {device}: {error}"
        ) from error
    graphs = {stage: _Graph(model) for stage, model in compiled.items()}
    return StagedBackend("openvino" if device == CPU else f"openvino:{device.lower()}", bundle, graphs)


def _open_core(device: str) -> ov.Core:
    try:
        core = ov.Core()
        found = core.available_devices
    except RuntimeError as error:
        raise BackendUnavailableError(f"OpenVINO {ov.__version__} does not start: {error}") from error
    if not any(name.partition(".")[0] == device for name in found):
        raise BackendUnavailableError(
            f"OpenVINO finds no {device} here, only {', '.join(found) or 'nothing'}; install its driver"
        )
    return core


def _check_reader(bundle: Bundle) -> None:
    """OpenVINO reads what older ones have written, not the other way round."""
    origin = origin_of(bundle)
    if origin is None or origin.library != LIBRARY:
        return
    if _release(origin.library_version) > _release(ov.__version__):
        raise ArtefactStaleError(
            f"model {bundle.name} was exported by OpenVINO {origin.library_version}, newer than {ov.__version__} here;"
            " pip install -U openvino, or export it again"
        )


def _release(openvino_version: str) -> tuple[int, ...]:
    """Year and number: (2026, 4) of 2026.4.1-22982-e213a147257."""
    return tuple(int(part) for part in openvino_version.partition("-")[0].split(".")[:2] if part.isdecimal())


def _device_id(core: ov.Core, device: str) -> str:
    """The device by name, and whatever else OpenVINO says decides whether a compiled graph fits, as a driver does."""
    names = core.get_property(device, "CACHING_PROPERTIES")
    told = {"FULL_DEVICE_NAME": core.get_property(device, "FULL_DEVICE_NAME")}
    told |= {str(name): core.get_property(device, name) for name in names}
    parts = [device, *(str(told[name]) for name in sorted(told))]
    return " ".join([*parts, processor_id()] if device == CPU else parts)


class _Compiler:
    """The graphs of one bundle for one device: read from where they are kept, or compiled."""

    def __init__(self, core: ov.Core, bundle: Bundle, threads: int | None, device: str) -> None:
        self._core, self._bundle, self._threads, self._device = core, bundle, threads, device
        self._made: dict[str, ov.CompiledModel] = {}
        _check_reader(bundle)
        native = core.get_property(device, "OPTIMIZATION_CAPABILITIES") if device == CPU else ()
        self._coarse = set(bundle.manifest.get(BF16_KEY, ())) if "BF16" in native else set()
        ending = IR if made_for(bundle) == LIBRARY else ONNX
        # Elsewhere than on a CPU eight bits were not measured.
        self._files = stage_files(bundle, self._coarse if device == CPU else STAGES, ending)

    def open(self) -> dict[str, ov.CompiledModel]:
        """By stage. Raises RuntimeError, which is OpenVINO's own."""
        try:
            return self._obtain()
        except RuntimeError as error:
            if self._made:
                raise
            # Kept by a driver or a build of the library that differs in something that it does not tell.
            discard(self._origin(), self._what, str(error))
            return self._obtain()

    @property
    def _what(self) -> str:
        return f"OpenVINO's graphs of {self._bundle.name}"

    def _obtain(self) -> dict[str, ov.CompiledModel]:
        with obtained(self._origin(), self._keep, self._what, quick=self._device == CPU) as folder:
            return {stage: self._read(stage, folder) for stage in self._files}

    def _origin(self) -> Origin:
        return Origin(
            library=LIBRARY,
            library_version=ov.__version__,
            device=_device_id(self._core, self._device),
            precisions={stage: f"{path.stem}, {self._precision(stage)}" for stage, path in self._files.items()},
            sources=graph_hashes(self._bundle),
            settings={"threads": self._threads or 0, "rewrites": self._rewrites},
        )

    @property
    def _rewrites(self) -> int:
        # What is quicker on other devices was not measured.
        return REWRITES if self._device == CPU else 0

    def _precision(self, stage: str) -> str:
        if self._device != CPU:
            return "as the device likes"
        return "bf16" if stage in self._coarse else "f32"

    def _settings(self, stage: str) -> dict[str, Any]:
        """Reading needs them as much as compiling: what was compiled in float32 comes back in bfloat16 without."""
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if self._device == CPU:
            settings["INFERENCE_PRECISION_HINT"] = self._precision(stage)
            if self._threads:
                settings["INFERENCE_NUM_THREADS"] = self._threads
            if is_kept():
                # Otherwise it moves the calling thread to cores of its own choice, and forgets which it was on.
                settings["ENABLE_CPU_PINNING"] = False
        return settings

    def _compile(self, stage: str) -> ov.CompiledModel:
        model = self._core.read_model(self._files[stage])
        if self._rewrites:
            rewrite(model)
        return self._core.compile_model(model, self._device, self._settings(stage))

    def _keep(self, folder: Path) -> None:
        for stage in self._files:
            self._made[stage] = self._compile(stage)
            stream = BytesIO()
            self._made[stage].export_model(stream)
            (folder / f"{stage}{_BLOB}").write_bytes(stream.getbuffer())

    def _read(self, stage: str, folder: Path) -> ov.CompiledModel:
        if stage in self._made:
            return self._made[stage]
        blob = (folder / f"{stage}{_BLOB}").read_bytes()
        return self._core.import_model(blob, self._device, self._settings(stage))
