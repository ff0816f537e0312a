"""Deterministic variety: one photograph becomes several people, lights, colours and framings."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Variant:
    """mirror: flip left and right. gain [3], gamma: colour. backdrop_hue_deg: turn of the hue away from the head.

    light [3]: direction of the light to show (camera frame), or None for the photograph's own.
    identity [K]: standard deviations added to the fitted shape. crop_scale, crop_shift [2] (fractions of the crop).
    """

    mirror: bool = False
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    backdrop_hue_deg: float = 0.0
    light: tuple[float, float, float] | None = None
    identity: tuple[float, ...] = ()
    crop_scale: float = 1.0
    crop_shift: tuple[float, float] = (0.0, 0.0)


def make_variant(number: int, n_identity: int) -> Variant:
    """Variant 0 is the photograph as it is; any other number is drawn from its own random stream."""
    if number == 0:
        return Variant()
    rng = np.random.default_rng([20, number])
    warmth, tint, level = rng.normal(0, [0.05, 0.02, 0.06])
    gain = np.exp([level + warmth, level - tint, level - warmth])
    # Low modes carry most of the shape, so all are drawn alike but the high ones are kept small.
    identity = rng.uniform(-0.9, 0.9, n_identity) * np.linspace(1, 0.3, n_identity)
    azimuth, height = rng.uniform(-1.1, 1.1), rng.uniform(0.0, 0.8)
    light = np.array([np.sin(azimuth), height, np.cos(azimuth)])
    return Variant(
        mirror=bool(rng.random() < 0.5),
        gain=tuple(float(g) for g in gain),
        gamma=float(np.exp(rng.normal(0, 0.1))),
        backdrop_hue_deg=float(rng.normal(0, 18)) if rng.random() < 0.5 else 0.0,
        light=tuple(float(x) for x in light / np.linalg.norm(light)) if rng.random() < 0.6 else None,
        identity=tuple(float(x) for x in identity),
        crop_scale=float(rng.uniform(0.92, 1.10)),
        crop_shift=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03))),
    )


def colour_texture(texture: NDArray[np.uint8], variant: Variant, head: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Apply the variant's colours. head: float [H, W] in [0, 1], 1 on the person."""
    out = texture
    if variant.backdrop_hue_deg:
        hls = cv2.cvtColor(texture, cv2.COLOR_RGB2HLS)
        hls[..., 0] = (hls[..., 0].astype(np.int32) + int(variant.backdrop_hue_deg / 2)) % 180
        turned = cv2.cvtColor(hls, cv2.COLOR_HLS2RGB)
        out = (turned + (texture.astype(np.float32) - turned) * head[..., None]).astype(np.uint8)
    if variant.gamma == 1.0 and variant.gain == (1.0, 1.0, 1.0):
        return out
    level = np.arange(256) / 255.0
    table = np.stack([level**variant.gamma * g for g in variant.gain], 1)
    # A soft shoulder instead of clipping keeps highlights from turning into flat coloured patches.
    table = np.where(table > 0.85, 0.85 + 0.15 * np.tanh((table - 0.85) / 0.15), table)
    table = np.clip(table * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.stack([table[:, k][out[..., k]] for k in range(3)], -1)
