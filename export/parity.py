"""How near a bundle comes to the torch model it was exported from, over a streamed roll-out.

Both start from the same portrait, noise and conditions, and each carries its own cache and latents from block to
block, so that errors may grow as they would in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Backend, Floats
from engine.backends.registry import open_backend
from engine.bundle import Bundle
from engine.diffusion.flow import timesteps
from engine.diffusion.rollout import Cache, generate_block
from engine.diffusion.sampler import SAMPLERS
from engine.model.config import ModelConfig
from engine.types import AvatarState
from export.scenes import Scene

GRAPH_BACKENDS = ("openvino", "onnxruntime")
FLOAT_DB, INT8_DB = 40.0, 34.0
"""What a bundle must reach."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """One block: motion latents [F, C, G, G], pictures [F, P, P, 3], and what it took."""

    latents: Floats
    frames: NDArray[np.uint8]
    denoise_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Parity:
    """psnr_db: of the pictures, by block. latent_error: largest difference of motion latents, by block, where
    latent_spread is their standard deviation. Times are of the processor, all cores added, for the quickest block,
    per frame of it: the clock on the wall says nothing on a machine that does other work too.
    """

    psnr_db: tuple[float, ...]
    latent_error: tuple[float, ...]
    latent_spread: float
    denoise_ms_per_frame: float
    decode_ms_per_frame: float

    @property
    def worst_db(self) -> float:
        return min(self.psnr_db)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "worst_db": self.worst_db}


def roll_out(backend: Backend, scene: Scene) -> Iterator[Streamed]:
    """Stream the scene through a backend, speaking, with nothing else asked for."""
    config, sampling = backend.config, backend.sampling
    reference = backend.encode_reference(scene.small)
    cache = Cache.start(reference["keys"], reference["values"], config.context_frames * config.frame_tokens)
    random, first = np.random.default_rng(scene.seed), 0
    for length in scene.blocks:
        steps = sampling.steps if first else sampling.first_steps
        noise = random.standard_normal(_shape(config, length), np.float32)
        begun = process_time()
        latents, cache = generate_block(
            _Bound(backend, _conditions(backend, scene.windows[first : first + length])),
            SAMPLERS[sampling.sampler], noise, timesteps(steps, sampling.time_shift), cache, backend.manner,
        )  # fmt: skip
        denoised = process_time()
        frames = backend.decode(latents[0], reference, scene.large)
        yield Streamed(latents[0], frames, 1e3 * (denoised - begun), 1e3 * (process_time() - denoised))
        first += length


def compare(truth: Backend, other: Backend, scene: Scene) -> Parity:
    """Two backends over the same scene."""
    return compare_streams(list(roll_out(truth, scene)), list(roll_out(other, scene)))


def compare_streams(truth: list[Streamed], other: list[Streamed]) -> Parity:
    """Roll-outs of one scene, block by block."""
    # The first block pays for whatever is set up on first use.
    timed = other[1:] or other
    return Parity(
        tuple(psnr_db(a.frames, b.frames) for a, b in zip(truth, other, strict=True)),
        tuple(float(np.abs(a.latents - b.latents).max()) for a, b in zip(truth, other, strict=True)),
        float(np.std(np.concatenate([a.latents for a in truth]))),
        min(b.denoise_ms / len(b.latents) for b in timed),
        min(b.decode_ms / len(b.latents) for b in timed),
    )


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Of 8-bit pictures; 99 where they are equal."""
    error = float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))
    return min(99.0, 10 * float(np.log10(255**2 / error))) if error else 99.0


def _shape(config: ModelConfig, length: int) -> tuple[int, ...]:
    return (1, length, config.latent_channels, config.latent_grid, config.latent_grid)


def _conditions(backend: Backend, windows: Floats) -> dict[str, NDArray[Any]]:
    config, n = backend.config, len(windows)
    silence = np.full_like(windows, windows.min())
    return {
        "audio": backend.encode_audio(windows)[None],
        "listening": backend.encode_audio(silence)[None],
        "state": np.full((1, n), AvatarState.SPEAKING, np.int64),
        "expression": np.zeros((1, n, config.expressions), np.float32),
        "expression_given": np.zeros((1, n), np.float32),
        "pose": np.zeros((1, n, config.pose_axes), np.float32),
        "pose_given": np.zeros((1, n), np.float32),
    }


@dataclass(frozen=True, slots=True)
class _Bound:
    """The denoiser with a block's conditions, as engine.diffusion.rollout calls it."""

    backend: Backend
    conditions: dict[str, NDArray[Any]]

    def __call__(self, latents: Any, t: float, keys: Any, values: Any, valid: Any) -> tuple[Any, Any, Any]:
        return self.backend.denoise(
            latents=latents, timestep=np.array([t], np.float32), **self.conditions,
            cache_keys=keys, cache_values=values, cache_valid=valid,
        )  # fmt: skip


def compare_installed(
    truth: Backend, bundle: Bundle, scene: Scene, names: Sequence[str] | None, threads: int
) -> dict[str, Parity]:
    """The named backends against the truth, by name; without names, all that are installed. Raises BackendError."""
    expected = list(roll_out(truth, scene))
    results = {}
    for name in names or [name for name in GRAPH_BACKENDS if find_spec(name)]:
        backend = open_backend(name, bundle, threads)
        results[name] = compare_streams(expected, list(roll_out(backend, scene)))
        backend.close()
    return results
