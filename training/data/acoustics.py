"""What lies between a mouth and the samples: timbre, room, microphone, background noise.

Every filter here is zero-phase or starts at its direct path, so phone times stay as they are.
"""

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
    """The sound of one speaker's recording.

    tilt_db: gain per octave above 500 Hz. bumps: (centre_hz, width in octaves, gain_db). low_hz, high_hz: the band
    that passes. room_s: time to decay by 60 dB, 0 for none. wet: energy of the room relative to the direct sound.
    """

    tilt_db: float
    bumps: tuple[tuple[float, float, float], ...]
    low_hz: float
    high_hz: float
    room_s: float
    wet: float


def draw_colour(rng: np.random.Generator) -> Colour:
    """A random recording: mostly a plain microphone, sometimes a small room, sometimes a telephone."""
    bumps = tuple(
        (float(np.exp(rng.uniform(np.log(200), np.log(6000)))), float(rng.uniform(0.3, 1.0)), float(rng.normal(0, 3.0)))
        for _ in range(3)
    )
    telephone = rng.random() < 0.06
    low_hz = 300.0 if telephone else float(rng.uniform(20, 110))
    high_hz = 3400.0 if telephone else float(rng.choice([7800.0, 7800.0, 7000.0, 5500.0]))
    room_s = float(rng.uniform(0.12, 0.45)) if rng.random() < 0.4 else 0.0
    return Colour(float(rng.normal(0, 1.2)), bumps, low_hz, high_hz, room_s, float(rng.uniform(0.02, 0.2)))


def apply_colour(audio: Floats, colour: Colour, rng: np.random.Generator) -> Floats:
    """Filter speech [N]; same length, same timing."""
    room = _room(colour, rng)
    size = next_fast_len(len(audio) + len(room) + SAMPLE_RATE_HZ // 4, real=True)
    spectrum = rfft(audio, size) * _gain(rfftfreq(size, 1 / SAMPLE_RATE_HZ), colour).astype(np.float32)
    if len(room) > 1:
        spectrum *= rfft(room, size)
    return irfft(spectrum, size)[: len(audio)].astype(np.float32)


def noise_floor(rng: np.random.Generator, samples: int, level_dbfs: float) -> Floats:
    """Steady background noise [samples], 1/f-like with a random slope, at an RMS level below full scale."""
    size = next_fast_len(samples, real=True)
    frequency = np.maximum(rfftfreq(size, 1 / SAMPLE_RATE_HZ), 30.0)
    spectrum = rfft(rng.standard_normal(size)) * frequency ** -rng.uniform(0.0, 0.8)
    noise = irfft(spectrum, size)[:samples]
    return (noise * 10 ** (level_dbfs / 20) / max(float(np.sqrt(np.mean(noise**2))), 1e-9)).astype(np.float32)


def _gain(frequency_hz: Spectrum, colour: Colour) -> Spectrum:
    octaves = np.log2(np.maximum(frequency_hz, 20.0) / 500.0)
    gain_db = colour.tilt_db * np.clip(octaves, -3, 4)
    for centre_hz, width, bump_db in colour.bumps:
        gain_db = gain_db + bump_db * np.exp(-(((octaves - np.log2(centre_hz / 500.0)) / width) ** 2))
    edges = (frequency_hz / colour.low_hz) ** 8, (frequency_hz / colour.high_hz) ** 12
    gain: Spectrum = 10 ** (gain_db / 20) * edges[0] / (1 + edges[0]) / (1 + edges[1])
    return gain


def _room(colour: Colour, rng: np.random.Generator) -> Floats:
    """An impulse response: the direct path, then noise that decays exponentially."""
    if colour.room_s == 0:
        return np.ones(1, np.float32)
    length = int(colour.room_s * SAMPLE_RATE_HZ)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail[: int(0.003 * SAMPLE_RATE_HZ)] = 0
    tail *= np.sqrt(colour.wet / np.sum(tail**2))
    tail[0] = 1
    return tail.astype(np.float32)
