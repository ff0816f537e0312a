"""Dense truth: where each place of a frame lies in the reference frame, and what must be painted anew.

The frame's geometry is drawn with every vertex carrying its place in the reference; a fragment projects that place
with the same camera and compares its distance with the reference's distance map. Eyeballs turn rigidly, so theirs is
known too; lids lie too close to them for distances, so an eyeball's place must lie on an eyeball of the reference.
Maps are drawn at twice the side of
the truth grid and reduced class by class, so that silhouettes do not mix person and background.
"""

from __future__ import annotations

from dataclasses import dataclass

import moderngl
import numpy as np

from training.data.heads.camera import Camera
from training.data.heads.mesh import Floats
from training.data.heads.renderer import NO_FRINGE, Motion, Scene, program, set_uniforms, shared_context
from training.data.truth import TRUTH_GRID

_SIDE = 2 * TRUTH_GRID
_REFERENCE_SIDE = 4 * TRUTH_GRID
_KINDS = {"teeth": 2.0, "tongue": 2.0, "eyes": 3.0}
"""Class of a part: 1 surfaces that keep their look, 2 mouth interior, 3 eyeballs; 0 is background."""

_VERTEX = """
#version 330
in vec3 P; in vec3 N; in vec2 UV; in vec3 W; in vec3 E;
uniform mat4 view; uniform mat3 turn, earlier_turn; uniform vec3 pivot;
out vec3 place; out vec3 earlier; out vec3 unturned; out vec2 uv;
void main() {
  place = mix(P, turn * (P - pivot) + pivot, W.x);
  earlier = mix(E, earlier_turn * (E - pivot) + pivot, W.x);
  unturned = P; uv = UV;
  gl_Position = view * vec4(place, 1.0);
}
"""

_CUT = """
in vec3 place; in vec3 earlier; in vec3 unturned; in vec2 uv;
uniform sampler2D albedo; uniform float alpha_min; uniform vec4 fringe; uniform vec3 eye; uniform float kind;
void cut() {
  if (alpha_min > 0.0 && texture(albedo, uv).a < alpha_min) discard;
  if (fringe.w > 0.5 && unturned.z > fringe.y && abs(unturned.x) < fringe.z && unturned.y < fringe.x) discard;
}
float own_kind() { return kind == 1.0 && alpha_min < 0.0 && uv.x > 0.74 && uv.y < 0.155 ? 2.0 : kind; }
"""

_DISTANCE = (
    "#version 330\n"
    + _CUT
    + """
out vec4 result;
void main() { cut(); result = vec4(distance(place, eye), own_kind(), 0.0, 1.0); }
"""
)

_FLOW = (
    "#version 330\n"
    + _CUT
    + """
uniform mat4 view; uniform sampler2D reference; uniform float side, tolerance;
out vec4 result;
void main() {
  cut();
  vec4 clip = view * vec4(earlier, 1.0); vec2 at = clip.xy / clip.w * 0.5 + 0.5;
  vec2 dx = dFdx(at) * side, dy = dFdy(at) * side;
  float stretch = abs(dx.x * dy.y - dx.y * dy.x);
  float own = distance(earlier, eye), step_size = 0.5 / 256.0, deepest = 0.0, bare = 1.0;
  for (int i = -1; i <= 1; i += 2) for (int j = -1; j <= 1; j += 2) {
    vec2 there = texture(reference, at + vec2(i, j) * step_size).rg;
    deepest = max(deepest, there.r); bare *= step(2.5, there.g);
  }
  float seen = step(own, deepest + tolerance) * smoothstep(0.15, 0.4, stretch);
  seen *= step(0.0, at.x) * step(at.x, 1.0) * step(0.0, at.y) * step(at.y, 1.0);
  float k = own_kind();
  result = vec4(at.x, 1.0 - at.y, k == 1.0 ? seen : k == 3.0 ? seen * bare : 0.0, k);
}
"""
)


@dataclass(frozen=True, slots=True)
class Dense:
    """flow [64, 64, 2], known [64, 64], mouth [64, 64], as in training.data.truth.Drawn."""

    flow: Floats
    known: Floats
    mouth: Floats


