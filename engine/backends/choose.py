"""`--backend auto`: the quickest backend on this machine for this bundle, measured once and remembered.

A quick backend that computes something else is of no use, so each is also compared with the plainest one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import REFERENCE_PX, Backend, Floats, Reference
from engine.backends.cache import Memory
from engine.backends.hardware import processor_id, usable_cores, written_gpus
from engine.bundle import Bundle
from engine.errors import ArtefactError, AvatarError, BackendUnavailableError

Opener = Callable[[str, Bundle, int | None], Backend]

_FRAMES = 4
_PROBE_S, _LEAST_ROUNDS = 0.12, 3
"""Time spent on each backend, besides what it takes to open it, and how often each is run at least."""
_CLEARLY = 0.9
"""What a backend must come down to, against one before it in the order: what differs less differs by chance."""
_AGREES_DB = 35.0
"""Least likeness of the pictures of two backends: 8-bit graphs are within 44 dB, another network of the same shape is
at 28, a face that does not move at 25 (docs/lab-notes.md)."""
_PROBE_PX = 2 * REFERENCE_PX
_DISTRIBUTIONS = (
    "openvino", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "tensorrt", "tensorrt-cu12", "tensorrt-cu13",
    "tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13",
)  # fmt: skip
_MEMORY = Memory("measured.json")


@dataclass(frozen=True, slots=True)
class Measured:
    """ms: of a block of four frames at 256 pixels, by backend. unfit: why others were not taken."""

    ms: Mapping[str, float]
    unfit: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The quickest; of those that are about as quick, the first in order."""
        least = min(self.ms.values())
        return next(name for name, ms in self.ms.items() if least >= _CLEARLY * ms)


def open_quickest(
    names: Sequence[str], bundle: Bundle, threads: int | None, opener: Opener, *, again: bool = False
) -> tuple[str, Backend]:
    """The remembered choice, or else the quickest of those that open and agree; one alone is not measured.

    names: in order of preference, the plainest last. again: measure whatever is remembered. Raises
    BackendUnavailableError with every reason when none opens, and BundleCorruptError at once, since another backend
    would read the same files.
    """
    known = None if again else recalled(names, bundle, threads)
    opened: dict[str, Backend] = {}
    reasons: dict[str, str] = {}
    for name in sorted(names, key=lambda name: known is None or name != known.best):
        try:
            opened[name] = opener(name, bundle, threads)
        except (BackendUnavailableError, ArtefactError) as error:
            reasons[name] = str(error)
            continue
        if known is not None and name == known.best:
            return name, opened[name]
    if not opened:
        told = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        raise BackendUnavailableError(f"no backend can run model {bundle.name} here ({told or 'none is installed'})")
    if len(opened) == 1:
        return next(iter(opened.items()))
    return _quickest(
        {name: opened[name] for name in names if name in opened}, reasons, situation(names, bundle, threads)
    )


