"""How far the axes of all graphs may vary: one engine for every block length, tuned for the usual one, since an engine
for each of them would multiply build time, disk and memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.backends.base import REFERENCE_PX, Sampling
from engine.backends.gpu.build import Range
from engine.model.config import ModelConfig

SESSIONS = 8
"""Most of them in one call; as many as engine.scheduler puts into a batch."""
WINDOWS = "windows"
"""Axis of the audio stage: it takes windows of many sessions at once, so this is longer than a block."""

_VOICES = 2
"""Both parties' windows are encoded in one call."""
_USUAL_PX, _LARGEST_PX = 512, 1024


def ranges(config: ModelConfig, sampling: Sampling) -> Mapping[str, Range]:
    """Least, usual and most of each axis, by its name in the graphs."""
    most = max(config.block_lengths)
    return {
        "sessions": (1, 1, SESSIONS),
        "frames": (1, sampling.block_frames, most),
        WINDOWS: (1, _VOICES * sampling.block_frames, _VOICES * most * SESSIONS),
        "side": (REFERENCE_PX, _USUAL_PX, _LARGEST_PX),
    }
