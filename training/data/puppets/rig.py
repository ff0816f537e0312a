"""One photograph's puppet as arrays: rest shape, motion basis, texture places, edge opacity, eyes, backdrop grid.

All shapes live in the camera frame of the photograph (centimetres, y up, origin at the neck's pivot), so that a frame
is `rest + strengths @ basis`, turned by the head's rotation and projected by `image = origin + scale * (x, -y)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.puppets.contact import close_lids, meet_lips, part_lips, seam_shift, shut_lids
from training.data.puppets.eyes import Eye, build_eyes
from training.data.puppets.face_model import FaceModel
from training.data.puppets.fit import FaceFit
from training.data.puppets.glasses import expression_share
from training.data.puppets.mesh import Projection, squared_distances, thin_plate, vertex_normals
from training.data.puppets.photo import PAD, PhotoFace

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

PIVOT_CM = np.array([0.0, -6.0, -2.0], np.float32)
"""Where the head turns on the neck, in the face model's frame."""

MOUTH_PARTS = ("socket", "gums", "teeth")
_GRID = 45
_OVAL = 468
_SKIN_STEP = 24


@dataclass(frozen=True, slots=True)
class Layer:
    """rest [n, 3], basis [53, n, 3], triangles [t, 3] into them."""

    rest: Floats
    basis: Floats
    triangles: Ints


@dataclass(frozen=True, slots=True)
class PuppetRig:
    """face, mouth, grid: moving layers. points: the 28 landmarks as a layer without triangles.

    view: projection into fractions of the canonical crop.
    face_uv, grid_uv [n, 2]: place on the photograph (fractions of the crop).
    shut_uv [n, 2]: the same on the picture with both eyes shut (see lids.py). lid_seams: by side, the line [k, 2] on
    which shut lids meet, by rising x. face_lid [n]: 1 upper right, 2 upper left, 3 lower right, 4 lower left, else 0.
    face_alpha [n]: opacity.
    face_gloom [n]: light that reaches the inside of the lips, in [0, 1].
    face_normals [n, 3]: at rest. face_normal_basis [53, n, 3]: their change per unit.
    mouth_normals [m, 3]. mouth_part [m]: index into MOUTH_PARTS. grid_hold [g]: how far the backdrop follows the head.
    """

    view: Projection
    face: Layer
    mouth: Layer
    grid: Layer
    points: Layer
    eyes: tuple[Eye, Eye]
    face_uv: Floats
    shut_uv: Floats
    face_lid: Ints
    lid_seams: dict[str, Floats]
    face_alpha: Floats
    face_gloom: Floats
    face_normals: Floats
    face_normal_basis: Floats
    mouth_normals: Floats
    mouth_part: Ints
    grid_uv: Floats
    grid_hold: Floats


def build_rig(
    model: FaceModel,
    photo: PhotoFace,
    identity_shift: Floats | None = None,
    frames: tuple[float, float] | None = None,
) -> PuppetRig:
    """Rig of a fitted photograph.

    identity_shift [K] in standard deviations changes the shape, not the texture. frames: where glasses are (see
    glasses.FRAMES), None for a face without.
    """
    fit, n_face = photo.fit, _face_count(model)
    room = (1 - fit.units)[:, None, None]
    basis = ((model.units * room) @ fit.rotation.T).astype(np.float32)
    normal_basis = ((model.unit_normals[:, :n_face] * room) @ fit.rotation.T).astype(np.float32)
    view, fitted = _camera_frame(model, fit)
    rest = _hit_landmarks(model, fitted, photo.points[model.control_points], view)
    rest = part_lips(model, rest, photo.points, view)
    uv = view.image(rest[:n_face])
    rest = meet_lips(model, rest, photo.points, view)
    rest[n_face:] += seam_shift(model, fitted, rest)
    if frames is not None:
        share = expression_share(uv, photo.points, frames)[:, None]
        basis[:, :n_face] *= share
        normal_basis *= share
    close_lids(model, rest, basis)
    normals = vertex_normals(rest, model.triangles["face"])[:n_face]
    alpha = _edge_alpha(photo.points, uv, normals)
    shut, lid, seams = shut_lids(model, rest, basis)
    marks = rest[model.landmarks]
    marks[:, :2] += view.lift(photo.named) - marks[:, :2]
    eyes = build_eyes(model, rest, photo.points, view)
    grid, grid_hold = _backdrop(rest[:n_face], basis[:, :n_face], uv, view)
    grid_uv = view.image(grid.rest)
    if identity_shift is not None:
        change = (np.tensordot(identity_shift, model.identity, 1) @ fit.rotation.T).astype(np.float32)
        rest, marks = rest + change, marks + change[model.landmarks]
        eyes = (eyes[0].moved(change), eyes[1].moved(change))
        grid = replace(grid, rest=_carried(grid, uv, grid_uv, change[:n_face]))
    faces = model.triangles["face"]
    mouth, part = _mouth_layer(model, rest, basis)
    return PuppetRig(
        view=view,
        face=Layer(rest[:n_face], basis[:, :n_face], faces[alpha[faces].max(1) > 0]),
        mouth=mouth,
        grid=grid,
        points=Layer(marks, basis[:, model.landmarks], np.zeros((0, 3), np.int32)),
        eyes=eyes,
        face_uv=uv,
        shut_uv=view.image(shut[:n_face]),
        face_lid=lid[:n_face],
        lid_seams={side: view.image(line) for side, line in seams.items()},
        face_alpha=alpha,
        face_gloom=_lip_gloom(model, n_face),
        face_normals=normals,
        face_normal_basis=normal_basis,
        mouth_normals=vertex_normals(mouth.rest, mouth.triangles),
        mouth_part=part,
        grid_uv=grid_uv,
        grid_hold=grid_hold,
    )


