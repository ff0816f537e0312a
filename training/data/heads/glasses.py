"""Glasses: frames of several shapes and colours that sit on a head, and lenses that mirror the light.

A frame is a set of tubes: two rims along a superellipse, a bridge and two temples. It turns with the head and ignores
the face, as glasses do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from training.data.heads.base import BODY_VERTICES, base_head
from training.data.heads.identity import Identity
from training.data.heads.mesh import Floats, Ints, NormalField, weld
from training.data.heads.parts import Part

Colour = tuple[float, float, float]

_SHAPES: dict[str, tuple[float, float, float]] = {
    "round": (0.215, 0.205, 2.0), "oval": (0.240, 0.170, 2.2), "panto": (0.235, 0.200, 2.5),
    "rectangle": (0.250, 0.160, 4.0), "square": (0.245, 0.195, 3.4), "browline": (0.245, 0.180, 2.8),
}  # fmt: skip
"""Half width and half height of a rim in dm, and the exponent of its superellipse."""

_COLOURS: tuple[Colour, ...] = (
    (22, 21, 22), (22, 21, 22), (62, 38, 24), (96, 58, 32), (150, 146, 140), (168, 138, 84), (40, 48, 76),
    (110, 28, 34), (176, 160, 146),
)  # fmt: skip
_AROUND, _SECTION = 28, 5
_CLEARANCE_DM = 0.035


@dataclass(frozen=True, slots=True)
class Glasses:
    """shape: a key of the rim shapes. colour: sRGB in [0, 255]. thickness_dm: radius of the rim. tint: darkness of
    the lens in [0, 1]."""

    shape: str
    colour: Colour
    thickness_dm: float
    scale: float
    tint: float


def sample_glasses(rng: np.random.Generator, age: float) -> Glasses | None:
    """Glasses for about a quarter of the young and half of the old; None for the others."""
    wears = rng.random() < 0.22 + 0.3 * age
    glasses = Glasses(
        shape=list(_SHAPES)[rng.integers(len(_SHAPES))],
        colour=_COLOURS[rng.integers(len(_COLOURS))],
        thickness_dm=float(rng.uniform(0.007, 0.021)),
        scale=float(rng.uniform(0.93, 1.10)),
        tint=float(rng.uniform(0, 0.06)),
    )
    return glasses if wears else None


def bake_glasses(identity: Identity, glasses: Glasses) -> tuple[Part, Part]:
    """Frame and lenses fitted to a head."""
    rims = [_rim(identity, glasses, side) for side in (1.0, -1.0)]
    tubes = [_tube(rim, glasses.thickness_dm, closed=True) for rim in rims]
    tubes += [_tube(path, glasses.thickness_dm * 0.9, closed=False) for path in _links(identity, rims)]
    frame = _part("frame", "glass", *_join(tubes))
    return frame, _part("lens", "glass", *_join([_disc(rim) for rim in rims]))


def _rim(identity: Identity, glasses: Glasses, side: float) -> Floats:
    """Closed curve [N, 3] around the eye of one side, in front of all skin near it."""
    helper = base_head().eyes[0 if side > 0 else 1]
    eye = identity.vertices[helper].mean(0)
    width, height, power = _SHAPES[glasses.shape]
    angle = np.arange(_AROUND) * 2 * np.pi / _AROUND
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)
    ring = np.sign(ring) * np.abs(ring) ** (2 / power) * (width * glasses.scale, height * glasses.scale)
    inner_edge = 0.075
    x = np.maximum(abs(eye[0]) + 0.015, inner_edge + width * glasses.scale) + ring[:, 0]
    y = eye[1] - 0.035 + ring[:, 1]
    front = _front_of_face(identity, x * side, y)
    z = front - 0.16 * (x - x.min()) ** 2
    return np.stack([x * side, y, z], -1).astype(np.float32)


def _front_of_face(identity: Identity, x: Floats, y: Floats) -> float:
    """Depth at which a rim with the given outline clears the skin."""
    skin = identity.vertices[:BODY_VERTICES]
    eyes = identity.vertices[np.concatenate(base_head().eyes)].mean(0)
    front = skin[(skin[:, 2] > eyes[2] - 0.2) & (np.abs(skin[:, 1] - eyes[1]) < 0.5)]
    outline = np.stack([x, y], -1)
    gap, nearest = cKDTree(outline).query(front[:, :2])
    close = gap < 0.05
    bow = 0.16 * (np.abs(x[nearest[close]]) - np.abs(x).min()) ** 2
    return float((front[close, 2] + bow).max()) + _CLEARANCE_DM


def _links(identity: Identity, rims: list[Floats]) -> list[Floats]:
    """Bridge and temples as open curves."""
    left, right = rims
    quarter = _AROUND // 4
    inner = (left[2 * quarter - 2], right[2 * quarter - 2])
    top = (inner[0] + inner[1]) / 2 + np.float32([0, 0.025, 0.02])
    links = [np.stack([inner[0], top, inner[1]])]
    skin = identity.vertices[:BODY_VERTICES]
    for rim, side in ((left, 1.0), (right, -1.0)):
        hinge = rim[2]
        beside = skin[(np.abs(skin[:, 1] - hinge[1]) < 0.15) & (skin[:, 2] > 0.45) & (skin[:, 2] < 0.9)]
        out = side * (float(np.abs(beside[:, 0]).max()) + 0.03)
        bend = np.float32([hinge[0] + side * 0.05, hinge[1], hinge[2] - 0.03])
        links.append(np.stack([hinge, bend, (out, hinge[1], 0.75), (out, hinge[1] - 0.01, 0.25)]))
    return [link.astype(np.float32) for link in links]


def _tube(path: Floats, radius: float, closed: bool) -> tuple[Floats, Ints]:
    """Vertices and quads of a tube along a curve [N, 3]."""
    ahead = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    guide = np.float32([0, 0, 1]) if closed else np.float32([0, 1, 0])
    side = np.cross(ahead, guide)
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
    up = np.cross(side, ahead)
    angle = np.arange(_SECTION) * 2 * np.pi / _SECTION
    ring = np.cos(angle)[:, None] * side[:, None] + np.sin(angle)[:, None] * up[:, None]
    vertices = (path[:, None] + radius * ring).reshape(-1, 3).astype(np.float32)
    count = len(path)
    i, j = np.meshgrid(np.arange(count if closed else count - 1), np.arange(_SECTION), indexing="ij")
    i2, j2 = (i + 1) % count, (j + 1) % _SECTION
    quads = np.stack([i * _SECTION + j, i * _SECTION + j2, i2 * _SECTION + j2, i2 * _SECTION + j], -1)
    return vertices, quads.reshape(-1, 4).astype(np.int32)


def _disc(rim: Floats) -> tuple[Floats, Ints]:
    """A lens: a fan from a slightly domed centre to the rim, facing forward."""
    centre = rim.mean(0, keepdims=True) + np.float32([0, 0, 0.015])
    count = len(rim)
    j = np.arange(count)
    quads = np.stack([np.full(count, count), j, (j + 1) % count, np.full(count, count)], -1)
    if rim[0, 0] < 0:
        quads = quads[:, ::-1]
    return np.concatenate([rim, centre]).astype(np.float32), np.ascontiguousarray(quads, np.int32)


def _join(pieces: list[tuple[Floats, Ints]]) -> tuple[Floats, Ints]:
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in pieces])
    faces = [quads + start for (_, quads), start in zip(pieces, starts, strict=False)]
    return np.concatenate([vertices for vertices, _ in pieces]), np.concatenate(faces).astype(np.int32)


def _part(name: str, shader: str, vertices: Floats, faces: Ints) -> Part:
    surface = weld(faces, np.zeros((*faces.shape, 2), np.float32))
    return Part(name, shader, surface, vertices, np.ones(len(vertices), np.float32), NormalField(faces, len(vertices)))
