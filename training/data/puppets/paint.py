"""Colours of what a closed mouth hides, judged from the light on the photograph; and where its person is."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.puppets.eyes import OUTLINES
from training.data.puppets.renderer import Paint
from training.data.puppets.variants import Variant

Floats = NDArray[np.float32]

CHEEKS = (50, 280, 205, 425, 101, 330)
_LIPS = (0, 17, 37, 267, 84, 314, 61, 291)
_HULL = 468


def mouth_paint(texture: NDArray[np.uint8], points: Floats, pad_px: int, variant: Variant) -> Paint:
    """Paints for socket, gums and teeth that are as bright and as warm as the face.

    points [478, 2] are fractions of the crop, which lies pad_px inside the texture.
    """
    places = points * (len(texture) - 2 * pad_px) + pad_px
    skin = _median_at(texture, places[list(CHEEKS)])
    lips = _median_at(texture, places[list(_LIPS)])
    white = _eye_white(texture, places)
    # Teeth are about as bright as the whites of the eyes, which lie in the lids' shade, and never darker than the skin.
    level = float(np.clip(max(1.12 * white.max(), 1.05 * skin.max(), 0.42), 0, 0.97))
    cast = (0.5 * white + 0.5 * skin) / max(float((0.5 * white + 0.5 * skin).max()), 1e-3)
    teeth = level * np.array([1.0, 0.965, 0.91]) * (0.75 + 0.25 * cast)
    flesh = np.clip(0.5 * lips + 0.5 * level * np.array([0.72, 0.36, 0.34]), 0, 1)
    socket = flesh * np.array([0.42, 0.30, 0.30])
    light = np.array([-0.25, 0.35, 0.9]) if variant.light is None else np.array(variant.light)
    own = np.array([-0.25, 0.35, 0.9])
    return Paint(
        np.stack([socket, flesh, teeth]).astype(np.float32),
        (own / np.linalg.norm(own)).astype(np.float32),
        (light / np.linalg.norm(light)).astype(np.float32),
    )


def _median_at(texture: NDArray[np.uint8], places: Floats) -> Floats:
    side = len(texture) - 1
    x, y = np.clip(np.round(places).astype(int), 0, side).T
    blurred = cv2.GaussianBlur(texture, (0, 0), max(1.0, side / 200))
    return np.median(blurred[y, x], axis=0).astype(np.float32) / 255


def _eye_white(texture: NDArray[np.uint8], places: Floats) -> Floats:
    """Colour of the brighter part of the eyes [3]."""
    mask = np.zeros(texture.shape[:2], np.uint8)
    for outline, _ in OUTLINES.values():
        cv2.fillPoly(mask, [np.round(places[list(outline)]).astype(np.int32)], 1)
    inside = texture[mask > 0].astype(np.float32) / 255
    if len(inside) < 8:
        return np.full(3, 0.6, np.float32)
    bright = inside.mean(1)
    return inside[bright >= np.percentile(bright, 80)].mean(0)


def head_mask(points: Floats, side_px: int, pad_px: int) -> Floats:
    """[whole, whole] in [0, 1]: about where head, hair and shoulders are, with soft edges."""
    whole = side_px + 2 * pad_px
    mask = np.zeros((whole, whole), np.float32)
    hull = cv2.convexHull(((points[:_HULL] * side_px) + pad_px).astype(np.float32))[:, 0]
    middle, size = (hull.min(0) + hull.max(0)) / 2, np.ptp(hull, 0)
    head = (int(middle[0]), int(middle[1] - 0.1 * size[1]))
    cv2.ellipse(mask, head, (int(0.85 * size[0]), int(0.85 * size[1])), 0, 0, 360, 1.0, -1)
    chin = hull[:, 1].max()
    body = [(middle[0] - 0.6 * size[0], chin - 0.2 * size[1]), (middle[0] + 0.6 * size[0], chin - 0.2 * size[1])]
    body += [(middle[0] + 1.7 * size[0], whole), (middle[0] - 1.7 * size[0], whole)]
    cv2.fillPoly(mask, [np.array(body, np.int32)], 1.0)
    return cv2.GaussianBlur(mask, (0, 0), 0.06 * whole)
