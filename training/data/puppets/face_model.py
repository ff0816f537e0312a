"""The ICT face as arrays: neutral shape, identity modes and expression units under their ARKit names.

The model is the "light" ICT-FaceKit (Li et al., Learning Formation of Physically-Based Face Attributes, CVPR 2020;
MIT), reduced to `ict_small.npz`; `mp2ict.npz` says which of its vertices each mediapipe landmark lies on. Lengths are
centimetres, y up, +z out of the face.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import MEDIAPIPE_INDEX
from training.data.puppets.errors import AssetsMissing
from training.data.puppets.mesh import blend_normals, rim_rings, vertex_normals
from training.data.truth import ARKIT_UNITS, UNIT

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

TONGUE_UP = len(ARKIT_UNITS)
"""Row of the tongue-tip unit, which follows the 52 ARKit units."""

N_UNITS = TONGUE_UP + 1

_FACE_END = 9409
_SOCKET = (11248, 13294)
_MOUTH_RIM = (6632, 6706)
_EYE_RIMS = {"Right": (6590, 6632), "Left": (6548, 6590)}
_RING_LIMIT = 14
# Landmarks that the correspondence leaves out are taken from the rims: (rim, upper or lower, ring).
_RIM_LANDMARKS = {
    "lid_right_upper": ("Right", True, 4),
    "lid_left_upper": ("Left", True, 4),
    "lip_upper_inner": ("mouth", True, 8),
    "lip_lower_inner": ("mouth", False, 7),
}


@dataclass(frozen=True, slots=True)
class Rim:
    """Vertices around an opening. vertices: [n]; ring: steps from the opening's edge; upper: above its corners."""

    vertices: Ints
    ring: Ints
    upper: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FaceModel:
    """vertices [N, 3]; units [53, N, 3] (ARKIT_UNITS, then tongue tip up); identity [K, N, 3] per standard deviation.

    triangles: by part: face, socket, gums, teeth, eye_left, eye_right; counter-clockwise from outside.
    unit_normals [53, N, 3]: change of the unit normal of face vertices at full strength, neutral identity.
    controls: mediapipe index -> vertex. landmarks: vertex of each of the 28 points.
    """

    vertices: Floats
    units: Floats
    unit_normals: Floats
    identity: Floats
    triangles: dict[str, Ints]
    control_points: Ints
    control_vertices: Ints
    landmarks: Ints
    mouth_rim: Rim
    eye_rims: dict[str, Rim]


@lru_cache(maxsize=2)
def load_face_model(assets: Path) -> FaceModel:
    """Read the face from `assets`/ict. Raises AssetsMissing."""
    paths = [Path(assets) / "ict" / name for name in ("ict_small.npz", "mp2ict.npz")]
    for path in paths:
        if not path.is_file():
            raise AssetsMissing(f"{path} is missing; pass --assets with a folder that holds ict/{path.name}")
    with np.load(paths[0], allow_pickle=False) as raw, np.load(paths[1], allow_pickle=False) as link:
        return _build(dict(raw), link["idx"].astype(np.int64), link["ok"])


def _build(raw: dict[str, NDArray], link: NDArray, linked: NDArray) -> FaceModel:
    parts = _parts(raw)
    used = np.unique(np.concatenate([t.ravel() for t in parts.values()] + [np.arange(_FACE_END)]))
    renumber = np.full(len(raw["v"]), -1, np.int32)
    renumber[used] = np.arange(len(used), dtype=np.int32)
    triangles = {name: renumber[t] for name, t in parts.items()}
    vertices = np.ascontiguousarray(raw["v"][used], np.float32)
    units = _arkit_units(raw["expr"][:, used], [str(n) for n in raw["expr_names"]])
    _add_tongue(units, vertices, np.unique(triangles["gums"]))
    eyes = {side: _rim(vertices, triangles["face"], *span, deepest=6) for side, span in _EYE_RIMS.items()}
    mouth = _rim(vertices, triangles["face"], *_MOUTH_RIM, deepest=_RING_LIMIT)
    controls = np.flatnonzero(linked)
    face = triangles["face"]
    return FaceModel(
        vertices=vertices,
        units=units,
        unit_normals=blend_normals(vertices, units, face),
        identity=raw["ident"][:, used].astype(np.float32),
        triangles=triangles,
        control_points=controls.astype(np.int32),
        control_vertices=link[controls].astype(np.int32),
        landmarks=_landmark_vertices(vertices, link, {**eyes, "mouth": mouth}),
        mouth_rim=mouth,
        eye_rims=eyes,
    )


