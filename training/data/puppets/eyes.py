"""Eyeballs textured from the photograph: what the lids hide is continued from the visible eye."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.data.puppets.face_model import FaceModel
from training.data.puppets.mesh import Projection, squared_distances

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

# mediapipe landmarks: opening outline (in order around the eye) and iris centre.
OUTLINES = {
    "right": ((33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246), 468),
    "left": ((362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398), 473),
}
_TRUSTED = 0.86
"""Fraction of the opening whose pixels are eye and not lashes."""


@dataclass(frozen=True, slots=True)
class Eye:
    """centre [3] and rest offsets [n, 3] from it, camera frame; anchor: a vertex nearby.

    uv [n, 2]: where the photograph shows each vertex (fractions of the crop), lids and all. uv_alt: the same, drawn in
    to the visible eye, for when it turns.
    """

    centre: Floats
    offsets: Floats
    uv: Floats
    uv_alt: Floats
    triangles: Ints
    anchor: int

    def moved(self, change: Floats) -> Eye:
        """The same eye after the vertices of the face model moved by `change` [N, 3]."""
        return replace(self, centre=self.centre + change[self.anchor])


def build_eyes(model: FaceModel, rest: Floats, points: Floats, view: Projection) -> tuple[Eye, Eye]:
    """The person's right and left eye, their front poles on the landmarks of the irises."""
    right, left = (_eye(model, rest, points, view, side) for side in ("right", "left"))
    return right, left


def _eye(model: FaceModel, rest: Floats, points: Floats, view: Projection, side: str) -> Eye:
    outline, iris = OUTLINES[side]
    triangles = model.triangles[f"eye_{side}"]
    used = np.unique(triangles)
    renumber = np.zeros(len(rest), np.int32)
    renumber[used] = np.arange(len(used), dtype=np.int32)
    ball = rest[used]
    radius = float(np.ptp(ball[:, 1])) / 2
    centre = (ball.min(0) + ball.max(0)) / 2
    centre[2] = ball[:, 2].max() - radius
    offsets = ball - centre
    centre[:2] = view.lift(points[iris])
    image = view.image(centre + offsets)
    rim = points[iris + 1 : iris + 5]
    iris_radius = float(np.linalg.norm(rim - points[iris], axis=1).mean())
    uv = pull_inside(image, points[list(outline)], points[iris], iris_radius)
    front = renumber[triangles]
    front = front[offsets[front][..., 2].min(1) > -0.2 * radius]
    return Eye(centre.astype(np.float32), offsets.astype(np.float32), image, uv, front, int(used[0]))


def pull_inside(places: NDArray, outline: NDArray, iris: NDArray, iris_radius: float) -> Floats:
    """Places [n, 2] outside the visible eye brought to where the photograph shows the same tissue.

    outline [m, 2] is shrunk to its trusted part. Iris is continued towards the middle of the eye, white by its nearest
    visible white, so that a turned eye shows neither lashes nor smeared iris.
    """
    middle = outline.mean(0) + 0.5 * (iris - outline.mean(0)) * (1, 0)
    steps = np.linspace(0, 1, 8, endpoint=False)
    dense = np.concatenate([outline * (1 - t) + np.roll(outline, -1, 0) * t for t in steps])
    dense = middle + (dense - middle) * _TRUSTED
    ray, away = dense - middle, places - middle
    angle = np.arctan2(ray[:, 1], ray[:, 0])
    order = np.argsort(angle)
    turns = np.concatenate([angle[order] + turn for turn in (-2 * np.pi, 0, 2 * np.pi)])
    limit = np.interp(np.arctan2(away[:, 1], away[:, 0]), turns, np.tile(np.linalg.norm(ray, axis=1)[order], 3))
    share = limit / np.maximum(np.linalg.norm(away, axis=1), 1e-9)
    out = middle + away * np.minimum(1, share)[:, None]
    whites = dense[np.linalg.norm(dense - iris, axis=1) > 1.1 * iris_radius]
    white = (share < 1) & (np.linalg.norm(places - iris, axis=1) > 1.05 * iris_radius)
    if len(whites) and white.any():
        out[white] = whites[squared_distances(places[white], whites).argmin(1)]
    return out.astype(np.float32)
