"""GL passes that draw a puppet: backdrop, mouth, eyes, face; in colour, or as the truth about every place.

The face has the near half of the depth range to itself, so that neither teeth nor eyeballs can
come through the skin.
"""

from __future__ import annotations

from dataclasses import dataclass

import moderngl
import numpy as np
from numpy.typing import NDArray

from training.data.puppets.gpu import LayerMesh, gl_context, make_target, picture_texture, programs, read_target
from training.data.puppets.rig import PuppetRig
from training.data.truth import TRUTH_GRID

Floats = NDArray[np.float32]

GRID, FACE, MOUTH, EYE = range(4)
TRUTH_PX = 2 * TRUTH_GRID
DEPTH_PX = 256
_GAZING_DEG = 4.0
_SLIT_SHADE = 0.75


@dataclass(frozen=True, slots=True)
class View:
    """What moves besides the vertices. turn, spin: [3, 3] of head and eyeballs.

    lip_depth, upper_lip: depth of the lips and height of the upper one's edge (camera frame, cm). gaze_deg: how far the
    eyes are turned. shut: how much of the picture with shut eyes each lid shows, in [0, 1], in
    the order of PuppetRig.face_lid.
    """

    turn: Floats
    spin: Floats
    lip_depth: float
    upper_lip: float
    gaze_deg: float
    shut: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Paint:
    """parts [3, 3]: colours of socket, gums, teeth in [0, 1].

    light, relight [3]: directions of the photograph's own light and of the one to show it in.
    """

    parts: Floats
    light: Floats
    relight: Floats


def truth_maps(raw: Floats) -> tuple[Floats, Floats, Floats]:
    """Flow, known and mouth on the truth grid from the truth pass at twice its side [2T, 2T, 4]."""
    side = TRUTH_PX // TRUTH_GRID
    blocks = raw.reshape(TRUTH_GRID, side, TRUTH_GRID, side, 4).transpose(0, 2, 1, 3, 4)
    cells = blocks.reshape(TRUTH_GRID, TRUTH_GRID, side * side, 4)
    mouth = cells[..., 3] == MOUTH
    # A cell on the lips' edge holds two surfaces; its flow is that of the skin alone.
    weight = (~mouth | mouth.all(-1, keepdims=True)).astype(np.float32)[..., None]
    flow = (cells[..., :2] * weight).sum(2) / weight.sum(2)
    return flow, cells[..., 2].mean(-1), mouth.mean(-1, dtype=np.float32)


