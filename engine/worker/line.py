"""A model as the stages that a block passes, wherever each of them runs: the seam of pipelines.

The front (audio encoder, denoiser, caches of the sessions) takes steps and gives latents; only these are handed on. It
may be in another process, see engine.pipeline.remote. The back encodes portraits and decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Backend, Floats, SplitDecoder
from engine.pipeline.plan import Plan
from engine.worker.base import Step
from engine.worker.blocks import Denoised, denoise_batch
from engine.worker.slots import SlotState


class Front(Protocol):
    """Makes latents. `forget` may be called from any thread; the others from one at a time."""

    def adopt(self, slot: SlotState) -> None:
        """Take a slot whose portrait is encoded; it replaces one of the same number. Raises StageLostError."""
        ...

    def denoise(self, slots: Sequence[SlotState], steps: Sequence[Step], wanted: Callable[[], bool]) -> list[Denoised]:
        """As engine.worker.blocks.denoise_batch. Raises StageLostError when what it runs in is gone for good."""
        ...

    def forget(self, slot: int) -> None:
        """No step of the slot comes any more."""
        ...

    def close(self) -> None:
        """Idempotent, and bounded in time."""
        ...


class LocalFront:
    """In this process; the caches are in the slots. owned: whether the backend is closed with it."""

    def __init__(self, backend: Backend, owned: bool = False) -> None:
        self._backend, self._owned = backend, owned

    def adopt(self, slot: SlotState) -> None:
        pass

    def denoise(self, slots: Sequence[SlotState], steps: Sequence[Step], wanted: Callable[[], bool]) -> list[Denoised]:
        return denoise_batch(self._backend, slots, steps, wanted)

    def forget(self, slot: int) -> None:
        pass

    def close(self) -> None:
        if self._owned:
            self._backend.close()


@dataclass(frozen=True, slots=True)
class Line:
    """plan: None where nobody asked for places; then a film is made block by block, and live stages lie anywhere."""

    front: Front
    back: Backend
    plan: Plan | None = None

    @staticmethod
    def of(backend: Backend) -> Line:
        """One backend for all, in this process."""
        return Line(LocalFront(backend), backend)

    def predict(self, latents: Floats, slot: SlotState) -> Any:
        """What `compose` makes pictures of: the first part of decoding, or all of it when the backend has but one."""
        if self._splits and isinstance(self.back, SplitDecoder):
            return self.back.predict(latents, slot.reference)
        return self.back.decode(latents, slot.reference, slot.picture)

    def compose(self, predicted: Any, slot: SlotState) -> NDArray[np.uint8]:
        """Pictures uint8 [F, P, P, 3]."""
        if self._splits and isinstance(self.back, SplitDecoder):
            return self.back.compose(predicted, slot.picture)
        pictures: NDArray[np.uint8] = predicted
        return pictures

    def close(self) -> None:
        """Free the model and end what runs beside this process; idempotent."""
        self.front.close()
        self.back.close()

    @property
    def _splits(self) -> bool:
        return self.plan is not None
