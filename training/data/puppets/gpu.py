"""GL plumbing: one EGL context per process, the two programs, vertex buffers and render targets."""

from __future__ import annotations

import os
from functools import lru_cache

import moderngl
import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailableError
from training.data import gl
from training.data.puppets.errors import GraphicsUnavailable
from training.data.puppets.shaders import COLOUR, TRUTH, VERTEX

Floats = NDArray[np.float32]


def gl_context() -> moderngl.Context:
    """The process's own context, made on first use. Raises GraphicsUnavailable."""
    try:
        return gl.gl_context()
    except BackendUnavailableError as error:
        raise GraphicsUnavailable(str(error)) from error


@lru_cache(maxsize=4)
def _programs_of(process: int) -> tuple[moderngl.Program, moderngl.Program]:
    context = gl_context()
    colour, truth = (context.program(vertex_shader=VERTEX, fragment_shader=f) for f in (COLOUR, TRUTH))
    return colour, truth


def programs() -> tuple[moderngl.Program, moderngl.Program]:
    """The process's colour and truth programs."""
    return _programs_of(os.getpid())


class LayerMesh:
    """One layer on the card: vertices that may be rewritten every frame, fixed attributes, reference places."""

    def __init__(self, moving: Floats, fixed: Floats, triangles: NDArray[np.int32]) -> None:
        context = gl_context()
        self.moving = context.buffer(moving.astype("f4").tobytes(), dynamic=True)
        self._fixed = context.buffer(fixed.astype("f4").tobytes())
        self._was = context.buffer(np.zeros((len(fixed), 3), "f4").tobytes())
        self._index = context.buffer(np.ascontiguousarray(triangles, "i4").tobytes())
        names = ("place", "normal")[: moving.shape[1] // 3]
        layouts = [(self.moving, names), (self._fixed, _FIXED), (self._was, ("was",))]
        self._arrays = [
            context.vertex_array(
                program, [(b, *_layout(program, a)) for b, a in layouts if any(n in program for n in a)], self._index
            )
            for program in programs()
        ]

    def remember(self, was: Floats) -> None:
        self._was.write(np.ascontiguousarray(was, "f4").tobytes())

    def draw(self, truth: bool) -> None:
        self._arrays[truth].render()

    def release(self) -> None:
        for item in (*self._arrays, self.moving, self._fixed, self._was, self._index):
            item.release()


_FIXED = ("uv", "uv_alt", "look", "rest_normal")
_WIDTH = {"uv": 2, "uv_alt": 2, "look": 4}


def _layout(program: moderngl.Program, names: tuple[str, ...]) -> list[str]:
    """Buffer layout of float attributes; those that the compiler removed become padding."""
    present = [name for name in names if name in program]
    parts = [f"{_WIDTH.get(n, 3)}f" if n in present else f"{4 * _WIDTH.get(n, 3)}x" for n in names]
    return [" ".join(parts), *present]


def picture_texture(picture: NDArray[np.uint8]) -> moderngl.Texture:
    """An RGB picture on the card; places beyond its edge show the edge."""
    texture = gl_context().texture(picture.shape[1::-1], 3, np.ascontiguousarray(picture).tobytes(), alignment=1)
    texture.repeat_x = texture.repeat_y = False
    return texture


def make_target(side_px: int, dtype: str) -> moderngl.Framebuffer:
    """A square target with depth: 8-bit RGB for dtype "f1", float RGBA for "f4"."""
    context = gl_context()
    components = 3 if dtype == "f1" else 4
    colour = context.texture((side_px, side_px), components, dtype=dtype, alignment=1)
    colour.filter = (moderngl.NEAREST, moderngl.NEAREST) if dtype == "f4" else (moderngl.LINEAR, moderngl.LINEAR)
    return context.framebuffer([colour], context.depth_renderbuffer((side_px, side_px)))


def read_target(target: moderngl.Framebuffer, dtype: str) -> NDArray:
    """Its pixels [side, side, 3 or 4], first row on top."""
    components = 3 if dtype == "f1" else 4
    raw = target.read(components=components, dtype=dtype, alignment=1)
    kind = np.uint8 if dtype == "f1" else np.float32
    return np.frombuffer(raw, kind).reshape(target.height, target.width, components)
