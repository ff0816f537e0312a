"""What parity, calibration and timing are measured on: portraits and a voice, or stand-ins where none are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.audio.features import log_mel
from engine.audio.windows import frame_windows
from engine.backends.base import REFERENCE_PX, Floats, Sampling
from engine.portrait.planes import to_planes
from engine.types import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME


@dataclass(frozen=True, slots=True)
class Scene:
    """What a roll-out starts from. small [1, 3, 128, 128] and large [1, 3, P, P] in [-1, 1]: one portrait twice.
    windows: log-mel windows [F, 32, 80] of the voice, F the sum of blocks (frames of each block).
    """

    small: Floats
    large: Floats
    windows: Floats
    blocks: tuple[int, ...]
    seed: int = 0


def block_lengths(sampling: Sampling, blocks: int) -> tuple[int, ...]:
    """The first block and those after it, as the engine makes them."""
    return (sampling.first_block_frames, *[sampling.block_frames] * (blocks - 1))


def make_scenes(
    portraits: Sequence[NDArray[np.uint8]], pcm: Floats | None, blocks: tuple[int, ...], side: int = 256
) -> list[Scene]:
    """One scene for each portrait (canonical crops, RGB uint8, square); stand-ins for portraits and voice if none."""
    pictures = list(portraits) or [stand_in_portrait(seed) for seed in range(4)]
    voice = stand_in_voice() if pcm is None or not len(pcm) else pcm
    frames = sum(blocks)
    scenes = []
    for seed, picture in enumerate(pictures):
        heard = np.resize(np.roll(voice, -seed * SAMPLE_RATE_HZ), (frames + 8) * SAMPLES_PER_FRAME)
        windows = frame_windows(log_mel(heard.astype(np.float32)), 0, frames)
        scenes.append(Scene(_planes(picture, REFERENCE_PX), _planes(picture, side), windows, blocks, seed))
    return scenes


def stand_in_portrait(seed: int, side: int = 256) -> NDArray[np.uint8]:
    """Smooth random colour with some detail; enough to compare numbers, not to judge faces."""
    random = np.random.default_rng(seed)
    layers = [
        cv2.resize(random.uniform(0, 255, (cells, cells, 3)).astype(np.float32), (side, side)) for cells in (4, 16, 64)
    ]
    picture: NDArray[np.uint8] = np.average(layers, axis=0, weights=(5, 3, 1)).astype(np.uint8)
    return picture


def stand_in_voice(seconds: float = 4.0) -> Floats:
    """Noise that swells four times a second, as syllables do."""
    time = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.1 * noise * np.sin(4 * np.pi * time) ** 2).astype(np.float32)


def _planes(picture: NDArray[np.uint8], side: int) -> Floats:
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return to_planes(small)
