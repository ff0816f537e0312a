"""What a voice alone says about the mouth: loudness and articulation, one value a frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.types import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from training.data.truth import Floats

VOICED_HZ = (300.0, 3000.0)
"""The first formants: loud when the mouth is open, weak in hisses, closures and hum."""

_FLOOR_DB = -40.0
_COMPRESSION = 0.25
"""Energy to this power grows about as the opening does."""


def loudness(voice: Floats) -> Floats:
    """Level of every frame in dB above 40 dB below the loudest, [F] from float32 [N] at 16 kHz."""
    level = 10 * np.log10(_frame_energy(voice) + 1e-10)
    return np.maximum(level - level.max(), _FLOOR_DB).astype(np.float32) - _FLOOR_DB if len(level) else level


def articulation(voice: Floats) -> Floats:
    """Compressed energy between 300 and 3000 Hz, [F], smoothed over three frames as lips are."""
    energy = _frame_energy(_band(voice)) ** _COMPRESSION
    padded = np.pad(energy, 1, "edge")
    return (0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]).astype(np.float32)


def _band(voice: Floats) -> Floats:
    spectrum = np.fft.rfft(voice.astype(np.float64))
    hz = np.fft.rfftfreq(len(voice), 1 / SAMPLE_RATE_HZ)
    spectrum[(hz < VOICED_HZ[0]) | (hz > VOICED_HZ[1])] = 0
    return np.fft.irfft(spectrum, len(voice)).astype(np.float32)


def _frame_energy(voice: Floats) -> NDArray[np.float64]:
    frames = -(-len(voice) // SAMPLES_PER_FRAME)
    padded = np.zeros(frames * SAMPLES_PER_FRAME)
    padded[: len(voice)] = voice
    return np.asarray((padded.reshape(frames, SAMPLES_PER_FRAME) ** 2).mean(1))