class DenseTruth:
    """Truth maps of one scene against one reference moment."""

    def __init__(self, scene: Scene, camera: Camera) -> None:
        context = shared_context()
        self._scene, self._camera = scene, camera
        self._reference = context.texture((_REFERENCE_SIDE, _REFERENCE_SIDE), 4, dtype="f4")
        self._reference.filter = (moderngl.NEAREST, moderngl.NEAREST)
        depth = context.depth_renderbuffer((_REFERENCE_SIDE, _REFERENCE_SIDE))
        self._reference_target = context.framebuffer([self._reference], depth)
        self._frame = context.texture((_SIDE, _SIDE), 4, dtype="f4")
        self._frame_target = context.framebuffer([self._frame], context.depth_renderbuffer((_SIDE, _SIDE)))
        self._earlier_turn = np.eye(3, dtype=np.float32)
        self._open_background = np.ones((TRUTH_GRID, TRUTH_GRID), np.float32)

    def set_reference(self, motion: Motion) -> None:
        """Remember the moment whose geometry has just been placed in the scene."""
        for name, gpu in self._scene.parts.items():
            gpu.earlier.write(np.ascontiguousarray(motion.positions[name][gpu.piece.part.surface.source]))
        self._earlier_turn = motion.turn
        self._draw(self._reference_target, program(_VERTEX, _DISTANCE), motion, 1e3)
        pixels = np.frombuffer(self._reference.read(), np.float32).reshape(_REFERENCE_SIDE, _REFERENCE_SIDE, 4)[::-1]
        background = (pixels[..., 1] == 0).astype(np.float32)
        factor = _REFERENCE_SIDE // TRUTH_GRID
        self._open_background = _blocks(background, factor).mean((1, 3))

    def measure(self, motion: Motion) -> Dense:
        """Truth of the moment whose geometry has just been placed."""
        self._reference.use(1)
        self._draw(self._frame_target, program(_VERTEX, _FLOW), motion, 0.0)
        pixels = np.frombuffer(self._frame.read(), np.float32).reshape(_SIDE, _SIDE, 4)[::-1]
        return _reduce(pixels, self._open_background)

    def _draw(self, frame: moderngl.Framebuffer, target: moderngl.Program, motion: Motion, empty: float) -> None:
        frame.use()
        frame.clear(empty, 0, 0, 0)
        shared_context().enable_only(moderngl.DEPTH_TEST)
        shared_context().depth_func = "<="
        set_uniforms(target, {
            "view": self._camera.view, "eye": self._camera.eye, "turn": motion.turn, "pivot": motion.pivot,
            "earlier_turn": self._earlier_turn, "side": _SIDE, "tolerance": 0.015,
        })  # fmt: skip
        if "reference" in target:
            target["reference"].value = 1
        for name, gpu in self._scene.parts.items():
            if not gpu.piece.solid:
                continue
            set_uniforms(target, {
                "alpha_min": gpu.piece.alpha_cut,
                "fringe": gpu.piece.uniforms.get("fringe", NO_FRINGE), "kind": _KINDS.get(name, 1.0),
            })  # fmt: skip
            gpu.texture.use(0)
            gpu.render(target)

    def release(self) -> None:
        """Free the GL objects."""
        for thing in (self._reference_target, self._reference, self._frame_target, self._frame):
            thing.release()


def _blocks(image: Floats, factor: int) -> Floats:
    side = image.shape[0] // factor
    return image.reshape(side, factor, side, factor, *image.shape[2:])


def _centres(side: int) -> Floats:
    """Centres (x, y) of the cells of a grid, [side, side, 2]."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    return np.stack(np.meshgrid(axis, axis), -1)


def _reduce(pixels: Floats, open_background: Floats) -> Dense:
    """Pixels [2G, 2G, 4] of (x, y, known, class) to the grid: of person or background, the larger one.

    Travel is averaged, not places, so that a cell at an edge is not drawn towards its covered side. A cell that an
    eyeball covers by half takes the eyeball's flow alone, for it moves against the lids.
    """
    still, fine_still = _centres(TRUTH_GRID), _centres(_SIDE)
    person = (pixels[..., 3] > 0).astype(np.float32)
    eye = (pixels[..., 3] == 3).astype(np.float32)
    mostly_eye = np.kron(_blocks(eye, 2).mean((1, 3)) >= 0.5, np.ones((2, 2)))
    weight = np.where(mostly_eye == eye, person, 1e-6) * (0.01 + pixels[..., 2])
    total = _blocks(weight, 2).sum((1, 3))
    travel = _blocks((pixels[..., :2] - fine_still) * weight[..., None], 2).sum((1, 3))
    flow = still + travel / np.maximum(total, 1e-9)[..., None]
    cover = _blocks(person, 2).mean((1, 3))
    mostly = cover >= 0.5
    known_person = _blocks(pixels[..., 2], 2).mean((1, 3)) / np.maximum(cover, 0.25)
    known = np.where(mostly, np.minimum(known_person, 1), open_background)
    mouth = _blocks((pixels[..., 3] == 2).astype(np.float32), 2).mean((1, 3))
    return Dense(
        np.where(mostly[..., None], flow, still).astype(np.float32), known.astype(np.float32), mouth.astype(np.float32)
    )
