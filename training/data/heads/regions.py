"""Regions of the face in the texture layout of hm08: where beards grow, skin shines, tires and folds.

Every region is a formula in places of the base mesh (dm), read through a map of places, so that it needs no painted
mask and holds for all identities: the layout does not change with them.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator

from training.data.heads.base import base_head, smoothstep
from training.data.heads.mesh import Floats

_COARSE = 256
_HEAD_BOX = (0.70, 0.28, 1.0, 0.69)
"""Texture coordinates (u, v) of the island of face and skull: low corner, high corner."""

BEARD_STYLES = ("moustache", "goatee", "full")


@functools.lru_cache(maxsize=3)
def place_map(side: int) -> Floats:
    """Place on the base mesh behind every texel of the head's island, [side, side, 3]; below the neck elsewhere."""
    mesh = base_head().mesh
    faces = mesh.groups == "body"
    vertices, corners = mesh.faces[faces].ravel(), mesh.face_texcoords[faces].ravel()
    uv, places = mesh.texcoords[corners], mesh.vertices[vertices]
    low, high = np.array(_HEAD_BOX[:2]), np.array(_HEAD_BOX[2:])
    mouth = (uv[:, 0] > 0.74) & (uv[:, 1] < 0.155)
    inside = ((uv >= low) & (uv <= high)).all(1) & ~mouth & (places[:, 1] > 5.5)
    uv, first = np.unique(uv[inside], axis=0, return_index=True)
    column, row = np.meshgrid(*[(np.arange(_COARSE) + 0.5) / _COARSE] * 2)
    wanted = np.stack([column, 1 - row], -1)
    nowhere = np.float32([0, -9, 0])
    picture = np.broadcast_to(nowhere, (_COARSE, _COARSE, 3)).copy()
    asked = ((wanted >= low) & (wanted <= high)).all(-1)
    found = LinearNDInterpolator(uv, places[inside][first])(wanted[asked])
    picture[asked] = np.where(np.isnan(found), nowhere, found)
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR)


def _near(places: Floats, centre: tuple[float, float, float], spread: tuple[float, float, float]) -> Floats:
    """Gaussian bump about a place, the same on both sides of the face."""
    offset = (places * np.float32([0, 1, 1]) + np.abs(places) * np.float32([1, 0, 0]) - centre) / np.float32(spread)
    return np.exp(-0.5 * np.square(offset).sum(-1)).astype(np.float32)


@functools.lru_cache(maxsize=8)
def beard_region(style: str, side: int) -> Floats:
    """Where a beard of one of BEARD_STYLES grows, [side, side] in [0, 1]; lips are not left out."""
    p = place_map(side)
    x, y, z = np.abs(p[..., 0]), p[..., 1], p[..., 2]
    lip = smoothstep(6.66, 6.71, y) * smoothstep(6.85, 6.79, y) * smoothstep(0.36, 0.24, x) * smoothstep(1.2, 1.35, z)
    round_mouth = smoothstep(0.40, 0.32, x) * smoothstep(0.24, 0.30, x) * smoothstep(6.35, 6.45, y)
    round_mouth = round_mouth * smoothstep(6.78, 6.70, y) * smoothstep(1.1, 1.25, z)
    chin = smoothstep(0.40, 0.26, x) * smoothstep(6.47, 6.40, y) * smoothstep(6.02, 6.14, y) * smoothstep(0.9, 1.1, z)
    if style == "moustache":
        return lip
    if style == "goatee":
        return np.maximum(np.maximum(lip, chin), round_mouth)
    upper = np.interp(x, (0.0, 0.28, 0.36, 0.50, 0.60, 0.68), (6.46, 6.46, 6.66, 6.74, 6.92, 7.24)).astype(np.float32)
    jaw = smoothstep(0.05, -0.05, y - upper) * smoothstep(5.90, 6.12, y) * smoothstep(0.30, 0.50, z)
    return np.maximum(np.maximum(lip, jaw), np.maximum(chin, round_mouth))


@functools.lru_cache(maxsize=4)
def shine_region(side: int) -> Floats:
    """Forehead, nose, cheekbones and chin, where skin is oily, [side, side] in [0, 1]."""
    p = place_map(side)
    bumps = (
        0.8 * _near(p, (0.0, 7.70, 1.45), (0.34, 0.14, 0.3)), _near(p, (0.0, 6.98, 1.62), (0.12, 0.16, 0.2)),
        0.6 * _near(p, (0.0, 6.28, 1.40), (0.14, 0.10, 0.2)), 0.5 * _near(p, (0.48, 7.06, 1.20), (0.12, 0.09, 0.2)),
    )  # fmt: skip
    return np.clip(sum(bumps), 0, 1)


@functools.lru_cache(maxsize=4)
def tired_region(side: int) -> Floats:
    """The thin skin under and around the eyes, [side, side] in [0, 1]."""
    p = place_map(side)
    under = _near(p, (0.29, 7.16, 1.36), (0.15, 0.055, 0.2))
    return np.clip(under + 0.7 * _near(p, (0.15, 7.25, 1.40), (0.06, 0.09, 0.2)), 0, 1)


@functools.lru_cache(maxsize=4)
def flushed_region(side: int) -> Floats:
    """Cheeks, nose and ears, where blood shows, [side, side] in [0, 1]."""
    p = place_map(side)
    nose = _near(p, (0.0, 6.92, 1.62), (0.17, 0.10, 0.2))
    cheeks = 0.8 * _near(p, (0.50, 6.95, 1.20), (0.17, 0.15, 0.3))
    ears = 0.7 * _near(p, (0.80, 7.05, 0.25), (0.10, 0.30, 0.25))
    return np.clip(nose + cheeks + ears, 0, 1)


@functools.lru_cache(maxsize=1)
def fold_map(side: int = 512) -> NDArray[np.uint8]:
    """Depth of the folds that face units draw, uint8 [side, side, 4].

    Channels: lines across the forehead (brows up), lines between the brows (brows down), rays at the outer corners of
    the eyes (smile, squint), the fold from nose to mouth (smile, sneer).
    """
    p = place_map(side)
    x, y, z = np.abs(p[..., 0]), p[..., 1], p[..., 2]
    wave = 0.5 + 0.5 * np.cos((y - 7.60 + 0.10 * x**2) * 2 * np.pi / 0.105)
    forehead = wave**3 * smoothstep(7.52, 7.60, y) * smoothstep(7.98, 7.86, y) * smoothstep(0.52, 0.30, x)
    brow = np.exp(-(((x - 0.055) / 0.016) ** 2)) * smoothstep(7.36, 7.42, y) * smoothstep(7.58, 7.50, y)
    reach, angle = np.hypot(x - 0.43, y - 7.28), np.arctan2(y - 7.28, x - 0.43)
    rays = (0.5 + 0.5 * np.cos(angle * 11)) ** 4 * (np.abs(angle) < 0.9)
    rays = rays * smoothstep(0.03, 0.07, reach) * smoothstep(0.20, 0.12, reach)
    at = np.clip((6.90 - y) / 0.33, 0, 1)
    curve = 0.19 + 0.17 * at - 0.03 * at**2
    cheek = np.exp(-(((x - curve) / 0.022) ** 2)) * smoothstep(6.94, 6.86, y) * smoothstep(6.52, 6.62, y)
    front = smoothstep(0.7, 0.9, z)
    folds = np.stack([forehead, brow, rays, cheek], -1) * front[..., None]
    return (np.clip(folds, 0, 1) * 255).astype(np.uint8)
