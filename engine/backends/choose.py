"""`--backend auto`: the quickest backend on this machine for this bundle, measured once and remembered."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import REFERENCE_PX, Backend
from engine.backends.cache import cache_folder
from engine.bundle import Bundle
from engine.errors import AvatarError, BackendUnavailableError

Opener = Callable[[str, Bundle, int | None], Backend]

_FRAMES = 4
_PROBE_S = 0.12
"""Time spent on each backend, besides what it takes to open it."""
_MEMORY = "backends.json"
_REMEMBERED = 64
"""Choices kept; the oldest are forgotten."""


def open_quickest(names: Sequence[str], bundle: Bundle, threads: int | None, opener: Opener) -> Backend:
    """The remembered choice, or else the quickest of those that open; one alone is not measured.

    names: in order of preference. Raises BackendUnavailableError with every reason when none opens, and
    BundleCorruptError at once, since another backend would read the same files.
    """
    key, memory = _key(names, bundle, threads), _recall()
    known = memory.get(key)
    order = sorted(names, key=lambda name: name != known)
    opened, reasons = {}, []
    for name in order:
        try:
            opened[name] = opener(name, bundle, threads)
        except BackendUnavailableError as error:
            reasons.append(f"{name}: {error}")
            continue
        if name == known:
            return opened[name]
    if not opened:
        raise BackendUnavailableError(f"no backend can run model {bundle.name} ({'; '.join(reasons)})")
    if len(opened) == 1:
        return next(iter(opened.values()))
    times = {name: _seconds(backend) for name, backend in opened.items()}
    best = min(times, key=lambda name: times[name])
    for name in set(opened) - {best}:
        opened[name].close()
    _remember({**memory, key: best})
    return opened[best]


def _seconds(backend: Backend) -> float:
    """Least time for one pass of the denoiser and the decoder over a few frames; infinite if the backend fails."""
    try:
        reference = backend.encode_reference(np.zeros((1, 3, REFERENCE_PX, REFERENCE_PX), np.float32))
        portrait = np.zeros((1, 3, 2 * REFERENCE_PX, 2 * REFERENCE_PX), np.float32)
        inputs = _denoise_inputs(backend, reference)
        best, until = float("inf"), perf_counter() + _PROBE_S
        for round_number in range(1_000):
            begun = perf_counter()
            backend.denoise(**inputs)
            backend.decode(inputs["latents"][0], reference, portrait)
            if round_number:  # The first round sets things up.
                best = min(best, perf_counter() - begun)
            if round_number and perf_counter() > until:
                break
    except AvatarError:
        return float("inf")
    return best


def _denoise_inputs(backend: Backend, reference: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    c, n = backend.config, _FRAMES
    keys = np.repeat(reference["keys"][:, :, :, :1], c.frame_tokens * (1 + c.context_frames), axis=3)
    return {
        "latents": np.zeros((1, n, c.latent_channels, c.latent_grid, c.latent_grid), np.float32),
        "timestep": np.ones(1, np.float32),
        "audio": np.zeros((1, n, c.audio_width), np.float32),
        "listening": np.zeros((1, n, c.audio_width), np.float32),
        "state": np.zeros((1, n), np.int64),
        "expression": np.zeros((1, n, c.expressions), np.float32),
        "expression_given": np.zeros((1, n), np.float32),
        "pose": np.zeros((1, n, c.pose_axes), np.float32),
        "pose_given": np.zeros((1, n), np.float32),
        "cache_keys": keys,
        "cache_values": keys,
        "cache_valid": np.ones((1, keys.shape[3]), np.float32),
    }


def _key(names: Sequence[str], bundle: Bundle, threads: int | None) -> str:
    """Whatever may change which backend is quickest."""
    facts = [
        _processor(),
        os.cpu_count(),
        threads,
        [(name, _version(name)) for name in names],
        sorted(bundle.files.items()),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _recall() -> dict[str, str]:
    folder = cache_folder("choices")
    try:
        values = json.loads((folder / _MEMORY).read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in values.items()} if isinstance(values, dict) else {}


def _remember(choices: dict[str, str]) -> None:
    folder = cache_folder("choices")
    if folder is None:
        return
    kept = dict(list(choices.items())[-_REMEMBERED:])
    temporary = folder / f"{_MEMORY}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(kept), encoding="utf-8")
        temporary.replace(folder / _MEMORY)
    except OSError:
        pass  # It will be measured again next time.
