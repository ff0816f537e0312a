"""Frames a second here, from a voice to JPEG pictures, everything counted. Measured in seconds, and kept."""

from __future__ import annotations

from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from apps.bench.setup import PICTURES, Settings, read_voice, shipped
from engine.backends.cache import Memory
from engine.backends.choose import situation
from engine.backends.registry import candidates, open_auto
from engine.bundle import Bundle, find_bundle
from engine.engine import AvatarEngine
from engine.types import SAMPLE_RATE_HZ, AvatarState
from engine.vad import frame_count

SIZES_PX = (256, 512)
_SECONDS = 1.5
"""For each size, beside opening the model."""
_LEAST_BLOCKS = 2
"""However slow the machine is."""
_VOICE_S = 40
_MEMORY = Memory("speed.json")


def kept_speed(bundle: Bundle, backend: str) -> dict[str, Any] | None:
    """What was measured with this backend before, unless model, machine or libraries have changed since."""
    return _MEMORY.recall().get(_key(bundle, backend))


def measure_speed() -> dict[str, Any]:
    """Measure every backend that `auto` may take, then the speed with the best; both are kept. Raises AvatarError."""
    bundle = find_bundle()
    backend, opened = open_auto(bundle, again=True)
    with AvatarEngine(opened, bundle.name) as engine:
        fps = {str(size): round(frames_per_second(engine, size), 1) for size in SIZES_PX}
    speed = {"backend": backend, "fps": fps, "measured": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    _MEMORY.keep(_key(bundle, backend), speed)
    return speed


def frames_per_second(engine: AvatarEngine, size_px: int, seconds: float = _SECONDS) -> float:
    """One block after the other on a shipped portrait and voice: what a live session reaches at least, since there
    the stages overlap. Raises FileMissingError where nothing is shipped.
    """
    pcm = np.resize(read_voice(Settings()), _VOICE_S * SAMPLE_RATE_HZ)
    states = np.full(frame_count(pcm), AvatarState.SPEAKING, np.int8)
    portrait = shipped(None, "portraits", PICTURES)
    arrivals: list[tuple[float, int]] = []
    """Of each block: when, and how many frames came before it."""
    timing: dict[str, float] | None = None
    for index, frame in enumerate(engine.generate(portrait, pcm, states=states, size=size_px)):
        if frame.timing is not timing:
            timing = frame.timing
            arrivals.append((perf_counter(), index))
            if len(arrivals) > _LEAST_BLOCKS and arrivals[-1][0] - arrivals[0][0] > seconds:
                break
        cv2.imencode(".jpg", frame.image)
    # The first block is shorter, and finds nothing warm.
    (begun, before), (ended, after) = arrivals[min(1, len(arrivals) - 1)], arrivals[-1]
    return (after - before) / (ended - begun) if ended > begun else 0.0


def _key(bundle: Bundle, backend: str) -> str:
    return f"{situation(candidates(bundle), bundle, None)}-{backend}"
