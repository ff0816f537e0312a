"""Where a person sits: background pictures (walls, gradients, out-of-focus rooms and lights) and the light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.heads.mesh import Floats


@dataclass(frozen=True, slots=True)
class Light:
    """Unit directions towards the lights and linear colours."""

    key: Floats
    fill: Floats
    rim: Floats
    key_colour: Floats
    fill_colour: Floats
    rim_colour: Floats
    sky: Floats
    ground: Floats

    def exposed_for(self, tone: tuple[float, float, float]) -> Light:
        """The same light as a photographer would expose it for a skin tone (sRGB in [0, 255])."""
        brightness = float(np.mean(np.square(np.array(tone) / 255)))
        gain = np.float32(np.clip((0.30 / brightness) ** 0.65, 0.50, 1.3))
        return Light(
            self.key, self.fill, self.rim, self.key_colour * gain, self.fill_colour * gain, self.rim_colour * gain,
            self.sky * gain, self.ground * gain,
        )  # fmt: skip


Range = tuple[float, float]

_SETTINGS: dict[str, tuple[float, Range, Range, Range, Range]] = {
    "studio": (0.44, (8, 58), (18, 48), (-0.09, 0.11), (0.0, 1.0)),
    "overcast": (0.14, (0, 40), (35, 60), (-0.08, 0.02), (0.0, 0.2)),
    "window": (0.18, (52, 78), (5, 30), (-0.12, 0.0), (0.5, 1.0)),
    "lamp": (0.14, (25, 65), (10, 40), (0.12, 0.24), (0.4, 0.9)),
    "screen": (0.10, (0, 20), (-12, 8), (-0.18, -0.06), (0.1, 0.6)),
}
"""Share of people, then ranges of the key's azimuth and height (degrees), warmth and contrast."""


def sample_light(rng: np.random.Generator) -> Light:
    """A key of one of `_SETTINGS`, weak fill opposite, rim from behind (white or tinted), sky."""
    names = list(_SETTINGS)
    setting = _SETTINGS[names[rng.choice(len(names), p=[_SETTINGS[name][0] for name in names])]]
    side = rng.choice([-1.0, 1.0])
    azimuth, height, warmth, contrast = (float(rng.uniform(*limits)) for limits in setting[1:])
    warm = np.array([1 + warmth, 1, 1 - warmth])
    strength = rng.uniform(0.85, 1.15)
    tint = 1 + rng.uniform(-0.35, 0.35) * np.array([1.0, 0.0, -1.0]) * (rng.random() < 0.4)
    return Light(
        key=_direction(side * azimuth, height),
        fill=_direction(-side * rng.uniform(25, 65), rng.uniform(0, 25)),
        rim=_direction(-side * rng.uniform(125, 160), rng.uniform(15, 40)),
        key_colour=_f32(warm * strength * (0.85 + 0.58 * contrast)),
        fill_colour=_f32((2 - warm) * strength * (0.42 - 0.25 * contrast)),
        rim_colour=_f32(tint * rng.uniform(0.1, 1.3)),
        sky=_f32(np.array([0.34, 0.353, 0.374]) * strength * (1.1 - 0.5 * contrast)),
        ground=_f32(np.array([0.22, 0.195, 0.18]) * strength * (1.1 - 0.5 * contrast)),
    )


def _direction(azimuth_deg: float, height_deg: float) -> Floats:
    a, h = np.radians([azimuth_deg, height_deg])
    return _f32([np.sin(a) * np.cos(h), np.sin(h), np.cos(a) * np.cos(h)])


def _f32(values: object) -> Floats:
    return np.asarray(values, np.float32)


def sample_background(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """A muted background picture, uint8 [size, size, 3], row 0 at the top."""
    painter = (_gradient, _wall, _room, _room, _lights, _outdoors, _shelf)[rng.integers(7)]
    picture = painter(rng, 256)
    picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 0.004, (size, size, 1)).astype(np.float32)
    return (np.clip(picture + grain, 0, 1) * 255).astype(np.uint8)


