"""The timbre of a voice: spectral tilt, resonances, band. Zero-phase, so phone times stay as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

from engine.types import SAMPLE_RATE_HZ
from training.data.truth import Floats

Spectrum = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Colour:
    """tilt_db: gain per octave above 500 Hz. bumps: (centre_hz, width in octaves, gain_db). low_hz, high_hz: the band
    that passes."""

    tilt_db: float
    bumps: tuple[tuple[float, float, float], ...]
    low_hz: float
    high_hz: float


PLAIN = Colour(0.0, (), 20.0, 7900.0)


def draw_colour(rng: np.random.Generator) -> Colour:
    """A random timbre."""
    bumps = tuple(
        (float(np.exp(rng.uniform(np.log(200), np.log(6000)))), float(rng.uniform(0.3, 1.0)), float(rng.normal(0, 3.0)))
        for _ in range(3)
    )
    return Colour(float(rng.normal(0, 1.2)), bumps, float(rng.uniform(20, 110)), float(rng.choice([7800.0, 7000.0])))


def apply_colour(audio: Floats, colour: Colour) -> Floats:
    """Filter speech [N]; same length, same timing."""
    if colour == PLAIN:
        return audio
    size = next_fast_len(len(audio) + SAMPLE_RATE_HZ // 4, real=True)
    spectrum = rfft(audio, size) * _gain(rfftfreq(size, 1 / SAMPLE_RATE_HZ), colour).astype(np.float32)
    return irfft(spectrum, size)[: len(audio)].astype(np.float32)


def _gain(frequency_hz: Spectrum, colour: Colour) -> Spectrum:
    octaves = np.log2(np.maximum(frequency_hz, 20.0) / 500.0)
    gain_db = colour.tilt_db * np.clip(octaves, -3, 4)
    for centre_hz, width, bump_db in colour.bumps:
        gain_db = gain_db + bump_db * np.exp(-(((octaves - np.log2(centre_hz / 500.0)) / width) ** 2))
    edges = (frequency_hz / colour.low_hz) ** 8, (frequency_hz / colour.high_hz) ** 12
    gain: Spectrum = 10 ** (gain_db / 20) * edges[0] / (1 + edges[0]) / (1 + edges[1])
    return gain
