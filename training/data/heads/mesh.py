"""Meshes as the MakeHuman family stores them: OBJ quads, sparse `.target` displacements, `.mhclo` fits.

Lengths are decimetres; y is up and z points at the viewer.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class QuadMesh:
    """vertices [V, 3]; texcoords [T, 2]; faces and face_texcoords [F, 4] (a triangle repeats its first corner);
    groups [F], the OBJ group of every face."""

    vertices: Floats
    texcoords: Floats
    faces: Ints
    face_texcoords: Ints
    groups: NDArray[np.str_]

    def corner_uv(self) -> Floats:
        """Texture coordinates of every corner, [F, 4, 2]; zeros for a mesh without any."""
        if not len(self.texcoords):
            return np.zeros((*self.faces.shape, 2), np.float32)
        return self.texcoords[self.face_texcoords]


def read_obj(path: Path) -> QuadMesh:
    """Read a Wavefront file of triangles and quads. Raises OSError and ValueError for unreadable files."""
    vertices, texcoords, faces, face_texcoords, groups = [], [], [], [], []
    group = ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        word, _, rest = line.partition(" ")
        if word == "v":
            vertices.append([float(x) for x in rest.split()[:3]])
        elif word == "vt":
            texcoords.append([float(x) for x in rest.split()[:2]])
        elif word == "g":
            group = rest.strip()
        elif word == "f":
            corners = [_corner(token) for token in rest.split()[:4]]
            corners += corners[:1] * (4 - len(corners))
            faces.append([c[0] for c in corners])
            face_texcoords.append([c[1] for c in corners])
            groups.append(group)
    return QuadMesh(
        np.array(vertices, np.float32),
        np.array(texcoords, np.float32).reshape(-1, 2),
        np.array(faces, np.int32),
        np.array(face_texcoords, np.int32),
        np.array(groups),
    )


def _corner(token: str) -> tuple[int, int]:
    fields = token.split("/")
    return int(fields[0]) - 1, int(fields[1]) - 1 if len(fields) > 1 and fields[1] else 0


@dataclass(frozen=True, slots=True)
class Target:
    """A sparse displacement at full strength: offsets [N, 3] of the vertices indices [N]."""

    indices: Ints
    offsets: Floats

    def add_to(self, vertices: Floats, strength: float) -> None:
        """Displace vertices [V, 3] in place."""
        vertices[self.indices] += np.float32(strength) * self.offsets


def read_target(path: Path) -> Target:
    """Read a plain or gzipped `.target` file (lines of `vertex dx dy dz`)."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line and line[0] != "#"]
    table = np.array(" ".join(rows).split(), np.float64).reshape(-1, 4)
    return Target(table[:, 0].astype(np.int32), table[:, 1:].astype(np.float32))


@dataclass(frozen=True, slots=True)
class Fit:
    """How a worn mesh follows the base: p = weights @ V + offsets * scale(V).

    weights: csr [P, V]. offsets: [P, 3]. rulers: per axis (vertex a, vertex b, length that counts as 1) or None.
    deleted: bool [V], base vertices hidden under the worn mesh.
    """

    weights: sparse.csr_matrix
    offsets: Floats
    rulers: tuple[tuple[int, int, float] | None, ...]
    deleted: NDArray[np.bool_]

    def scale(self, vertices: Floats) -> Floats:
        """Size of the base along each axis relative to the one the mesh was made on, [3]."""
        scale = np.ones(3, np.float32)
        for axis, ruler in enumerate(self.rulers):
            if ruler is not None:
                a, b, length = ruler
                scale[axis] = abs(vertices[a, axis] - vertices[b, axis]) / length
        return scale

    def apply(self, vertices: Floats) -> Floats:
        """Positions [P, 3] on a base shaped like vertices [V, 3]."""
        return np.asarray(self.weights @ vertices + self.offsets * self.scale(vertices), np.float32)


