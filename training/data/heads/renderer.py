"""OpenGL on EGL (graphics card or llvmpipe): uploads the pieces of a person and draws pictures of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import moderngl
import numpy as np
from numpy.typing import NDArray

from training.data.gl import gl_context
from training.data.heads import shading
from training.data.heads.backdrop import Light
from training.data.heads.camera import Camera, orthographic
from training.data.heads.mesh import Floats
from training.data.heads.paint import pore_tile
from training.data.heads.parts import Part
from training.data.heads.regions import fold_map

UniformValue = float | Sequence[float] | Floats
NO_FRINGE = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Quality:
    """subdivide: Catmull-Clark on the skin. supersample: 1, 2 or 4 samples a side. shadows: shadow map per frame
    instead of the baked one. detail: pore bumps. texture_px: side of the skin texture. bake_px, sky_directions:
    effort of the baked occlusion."""

    subdivide: bool = False
    supersample: int = 2
    shadows: bool = False
    detail: bool = False
    texture_px: int = 1024
    bake_px: int = 160
    sky_directions: int = 20


FAST = Quality()
HIGH = Quality(True, 2, True, True, 2048, 256, 40)


@dataclass(slots=True)
class Piece:
    """A part with its look: texture uint8 [H, W, 4], extra uniforms, `blend` for see-through strands."""

    part: Part
    texture: NDArray[np.uint8]
    uniforms: dict[str, UniformValue] = field(default_factory=dict)
    blend: bool = False
    occludes: bool = True
    solid: bool = True
    """False for brows and lashes, which the geometric passes leave out."""

    @property
    def alpha_cut(self) -> float:
        """Opacity below which geometric passes see through; skin has none (its alpha is wetness)."""
        return -1.0 if self.part.shader == "skin" else 0.5


@dataclass(frozen=True, slots=True)
class Motion:
    """One moment: per part positions [N, 3] (head not turned), the head's turn and per-part uniforms."""

    positions: Mapping[str, Floats]
    turn: Floats
    pivot: Floats
    uniforms: Mapping[str, Mapping[str, UniformValue]]


def shared_context() -> moderngl.Context:
    """The process's one off-screen context. Raises BackendUnavailableError where EGL is missing."""
    return gl_context()


@functools.lru_cache(maxsize=64)
def program(vertex: str, fragment: str) -> moderngl.Program:
    """A compiled program, shared by all scenes."""
    return shared_context().program(vertex_shader=vertex, fragment_shader=fragment)


def set_uniforms(target: moderngl.Program, values: Mapping[str, UniformValue]) -> None:
    """Set those values that the program has; arrays are floats, matrices row-major."""
    for name, value in values.items():
        if name not in target:
            continue
        array = np.asarray(value, np.float32)
        target[name].write(np.ascontiguousarray(array.T).tobytes())


class GpuPart:
    """Buffers of one piece. Static: texture coordinate, (head weight, sky, key), tangent. Moving: position, normal."""

    def __init__(self, piece: Piece) -> None:
        context = shared_context()
        self.piece = piece
        surface = piece.part.surface
        count = len(surface.source)
        self.baked = np.ones((count, 3), np.float32)
        self.baked[:, 0] = piece.part.weight[surface.source]
        tangent = piece.part.tangent if piece.part.tangent is not None else np.zeros((count, 3), np.float32)
        self._uv = context.buffer(surface.uv.tobytes())
        self._baked = context.buffer(self.baked.tobytes())
        self._tangent = context.buffer(np.ascontiguousarray(tangent, np.float32).tobytes())
        self._moving = context.buffer(reserve=count * 24, dynamic=True)
        self.earlier = context.buffer(reserve=count * 12, dynamic=True)
        self._indices = context.buffer(surface.triangles.tobytes())
        self._arrays: dict[int, moderngl.VertexArray] = {}
        self._scratch = np.empty((count, 6), np.float32)
        self._resting: Floats | None = None
        height, width = piece.texture.shape[:2]
        self.texture = context.texture((width, height), 4, np.ascontiguousarray(piece.texture[::-1]).tobytes())
        self.texture.build_mipmaps()
        self.texture.filter = (moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR)

    def upload(self, positions: Floats) -> None:
        """Send positions and their normals; skipped where a rigid piece has not moved."""
        if positions is self._resting:
            return
        source = self.piece.part.surface.source
        self._scratch[:, :3] = positions[source]
        self._scratch[:, 3:] = self.piece.part.normals_of(positions)[source]
        self._moving.write(self._scratch)
        self._resting = positions

    def gpu_vertices(self) -> tuple[Floats, Floats]:
        """Positions and normals last uploaded, [R, 3] each."""
        return self._scratch[:, :3], self._scratch[:, 3:]

    def set_baked(self, sky: Floats, key: Floats) -> None:
        """Set the occlusion per GPU vertex, [R] each in [0, 1]."""
        self.baked[:, 1], self.baked[:, 2] = sky, key
        self._baked.write(self.baked)

    def sort_back_to_front(self, eye: Floats) -> None:
        """Order the triangles for blending as seen from a place."""
        triangles = self.piece.part.surface.triangles
        distance = np.linalg.norm(self._scratch[:, :3] - eye, axis=1)
        order = np.argsort(-distance[triangles].sum(1), kind="stable")
        self._indices.write(np.ascontiguousarray(triangles[order]))

    def render(self, target: moderngl.Program) -> None:
        """Draw with a program; attributes it lacks are skipped."""
        array = self._arrays.get(target.glo)
        if array is None:
            content = [
                (self._moving, "3f 3f", "P", "N"), (self._uv, "2f", "UV"), (self._baked, "3f", "W"),
                (self._tangent, "3f", "T"), (self.earlier, "3f", "E"),
            ]  # fmt: skip
            array = shared_context().vertex_array(target, content, self._indices, skip_errors=True)
            self._arrays[target.glo] = array
        array.render()

    def release(self) -> None:
        """Free the GL objects."""
        buffers = (self._uv, self._baked, self._tangent, self._moving, self.earlier, self._indices)
        for thing in (*self._arrays.values(), *buffers, self.texture):
            thing.release()


