"""Everything a person wears when there is no asset folder: hair cap, teeth, tongue, plain clothes, bare skin.

Hair and clothes are copies of the skin pushed outwards; their edges are cut by the alpha of painted textures. Teeth and
tongue are the helper meshes of hm08. Brows and hair roots are painted on the skin.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.heads.base import base_head, morph_rows, smoothstep
from training.data.heads.identity import Identity
from training.data.heads.mesh import Floats, Ints, NormalField, weld
from training.data.heads.paint import region_mask
from training.data.heads.parts import Part, strand_tangents
from training.data.heads.subdivide import catmull_clark
from training.data.heads.wardrobe import Look

_CROWN = np.array([0.0, 7.55, 0.45], np.float32)
"""Centre of the skull of the base mesh, about which hair is laid out, dm."""

_HAIRLINE = ((0, 70), (25, 68), (50, 76), (72, 100), (95, 108), (125, 124), (180, 134))
"""Polar angle from the top of the skull at which hair ends, by azimuth from the front; degrees."""

_BROW_VERTICES = ((261, 206, 208), (7030, 6981, 6983))


def bare_skin(look: Look, side: int = 512) -> NDArray[np.uint8]:
    """A base for `paint.paint_skin` without any photograph: even colour, darker lids, uint8 [side, side, 3]."""
    rng = np.random.default_rng(look.texture_seed + 1)
    mottled = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), side / 60)
    shade = 0.70 * (1 + 0.02 * mottled / mottled.std())
    shade = shade * (1 - 0.12 * region_mask("eyelids", side))
    colour = np.array([1.0, 0.86, 0.76], np.float32)
    colour = colour + region_mask("inside-mouth", side)[..., None] * np.array([-0.25, -0.5, -0.42], np.float32)
    return (np.clip(shade[..., None] * colour, 0, 1) * 255).astype(np.uint8)


def paint_brows(skin: NDArray[np.uint8], look: Look) -> None:
    """Draw both brows as strokes into a skin texture [S, S, 4], in place."""
    rng = np.random.default_rng(look.texture_seed + 2)
    side = skin.shape[0]
    scale = 8
    width = float(rng.uniform(0.0022, 0.0036)) * side
    for chain in _BROW_VERTICES:
        points = np.array([_texture_place(v) for v in chain], np.float32) * side
        low = np.floor(points.min(0) - 0.03 * side).astype(int)
        high = np.ceil(points.max(0) + 0.03 * side).astype(int)
        ink = np.zeros(((high[1] - low[1]) * scale, (high[0] - low[0]) * scale), np.float32)
        _strokes(ink, (points - low) * scale, width * scale, rng)
        ink = cv2.resize(ink, tuple((high - low).tolist()), interpolation=cv2.INTER_AREA)
        ink = cv2.GaussianBlur(ink, (0, 0), side / 2048)
        patch = skin[low[1] : high[1], low[0] : high[0], :3]
        colour = np.minimum(np.array(look.hair_colour), 120) * 0.7
        patch[:] = (patch + (ink * 0.85)[..., None] * (colour - patch)).astype(np.uint8)


def _strokes(ink: Floats, points: Floats, width: float, rng: np.random.Generator) -> None:
    """Short hairs along the curve through three points; thick at the last point, thin at the first."""
    t = rng.uniform(0, 1, 420)
    curve = (1 - t)[:, None] ** 2 * points[0] + (2 * t * (1 - t))[:, None] * (2 * points[1] - points[[0, 2]].mean(0))
    curve += (t**2)[:, None] * points[2]
    along = points[0] - points[2]
    along /= np.linalg.norm(along)
    across = np.array([-along[1], along[0]])
    spread = width * (0.35 + 0.65 * t) * np.minimum(1, 6 * (1.02 - t))
    roots = curve + across * (rng.normal(-0.2, 0.40, len(t)) * spread)[:, None]
    lean = across * rng.normal(0, 0.35, len(t))[:, None]
    tips = roots + (along + lean) * width * rng.uniform(0.7, 1.5, len(t))[:, None]
    for root, tip in zip(roots, tips, strict=True):
        cv2.line(ink, tuple(root.astype(int).tolist()), tuple(tip.astype(int).tolist()), 0.8, 4, cv2.LINE_AA)


def _texture_place(vertex: int) -> tuple[float, float]:
    mesh = base_head().mesh
    face, corner = np.argwhere(mesh.faces == vertex)[0]
    u, v = mesh.texcoords[mesh.face_texcoords[face, corner]]
    return float(u), float(1 - v)


def _skull_angles(places: Floats) -> tuple[Floats, Floats]:
    """Azimuth in (-180, 180] from the front and polar angle from the top of base vertices, degrees."""
    d = places - _CROWN
    azimuth = np.degrees(np.arctan2(d[:, 0], d[:, 2]))
    polar = np.degrees(np.arctan2(np.hypot(d[:, 0], d[:, 2]), d[:, 1]))
    return azimuth, polar


@dataclass(frozen=True, slots=True)
class Cut:
    """One procedural hair cut. thickness: dm on the crown. lower: degrees that sides and back reach down further.
    recede: degrees that the hairline of the forehead lies higher. curl: depth of lumps as a share of thickness.
    """

    thickness: float
    lower: float
    recede: float
    curl: float


def sample_cut(identity: Identity, look: Look, rng: np.random.Generator) -> Cut:
    """A cut in the direction of the look's style: curls for `afro`, covered ears for long ones, receding with age."""
    recede = float(rng.uniform(-6, 10) + 20 * identity.age * identity.male * rng.uniform(0, 1))
    if look.hair.startswith("afro"):
        return Cut(float(rng.uniform(0.20, 0.50)), float(rng.uniform(0, 6)), recede, 1.0)
    curl = float(rng.uniform(0.5, 1.0) if rng.random() < 0.25 else 0.0)
    if identity.male or look.hair.startswith("short"):
        return Cut(float(rng.uniform(0.04, 0.20)), 0.0, recede, curl)
    return Cut(float(rng.uniform(0.14, 0.28)), float(rng.uniform(4, 14)), recede, curl)


