"""How a checkpoint wants to be sampled, from what its training wrote into it."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from engine.backends.base import Sampling
from engine.errors import UnreadableFileError

TEACHER = Sampling(sampler="euler", steps=30, first_steps=30, time_shift=1.5)
STUDENT = Sampling(
    sampler="consistency", steps=2, first_steps=4, time_shift=1.5, noise_scale=0.9, easing=0.35
)  # fmt: skip
"""noise_scale and easing: see the lab notes of 2026-11-23, "hearing more in the voice"."""


def sampling_of(checkpoint: Path) -> Sampling:
    """The checkpoint's own `sampling` if it has one; else a student's, or a teacher's for a model that is no student.

    A teacher without guidance is worse than training's samples of it, since bundles know no guidance.
    Raises UnreadableFileError.
    """
    try:
        with safe_open(checkpoint, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})["meta"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise UnreadableFileError(f"{checkpoint} is no checkpoint of a training run") from error
    if "sampling" in meta:
        return Sampling.from_dict(meta["sampling"])
    return TEACHER if meta.get("stage") == "teacher" else STUDENT