class Scene:
    """One dressed person in front of a background, drawn at one size by one camera."""

    def __init__(
        self, pieces: Sequence[Piece], light: Light, background: NDArray[np.uint8], size: int, quality: Quality
    ) -> None:
        context = shared_context()
        self.light, self.size, self.quality = light, size, quality
        self.parts = {piece.part.name: GpuPart(piece) for piece in pieces}
        self._programs = {
            name: program(shading.VERTEX, shading.fragment(gpu.piece.part.shader, quality.shadows, quality.detail))
            for name, gpu in self.parts.items()
        }
        self._copy = program(shading.SCREEN_VERTEX, shading.COPY)
        self._screen = context.buffer(np.array([-1, -1, 3, -1, -1, 3], np.float32).tobytes())
        self._screen_array = context.vertex_array(self._copy, [(self._screen, "2f", "P")])
        self._background = context.texture(background.shape[1::-1], 3, np.ascontiguousarray(background[::-1]).tobytes())
        self._pores = context.texture((256, 256), 3, pore_tile().tobytes())
        self._pores.build_mipmaps()
        folds = fold_map()
        self._folds = context.texture(folds.shape[1::-1], 4, np.ascontiguousarray(folds[::-1]).tobytes())
        self._folds.build_mipmaps()
        self._levels = self._make_levels(context)
        self._shadow_map: moderngl.Texture | None = None
        if quality.shadows:
            self._shadow_map = context.depth_texture((1024, 1024))
            self._shadow_map.compare_func = "<="
            self._shadow_target = context.framebuffer(depth_attachment=self._shadow_map)

    def _make_levels(self, context: moderngl.Context) -> list[moderngl.Framebuffer]:
        """Targets from the supersampled one down to the picture, each half of the one before."""
        factor = self.quality.supersample
        levels: list[moderngl.Framebuffer] = []
        while factor >= 1:
            side = self.size * factor
            texture = context.texture((side, side), 4)
            texture.filter = (moderngl.LINEAR, moderngl.LINEAR)
            depth = context.depth_renderbuffer((side, side)) if not levels else None
            levels.append(context.framebuffer([texture], depth))
            factor //= 2
        return levels

    def place(self, motion: Motion) -> None:
        """Upload the geometry of one moment."""
        for name, gpu in self.parts.items():
            gpu.upload(motion.positions[name])

    def picture(self, motion: Motion, camera: Camera) -> NDArray[np.uint8]:
        """Draw the placed geometry, uint8 [size, size, 3]."""
        context = shared_context()
        light_view = self._draw_shadow_map(motion)
        target = self._levels[0]
        target.use()
        target.clear(0, 0, 0, 1)
        context.enable_only(moderngl.DEPTH_TEST)
        context.depth_func = "<="
        target.depth_mask = True
        shared = self._shared_uniforms(motion, camera, light_view)
        self._draw_solid(shared, motion)
        self._background.use(0)
        self._screen_array.render()
        self._draw_strands(target, shared, motion)
        for larger, smaller in zip(self._levels, self._levels[1:], strict=False):
            smaller.use()
            context.disable(moderngl.DEPTH_TEST)
            larger.color_attachments[0].use(0)
            self._screen_array.render()
        flat = np.frombuffer(self._levels[-1].read(components=3), np.uint8)
        return np.ascontiguousarray(flat.reshape(self.size, self.size, 3)[::-1])

    def _shared_uniforms(self, motion: Motion, camera: Camera, light_view: Floats | None) -> dict[str, UniformValue]:
        light = self.light
        values: dict[str, UniformValue] = {
            "view": camera.view, "eye": camera.eye, "turn": motion.turn, "pivot": motion.pivot,
            "key": light.key, "fill": light.fill, "rim": light.rim, "key_colour": light.key_colour,
            "fill_colour": light.fill_colour, "rim_colour": light.rim_colour, "sky": light.sky, "ground": light.ground,
            "alpha_min": 0.0, "alpha_gain": 1.0, "shine": 1.0, "fringe": NO_FRINGE,
        }  # fmt: skip
        if light_view is not None:
            values["light_view"] = light_view
        return values

    def _prepare(self, name: str, shared: Mapping[str, UniformValue], motion: Motion) -> moderngl.Program:
        gpu, target = self.parts[name], self._programs[name]
        set_uniforms(target, {**shared, **gpu.piece.uniforms, **motion.uniforms.get(name, {})})
        gpu.texture.use(0)
        self._pores.use(1)
        self._folds.use(3)
        if self._shadow_map is not None:
            self._shadow_map.use(2)
        for sampler, unit in (("albedo", 0), ("detail", 1), ("shadow_map", 2), ("folds", 3)):
            if sampler in target:
                target[sampler].value = unit
        return target

    def _draw_solid(self, shared: Mapping[str, UniformValue], motion: Motion) -> None:
        for name, gpu in self.parts.items():
            if gpu.piece.blend and not gpu.piece.solid:
                continue
            target = self._prepare(name, shared, motion)
            if gpu.piece.blend:
                set_uniforms(target, {"alpha_min": 0.6})
            gpu.render(target)

    def _draw_strands(self, frame: moderngl.Framebuffer, shared: Mapping[str, UniformValue], motion: Motion) -> None:
        """See-through edges of brows, lashes and hair, over the solid core, without writing depth."""
        context = shared_context()
        context.enable(moderngl.BLEND)
        context.blend_func = moderngl.SRC_ALPHA, moderngl.ONE_MINUS_SRC_ALPHA
        frame.depth_mask = False
        context.depth_func = "<"
        for name, gpu in self.parts.items():
            if gpu.piece.blend:
                target = self._prepare(name, shared, motion)
                set_uniforms(target, {"alpha_min": 0.02})
                gpu.render(target)
        frame.depth_mask = True
        context.disable(moderngl.BLEND)
        context.depth_func = "<="

    def _draw_shadow_map(self, motion: Motion) -> Floats | None:
        if self._shadow_map is None:
            return None
        view = orthographic(self.light.key, motion.pivot + np.array([0, 0.6, 0.3], np.float32), 2.6)
        self._shadow_target.use()
        self._shadow_target.clear()
        shared_context().enable_only(moderngl.DEPTH_TEST)
        self.draw_depth(view, motion)
        return view

    def draw_depth(self, view: Floats, motion: Motion) -> None:
        """Draw what casts shadows into the bound depth target."""
        target = program(shading.VERTEX, shading.DEPTH)
        for gpu in self.parts.values():
            if not gpu.piece.occludes:
                continue
            alpha_min = gpu.piece.alpha_cut
            fringe = gpu.piece.uniforms.get("fringe", NO_FRINGE)
            set_uniforms(
                target,
                {"view": view, "turn": motion.turn, "pivot": motion.pivot, "alpha_min": alpha_min, "fringe": fringe},
            )
            gpu.texture.use(0)
            gpu.render(target)

    def release(self) -> None:
        """Free everything this scene holds on the GPU."""
        for gpu in self.parts.values():
            gpu.release()
        for level in self._levels:
            level.color_attachments[0].release()
            level.release()
        for thing in (self._screen_array, self._screen, self._background, self._pores, self._folds):
            thing.release()
        if self._shadow_map is not None:
            self._shadow_target.release()
            self._shadow_map.release()
