"""`HeadSubject`: one computer-graphics person that can be drawn performing, with truth maps."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from engine.portrait.landmarks import INDEX
from training.data.heads.backdrop import sample_background, sample_light
from training.data.heads.camera import Camera, portrait_camera
from training.data.heads.dense import DenseTruth
from training.data.heads.dressing import dress_from_assets, dress_procedurally
from training.data.heads.identity import sample_identity
from training.data.heads.mesh import Floats
from training.data.heads.occlusion import bake_occlusion
from training.data.heads.parts import bake_eyes
from training.data.heads.posing import (
    LANDMARK_VERTICES,
    LandmarkRig,
    gaze_turn,
    head_turn,
    pivot_of,
    rest_of,
    row_strengths,
)  # fmt: skip
from training.data.heads.renderer import FAST, HIGH, Motion, Quality, Scene, UniformValue
from training.data.heads.wardrobe import AssetFolder, sample_look
from training.data.truth import UNIT, Drawn, FramePose

_LID_NAMES = ("lid_left_upper", "lid_left_lower", "lid_right_upper", "lid_right_lower")


class HeadSubject:
    """A person from a seed. Implements `training.data.truth.Subject`."""

    kind = "head"

    def __init__(
        self,
        seed: int,
        size: int,
        assets: Path | str | None = None,
        quality: Literal["fast", "high"] | Quality = "fast",
    ) -> None:
        """seed: identity, look, light and background. size: side of the pictures in pixels.

        assets: folder of skins, hair and so on; without it everything is procedural. Raises BackendUnavailableError
        without EGL, ExtraMissingError without `anny`, FileMissingError for a broken asset folder.
        """
        self.name = f"head-{seed:05d}"
        self.size = size
        settings = quality if isinstance(quality, Quality) else {"fast": FAST, "high": HIGH}[quality]
        shape, looks, setting = (np.random.default_rng([seed, k]) for k in range(3))
        self.identity = sample_identity(shape)
        self.look = sample_look(self.identity, looks)
        self._pivot = pivot_of(self.identity)
        self._rest = rest_of(self.identity, np.clip(setting.normal(0, 2.2, 3), -5, 5).astype(np.float32))
        self._landmarks = LandmarkRig(self.identity, LANDMARK_VERTICES, self._pivot)
        if assets is None:
            pieces = dress_procedurally(self.identity, self.look, settings)
        else:
            pieces = dress_from_assets(self.identity, self.look, AssetFolder(Path(assets)), settings)
        self._eye_part, self._eye_centres, _ = bake_eyes(self.identity)
        self._camera = self._make_camera(setting)
        light = sample_light(setting).exposed_for(self.look.tone)
        self._scene = Scene(pieces, light, sample_background(setting, size), size, settings)
        motion = self._motion(FramePose.rest())
        self._scene.place(motion)
        bake_occlusion(self._scene, motion)
        self._dense = DenseTruth(self._scene, self._camera)
        self._dense.set_reference(motion)
        for gpu in self._scene.parts.values():
            if gpu.piece.blend:
                gpu.sort_back_to_front(self._camera.eye)

    def _make_camera(self, rng: np.random.Generator) -> Camera:
        rest = FramePose.rest()
        places = self._landmarks.world(row_strengths(rest, self._rest), head_turn(rest, self._rest))
        return portrait_camera(places, float(rng.uniform(9, 18)), float(rng.normal(0, 2)), float(rng.normal(1, 2.5)))

    def _motion(self, pose: FramePose) -> Motion:
        rows = row_strengths(pose, self._rest)
        positions = {name: gpu.piece.part.positions(rows) for name, gpu in self._scene.parts.items()}
        eyes = gaze_turn(pose, self._rest)
        positions["eyes"] = self._turn_eyes(eyes)
        mouth = self._mouth_light(rows, positions["teeth"])
        uniforms = {
            **mouth,
            "eyes": {"lids": self._lid_heights(rows), "gaze_turn": eyes},
            "body": {"fold": self._folds(rows), **mouth["body"]},
        }
        return Motion(positions, head_turn(pose, self._rest), self._pivot, uniforms)

    def _mouth_light(self, rows: Floats, teeth: Floats) -> dict[str, dict[str, UniformValue]]:
        """Light reaches teeth and tongue by how open the mouth is, and fades towards its corners and its depth."""
        openness = min(1.0, max(float(rows[UNIT["jawOpen"]]), 0.0) * 1.2 + 0.35)
        places = self._landmarks.unturned(rows)
        corner = float(places[INDEX["mouth_left"], 0] - places[INDEX["mouth_right"], 0]) / 2
        lips = tuple(float(places[INDEX[name], 1]) for name in ("lip_upper_inner", "lip_lower_inner"))
        front = float(teeth[:, 2].max())
        shared: dict[str, UniformValue] = {
            "depth_range": (front - 0.75, front - 0.03), "corner": corner, "lips": lips,
        }  # fmt: skip
        return {
            "body": {**shared, "openness": 0.75 * openness + 0.1},
            "teeth": {**shared, "openness": 0.55 * openness + 0.42, "wetness": 1.0},
            "tongue": {**shared, "openness": 0.75 * openness + 0.35, "wetness": 0.6},
        }

    def _folds(self, rows: Floats) -> tuple[float, float, float, float]:
        """Depth of the four kinds of folds of `regions.fold_map`; age leaves some of each at rest."""

        def moved(*names: str) -> float:
            return float(np.mean([rows[UNIT[n]] - self._rest.rows[UNIT[n]] for n in names]))

        brows_up, brows_down = moved("browInnerUp", "browOuterUpLeft"), moved("browDownLeft", "browDownRight")
        smile = moved("mouthSmileLeft", "mouthSmileRight")
        squint = moved("eyeSquintLeft", "eyeSquintRight", "cheekSquintLeft", "cheekSquintRight")
        sneer = moved("noseSneerLeft", "noseSneerRight")
        strengths = (brows_up, brows_down, 0.5 * smile + 0.8 * squint, 0.9 * smile + 0.5 * sneer)
        at_rest = 0.55 * self.identity.age
        return tuple(float(np.clip(at_rest + s, 0, 1.2)) for s in strengths)

    def _turn_eyes(self, turn: Floats) -> Floats:
        base = self._eye_part.base
        half = len(base) // 2
        centres = np.repeat(self._eye_centres, half, axis=0)
        return ((base - centres) @ turn.T + centres).astype(np.float32)

    def _lid_heights(self, rows: Floats) -> tuple[float, float, float, float]:
        heights = self._landmarks.unturned(rows)[:, 1]
        return tuple(float(heights[INDEX[name]]) for name in _LID_NAMES)

    def set_reference(self, pose: FramePose | None) -> Drawn:
        """Fix the reference frame; None is the rest pose."""
        pose = pose or FramePose.rest()
        drawn = self.draw(pose)
        self._dense.set_reference(self._motion(pose))
        return drawn

    def draw(self, pose: FramePose, truth: bool = False) -> Drawn:
        """Draw one frame; see `training.data.truth.Subject`. The reference is the rest pose until one is set."""
        motion = self._motion(pose)
        self._scene.place(motion)
        landmarks = self._camera.project(self._landmarks.world(row_strengths(pose, self._rest), motion.turn))
        image = self._scene.picture(motion, self._camera)
        if not truth:
            return Drawn(image, landmarks)
        dense = self._dense.measure(motion)
        return Drawn(image, landmarks, dense.flow, dense.known, dense.mouth)

    def close(self) -> None:
        """Free the GL objects."""
        self._dense.release()
        self._scene.release()