def _hairline(azimuth: Floats, cut: Cut) -> Floats:
    """Polar angle at which hair ends, degrees."""
    knots = np.array(_HAIRLINE, float)
    front = cut.recede * smoothstep(62, 30, knots[:, 0])
    return np.interp(np.abs(azimuth), knots[:, 0], knots[:, 1] + cut.lower * smoothstep(40, 90, knots[:, 0]) - front)


def hair_cap(identity: Identity, look: Look) -> tuple[Part, NDArray[np.uint8]]:
    """A short cut that follows the skull, and its texture."""
    rng = np.random.default_rng(look.texture_seed + 3)
    head = base_head()
    cut = sample_cut(identity, look, rng)
    azimuth, polar = _skull_angles(head.mesh.vertices)
    edge = _hairline(azimuth, cut)
    wanted = (polar < edge + 14) & (head.mesh.vertices[:, 1] > 6.3) & ~_ear_vertices()
    used, faces, _ = _faces_of(wanted)
    normals = NormalField(faces, len(used))(identity.vertices[used])
    inside = smoothstep(4, -22, polar[used] - edge[used])
    lumps = 1 + 0.12 * np.sin(azimuth[used] / 17 + rng.uniform(0, 6)) * np.sin(polar[used] / 13)
    lumps += 0.22 * cut.curl * rng.standard_normal(len(used))
    base = identity.vertices[used] + normals * (0.012 + cut.thickness * inside * lumps)[:, None]
    uv = np.stack([azimuth[used] / 360 + 0.5, 1 - polar[used] / 180], -1).astype(np.float32)[faces]
    wrapped = uv[..., 0].max(1) - uv[..., 0].min(1) > 0.5
    uv[wrapped, :, 0] += uv[wrapped, :, 0] < 0.5
    matrix, faces, uv = catmull_clark(faces, uv, len(used))
    base, weight = np.asarray(matrix @ base, np.float32), matrix @ head.head_weight[used]
    surface = weld(faces, uv)
    part = Part(
        "hair", "hair", surface, base, weight, NormalField(faces, len(base)), None, strand_tangents(surface, base)
    )
    return part, _hair_paint(look, cut, rng)


