"""The moving part of a rig: unit strengths and head turns in, vertices out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.puppets.renderer import FACE, GRID, MOUTH, View
from training.data.puppets.rig import PuppetRig

Floats = NDArray[np.float32]


class Motion:
    """The moving vertices of a rig in one flat array, so that a frame is a few scaled additions."""

    def __init__(self, rig: PuppetRig) -> None:
        n_units = len(rig.face.basis)
        face = np.concatenate([rig.face.rest, rig.face_normals], 1)
        face_basis = np.concatenate([rig.face.basis, rig.face_normal_basis], 2)
        parts = [(face, face_basis), *((p.rest, p.basis) for p in (rig.mouth, rig.grid, rig.points))]
        self._rest = np.concatenate([rest.ravel() for rest, _ in parts])
        self._basis = np.concatenate([basis.reshape(n_units, -1) for _, basis in parts], 1)
        self._now = self._rest.copy()
        self._scaled = np.empty_like(self._rest)
        ends = np.cumsum([rest.size for rest, _ in parts])[:-1]
        views = np.split(self._now, ends)
        self.face, self.mouth, self.grid, self.points = (
            view.reshape(rest.shape) for view, (rest, _) in zip(views, parts, strict=True)
        )

    def set(self, strengths: Floats) -> None:
        self._now[:] = self._rest
        for row in np.flatnonzero(np.abs(strengths) > 1e-4):
            np.multiply(self._basis[row], strengths[row], out=self._scaled)
            self._now += self._scaled

    def images(self, rig: PuppetRig, view: View) -> dict[int, Floats]:
        """Image x, y and depth in cm of every vertex [n, 3], by layer."""
        hold = rig.grid_hold[:, None]
        turned = {FACE: self.face[:, :3] @ view.turn.T, MOUTH: self.mouth @ view.turn.T}
        turned[GRID] = self.grid * (1 - hold) + self.grid @ view.turn.T * hold
        return {kind: np.concatenate([rig.view.image(v), v[:, 2:]], 1).astype(np.float32) for kind, v in turned.items()}


def eye_image(rig: PuppetRig, which: int, view: View) -> Floats:
    eye = rig.eyes[which]
    turned = (eye.centre + eye.offsets @ view.spin.T) @ view.turn.T
    return np.concatenate([rig.view.image(turned), turned[:, 2:]], 1).astype(np.float32)


def rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Floats:
    """[3, 3], yaw @ pitch @ roll with the signs of engine.types.POSE_AXES, for column vectors in a y-up frame."""
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw_deg, pitch_deg, roll_deg])) for f in (np.cos, np.sin))
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (yaw @ pitch @ roll).astype(np.float32)
