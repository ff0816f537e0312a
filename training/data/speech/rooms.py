"""Rooms: impulse responses of boxes, by the image-source method.

Method: J. B. Allen and D. A. Berkley, "Image method for efficiently simulating small-room acoustics", JASA 65 (1979).
Images give the early reflections; the tail, where they are too many to tell apart, is noise that decays at the same
rate (Eyring's formula), as is usual. The direct sound lies at sample 0, so a room does not delay speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from engine.types import SAMPLE_RATE_HZ
from training.data.truth import Floats

SOUND_M_S = 343.0
IMAGE_ORDER = 3
"""Reflections per axis; with the tail from MIX_S on, more are not told apart."""
MIX_S = 0.04
LONGEST_S = 0.6


@dataclass(frozen=True, slots=True)
class Room:
    """size_m: width, depth, height. mouth_m, microphone_m: places in it. absorption: share of energy that a wall takes,
    in (0, 1)."""

    size_m: tuple[float, float, float]
    mouth_m: tuple[float, float, float]
    microphone_m: tuple[float, float, float]
    absorption: float

    @property
    def decay_s(self) -> float:
        """Time to decay by 60 dB, by Eyring: 0.161 V / (-S ln(1 - a))."""
        x, y, z = self.size_m
        surface = 2 * (x * y + y * z + x * z)
        return float(0.161 * x * y * z / (-surface * np.log1p(-self.absorption)))


def draw_room(rng: np.random.Generator) -> Room:
    """From a furnished office to a bare meeting room, the microphone 0.3 to 2 m from the mouth."""
    size = rng.uniform((2.2, 2.5, 2.3), (7.0, 8.0, 3.2))
    mouth = np.array([*(rng.uniform(0.3, 0.7, 2) * size[:2]), rng.uniform(1.1, 1.6)])
    angle, distance = rng.uniform(0, 2 * np.pi), float(np.exp(rng.uniform(np.log(0.3), np.log(2.0))))
    reach = distance * np.array([np.cos(angle), np.sin(angle), 0.2])
    microphone = np.clip(mouth + reach, 0.15, size - 0.15)
    return Room(_triple(size), _triple(mouth), _triple(microphone), float(rng.uniform(0.2, 0.65)))


def reverberate(audio: Floats, room: Room, rng: np.random.Generator) -> Floats:
    """Speech [N] as the microphone hears it; same length, the direct sound at its own time and level."""
    response = impulse_response(room, rng)
    size = next_fast_len(len(audio) + len(response), real=True)
    return irfft(rfft(audio, size) * rfft(response, size), size)[: len(audio)].astype(np.float32)


def impulse_response(room: Room, rng: np.random.Generator) -> Floats:
    """[N] at 16 kHz, 1 at sample 0 (the direct sound)."""
    length = int(min(max(room.decay_s, 0.08), LONGEST_S) * SAMPLE_RATE_HZ)
    delays, gains = _images(room)
    inside = delays < length
    response = np.bincount(delays[inside], gains[inside], length)[:length]
    start = int(MIX_S * SAMPLE_RATE_HZ)
    early = response[start // 2 : start]
    time_s = np.arange(length) / SAMPLE_RATE_HZ
    decay = 10 ** (-3 * (time_s - MIX_S) / max(room.decay_s, 0.05))
    level = np.sqrt(np.mean(early**2)) if early.any() else 0.0
    tail = rng.standard_normal(length) * decay * level
    response[start:] = tail[start:]
    response[0] = 1.0
    return response.astype(np.float32)


def _images(room: Room) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Delays in samples after the direct sound and gains relative to it, of all images."""
    size, mouth, microphone = (np.array(v) for v in (room.size_m, room.mouth_m, room.microphone_m))
    cells, flips = _lattice()
    places = 2 * cells * size + np.where(flips == 1, -mouth, mouth)
    distance = np.linalg.norm(places - microphone, axis=1)
    direct = np.linalg.norm(mouth - microphone)
    bounces = np.abs(2 * cells - flips).sum(1)
    gains = (1 - room.absorption) ** (bounces / 2) * direct / distance
    delays = np.round((distance - direct) / SOUND_M_S * SAMPLE_RATE_HZ).astype(np.int64)
    return delays[bounces > 0].clip(0), gains[bounces > 0]


@lru_cache(maxsize=1)
def _lattice() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    axis = np.arange(-IMAGE_ORDER, IMAGE_ORDER + 1)
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 1, 3)
    flips = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(1, -1, 3)
    full = np.broadcast_arrays(cells, flips)
    return full[0].reshape(-1, 3), full[1].reshape(-1, 3)


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