def _parts(raw: dict[str, NDArray]) -> dict[str, NDArray]:
    names = [str(n) for n in raw["mats"]]
    tri, material = raw["tri"], raw["mat"]

    def of(name: str) -> NDArray:
        return tri[material == names.index(name)]

    inside = (tri >= _SOCKET[0]) & (tri < _SOCKET[1]) | (tri >= _MOUTH_RIM[0]) & (tri < _MOUTH_RIM[1])
    return {
        "face": of("M_Face"),
        "socket": tri[inside.all(1) & (tri.max(1) >= _SOCKET[0])],
        "gums": _seen_from_front(raw["v"], of("M_GumsTongue"), deepest_cm=4.0),
        "teeth": _seen_from_front(raw["v"], of("M_Teeth"), deepest_cm=6.0),
        "eye_left": of("M_ScleraLeft"),
        "eye_right": of("M_ScleraRight"),
    }


def _seen_from_front(vertices: NDArray, triangles: NDArray, deepest_cm: float) -> NDArray:
    """Triangles that an open mouth can show: not facing the throat, not too deep."""
    facing = vertex_normals(vertices, triangles)[triangles][..., 2].max(1)
    return triangles[(facing > -0.1) & (vertices[triangles][..., 2].max(1) > deepest_cm)]


def _arkit_units(expression: NDArray, names: list[str]) -> Floats:
    """ICT's shapes under ARKit's names: _L and _R are Left and Right, or two halves of one unpaired unit."""
    units = np.zeros((N_UNITS, *expression.shape[1:]), np.float32)
    for name, shape in zip(names, expression, strict=True):
        stem, _, side = name.partition("_")
        sided = stem + {"": "", "L": "Left", "R": "Right"}[side]
        row = UNIT.get(sided, UNIT.get(stem))
        if row is not None:
            units[row] += shape.astype(np.float32)
    return units


def _add_tongue(units: Floats, vertices: Floats, gums: NDArray) -> None:
    """ICT has no tongue shapes: raise and advance the part of the gum mesh that lies inside the lower arch."""
    x, y, z = vertices[gums].T
    body = (np.abs(x) < 2.0) & (z > 4.0) & (z < 9.75) & (y > -4.6) & (y < -2.9)
    tip = _smooth((z - 5.5) / 4.0) * _smooth((2.1 - np.abs(x)) / 0.8) * _smooth((y + 4.7) / 0.6) * body
    units[TONGUE_UP, gums, 1] = 0.95 * tip
    units[TONGUE_UP, gums, 2] = 0.25 * tip
    units[UNIT["tongueOut"], gums, 1] = 0.35 * tip
    units[UNIT["tongueOut"], gums, 2] = 2.9 * tip


def _smooth(x: NDArray) -> NDArray:
    t = np.clip(x, 0, 1)
    return t * t * (3 - 2 * t)


def _rim(vertices: Floats, faces: Ints, start: int, stop: int, deepest: int) -> Rim:
    ring, origin = rim_rings(faces, np.arange(start, stop), len(vertices), deepest)
    found = np.flatnonzero(ring >= 0).astype(np.int32)
    loop = vertices[start:stop]
    left, right = loop[loop[:, 0].argmin()], loop[loop[:, 0].argmax()]
    corner_y = np.interp(vertices[:, 0], [left[0], right[0]], [left[1], right[1]])
    upper = (vertices[:, 1] > corner_y)[origin[found]]
    return Rim(found, ring[found].astype(np.int32), upper)


def _landmark_vertices(vertices: Floats, link: NDArray, rims: dict[str, Rim]) -> Ints:
    out = [link[i] for i in MEDIAPIPE_INDEX.values()]
    for place, name in enumerate(MEDIAPIPE_INDEX):
        if name in _RIM_LANDMARKS:
            rim_name, upper, ring = _RIM_LANDMARKS[name]
            rim = rims[rim_name]
            pick = rim.vertices[(rim.upper == upper) & (rim.ring == ring)]
            middle = (vertices[pick, 0].min() + vertices[pick, 0].max()) / 2
            out[place] = pick[np.abs(vertices[pick, 0] - middle).argmin()]
    return np.array(out, np.int32)