def _colour(rng: np.random.Generator, low: float = 0.25, high: float = 0.8, saturation: float = 0.30) -> Floats:
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(0.02, saturation), rng.uniform(low, high)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def _grid(n: int) -> tuple[Floats, Floats]:
    axis = (np.arange(n, dtype=np.float32) + 0.5) / n
    return np.meshgrid(axis, axis)


def _gradient(rng: np.random.Generator, n: int) -> Floats:
    x, y = _grid(n)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = 0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    glow = np.exp(-((x - rng.uniform(0.3, 0.7)) ** 2 + (y - rng.uniform(0.25, 0.6)) ** 2) / rng.uniform(0.1, 0.4))
    base = _colour(rng)
    other = np.clip(base * rng.uniform(0.55, 1.1) + rng.normal(0, 0.03, 3), 0, 1)
    picture = base + (other - base) * np.clip(ramp, 0, 1)[..., None]
    return np.clip(picture * (0.75 + 0.4 * glow[..., None]), 0, 1).astype(np.float32)


def _wall(rng: np.random.Generator, n: int) -> Floats:
    x, y = _grid(n)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (n, n)).astype(np.float32), (0, 0), rng.uniform(1.0, 5.0))
    noise /= noise.std() + 1e-6
    falloff = 1 - rng.uniform(0.1, 0.4) * ((x - rng.uniform(0, 1)) ** 2 + (y - rng.uniform(0, 0.6)) ** 2)
    return np.clip(_colour(rng, 0.45, 0.9, 0.18) * (falloff + 0.008 * noise)[..., None], 0, 1).astype(np.float32)