def _ear_vertices() -> NDArray[np.bool_]:
    mesh = base_head().mesh
    mask = region_mask("ears", 512)
    at = np.clip((mesh.texcoords * 512).astype(int), 0, 511)
    ear_corner = mask[511 - at[:, 1], at[:, 0]] > 0.3
    flags = np.zeros(len(mesh.vertices), bool)
    flags[mesh.faces[ear_corner[mesh.face_texcoords]]] = True
    return flags


def _faces_of(wanted: NDArray[np.bool_]) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Vertices, re-numbered faces and the face mask of the body part whose vertices are all wanted."""
    mesh = base_head().mesh
    mask = (mesh.groups == "body") & wanted[mesh.faces].all(1)
    used, inverse = np.unique(mesh.faces[mask], return_inverse=True)
    return used.astype(np.int32), inverse.reshape(-1, 4).astype(np.int32), mask


def _hair_paint(look: Look, cut: Cut, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Strands that run from the crown, curled or not, ending raggedly at the hairline; uint8 [512, 1024, 4]."""
    height, width = 512, 1024
    strands = cv2.GaussianBlur(
        rng.standard_normal((height, width), np.float32), (0, 0), sigmaX=1.0 + cut.curl, sigmaY=26 - 22 * cut.curl
    )
    locks = cv2.GaussianBlur(
        rng.standard_normal((height, width), np.float32), (0, 0), sigmaX=7, sigmaY=40 - 32 * cut.curl
    )
    shade = 1 + 0.20 * strands / strands.std() + 0.10 * locks / locks.std()
    azimuth = (np.arange(width) + 0.5) / width * 360 - 180
    polar = ((np.arange(height) + 0.5) / height * 180)[:, None]
    ragged = 3.2 * strands / strands.std() + 2.0 * locks / locks.std()
    alpha = np.clip(0.5 + (_hairline(azimuth, cut)[None] - 2 + ragged - polar) / 7, 0, 1)
    colour = np.clip(np.array(look.hair_colour) * np.clip(shade, 0.3, 1.8)[..., None], 0, 255)
    return np.concatenate([colour, 255 * alpha[..., None]], -1).astype(np.uint8)


def shirt(identity: Identity, look: Look) -> tuple[Part, NDArray[np.uint8]]:
    """A round-necked shirt over the shoulders, and its texture."""
    rng = np.random.default_rng(look.texture_seed + 4)
    head = base_head()
    rest = head.mesh.vertices
    wanted = (rest[:, 1] > 4.7) & (rest[:, 1] < 6.25) & (np.abs(rest[:, 0]) < 2.4)
    used, faces, _ = _faces_of(wanted)
    normals = NormalField(faces, len(used))(identity.vertices[used])
    base = identity.vertices[used] + 0.05 * normals
    uv = np.stack([rest[used, 0] / 5 + 0.5, (rest[used, 1] - 4.4) / 2], -1).astype(np.float32)[faces]
    matrix, faces, uv = catmull_clark(faces, uv, len(used))
    base, weight = np.asarray(matrix @ base, np.float32), np.asarray(matrix @ head.head_weight[used], np.float32)
    surface = weld(faces, uv)
    return Part("cloth", "cloth", surface, base, weight, NormalField(faces, len(base))), _shirt_paint(look, rng)


