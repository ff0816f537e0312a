"""`PuppetSubject`: one photograph that can be drawn doing anything a FramePose says, with the truth about it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import LANDMARKS
from training.data.puppets.face_model import N_UNITS, TONGUE_UP, load_face_model
from training.data.puppets.glasses import FRAMES
from training.data.puppets.lids import shut_eyes
from training.data.puppets.motion import Motion, eye_image, rotation
from training.data.puppets.paint import head_mask, mouth_paint
from training.data.puppets.photo import PAD, PhotoFace, analyse_photo, crop_texture, read_photo, reframe
from training.data.puppets.renderer import PuppetRenderer, View, truth_maps
from training.data.puppets.rig import build_rig
from training.data.puppets.variants import colour_texture, make_variant
from training.data.truth import ARKIT_UNITS, UNIT, Drawn, FramePose

Floats = NDArray[np.float32]

HEAD_LIMITS_DEG = np.array([25.0, 16.0, 14.0])
GAZE_LIMITS_DEG = np.array([24.0, 16.0])
_LID_DEG = 25.0
_SUPERSAMPLE = ((160, 2.0), (320, 1.5))
"""Up to so many pixels, render so many times larger: edges of lips and teeth need it most in small pictures."""


def _swap_sides(name: str) -> str:
    """`eyeBlinkLeft` to `eyeBlinkRight`, `eye_left_outer` to `eye_right_outer`, and back."""
    for left, right in (("Left", "Right"), ("left", "right")):
        if left in name:
            return name.replace(left, right)
        if right in name:
            return name.replace(right, left)
    return name


_MIRRORED = np.array([UNIT[_swap_sides(name)] for name in ARKIT_UNITS])
_MIRRORED_POINTS = np.array([LANDMARKS.index(_swap_sides(name)) for name in LANDMARKS])
_LIPS = [
    LANDMARKS.index(n) for n in ("lip_upper_outer", "lip_lower_outer", "mouth_left", "mouth_right", "lip_upper_inner")
]


class PuppetSubject:
    """A photograph as a `training.data.truth.Subject`.

    image_path: the portrait. size: pixels of the square pictures. assets: folder with ict/ and models/. variant: 0 is
    the photograph itself; others change shape, colours, light and framing. cache: folder for fitted faces, so that the
    landmark model runs once per portrait.
    Raises PortraitUnusable, AssetsMissing, GraphicsUnavailable.
    """

    kind = "puppet"

    def __init__(self, image_path: Path, size: int, assets: Path, variant: int = 0, cache: Path | None = None) -> None:
        self.name = f"{Path(image_path).stem}-{variant}"
        self._size = size
        model = load_face_model(Path(assets))
        self._variant = make_variant(variant, len(model.identity))
        photo = _analysed(Path(image_path), Path(assets), cache)
        photo = reframe(photo, self._variant.crop_scale, self._variant.crop_shift)
        shift = np.array(self._variant.identity, np.float32) if self._variant.identity else None
        self._rig = build_rig(model, photo, shift, FRAMES.get(Path(image_path).stem))
        self._motion = Motion(self._rig)
        self._renderer = self._make_renderer(read_photo(Path(image_path)), photo)
        self.set_reference(None)

    def set_reference(self, pose: FramePose | None) -> Drawn:
        """Fix the frame that later flows point into; None is the photograph."""
        view = self._move(self._turned(FramePose.rest() if pose is None else pose))
        places = self._motion.images(self._rig, view)
        eyes = tuple(eye_image(self._rig, k, view) for k in range(2))
        self._renderer.remember(view, places, eyes)
        return self._drawn(view, truth=True)

    def draw(self, pose: FramePose, truth: bool = False) -> Drawn:
        """Draw one frame in the canonical crop of the photograph."""
        return self._drawn(self._move(self._turned(pose)), truth)

    def close(self) -> None:
        """Free the GL objects."""
        self._renderer.close()

    def _make_renderer(self, image: NDArray[np.uint8], photo: PhotoFace) -> PuppetRenderer:
        render_px = int(self._size * next((f for limit, f in _SUPERSAMPLE if self._size <= limit), 1.0))
        pad_px = int(round(PAD * render_px))
        texture = crop_texture(image, photo.crop, render_px, pad_px)
        mask = head_mask(photo.points, render_px, pad_px)
        texture = colour_texture(texture, self._variant, mask)
        paint = mouth_paint(texture, photo.points, pad_px, self._variant)
        shut = shut_eyes(texture, photo.points, self._rig.lid_seams, pad_px)
        return PuppetRenderer(self._rig, texture, shut, pad_px / render_px, paint, render_px)

    def _turned(self, pose: FramePose) -> FramePose:
        """The pose within the puppet's limits, lids following the gaze; left and right swapped when it is mirrored."""
        units = np.clip(pose.units, 0, 1).astype(np.float32)
        head = HEAD_LIMITS_DEG * np.tanh(pose.head / HEAD_LIMITS_DEG)
        gaze = GAZE_LIMITS_DEG * np.tanh(pose.gaze / GAZE_LIMITS_DEG)
        if self._variant.mirror:
            units = units[_MIRRORED]
            head, gaze = head * (-1, 1, -1), gaze * (-1, 1)
        for side in ("Left", "Right"):
            units[UNIT[f"eyeLookUp{side}"]] = max(-gaze[1], 0) / _LID_DEG
            units[UNIT[f"eyeLookDown{side}"]] = max(gaze[1], 0) / _LID_DEG
        return FramePose(units, head.astype(np.float32), gaze.astype(np.float32), float(np.clip(pose.tongue, 0, 1)))

    def _move(self, pose: FramePose) -> View:
        strengths = np.zeros(N_UNITS, np.float32)
        strengths[: len(ARKIT_UNITS)] = pose.units
        strengths[TONGUE_UP] = pose.tongue
        self._motion.set(strengths)
        self._renderer.move(self._motion.face, self._motion.mouth, self._motion.grid)
        turn = rotation(*pose.head)
        spin = rotation(pose.gaze[0], pose.gaze[1], 0.0)
        lips = self._motion.points[_LIPS] @ turn.T
        shut = _shut_shares(pose.units)
        return View(turn, spin, float(lips[:-1, 2].mean()), float(lips[-1, 1]), float(np.hypot(*pose.gaze)), shut)

    def _drawn(self, view: View, truth: bool) -> Drawn:
        image = self._renderer.colour(view)
        if len(image) != self._size:
            image = cv2.resize(image, (self._size, self._size), interpolation=cv2.INTER_AREA)
        points = self._rig.view.image(self._motion.points @ view.turn.T)
        if self._variant.mirror:
            image = np.ascontiguousarray(image[:, ::-1])
            points = (points * (-1, 1) + (1, 0)).astype(np.float32)[_MIRRORED_POINTS]
        if not truth:
            return Drawn(image, points)
        flow, known, mouth = truth_maps(self._renderer.truth(view))
        if self._variant.mirror:
            flow, known, mouth = (np.ascontiguousarray(m[:, ::-1]) for m in (flow, known, mouth))
            flow[..., 0] = 1 - flow[..., 0]
        return Drawn(image, points, flow, known, mouth)


def _shut_shares(units: Floats) -> tuple[float, float, float, float]:
    """How much each lid shows of the picture with shut eyes: none at rest; the lower ones only when the lids meet."""
    right, left = (float(units[UNIT[f"eyeBlink{s}"]] + 0.4 * units[UNIT[f"eyeLookDown{s}"]]) for s in ("Right", "Left"))
    return _ramp(right, 0.03, 0.5), _ramp(left, 0.03, 0.5), _ramp(right, 0.4, 0.9), _ramp(left, 0.4, 0.9)


def _ramp(x: float, start: float, stop: float) -> float:
    t = min(max((x - start) / (stop - start), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=256)
def _analysed(path: Path, assets: Path, cache: Path | None) -> PhotoFace:
    return analyse_photo(path, assets, cache)
