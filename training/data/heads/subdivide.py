"""One Catmull-Clark step as a sparse matrix, so that moving meshes subdivide in one product per frame.

Rules: E. Catmull and J. Clark, "Recursively generated B-spline surfaces on arbitrary topological meshes",
Computer-Aided Design 10(6), 1978; open borders use the cubic B-spline curve rule.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sparse

from training.data.heads.mesh import Floats, Ints


def catmull_clark(faces: Ints, corner_uv: Floats, vertex_count: int) -> tuple[sparse.csr_matrix, Ints, Floats]:
    """Subdivide once.

    faces [F, 4], corner_uv [F, 4, 2]. Returns the matrix [V + E + F, V] from old to new vertices, the new faces
    [4F, 4] and their corner coordinates [4F, 4, 2] (interpolated linearly, as the seams are not smoothed).
    """
    count = len(faces)
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    edges, edge_of_corner = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)
    edge_of_corner = edge_of_corner.reshape(count, 4)
    face_rows = np.repeat(np.arange(count), 4)
    face_points = _matrix(np.full(4 * count, 0.25), face_rows, faces.ravel(), (count, vertex_count))
    edge_faces = _matrix(np.ones(4 * count), edge_of_corner.ravel(), face_rows, (len(edges), count))
    edge_rows = np.repeat(np.arange(len(edges)), 2)
    mid_points = _matrix(np.full(2 * len(edges), 0.5), edge_rows, edges.ravel(), (len(edges), vertex_count))
    inner = np.asarray(edge_faces.sum(1)).ravel() == 2
    edge_points = _scale(np.where(inner, 0.5, 1.0)) @ mid_points
    edge_points += _scale(np.where(inner, 0.25, 0.0)) @ (edge_faces @ face_points)
    vertex_points = _vertex_rule(faces, edges, inner, face_points, mid_points, vertex_count)
    matrix = sparse.vstack([vertex_points, edge_points, face_points]).tocsr().astype(np.float32)
    quads, uv = _split(faces, corner_uv, edge_of_corner, vertex_count, len(edges))
    return matrix, quads, uv


def _matrix(values: Floats, rows: Ints, columns: Ints, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)


def _scale(values: Floats) -> sparse.csr_matrix:
    return sparse.diags(values).tocsr()


def _vertex_rule(
    faces: Ints,
    edges: Ints,
    inner: np.ndarray,
    face_points: sparse.csr_matrix,
    mid_points: sparse.csr_matrix,
    vertex_count: int,
) -> sparse.csr_matrix:
    incident = _matrix(
        np.ones(edges.size), edges.ravel(), np.repeat(np.arange(len(edges)), 2), (vertex_count, len(edges))
    )
    around = _matrix(
        np.ones(faces.size), faces.ravel(), np.repeat(np.arange(len(faces)), 4), (vertex_count, len(faces))
    )
    valence = np.asarray(incident.sum(1)).ravel()
    border = np.asarray(incident @ (~inner).astype(float)).ravel()
    smooth = (border == 0) & (valence >= 3)
    curve = border == 2
    safe = np.maximum(valence, 1)
    keep = np.where(smooth, (safe - 3) / safe, np.where(curve, 0.5, 1.0))
    result = _scale(keep) @ sparse.identity(vertex_count, format="csr")
    result += _scale(np.where(smooth, 2 / safe**2, 0.0)) @ (incident @ mid_points)
    result += _scale(np.where(smooth, 1 / safe**2, 0.0)) @ (around @ face_points)
    border_incident = incident @ _scale((~inner).astype(float))
    return (result + _scale(np.where(curve, 0.25, 0.0)) @ (border_incident @ mid_points)).tocsr()


def _split(faces: Ints, uv: Floats, edge_of_corner: Ints, vertices: int, edges: int) -> tuple[Ints, Floats]:
    centre = vertices + edges + np.arange(len(faces))
    uv_middle = (uv + np.roll(uv, -1, axis=1)) / 2
    uv_centre = uv.mean(axis=1)
    quads, coordinates = [], []
    for k in range(4):
        before = (k - 1) % 4
        quads.append(
            np.stack([faces[:, k], vertices + edge_of_corner[:, k], centre, vertices + edge_of_corner[:, before]], 1)
        )
        coordinates.append(np.stack([uv[:, k], uv_middle[:, k], uv_centre, uv_middle[:, before]], 1))
    return np.concatenate(quads).astype(np.int32), np.concatenate(coordinates).astype(np.float32)