def _camera_frame(model: FaceModel, fit: FaceFit) -> tuple[Projection, Floats]:
    """The projection, and the fitted face [N, 3] about the neck's pivot, turned as on the photograph."""
    shape = model.vertices + np.tensordot(fit.identity, model.identity, 1) + np.tensordot(fit.units, model.units, 1)
    offset = fit.rotation @ (PIVOT_CM - fit.centre)
    origin = fit.translation + fit.scale * offset[:2] * (1, -1)
    return Projection(origin.astype(np.float32), fit.scale), ((shape - PIVOT_CM) @ fit.rotation.T).astype(np.float32)


def _face_count(model: FaceModel) -> int:
    return int(model.triangles["face"].max()) + 1


def _hit_landmarks(model: FaceModel, fitted: Floats, wanted: Floats, view: Projection) -> Floats:
    """Shift the face in the image plane onto the landmarks [n, 2]; the shift dies out away from its front."""
    n_face = _face_count(model)
    image = view.image(fitted[:n_face])
    at = image[model.control_vertices]
    field = thin_plate(at, wanted - at, image, smoothing=2e-4)
    far_cm = np.sqrt(squared_distances(image, at[::4]).min(1)) / view.scale
    out = fitted.copy()
    out[:n_face, :2] += field / view.scale * (1, -1) * np.exp(-((far_cm / 4.0) ** 2))[:, None]
    return out


def _edge_alpha(points: Floats, uv: Floats, normals: Floats) -> Floats:
    """1 inside the face, fading over 7 % of its width to 0 at its outline and where the surface turns away."""
    outline = cv2.convexHull(points[:_OVAL].astype(np.float32))
    width = float(np.ptp(points[:_OVAL, 0]))
    inside = np.array([cv2.pointPolygonTest(outline, (float(x), float(y)), True) for x, y in uv])
    edge = np.clip((inside + 0.01 * width) / (0.07 * width), 0, 1)
    # Lips and lids turn away too, but lie far inside.
    deep = np.clip((inside / width - 0.14) / 0.06, 0, 1)
    return (edge * np.maximum(np.clip((normals[:, 2] - 0.05) / 0.25, 0, 1), deep)).astype(np.float32)


def _lip_gloom(model: FaceModel, n_face: int) -> Floats:
    gloom = np.ones(n_face, np.float32)
    rim = model.mouth_rim
    on_face = rim.vertices < n_face
    gloom[rim.vertices[on_face]] = np.clip(0.35 + 0.65 * rim.ring[on_face] / 6.0, 0, 1)
    return gloom


def _mouth_layer(model: FaceModel, rest: Floats, basis: Floats) -> tuple[Layer, Ints]:
    used = np.unique(np.concatenate([model.triangles[p].ravel() for p in MOUTH_PARTS]))
    renumber = np.zeros(len(rest), np.int32)
    renumber[used] = np.arange(len(used), dtype=np.int32)
    part = np.zeros(len(rest), np.int32)
    for index, name in enumerate(MOUTH_PARTS):
        part[model.triangles[name]] = index
    triangles = np.concatenate([renumber[model.triangles[p]] for p in MOUTH_PARTS])
    return Layer(rest[used], basis[:, used], triangles), part[used]


def _backdrop(face: Floats, basis: Floats, uv: Floats, view: Projection) -> tuple[Layer, Floats]:
    """A grid over the padded picture that is carried by the nearest parts of the head, less and less with distance."""
    line = np.linspace(-PAD, 1 + PAD, _GRID, dtype=np.float32)
    places = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    weight, near = _nearest_skin(places, uv)
    edge = np.minimum(np.minimum(places[:, 0], 1 - places[:, 0]), 1 + PAD - places[:, 1]) + PAD
    hold = _fade(1.25 - near / 0.75) * _fade(edge / (PAD + 0.08))
    give = weight * _fade(1.0 - near / 0.35)[:, None]
    moved = np.einsum("gk,ukc->ugc", give, basis[:, ::_SKIN_STEP], optimize=True)
    rest = weight @ face[::_SKIN_STEP]
    rest[:, :2] = view.lift(places)
    index = np.arange(_GRID * (_GRID - 1)).reshape(_GRID - 1, _GRID)[:, :-1].ravel()
    square = np.stack([index, index + 1, index + _GRID, index + 1, index + _GRID + 1, index + _GRID], 1)
    return Layer(rest, moved.astype(np.float32), square.reshape(-1, 3).astype(np.int32)), hold.astype(np.float32)


def _carried(grid: Layer, uv: Floats, grid_uv: Floats, change: Floats) -> Floats:
    """The grid's rest shape after the face changed shape by `change` [n, 3]."""
    weight, near = _nearest_skin(grid_uv, uv)
    shift = weight @ change[::_SKIN_STEP] * _fade(1.0 - near / 0.5)[:, None]
    return (grid.rest + shift).astype(np.float32)


def _nearest_skin(places: Floats, uv: Floats) -> tuple[Floats, Floats]:
    """Weights [g, k] of every _SKIN_STEP-th face vertex at each place, and the distance [g] in face widths."""
    distance2 = squared_distances(places, uv[::_SKIN_STEP])
    width = float(np.ptp(uv[:, 0]))
    nearest2 = distance2.min(1, keepdims=True)
    weight = np.exp(-(distance2 - nearest2) / (2 * (0.06 * width) ** 2))
    near = np.sqrt(nearest2[:, 0]) / width
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32), near.astype(np.float32)


def _fade(x: NDArray) -> Floats:
    t = np.clip(x, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
