"""Small mesh arithmetic: normals, rings around an opening, smooth 2-D fields through scattered points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Projection:
    """Weak perspective: image = origin [2] + scale * (x, -y) of camera-frame points in centimetres."""

    origin: Floats
    scale: float

    def image(self, camera: NDArray[np.floating]) -> Floats:
        """Camera-frame points [..., 3] to the image [..., 2]."""
        return (self.origin + self.scale * camera[..., :2] * (1, -1)).astype(np.float32)

    def lift(self, image: NDArray[np.floating]) -> Floats:
        """Image [..., 2] to camera-frame x, y [..., 2]."""
        return ((image - self.origin) / self.scale * (1, -1)).astype(np.float32)


def vertex_normals(vertices: NDArray[np.floating], triangles: Ints) -> Floats:
    """Unit normals [N, 3], area-weighted; zero where no triangle touches a vertex."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    index = triangles.ravel(order="F")
    total = np.stack([np.bincount(index, np.tile(face[:, k], 3), len(vertices)) for k in range(3)], 1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return (total / np.maximum(length, 1e-9)).astype(np.float32)


def blend_normals(vertices: Floats, units: Floats, triangles: Ints) -> Floats:
    """Change of the normals [K, N, 3] when each shape [K, N, 3] is added at full strength."""
    neutral = vertex_normals(vertices, triangles)
    out = np.zeros_like(units)
    for row, shape in enumerate(units):
        if np.abs(shape).max() > 0:
            out[row] = vertex_normals(vertices + shape, triangles) - neutral
    return out


def rim_rings(triangles: Ints, loop: NDArray[np.integer], count: int, deepest: int) -> tuple[Ints, Ints]:
    """Breadth-first rings [count] around the vertices `loop` (-1 beyond `deepest`), and where on it each began."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    ring = np.full(count, -1, np.int32)
    origin = np.full(count, -1, np.int32)
    ring[loop] = 0
    origin[loop] = loop
    for step in range(1, deepest + 1):
        grows = edges[(ring[edges[:, 0]] == step - 1) & (ring[edges[:, 1]] < 0)]
        ring[grows[:, 1]] = step
        origin[grows[:, 1]] = origin[grows[:, 0]]
    return ring, origin


def thin_plate(
    sources: NDArray[np.floating], values: NDArray[np.floating], at: NDArray[np.floating], smoothing: float
) -> Floats:
    """Thin-plate spline (Bookstein 1989) through values [n, d] at sources [n, 2], evaluated at [m, 2].

    smoothing >= 0 trades exactness for smoothness; coordinates should be of the order of 1.
    """
    n = len(sources)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _plate_kernel(sources, sources) + smoothing * np.eye(n)
    system[:n, n] = system[n, :n] = 1
    system[:n, n + 1 :] = sources
    system[n + 1 :, :n] = sources.T
    right = np.zeros((n + 3, values.shape[1]))
    right[:n] = values
    solved = np.linalg.solve(system, right)
    return (_plate_kernel(at, sources) @ solved[:n] + solved[n] + at @ solved[n + 1 :]).astype(np.float32)


def squared_distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """[n, m] between rows of [n, d] and [m, d]."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    return np.maximum((a64**2).sum(1)[:, None] + (b64**2).sum(1) - 2 * a64 @ b64.T, 0)


def _plate_kernel(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    d2 = squared_distances(a, b)
    return 0.5 * d2 * np.log(np.maximum(d2, 1e-12))
