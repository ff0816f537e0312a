"""A perspective camera whose picture is exactly the canonical crop of a set of landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.portrait.crop import canonical_crop
from training.data.heads.mesh import Floats


@dataclass(frozen=True, slots=True)
class Camera:
    """view: [4, 4], world (dm) to clip space. eye: [3]."""

    view: Floats
    eye: Floats

    def project(self, points: Floats) -> Floats:
        """World points [..., 3] to fractions of the picture [..., 2], y down."""
        clip = points @ self.view[:, :3].T + self.view[:, 3]
        ndc = clip[..., :2] / clip[..., 3:4]
        return (np.stack([1 + ndc[..., 0], 1 - ndc[..., 1]], -1) / 2).astype(np.float32)


def portrait_camera(landmarks: Floats, distance_dm: float, azimuth_deg: float, height_deg: float) -> Camera:
    """Look at world landmarks [28, 3] from a distance so that their canonical crop fills the picture."""
    target = landmarks.mean(0)
    a, h = np.radians([azimuth_deg, height_deg])
    eye = target + distance_dm * np.array([np.sin(a) * np.cos(h), np.sin(h), np.cos(a) * np.cos(h)])
    wide = Camera((_perspective(1.0, distance_dm - 5, distance_dm + 6) @ _look_at(eye, target)).astype(np.float32), eye)
    box = canonical_crop(wide.project(landmarks))
    zoom = np.eye(4)
    zoom[0, 0] = zoom[1, 1] = 1 / box.side
    zoom[0, 3] = (1 - 2 * box.left - box.side) / box.side
    zoom[1, 3] = (box.side - 1 + 2 * box.top) / box.side
    return Camera((zoom @ wide.view).astype(np.float32), eye.astype(np.float32))


def orthographic(direction: Floats, centre: Floats, radius_dm: float) -> Floats:
    """View of a ball from far away along a direction, [4, 4]; depth covers 1.5 radii either side."""
    scale = np.diag([1 / radius_dm, 1 / radius_dm, -1 / (1.5 * radius_dm), 1.0])
    view = _look_at(centre + direction, centre)
    view[2, 3] += 1.0
    return (scale @ view).astype(np.float32)


def _look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    forward = np.asarray(target, float) - eye
    forward /= np.linalg.norm(forward)
    up = (0.0, 1.0, 0.0) if abs(forward[1]) < 0.99 else (0.0, 0.0, -1.0)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = right, np.cross(right, forward), -forward
    matrix[:3, 3] = -matrix[:3, :3] @ eye
    return matrix


def _perspective(cotangent: float, near: float, far: float) -> np.ndarray:
    matrix = np.zeros((4, 4))
    matrix[0, 0] = matrix[1, 1] = cotangent
    matrix[2, 2], matrix[2, 3] = (far + near) / (near - far), 2 * far * near / (near - far)
    matrix[3, 2] = -1
    return matrix