class PuppetRenderer:
    """Draws one rig at px x px; texture and shut are the photograph with its own and with shut eyes.

    Not thread-safe; close() frees everything it put on the card.
    """

    def __init__(
        self, rig: PuppetRig, texture: NDArray[np.uint8], shut: NDArray[np.uint8], pad: float, paint: Paint, px: int
    ) -> None:
        self._rig, self._paint, self._pad = rig, paint, pad
        self._before: View | None = None
        self._photo, self._shut = (picture_texture(picture) for picture in (texture, shut))
        self._meshes = _layers(rig)
        self._eyes = [LayerMesh(eye.offsets, _fixed(eye.uv, alternative=eye.uv_alt), eye.triangles) for eye in rig.eyes]
        self._colour = make_target(px, "f1")
        self._truth = make_target(TRUTH_PX, "f4")
        self._seen = make_target(DEPTH_PX, "f4")

    def move(self, face: Floats, mouth: Floats, grid: Floats) -> None:
        """New vertices: face [n, 6] with normals; mouth, grid [n, 3]."""
        self._meshes[FACE].moving.write(face)
        for kind, vertices in ((MOUTH, mouth), (GRID, grid)):
            self._meshes[kind].moving.write(vertices)

    def colour(self, view: View) -> NDArray[np.uint8]:
        """uint8 [px, px, 3]."""
        self._draw(self._colour, view, truth=False)
        return read_target(self._colour, "f1")

    def truth(self, view: View) -> Floats:
        """[TRUTH_PX, TRUTH_PX, 4]: x, y in the reference, known, kind of the layer."""
        program = programs()[True]
        program["texel"].value = 1.0 / TRUTH_PX
        program["store_depth"].value = 0
        self._seen.color_attachments[0].use(1)
        self._draw(self._truth, view, truth=True)
        return read_target(self._truth, "f4")

    def remember(self, view: View, places: dict[int, Floats], eyes: tuple[Floats, Floats]) -> None:
        """Make the frame last moved to the reference. places: image x, y and depth in cm of each vertex, by layer."""
        for kind, was in places.items():
            self._meshes[kind].remember(was)
        for mesh, was in zip(self._eyes, eyes, strict=True):
            mesh.remember(was)
        self._before = view
        programs()[True]["store_depth"].value = 1
        self._draw(self._seen, view, truth=True)

    def close(self) -> None:
        for mesh in (*self._meshes.values(), *self._eyes):
            mesh.release()
        for target in (self._colour, self._truth, self._seen):
            for part in (*target.color_attachments, target.depth_attachment, target):
                part.release()
        self._photo.release()
        self._shut.release()

    def _draw(self, target: moderngl.Framebuffer, view: View, truth: bool) -> None:
        context, program = gl_context(), programs()[truth]
        target.use()
        target.clear()
        self._set_view(program, view)
        context.front_face = "cw"
        context.disable(moderngl.DEPTH_TEST | moderngl.CULL_FACE | moderngl.BLEND)
        self._layer(program, GRID, truth)
        context.enable(moderngl.DEPTH_TEST | moderngl.CULL_FACE)
        self._layer(program, MOUTH, truth)
        self._draw_eyes(program, view, truth)
        if not truth:
            context.enable(moderngl.BLEND)
            context.blend_func = moderngl.SRC_ALPHA, moderngl.ONE_MINUS_SRC_ALPHA
        self._layer(program, FACE, truth)

    def _set_view(self, program: moderngl.Program, view: View) -> None:
        self._photo.use(0)
        self._shut.use(2)
        projection, paint, before = self._rig.view, self._paint, self._before or view
        values: dict[str, object] = {
            "photo": 0,
            "shut_photo": 2,
            "seen": 1,
            "pad": self._pad,
            "origin": tuple(projection.origin),
            "scale": projection.scale,
            "hub": (0.0, 0.0, 0.0),
            "lip_depth": view.lip_depth,
            "upper_lip": view.upper_lip,
            "shut": view.shut,
            "shut_before": before.shut,
            "gazing": _gazing(view),
            "gazing_before": _gazing(before),
            "light": tuple(paint.light),
            "relight": tuple(paint.relight),
        }
        for name, value in values.items():
            _set(program, name, value)
        _set(program, "turn", tuple(view.turn.T.ravel()))
        _set(program, "spin", _IDENTITY)
        if "paints" in program:
            program["paints"].write(np.ascontiguousarray(self._paint.parts, "f4").tobytes())

    def _layer(self, program: moderngl.Program, kind: int, truth: bool) -> None:
        program["kind"].value = kind
        self._meshes[kind].draw(truth)

    def _draw_eyes(self, program: moderngl.Program, view: View, truth: bool) -> None:
        program["kind"].value = EYE
        program["spin"].value = tuple(view.spin.T.ravel())
        before = self._before or view
        for side, (eye, mesh) in enumerate(zip(self._rig.eyes, self._eyes, strict=True)):
            program["hub"].value = tuple(eye.centre)
            _set(program, "eye_light", _eye_light(view, side))
            _set(program, "eye_light_before", _eye_light(before, side))
            mesh.draw(truth)
        program["hub"].value = (0.0, 0.0, 0.0)
        program["spin"].value = _IDENTITY


_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def _gazing(view: View) -> float:
    """How far the eyes show what the lids hid, in [0, 1]."""
    return min(view.gaze_deg / _GAZING_DEG, 1.0)


def _eye_light(view: View, side: int) -> float:
    """Light on the right (0) or left (1) eyeball: lids that nearly meet shade, with their lashes, the slit between."""
    return 1.0 - _SLIT_SHADE * view.shut[2 + side]


def _set(program: moderngl.Program, name: str, value: object) -> None:
    """Set a uniform unless the compiler removed it from this program."""
    if name in program:
        program[name].value = value


def _layers(rig: PuppetRig) -> dict[int, LayerMesh]:
    face = _fixed(rig.face_uv, rig.shut_uv, 1.0, rig.face_alpha, rig.face_gloom, rig.face_lid, rig.face_normals)
    mouth = _fixed(np.zeros((len(rig.mouth.rest), 2)), part=rig.mouth_part, normals=rig.mouth_normals)
    grid = _fixed(rig.grid_uv, hold=rig.grid_hold)
    return {
        FACE: LayerMesh(np.concatenate([rig.face.rest, rig.face_normals], 1), face, rig.face.triangles),
        MOUTH: LayerMesh(rig.mouth.rest, mouth, rig.mouth.triangles),
        GRID: LayerMesh(rig.grid.rest, grid, rig.grid.triangles),
    }


def _fixed(
    uv: Floats,
    alternative: Floats | None = None,
    hold: Floats | float = 1.0,
    alpha: Floats | float = 1.0,
    gloom: Floats | float = 1.0,
    part: NDArray[np.int32] | int = 0,
    normals: Floats | None = None,
) -> Floats:
    """Interleaved fixed attributes [n, 11] in the order of _FIXED."""
    look = np.stack(np.broadcast_arrays(np.zeros(len(uv)) + hold, alpha, gloom, part), 1)
    lit = np.tile([0.0, 0.0, 1.0], (len(uv), 1)) if normals is None else normals
    return np.concatenate([uv, uv if alternative is None else alternative, look, lit], 1).astype(np.float32)