def _room(rng: np.random.Generator, n: int) -> Floats:
    """Wall, floor, and blocks for windows, shelves, frames and plants, thrown out of focus."""
    picture = np.empty((n, n, 3), np.float32)
    wall = _colour(rng, 0.4, 0.85, 0.16)
    picture[:] = wall
    corner = int(rng.uniform(-0.2, 1.2) * n)
    picture[:, : max(corner, 0)] *= rng.uniform(0.78, 0.95)
    for _ in range(rng.integers(3, 9)):
        x, y = (int(v) for v in rng.uniform(-0.15, 1.0, 2) * n)
        w, h = (int(v) for v in rng.uniform(0.06, 0.38, 2) * n)
        colour = _colour(rng, 0.12, 0.75, 0.35)
        cv2.rectangle(picture, (x, y), (x + w, y + h), tuple(float(c) for c in colour), -1)
        for k in range(int(rng.integers(0, 5))):
            book = _colour(rng, 0.15, 0.8, 0.4)
            left = x + k * w // 5
            cv2.rectangle(picture, (left, y + h // 4), (left + w // 6, y + h), tuple(float(c) for c in book), -1)
    if rng.random() < 0.6:
        x, y = int(rng.uniform(-0.1, 0.9) * n), int(rng.uniform(0, 0.3) * n)
        w, h = int(rng.uniform(0.15, 0.35) * n), int(rng.uniform(0.3, 0.6) * n)
        cv2.rectangle(picture, (x, y), (x + w, y + h), (1.0, 1.0, 0.97), -1)
        cv2.line(picture, (x + w // 2, y), (x + w // 2, y + h), (0.55, 0.55, 0.55), 3)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(5, 16))
    _, y = _grid(n)
    return np.clip(picture * (1.05 - 0.3 * y[..., None]), 0, 1)


def _blurred(rng: np.random.Generator, n: int, sigma: float) -> Floats:
    """Smooth noise of unit variance, [n, n]."""
    noise = cv2.GaussianBlur(rng.standard_normal((n, n), np.float32), (0, 0), sigma)
    return noise / (noise.std() + 1e-6)


def _outdoors(rng: np.random.Generator, n: int) -> Floats:
    """Sky above trees or houses above a lawn or a street, far out of focus, with light between the leaves."""
    _, y = _grid(n)
    sky, ground = np.float32([0.72, 0.82, 0.93]), _colour(rng, 0.30, 0.55, 0.25)
    sky = sky * rng.uniform(0.75, 1.05) + np.float32([0.08, 0.0, -0.08]) * rng.uniform(0, 1)
    far = (
        _colour(rng, 0.25, 0.60, 0.20) if rng.random() < 0.4 else np.float32([0.22, 0.29, 0.17]) * rng.uniform(0.8, 1.6)
    )
    roof = rng.uniform(0.05, 0.45) + 0.05 * _blurred(rng, n, n / 14)[:1]
    horizon = rng.uniform(0.55, 0.8)
    leaves = 1 + 0.22 * _blurred(rng, n, n / 50) + 0.18 * _blurred(rng, n, n / 16)
    picture = np.where((y < roof)[..., None], sky * (1.05 - 0.15 * y[..., None]), far * leaves[..., None])
    picture = np.where((y > horizon)[..., None], ground * (1 + 0.06 * _blurred(rng, n, n / 30))[..., None], picture)
    gaps = np.clip(_blurred(rng, n, n / 60) - 1.6, 0, 1) * (y < horizon) * (y > roof)
    picture = picture.astype(np.float32) + gaps[..., None].astype(np.float32) * sky
    return np.clip(cv2.GaussianBlur(picture, (0, 0), rng.uniform(3, 9)), 0, 1)


def _shelf(rng: np.random.Generator, n: int) -> Floats:
    """A wall of shelves with books of many heights, each shelf shaded by the one above, and a lamp."""
    picture = np.empty((n, n, 3), np.float32)
    wood = np.float32([0.52, 0.38, 0.26]) if rng.random() < 0.6 else np.float32([0.80, 0.79, 0.76])
    picture[:] = wood * rng.uniform(0.5, 0.8)
    step = int(rng.uniform(0.20, 0.32) * n)
    for top in range(-int(rng.integers(step)), n, step):
        x = int(rng.integers(-8, 4))
        while x < n:
            width, height = int(rng.uniform(0.015, 0.05) * n), int(step * rng.uniform(0.55, 0.88))
            colour = tuple(float(c) for c in _colour(rng, 0.12, 0.75, 0.38))
            if rng.random() < 0.85:
                cv2.rectangle(picture, (x, top + step - height), (x + width, top + step), colour, -1)
            x += width + 1
        cv2.rectangle(picture, (0, top + step - 5), (n, top + step), tuple(float(c) for c in wood), -1)
        shade = np.linspace(0.55, 1.0, step // 2, dtype=np.float32)[:, None, None]
        low = max(top, 0)
        rows = picture[low : max(top + step // 2, 0)]
        rows *= shade[len(shade) - len(rows) :]
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(2.5, 7))
    x, y = _grid(n)
    lamp = np.exp(-((x - rng.uniform(0, 1)) ** 2 + (y - rng.uniform(0, 0.6)) ** 2) / rng.uniform(0.08, 0.4))
    warm = np.float32([1.0, 0.86, 0.66])
    return np.clip(picture * (0.65 + 0.6 * lamp[..., None] * warm), 0, 1)


def _lights(rng: np.random.Generator, n: int) -> Floats:
    """Foliage or street with discs of light."""
    base = _colour(rng, 0.15, 0.45, 0.25)
    noise = rng.normal(0, 1, (n, n, 1)) + 0.25 * rng.normal(0, 1, (n, n, 3))
    cloud = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), rng.uniform(10, 26))
    picture = base + cloud / cloud.std() * 0.06
    for _ in range(rng.integers(6, 26)):
        disc = np.zeros((n, n), np.float32)
        centre = tuple(int(v) for v in rng.uniform(0, 1, 2) * n)
        cv2.circle(disc, centre, int(rng.uniform(0.02, 0.07) * n), 1.0, -1, cv2.LINE_AA)
        disc = cv2.GaussianBlur(disc, (0, 0), 2.0)
        picture += disc[..., None] * _colour(rng, 0.6, 1.0, 0.3) * rng.uniform(0.06, 0.22)
    return np.clip(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.5), 0, 1)
