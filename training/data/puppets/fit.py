"""Pose, identity and expression of the face model from landmarks: alternating pose and ridge regression.

Weak perspective: image = translation + scale * (R (x - centre)) with y flipped. The camera pose comes from a linear
least-squares affine fit projected onto a scaled rotation; given the pose, shape is one regularised linear solve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.puppets.face_model import N_UNITS, FaceModel
from training.data.truth import ARKIT_UNITS

Floats = NDArray[np.float32]

# A closed mouth must not be explained by units that open it, nor the lids by the gaze.
_NOT_FITTED = ("eyeLook", "jaw", "mouthClose", "mouthFunnel", "mouthLower", "mouthUpper", "mouthRoll", "tongue")
FITTED_UNITS = np.array([i for i, name in enumerate(ARKIT_UNITS) if not name.startswith(_NOT_FITTED)])


@dataclass(frozen=True, slots=True)
class FaceFit:
    """rotation [3, 3]: model to camera (y up). scale: image units per cm. translation [2]: image of `centre` [3].

    identity [K]: standard deviations. units [53]: strengths on the photograph. error: mean distance over face width.
    """

    rotation: Floats
    scale: float
    translation: Floats
    centre: Floats
    identity: Floats
    units: Floats
    error: float

    def project(self, vertices: NDArray[np.floating]) -> Floats:
        """Model points [n, 3] to image [n, 2]."""
        camera = (vertices - self.centre) @ self.rotation.T * self.scale
        return (self.translation + camera[:, :2] * (1, -1)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class FitConfig:
    rounds: int = 12
    identity_ridge: float = 0.6
    unit_ridge: float = 2.0
    identity_limit: float = 2.5


def fit_face(model: FaceModel, points: Floats, config: FitConfig | None = None) -> FaceFit:
    """Fit to image points [n, 2] (y down) at model.control_vertices; any image unit."""
    config = config or FitConfig()
    at = model.control_vertices
    base = model.vertices[at].astype(np.float64)
    shapes = np.concatenate([model.identity[:, at], model.units[FITTED_UNITS][:, at]]).astype(np.float64)
    n_identity = len(model.identity)
    ridge = np.repeat([config.identity_ridge, config.unit_ridge], [n_identity, len(FITTED_UNITS)])
    low = np.repeat([-config.identity_limit, 0.0], [n_identity, len(FITTED_UNITS)])
    high = np.repeat([config.identity_limit, 1.0], [n_identity, len(FITTED_UNITS)])
    flipped = (points - points.mean(0)).astype(np.float64) * (1, -1)
    strengths = np.zeros(len(shapes))
    for _ in range(config.rounds):
        current = base + np.tensordot(strengths, shapes, 1)
        rotation, scale = scaled_rotation(current - current.mean(0), flipped)
        strengths = np.clip(_solve_shape(base, shapes, rotation, scale, flipped, ridge), low, high)
    current = base + np.tensordot(strengths, shapes, 1)
    units = np.zeros(N_UNITS, np.float32)
    units[FITTED_UNITS] = strengths[n_identity:]
    residual = (current - current.mean(0)) @ rotation[:2].T * scale - flipped
    return FaceFit(
        rotation=rotation.astype(np.float32),
        scale=float(scale),
        translation=points.mean(0).astype(np.float32),
        centre=current.mean(0).astype(np.float32),
        identity=strengths[:n_identity].astype(np.float32),
        units=units,
        error=float(np.linalg.norm(residual, axis=1).mean() / np.ptp(points[:, 0])),
    )


def scaled_rotation(model: NDArray[np.float64], image: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Rotation [3, 3] and scale that bring scale * model [n, 3] @ rotation[:2].T nearest to image [n, 2]."""
    affine = np.linalg.lstsq(model, image, rcond=None)[0].T
    left, singular, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    return np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])]), float(singular.mean())


def _solve_shape(
    base: NDArray[np.float64],
    shapes: NDArray[np.float64],
    rotation: NDArray[np.float64],
    scale: float,
    image: NDArray[np.float64],
    ridge: NDArray[np.float64],
) -> NDArray[np.float64]:
    camera = scale * rotation[:2].T
    columns = ((shapes - shapes.mean(1, keepdims=True)) @ camera).reshape(len(shapes), -1)
    target = (image - (base - base.mean(0)) @ camera).ravel()
    # The ridge is in units of landmark noise (1 % of the face's height), so it does not depend on the image unit.
    weight = ridge * 0.0012 * np.ptp(image[:, 1]) * np.sqrt(len(target))
    return np.linalg.solve(columns @ columns.T + np.diag(weight**2), columns @ target)