def read_mhclo(path: Path, base_vertices: int) -> Fit:
    """Read the binding of a worn mesh to a base with the given number of vertices."""
    rulers: dict[str, tuple[int, int, float]] = {}
    columns, weights, offsets = [], [], []
    deleted = np.zeros(base_vertices, bool)
    section = ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if fields[0] in ("x_scale", "y_scale", "z_scale"):
            rulers[fields[0][0]] = (int(fields[1]), int(fields[2]), float(fields[3]))
        elif fields[0] in ("verts", "delete_verts"):
            section = fields[0]
        elif section == "verts" and fields[0].isdigit():
            column, weight, offset = _binding(fields)
            columns.append(column)
            weights.append(weight)
            offsets.append(offset)
        elif section == "delete_verts":
            _mark_ranges(deleted, fields)
    rows = np.repeat(np.arange(len(columns)), 3)
    shape = (len(columns), base_vertices)
    matrix = sparse.csr_matrix((np.array(weights, np.float32).ravel(), (rows, np.ravel(columns))), shape=shape)
    return Fit(matrix, np.array(offsets, np.float32), tuple(rulers.get(axis) for axis in "xyz"), deleted)


def _binding(fields: list[str]) -> tuple[list[int], list[float], list[float]]:
    if len(fields) == 1:
        return [int(fields[0])] * 3, [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    offset = [float(x) for x in fields[6:9]] if len(fields) >= 9 else [0.0, 0.0, 0.0]
    return [int(x) for x in fields[:3]], [float(x) for x in fields[3:6]], offset


def _mark_ranges(deleted: NDArray[np.bool_], fields: list[str]) -> None:
    tokens = " ".join(fields).replace(" - ", "-").split()
    for token in tokens:
        first, _, last = token.partition("-")
        deleted[int(first) : int(last or first) + 1] = True


@dataclass(frozen=True, slots=True)
class Surface:
    """What a GPU wants: vertices that are unique in position and texture coordinate, and triangles.

    source: [R] vertex of the mesh behind each GPU vertex. uv: [R, 2]. triangles: [T, 3].
    """

    source: Ints
    uv: Floats
    triangles: Ints


def weld(faces: Ints, corner_uv: Floats) -> Surface:
    """Turn quads with per-corner texture coordinates [F, 4, 2] into a `Surface`."""
    key = np.concatenate([faces.reshape(-1, 1), np.round(corner_uv.reshape(-1, 2) * 16384)], axis=1).astype(np.int64)
    unique, inverse = np.unique(key, axis=0, return_inverse=True)
    quads = inverse.reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)
    a, b, c = triangles.T
    proper = (a != b) & (b != c) & (a != c)
    uv = (unique[:, 1:] / 16384).astype(np.float32)
    return Surface(unique[:, 0].astype(np.int32), uv, np.ascontiguousarray(triangles[proper]))


class NormalField:
    """Smooth normals of a quad mesh whose vertices move: the area-weighted mean of the faces around a vertex.

    same: number [V] shared by vertices that lie at one place and shall share a normal; None keeps all apart.
    """

    def __init__(self, faces: Ints, vertex_count: int, same: Ints | None = None) -> None:
        self._faces = faces
        rows = faces.ravel()
        columns = np.repeat(np.arange(len(faces)), 4)
        ones = np.ones(len(rows), np.float32)
        group = np.arange(vertex_count) if same is None else same
        grouped = sparse.csr_matrix((ones, (group[rows], columns)), shape=(int(group.max()) + 1, len(faces)))
        self._gather = grouped if same is None else grouped[same]

    def __call__(self, vertices: Floats) -> Floats:
        """Unit normals [V, 3] for vertices [V, 3]."""
        a, b, c, d = (vertices[self._faces[:, k]] for k in range(4))
        p, q = c - a, d - b
        cross = np.empty_like(p)
        cross[:, 0] = p[:, 1] * q[:, 2] - p[:, 2] * q[:, 1]
        cross[:, 1] = p[:, 2] * q[:, 0] - p[:, 0] * q[:, 2]
        cross[:, 2] = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
        normals = self._gather @ cross
        normals /= np.sqrt(np.einsum("ij,ij->i", normals, normals))[:, None] + np.float32(1e-12)
        return normals