def recalled(names: Sequence[str], bundle: Bundle, threads: int | None) -> Measured | None:
    """What was measured before, if nothing has changed since that matters."""
    kept = _MEMORY.recall().get(situation(names, bundle, threads), {})
    try:
        ms = {str(name): float(value) for name, value in kept["ms"].items()}
        unfit = {str(name): str(why) for name, why in kept["unfit"].items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return Measured(ms, unfit) if ms else None


def _quickest(opened: dict[str, Backend], reasons: Mapping[str, str], key: str) -> tuple[str, Backend]:
    """Measure, remember, and close all but the best."""
    plainest = list(opened)[-1]
    expected = _pictures(opened[plainest])
    unfit = {
        name: f"its pictures are not those of {plainest}"
        for name, backend in opened.items()
        if _likeness_db(_pictures(backend), expected) < _AGREES_DB
    }
    seconds = _seconds({name: backend for name, backend in opened.items() if name not in unfit})
    unfit |= {name: "it failed while it was measured" for name, took in seconds.items() if not np.isfinite(took)}
    ms = {name: 1e3 * took for name, took in seconds.items() if name not in unfit}
    measured = Measured(ms or {plainest: 0.0}, {**reasons, **unfit})
    for name in set(opened) - {measured.best}:
        opened[name].close()
    _MEMORY.keep(key, asdict(measured))
    return measured.best, opened[measured.best]


def _seconds(backends: Mapping[str, Backend]) -> dict[str, float]:
    """Least time of each for one pass of the denoiser and the decoder over a few frames; infinite where it fails.

    They take turns, so that whatever else the machine does hits all alike.
    """
    probes = {name: _Probe(backend) for name, backend in backends.items()}
    until = perf_counter() + _PROBE_S * len(probes)
    rounds = 0
    while rounds < _LEAST_ROUNDS or perf_counter() < until:
        for probe in probes.values():
            probe.run()
        rounds += 1
    return {name: probe.least_s for name, probe in probes.items()}


class _Probe:
    """A backend with something to compute. The first run sets things up and is not counted."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._inputs, self._runs = backend, _inputs(backend), 0
        self.least_s = float("inf")

    def run(self) -> None:
        if self._inputs is None:
            return
        try:
            begun = perf_counter()
            _step(self._backend, *self._inputs)
            took = perf_counter() - begun
        except AvatarError:
            self._inputs, self.least_s = None, float("inf")
            return
        self._runs += 1
        if self._runs > 1:
            self.least_s = min(self.least_s, took)


def _pictures(backend: Backend) -> NDArray[np.uint8] | None:
    """A first step from noise, decoded; None if the backend fails."""
    inputs = _inputs(backend)
    try:
        return None if inputs is None else _step(backend, *inputs)
    except AvatarError:
        return None


def _step(backend: Backend, reference: Reference, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    velocity, _, _ = backend.denoise(**inputs)
    return backend.decode((inputs["latents"] - velocity)[0], reference, _portrait(_PROBE_PX))


def _inputs(backend: Backend) -> tuple[Reference, dict[str, NDArray[Any]]] | None:
    """The same for every backend of a model; None if it cannot even read the portrait."""
    try:
        reference = backend.encode_reference(_portrait(REFERENCE_PX))
    except AvatarError:
        return None
    return reference, _denoise_inputs(backend, reference)


def _likeness_db(a: NDArray[np.uint8] | None, b: NDArray[np.uint8] | None) -> float:
    """PSNR; infinite where the yardstick is missing, since nothing can be said then."""
    if b is None:
        return float("inf")
    if a is None or a.shape != b.shape:
        return 0.0
    error = float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else float("inf")


@lru_cache(maxsize=2)
def _portrait(side: int) -> Floats:
    """A drawn face under spots of colour [1, 3, side, side] in [-1, 1], the same at every size. A face, since the
    ranges of 8-bit graphs were taken from faces; spots so small that every movement shows.
    """
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side

    def hill(x0: float, y0: float, width: float, height: float) -> Floats:
        blot: Floats = np.exp(-(((x - x0) / width) ** 2) - ((y - y0) / height) ** 2)
        return blot

    oval = np.exp(-((((x - 0.5) / 0.22) ** 2 + ((y - 0.5) / 0.3) ** 2) ** 2))
    face = 0.9 * oval - 0.5 - 0.8 * (hill(0.4, 0.42, 0.05, 0.025) + hill(0.6, 0.42, 0.05, 0.025))
    face -= 0.5 * hill(0.5, 0.66, 0.08, 0.02)
    planes = [face - 0.1 * c + 0.35 * np.sin(97 * x + 2 * c) * np.cos(83 * y - c) for c in range(3)]
    portrait: Floats = np.clip(np.stack(planes)[None], -1, 1).astype(np.float32)
    return portrait


def _denoise_inputs(backend: Backend, reference: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    c, n = backend.config, _FRAMES
    keys, values = (
        np.repeat(reference[name][:, :, :, :1], c.frame_tokens * (1 + c.context_frames), axis=3)
        for name in ("keys", "values")
    )
    noise = np.random.default_rng(0).standard_normal((1, n, c.latent_channels, c.latent_grid, c.latent_grid))
    return {
        "latents": noise.astype(np.float32),
        "timestep": np.ones(1, np.float32),
        "audio": np.zeros((1, n, c.audio_width), np.float32),
        "listening": np.zeros((1, n, c.audio_width), np.float32),
        "state": np.zeros((1, n), np.int64),
        "expression": np.zeros((1, n, c.expressions), np.float32),
        "expression_given": np.zeros((1, n), np.float32),
        "pose": np.zeros((1, n, c.pose_axes), np.float32),
        "pose_given": np.zeros((1, n), np.float32),
        "cache_keys": keys,
        "cache_values": values,
        "cache_valid": np.ones((1, keys.shape[3]), np.float32),
    }


def situation(names: Sequence[str], bundle: Bundle, threads: int | None) -> str:
    """A name for whatever may change which backend is quickest, and how quick it is."""
    facts = [
        processor_id(),
        usable_cores(),
        [(gpu.name, gpu.driver) for gpu in written_gpus()],
        threads,
        list(names),
        [(name, _version(name)) for name in _DISTRIBUTIONS],
        sorted(bundle.files.items()),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
