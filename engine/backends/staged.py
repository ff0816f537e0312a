"""What backends that run a bundle's graphs have in common: the stages by name, and the last step of decoding."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.backends.artefacts import origin_of
from engine.backends.base import Floats, Landmarker, Reference, Sampling
from engine.backends.compose import compose
from engine.bundle import Bundle
from engine.diffusion.rollout import Manner
from engine.errors import BackendFailedError, BackendUnavailableError
from engine.model.config import ModelConfig

ALIGNER = "aligner"
STAGES = ("reference", "audio", "denoise", "decode")
REFERENCE_OUTPUTS = ("latent", "fine", "coarse", "keys", "values")

WEIGHTS = "weights.bin"
"""One file for the weights of all graphs, since two of them share the denoiser's."""

ONNX = ".onnx"
ONNX_LIBRARY = "onnx"

INT8_KEY = "int8_stages"
"""Key of the manifest: stages with a quantised graph that was found near enough and faster than float32."""
BF16_KEY = "bf16_stages"
"""Key of the manifest: stages that were found near enough in bfloat16, and no slower than quantised."""

Arrays = Mapping[str, NDArray[Any]]


class Graph(Protocol):
    """One loaded graph: inputs by name to outputs in the graph's order. The outputs belong to the caller."""

    def __call__(self, inputs: Arrays) -> Sequence[NDArray[Any]]: ...


def stage_files(bundle: Bundle, in_float: Collection[str] = (), ending: str = ONNX) -> dict[str, Path]:
    """The verified graph of each stage: the quantised one if there is one, unless the stage is wanted in floating
    point. ending: of the graphs that the backend reads. Raises BundleCorruptError, or BackendUnavailableError when the
    bundle was exported for another library.
    """
    if f"{STAGES[0]}{ending}" not in bundle.files and (library := made_for(bundle)):
        raise BackendUnavailableError(
            f"model {bundle.name} was exported for {library}; open it with that backend or --backend auto"
        )
    quantised = set(bundle.manifest.get(INT8_KEY, ())) - set(in_float)
    names = {stage: f"{stage}.int8{ending}" if stage in quantised else f"{stage}{ending}" for stage in STAGES}
    if f"{ALIGNER}{ending}" in bundle.files:
        names[ALIGNER] = f"{ALIGNER}{ending}"
    for weights in (WEIGHTS, *(name.removesuffix(ending) + ".bin" for name in names.values())):
        if weights in bundle.files:
            bundle.file(weights)
    return {stage: bundle.file(name) for stage, name in names.items()}


def made_for(bundle: Bundle) -> str:
    """The library whose format the bundle's graphs have; empty for ONNX, which every backend reads.

    Raises BundleCorruptError.
    """
    origin = origin_of(bundle)
    return "" if origin is None or origin.library == ONNX_LIBRARY else origin.library


class StagedBackend:
    """A Backend over graphs. Different methods may run at the same time in different threads, one call of each."""

    moves_alpha = True

    def __init__(self, name: str, bundle: Bundle, graphs: Mapping[str, Graph]) -> None:
        self._name, self._bundle = name, bundle
        self._graphs = dict(graphs)
        self._manner = bundle.manner()
        self._aligner = _Aligner(name, graphs[ALIGNER], _aligner_px(bundle)) if ALIGNER in graphs else None

    @property
    def name(self) -> str:
        return self._name

    @property
    def config(self) -> ModelConfig:
        return self._bundle.config

    @property
    def sampling(self) -> Sampling:
        return self._bundle.sampling

    @property
    def manner(self) -> Manner:
        return self._manner

    @property
    def aligner(self) -> Landmarker | None:
        return self._aligner

    def encode_reference(self, image: Floats) -> Reference:
        return dict(zip(REFERENCE_OUTPUTS, self._run("reference", {"image": image}), strict=True))

    def encode_audio(self, windows: Floats) -> Floats:
        embeddings: Floats = self._run("audio", {"windows": windows})[0]
        return embeddings

    def denoise(self, **inputs: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
        velocity, keys, values = self._run("denoise", inputs)
        return velocity, keys, values

    def decode(self, latents: Floats, reference: Reference, portrait: Floats) -> NDArray[np.uint8]:
        return self.compose(self.predict(latents, reference), portrait)

    def predict(self, latents: Floats, reference: Reference) -> tuple[Floats, Floats]:
        parts = {name: reference[name] for name in ("latent", "fine", "coarse")}
        displacement, paint = self._run("decode", {"latents": latents, **parts})
        return displacement, paint

    def compose(self, predicted: tuple[Floats, Floats], portrait: Floats) -> NDArray[np.uint8]:
        return compose(*predicted, portrait)

    def close(self) -> None:
        self._graphs.clear()
        self._aligner = None

    def _run(self, stage: str, inputs: Arrays) -> Sequence[NDArray[Any]]:
        if not self._graphs:
            raise BackendFailedError(f"the {self._name} backend is closed; open the model again")
        return run_graph(self._name, stage, self._graphs[stage], inputs)


def run_graph(backend: str, stage: str, graph: Graph, inputs: Arrays) -> Sequence[NDArray[Any]]:
    """Run a graph; whatever its library raises becomes a BackendFailedError."""
    try:
        return graph(inputs)
    except Exception as error:  # The libraries' own exceptions share no base class.
        raise BackendFailedError(f"{backend} failed in the {stage} stage: {error}") from error


def _aligner_px(bundle: Bundle) -> int:
    return int(bundle.manifest.get("aligner_px", 96))


class _Aligner:
    """Face points of a crop, from the bundle's own network, which sees crops of one size."""

    def __init__(self, backend: str, graph: Graph, side: int) -> None:
        self._backend, self._graph, self._side = backend, graph, side

    def __call__(self, crop: NDArray[np.uint8]) -> Floats:
        small = cv2.resize(crop, (self._side, self._side), interpolation=cv2.INTER_AREA)
        planes = np.ascontiguousarray(small.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
        points: Floats = run_graph(self._backend, ALIGNER, self._graph, {"image": planes})[0][0]
        return points