def _shirt_paint(look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    side = 512
    x = ((np.arange(side) + 0.5) / side * 5 - 2.5)[None]
    y = 6.4 - ((np.arange(side) + 0.5) / side * 2)[:, None]
    neckline = rng.uniform(5.68, 5.80) + 0.10 * np.minimum((x / 0.6) ** 2, 1)
    weave = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), 0.8)
    colour = np.array(look.cloth_colour) * (1 + 0.05 * weave / weave.std())[..., None]
    if rng.random() < 0.35:
        stripes = np.sin(y * rng.uniform(20, 60)) > rng.uniform(0, 0.8)
        colour = colour * np.where(stripes, rng.uniform(0.5, 0.85), 1.0)[..., None]
    collar = np.abs(neckline - 0.05 - y) < 0.05
    colour = colour * np.where(collar, 0.82, 1.0)[..., None]
    alpha = np.broadcast_to(y < neckline, (side, side))[..., None] * 255.0
    return np.concatenate([np.clip(colour, 0, 255), alpha], -1).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _dental_faces() -> tuple[Ints, Ints, Floats]:
    """Base vertices, faces and corner coordinates of both arches: u along the arch, v from gum (0) to edge (1)."""
    head = base_head()
    groups = ("helper-upper-teeth", "helper-lower-teeth")
    mask = np.isin(head.mesh.groups, groups)
    used, inverse = np.unique(head.mesh.faces[mask], return_inverse=True)
    places = head.mesh.vertices[used]
    upper = np.isin(used, head.upper_teeth)
    v = np.empty(len(used), np.float32)
    for own, edge_up in ((upper, False), (~upper, True)):
        y = places[own, 1]
        v[own] = (y - y.min()) / np.ptp(y) if edge_up else (y.max() - y) / np.ptp(y)
    centre = places[:, 2].min()
    u = np.arctan2(places[:, 0], places[:, 2] - centre) / np.pi + 0.5
    faces = inverse.reshape(-1, 4).astype(np.int32)
    return used.astype(np.int32), faces, np.stack([u, v], -1).astype(np.float32)[faces]


def mouth_parts(identity: Identity, look: Look) -> list[tuple[Part, NDArray[np.uint8]]]:
    """Teeth and tongue from the helper meshes, with textures."""
    head = base_head()
    used, faces, uv = _dental_faces()
    teeth = _helper_part("teeth", identity, used, faces, uv)
    mask = head.mesh.groups == "helper-tongue"
    used, inverse = np.unique(head.mesh.faces[mask], return_inverse=True)
    faces = inverse.reshape(-1, 4).astype(np.int32)
    tongue = _helper_part("tongue", identity, used.astype(np.int32), faces, np.zeros((*faces.shape, 2), np.float32))
    return [(teeth, _teeth_paint(look)), (tongue, np.full((4, 4, 4), (172, 92, 88, 255), np.uint8))]


def _helper_part(name: str, identity: Identity, used: Ints, faces: Ints, uv: Floats) -> Part:
    weight = base_head().head_weight[used]
    return Part(
        name,
        "mouth",
        weld(faces, uv),
        identity.vertices[used],
        weight,
        NormalField(faces, len(used)),
        morph_rows()[:, used],
    )


def _teeth_paint(look: Look) -> NDArray[np.uint8]:
    """Fourteen teeth with soft gaps under a pink gum; uint8 [64, 512, 4], row 0 at v = 1."""
    u = (np.arange(512) + 0.5) / 512
    v = (1 - (np.arange(64) + 0.5) / 64)[:, None]
    gap = np.abs((u * 22) % 1 - 0.5) * 2
    gum_edge = 0.30 - 0.10 * (1 - gap**2)
    ivory = np.array(look.ivory) * (1 - 0.45 * smoothstep(0.84, 1.0, gap))[None, :, None]
    gum = np.array([176, 92, 92.0])
    share = smoothstep(-0.05, 0.05, v - gum_edge)[..., None]
    colour = gum + share * (ivory - gum)
    return np.concatenate([colour, np.full((64, 512, 1), 255.0)], -1).astype(np.uint8)
