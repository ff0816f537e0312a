"""What the machine can do at best, measured in the same run, and how far the model's stages are from it.

Times on a busy or a slow machine say little; their ratio to a matrix product and to a copy of memory says where time is
left to win.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from engine.model.config import ModelConfig
from engine.worker.base import WorkerInfo

_MATRIX_SIDE = 768
_COPY_BYTES = 64 << 20
_LEAST_S = 0.3
"""How long each floor is measured."""


@dataclass(frozen=True, slots=True)
class Floor:
    """matmul_gflop_per_s: the best of some float32 products of two 768 x 768 matrices by numpy, on all cores.
    copy_gb_per_s: the best of some copies of 64 MB, bytes copied, on one core. denoise_gflop: arithmetic of one block
    of block_frames frames, see denoise_flop. denoise_to_floor: how many times longer the block takes than that many
    matrix operations at that rate; below 1 where the backend has lower precision or better products than numpy.
    decode_to_floor: the time of one picture to that of copying it once.
    """

    matmul_gflop_per_s: float
    copy_gb_per_s: float
    block_frames: int
    denoise_gflop: float
    denoise_ms: float
    denoise_to_floor: float
    picture_bytes: int
    decode_ms: float
    decode_to_floor: float


def call_flop(config: ModelConfig, frames: int) -> int:
    """Arithmetic of one call of the denoiser for a block, 2 for each multiplication with its addition.

    With F frames, n tokens a frame, T = F n queries, S = n + context_frames n + T keys, width D, token channels c,
    audio width A, and E and P numbers of expression and pose with their flags, each of the layers takes
        6 T D D (q, k, v) + 4 T S D (attention) + 2 T D D (out) + 16 T D D (MLP) + 12 F D D (modulation)
    and around them come
        4 T c D (embedding, head) + 4 F D D (the head's modulation) + 2 F (4 D D + 2 A D + (E + P) D) (conditions).
    """
    n, d = config.frame_tokens, config.width
    t = frames * n
    s = n + config.context_frames * n + t
    flags = config.expressions + 1 + config.pose_axes + 1
    layer = 6 * t * d * d + 4 * t * s * d + 2 * t * d * d + 16 * t * d * d + 12 * frames * d * d
    around = 4 * t * config.token_channels * d + 4 * frames * d * d
    conditions = 2 * frames * (4 * d * d + 2 * config.audio_width * d + flags * d)
    total: int = config.depth * layer + around + conditions
    return total


def denoise_flop(config: ModelConfig, frames: int, steps: int, stressed: bool = False) -> int:
    """Of one block: a call for each step, one that writes its keys and values, and one for what the mouth says where
    the model has that drawn without chance.
    """
    return (steps + 1 + stressed) * call_flop(config, frames)


def measure_floor(
    config: ModelConfig, info: WorkerInfo, denoise_ms: float | None, decode_ms: float | None, stressed: bool = False
) -> Floor:
    """stressed: see denoise_flop. denoise_ms: of a block of info.block_frames. decode_ms: of a picture. None for what
    the worker's own warm-up measured.
    """
    gflop_per_s, gb_per_s = matmul_gflop_per_s(), copy_gb_per_s()
    gflop = denoise_flop(config, info.block_frames, info.steps, stressed) / 1e9
    picture_bytes = 3 * info.picture_px**2
    block_ms = (info.steps + 1) * info.denoise_ms[info.block_frames] if denoise_ms is None else denoise_ms
    picture_ms = info.decode_ms if decode_ms is None else decode_ms
    return Floor(
        matmul_gflop_per_s=gflop_per_s,
        copy_gb_per_s=gb_per_s,
        block_frames=info.block_frames,
        denoise_gflop=gflop,
        denoise_ms=block_ms,
        denoise_to_floor=block_ms / (1e3 * gflop / gflop_per_s),
        picture_bytes=picture_bytes,
        decode_ms=picture_ms,
        decode_to_floor=picture_ms / (picture_bytes / gb_per_s / 1e6),
    )


def matmul_gflop_per_s() -> float:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((_MATRIX_SIDE, _MATRIX_SIDE), np.float32) for _ in range(2))
    out = np.empty_like(a)
    return 2 * _MATRIX_SIDE**3 / 1e9 / _best_s(lambda: np.matmul(a, b, out=out))


def copy_gb_per_s() -> float:
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.zeros_like(source)
    return _COPY_BYTES / 1e9 / _best_s(lambda: np.copyto(target, source))


def _best_s(call: Callable[[], object]) -> float:
    """The shortest time of a call among those that fit into a moment: a floor is what is possible."""
    call()
    best, until = float("inf"), perf_counter() + _LEAST_S
    while perf_counter() < until or best == float("inf"):
        began = perf_counter()
        call()
        best = min(best, perf_counter() - began)
    return best
