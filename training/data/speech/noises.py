"""What else a microphone hears: hiss, mains hum, a fan, a street, other people talking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

from engine.types import SAMPLE_RATE_HZ
from training.data.truth import Floats

NOISES: tuple[str, ...] = ("hiss", "hum", "fan", "street", "babble")
BABBLE_LAYERS = 8


def make_noise(kind: str, rng: np.random.Generator, samples: int, voices: Sequence[Floats] = ()) -> Floats:
    """Background sound [samples] of RMS 1. `babble` is made of the given voices; without any it is a street."""
    if kind == "hum":
        return _normal(_hum(rng, samples))
    if kind == "fan":
        return _normal(_fan(rng, samples))
    if kind == "babble" and voices:
        return _normal(_babble(rng, samples, voices))
    if kind in ("street", "babble"):
        return _normal(_street(rng, samples))
    return _normal(_sloped(rng, samples, rng.uniform(0.0, 0.8)))


def _normal(noise: Floats) -> Floats:
    return (noise / max(float(np.sqrt(np.mean(noise**2))), 1e-9)).astype(np.float32)


def _sloped(rng: np.random.Generator, samples: int, slope: float) -> Floats:
    """Noise whose amplitude falls with frequency to the power of -slope."""
    size = next_fast_len(samples, real=True)
    frequency = np.maximum(rfftfreq(size, 1 / SAMPLE_RATE_HZ), 30.0)
    return irfft(rfft(rng.standard_normal(size)) * frequency**-slope, size)[:samples].astype(np.float32)


def _hum(rng: np.random.Generator, samples: int) -> Floats:
    """Mains at 50 or 60 Hz with its harmonics, over a little hiss."""
    time_s = np.arange(samples) / SAMPLE_RATE_HZ
    mains_hz = float(rng.choice([50.0, 60.0]))
    hum = np.zeros(samples)
    for harmonic in range(1, 9):
        level = rng.uniform(0.2, 1.0) / harmonic
        hum += level * np.sin(2 * np.pi * (harmonic * mains_hz * time_s + rng.random()))
    return (hum + 0.1 * _normal(_sloped(rng, samples, 0.4))).astype(np.float32)


def _fan(rng: np.random.Generator, samples: int) -> Floats:
    """Air noise, a blade tone and its slow beat."""
    time_s = np.arange(samples) / SAMPLE_RATE_HZ
    blades_hz, beat_hz = rng.uniform(70, 260), rng.uniform(0.3, 2.0)
    tone = sum(np.sin(2 * np.pi * (k * blades_hz * time_s + rng.random())) / k for k in (1, 2, 3))
    beat = 1 + 0.3 * np.sin(2 * np.pi * (beat_hz * time_s + rng.random()))
    return (beat * (_normal(_sloped(rng, samples, rng.uniform(0.6, 1.0))) + rng.uniform(0.1, 0.5) * tone)).astype(
        np.float32
    )


def _street(rng: np.random.Generator, samples: int) -> Floats:
    """Low rumble that swells as if vehicles passed."""
    time_s = np.arange(samples) / SAMPLE_RATE_HZ
    swell = np.full(samples, 0.3)
    for _ in range(rng.integers(1, 4)):
        centre, width = rng.uniform(0, time_s[-1] + 1e-3), rng.uniform(0.6, 2.5)
        swell += rng.uniform(0.3, 1.5) * np.exp(-(((time_s - centre) / width) ** 2))
    return (swell * _normal(_sloped(rng, samples, rng.uniform(0.8, 1.3)))).astype(np.float32)


def _babble(rng: np.random.Generator, samples: int, voices: Sequence[Floats]) -> Floats:
    """Many voices at once, some of them backwards, so that few utterances make a crowd without words."""
    crowd = np.zeros(samples, np.float32)
    for _ in range(BABBLE_LAYERS):
        voice = voices[int(rng.integers(len(voices)))]
        voice = voice[::-1] if rng.random() < 0.5 else voice
        layer = np.resize(np.roll(voice, int(rng.integers(len(voice)))), samples)
        crowd += np.float32(rng.uniform(0.3, 1.0)) * layer
    return crowd
