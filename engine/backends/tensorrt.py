"""A bundle's stages as TensorRT engines on an NVIDIA GPU, by `tensorrt` or `tensorrt_rtx`, whichever is installed.

Engines are made by `visavis export tensorrt`. They are looked for in $VISAVIS_ENGINES and in the bundle's own folder
`tensorrt`. Ones of another GPU, library or version are built again from the graphs that lie beside them, once, and kept
among the user's engines; ones of other weights are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.artefacts import Artefact, graph_hashes, read_artefact
from engine.backends.base import Floats, Reference
from engine.backends.engines import obtained
from engine.backends.gpu.build import build_into
from engine.backends.gpu.device import Device, open_device
from engine.backends.gpu.folder import FOLDER_VARIABLE, engines_folder, has_engines
from engine.backends.gpu.kernels import Kernels, open_kernels
from engine.backends.gpu.library import NAMES, Library, open_library
from engine.backends.gpu.origin import engines_in, graphs_in, origin_of, plan_again, serves
from engine.backends.gpu.stage import EngineStage
from engine.backends.notices import NoticeKind, tell
from engine.backends.staged import StagedBackend
from engine.bundle import Bundle
from engine.errors import ArtefactCorruptError, ArtefactStaleError, BackendUnavailableError

NAME = "tensorrt"

_OF_PORTRAIT = ("latent", "fine", "coarse")
_LASTING = (*_OF_PORTRAIT, "portrait")
"""Inputs of the decoder that stay the same for a session."""


def open_backend(bundle: Bundle, threads: int | None = None) -> TensorrtBackend:
    """Load every stage onto the GPU. threads: of no effect.

    Raises BackendUnavailableError when there is no TensorRT, GPU or engine, EngineBuildError, ArtefactStaleError or
    ArtefactCorruptError.
    """
    del threads
    artefact = find_artefact(bundle)
    made_with = artefact.origin.library
    library = open_library(sorted(NAMES, key=lambda name: name != made_with))
    return open_with(bundle, artefact, library, open_device())


def check_device() -> None:
    """Raise BackendUnavailableError unless there are a TensorRT and a GPU for it."""
    open_library()
    open_device()


def open_with(bundle: Bundle, artefact: Artefact, library: Library, device: Device) -> TensorrtBackend:
    """The engines of an artefact, or others built from its graphs, by this library on this device."""
    engines = fitting_engines(bundle, artefact, library, device)
    key = hashlib.sha256(b"".join(hashlib.sha256(engine).digest() for engine in engines.values())).hexdigest()
    kernels = open_kernels(library, device, key)
    stages = {
        stage: EngineStage(stage, library, device, engine, kernels, _LASTING if stage == "decode" else ())
        for stage, engine in engines.items()
    }
    return TensorrtBackend(bundle, stages, kernels)


class TensorrtBackend(StagedBackend):
    """Stages on a GPU; pictures are put together there too, by a graph for three planes."""

    moves_alpha = False

    def __init__(self, bundle: Bundle, stages: Mapping[str, EngineStage], kernels: Kernels | None = None) -> None:
        super().__init__(NAME, bundle, stages)
        self._stages, self._kernels = dict(stages), kernels

    def decode(self, latents: Floats, reference: Reference, portrait: Floats) -> NDArray[np.uint8]:
        parts: dict[str, NDArray[Any]] = {name: reference[name] for name in _OF_PORTRAIT}
        pictures: NDArray[np.uint8] = self._run("decode", {"latents": latents, **parts, "portrait": portrait})[0]
        return pictures

    def close(self) -> None:
        super().close()
        for stage in self._stages.values():
            stage.close()
        if self._stages and self._kernels is not None:
            self._kernels.keep()
        self._stages.clear()


def find_artefact(bundle: Bundle) -> Artefact:
    """The exported engines of a bundle. Raises BackendUnavailableError when there are none, and ArtefactStaleError when
    they were built from other weights, which the graphs beside them have too.
    """
    folder = engines_folder(bundle)
    if not has_engines(bundle):
        raise BackendUnavailableError(
            f"model {bundle.name} has no TensorRT engines in {folder} ({FOLDER_VARIABLE} may name another folder); "
            f"run: visavis export tensorrt {bundle.root}"
        )
    artefact = read_artefact(folder)
    if artefact.origin.sources != graph_hashes(bundle):
        raise ArtefactStaleError(
            f"the engines in {folder} were built from other weights than model {bundle.name} has; "
            f"run: visavis export tensorrt {bundle.root} -o {folder}"
        )
    return artefact


def fitting_engines(bundle: Bundle, artefact: Artefact, library: Library, device: Device) -> dict[str, bytes]:
    """Verified engines by stage that this library loads on this device, built now if need be."""
    if serves(artefact.origin, library, device):
        return engines_in(artefact)
    graphs = graphs_in(artefact)
    try:
        plan = plan_again(artefact.origin, device.architecture)
    except ValueError as error:
        raise ArtefactCorruptError(
            f"{artefact.root} is no folder of TensorRT engines ({error}); export again"
        ) from error
    origin = origin_of(library, plan, artefact.origin.sources, tuple(graphs), device)

    def build(folder: Path) -> None:
        build_into(folder, library, graphs, plan, lambda line: tell(NoticeKind.BUILDING, line))

    with obtained(origin, build, f"{library.name} engines of {bundle.name} for {device.name}") as folder:
        return engines_in(read_artefact(folder))
