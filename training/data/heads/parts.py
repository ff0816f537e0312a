"""Bakes the pieces of one person into meshes that move by one matrix product per frame.

Every piece is `base + rows @ morph` in the frame of the unturned head; the vertex shader then turns it by the head's
rotation and each vertex's weight. Fits of worn pieces are linear but for their scale, which is frozen at rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from scipy.spatial import cKDTree

from training.data.heads.base import CHEST_HEIGHT, base_head, morph_rows, smoothstep
from training.data.heads.identity import Identity
from training.data.heads.mesh import Fit, Floats, Ints, NormalField, QuadMesh, Surface, weld
from training.data.heads.subdivide import catmull_clark


@dataclass(frozen=True, slots=True)
class Part:
    """One drawable piece. base: [N, 3]; weight: [N] share of the head's turn; morph: [ROWS, N, 3] or None if rigid."""

    name: str
    shader: str
    surface: Surface
    base: Floats
    weight: Floats
    normals_of: NormalField
    morph: Floats | None = None
    tangent: Floats | None = None

    def positions(self, rows: Floats) -> Floats:
        """Mesh vertices [N, 3] for row strengths [ROWS], head not turned."""
        if self.morph is None:
            return self.base
        used = np.flatnonzero(rows)
        flat = rows[used] @ self.morph[used].reshape(len(used), -1)
        return self.base + flat.reshape(-1, 3)


def bake_body(identity: Identity, deleted: np.ndarray | None, hair: Floats | None, subdivide: bool) -> Part:
    """Skin of head, neck and upper chest.

    deleted: base vertices hidden by clothes. hair: points on the hair mesh; skin close under it is pushed inwards by
    up to 5 mm, which keeps scalp and ears from showing through.
    """
    head = base_head()
    mask = head.faces_of_bust(deleted)
    used, faces = _compact(head.mesh.faces[mask])
    corner_uv = head.mesh.corner_uv()[mask]
    base, morph, weight = identity.vertices[used], morph_rows()[:, used], head.head_weight[used]
    if subdivide:
        matrix, faces, corner_uv = catmull_clark(faces, corner_uv, len(used))
        base, weight = matrix @ base, matrix @ weight
        morph = np.stack([matrix @ row for row in morph])
    normals_of = NormalField(faces, len(base))
    if hair is not None:
        base = base - _hair_push(base, hair, identity)[:, None] * normals_of(base)
    return Part("body", "skin", weld(faces, corner_uv), base, weight, normals_of, morph)


def _hair_push(base: Floats, hair: Floats, identity: Identity) -> Floats:
    """Inward push in dm: 0.05 within 0.05 of the hair, fading out at 0.16, and none on the face."""
    distance = cKDTree(hair).query(base, distance_upper_bound=0.2)[0]
    eyes = identity.vertices[np.concatenate(base_head().eyes)].mean(0)
    behind = smoothstep(-0.1, 0.35, eyes[2] - 0.35 - base[:, 2])
    above = smoothstep(0.35, 0.6, base[:, 1] - eyes[1])
    return 0.05 * (1 - smoothstep(0.05, 0.16, np.minimum(distance, 1))) * np.maximum(behind, above)


def bake_worn(identity: Identity, name: str, shader: str, mesh: QuadMesh, fit: Fit, moving: bool) -> Part:
    """A piece bound to the base by an `.mhclo` fit. moving: it follows the face, not only the head."""
    base = fit.apply(identity.vertices)
    head = base_head()
    grown = (identity.vertices[head.joint] - head.mesh.vertices[head.joint]).mean(0)[1]
    keep = (base[mesh.faces][..., 1] > CHEST_HEIGHT + grown).any(1)
    used, faces = _compact(mesh.faces[keep])
    weights = fit.weights[used]
    weight = np.clip(weights @ head.head_weight, 0, 1)
    morph = np.stack([weights @ row for row in morph_rows()]) if moving else None
    surface = weld(faces, mesh.corner_uv()[keep])
    base = base[used]
    normals_of = NormalField(faces, len(used), None if moving else _coincident(base))
    return Part(name, shader, surface, base, weight, normals_of, morph, strand_tangents(surface, base))


def _coincident(places: Floats) -> Ints:
    """Number [N] that vertices at one place share: hair and clothes are doubled along their seams."""
    return np.unique(np.round(places, 3), axis=0, return_inverse=True)[1].ravel().astype(np.int32)


def strand_tangents(surface: Surface, base: Floats) -> Floats:
    """Direction of growing v per GPU vertex, [R, 3]; hair textures run along v."""
    a, b, c = (surface.source[surface.triangles[:, k]] for k in range(3))
    ua, ub, uc = (surface.uv[surface.triangles[:, k]] for k in range(3))
    e1, e2, d1, d2 = base[b] - base[a], base[c] - base[a], ub - ua, uc - ua
    turn = np.sign(d1[:, 0] * d2[:, 1] - d2[:, 0] * d1[:, 1])[:, None]
    along = (e2 * d1[:, :1] - e1 * d2[:, :1]) * turn
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    corners = surface.triangles.ravel()
    gather = sparse.csr_matrix(
        (np.ones(len(corners), np.float32), (corners, np.repeat(np.arange(len(along)), 3))),
        shape=(len(surface.uv), len(along)),
    )
    tangent = gather @ along
    return (tangent / (np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-6)).astype(np.float32)


def bake_eyes(identity: Identity, rings: int = 14, segments: int = 28) -> tuple[Part, Floats, float]:
    """Both eyeballs as spheres around the eye helpers, poles along the gaze.

    Returns the part (tangent holds the direction on the eye, by which the shader paints), the centres [2, 3]
    (left, right) and the radius in dm.
    """
    helpers = [identity.vertices[e] for e in base_head().eyes]
    centres = np.stack([(h.min(0) + h.max(0)) / 2 for h in helpers])
    radius = float(np.mean([np.ptp(h[:, 1]) / 2 for h in helpers]))
    directions, faces = _sphere(rings, segments)
    base = np.concatenate([c + radius * directions for c in centres]).astype(np.float32)
    both = np.concatenate([faces, faces + len(directions)])
    surface = weld(both, np.zeros((*both.shape, 2), np.float32))
    tangent = np.concatenate([directions] * 2)[surface.source].astype(np.float32)
    weight = np.ones(len(base), np.float32)
    part = Part("eyes", "eye", surface, base, weight, NormalField(both, len(base)), None, tangent)
    return part, centres, radius


def _sphere(rings: int, segments: int) -> tuple[Floats, Ints]:
    """Front part of a unit sphere with its pole at +z; rings crowd towards the pole, where the iris is."""
    polar = np.concatenate([[0.0], np.radians(112) * np.linspace(0, 1, rings + 1)[1:] ** 1.2])
    around = np.arange(segments) * 2 * np.pi / segments
    ring = np.stack(np.broadcast_arrays(
        np.sin(polar)[:, None] * np.cos(around), np.sin(polar)[:, None] * np.sin(around), np.cos(polar)[:, None]
    ), -1)  # fmt: skip
    i, j = np.meshgrid(np.arange(rings), np.arange(segments), indexing="ij")
    following = (j + 1) % segments
    quads = np.stack(
        [i * segments + j, (i + 1) * segments + j, (i + 1) * segments + following, i * segments + following], -1
    )
    return ring.reshape(-1, 3).astype(np.float32), quads.reshape(-1, 4).astype(np.int32)


def _compact(faces: Ints) -> tuple[Ints, Ints]:
    used, inverse = np.unique(faces, return_inverse=True)
    return used.astype(np.int32), inverse.reshape(faces.shape).astype(np.int32)
