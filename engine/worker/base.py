"""The seam between sessions and whatever runs their blocks: a thread of this process, or a supervised child.

A session opens a slot, submits steps, and is called back with pictures. The seam carries arrays and integers only, so
it can cross a pipe. A slot's cache remembers the frame that comes next: a step that starts earlier takes frames back,
which is how an interrupted or redirected session continues from what was shown and not from what was thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import AvatarError

Floats = NDArray[np.float32]

STEPS_PER_SLOT = 2
"""Steps that a slot may have waiting or running: one is denoised while the last one is decoded. More is refused."""


@dataclass(frozen=True, slots=True)
class Face:
    """What a slot shows. reference float32 [1, 3, 128, 128] and picture float32 [1, 3, P, P], both in [-1, 1]; with a
    fourth plane, the picture's opacity, frames are RGBA.
    """

    reference: Floats
    picture: Floats
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One block of one slot, F frames from `start_frame` on.

    windows, partner_windows float32 [F, 32, 80]; state int64 [F]; expression float32 [F, 8] with expression_given [F];
    pose float32 [F, 5] degrees with pose_given [F]. generation: see Slot.cancel. deadline_us: when the first picture is
    due, for the order among slots. picture_every: 2 decodes every other frame and shows each twice. forget: start from
    the reference alone, without context.
    """

    generation: int
    start_frame: int
    windows: Floats
    partner_windows: Floats
    state: NDArray[np.int64]
    expression: Floats
    expression_given: Floats
    pose: Floats
    pose_given: Floats
    denoising_steps: int
    deadline_us: int = 0
    picture_every: int = 1
    forget: bool = False

    @property
    def frames(self) -> int:
        return len(self.state)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Some frames of a step, in order: images uint8 [f, P, P, 3 or 4] of frames start_frame onwards.

    last: the step is done. timing: milliseconds by stage (wait_ms, audio_ms, denoise_ms, decode_ms), `frames` and how
    many `pictures` were decoded, of the whole step on its last pictures and empty before; `restarted` is there when
    the block was not finite and was made again from the reference.
    """

    generation: int
    start_frame: int
    images: NDArray[np.uint8]
    last: bool
    timing: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker runs, said once it is warm.

    block_lengths: the lengths that were warmed up, rising. denoise_ms: by block length, the time of one denoiser call.
    decode_ms: of one picture at `picture_px`. fixed_ms: of one step whatever its length. moves_alpha: see Backend.
    """

    model: str
    backend: str
    block_lengths: tuple[int, ...]
    steps: int
    first_steps: int
    first_block_frames: int
    block_frames: int
    context_frames: int
    picture_px: int
    denoise_ms: Mapping[int, float]
    decode_ms: float
    fixed_ms: float = 0.0
    moves_alpha: bool = False


class Listener(Protocol):
    """A session, as its slot calls it back; always in the event loop's thread."""

    def on_pictures(self, pictures: Pictures) -> None: ...

    def on_lost(self, error: AvatarError) -> None:
        """The slot is gone, with all that was under way. Open another one."""
        ...


class Slot(Protocol):
    """One session's place in a worker."""

    def submit(self, step: Step) -> None:
        """Returns at once. Raises SlotBusyError when STEPS_PER_SLOT steps are under way, WorkerLostError when gone."""
        ...

    def cancel(self, generation: int) -> None:
        """Stop working on steps of earlier generations; no pictures of them come after this returns."""
        ...

    async def aclose(self) -> None:
        """Give the place back; idempotent, and bounded in time. No call back comes after it."""
        ...


class Worker(Protocol):
    """Runs blocks for up to `capacity` slots."""

    @property
    def info(self) -> WorkerInfo: ...

    @property
    def capacity(self) -> int: ...

    @property
    def ready(self) -> bool:
        """Whether a slot could be opened now, capacity aside."""
        ...

    async def open(self, face: Face, listener: Listener) -> Slot:
        """Raises EngineFullError at once when no place is free, WorkerLostError when not ready within its time."""
        ...

    async def aclose(self) -> None:
        """Close every slot, then free the model; idempotent, bounded in time."""
        ...
