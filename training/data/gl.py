"""The one off-screen OpenGL context of a process.

All renderers share it: OpenGL calls go to whichever context was made current last, so with a context for each renderer
the second one's creation turns the pictures of the first black.
"""

from __future__ import annotations

import os
from functools import lru_cache

import moderngl

from engine.errors import BackendUnavailableError


def gl_context() -> moderngl.Context:
    """The context, made on first use over EGL. Raises BackendUnavailableError where there is none."""
    return _context_of(os.getpid())


@lru_cache(maxsize=4)
def _context_of(process: int) -> moderngl.Context:
    try:
        return moderngl.create_context(standalone=True, backend="egl")
    except Exception as error:  # moderngl and glcontext raise bare Exception
        raise BackendUnavailableError(
            f"no OpenGL over EGL here ({error}); install libegl1 and libgl1-mesa-dri, or a graphics driver"
        ) from error
