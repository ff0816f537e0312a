"""What the stages keep of a session: its portrait, its cache, and the frame that comes next."""

from __future__ import annotations

import numpy as np

from engine.backends.base import Reference
from engine.diffusion.rollout import Cache
from engine.model.config import ModelConfig
from engine.worker.base import Face, Floats, Step

_WORD = (1 << 64) - 1


def frame_noise(seed: int, start_frame: int, frames: int, shape: tuple[int, ...]) -> Floats:
    """Standard normal noise [frames, *shape]. That of a frame depends on the seed and its index only, so that it is the
    same however the frames are cut into blocks, and when a frame is made a second time.

    Philox is a function of a counter (Salmon et al., SC 2011); each frame gets its own highest word of it.
    """
    noise = np.empty((frames, *shape), np.float32)
    for i, cells in enumerate(noise):
        bits = np.random.Philox(key=seed & _WORD, counter=[0, 0, 0, start_frame + i])
        np.random.Generator(bits).standard_normal(dtype=np.float32, out=cells)
    return noise


class SlotState:
    """One slot as the stages see it. `generation` and `closed` may be set from any thread; the rest belongs to the
    denoising thread, but for `reference` and `picture`, which never change once a step can be submitted.
    """

    def __init__(self, number: int, face: Face, config: ModelConfig) -> None:
        self.number, self.picture = number, face.picture
        self.generation, self.closed = 0, False
        self.reference: Reference = {}
        self.next_frame: int | None = None
        """None as long as nothing was made: the first step may start at any frame."""
        self._face_reference: Floats | None = face.reference
        self.seed, self._config = face.seed, config
        self._start: Cache | None = None
        self._cache: Cache | None = None

    def take_reference_image(self) -> Floats:
        """The canonical crop, float32 [1, 3, 128, 128]; it is let go of."""
        image, self._face_reference = self._face_reference, None
        assert image is not None, "the reference is encoded once"
        return image

    def adopt(self, reference: Reference) -> None:
        """Take the encoded portrait; steps may come after that."""
        c = self._config
        self.reference = reference
        self._start = Cache.start(reference["keys"], reference["values"], c.context_frames * c.frame_tokens)
        self._cache = self._start

    @property
    def start(self) -> Cache:
        """The cache of the reference alone."""
        assert self._start is not None, "a step came before the reference was encoded"
        return self._start

    def wants(self, step: Step) -> bool:
        """Whether the step's pictures would still be shown."""
        return not self.closed and step.generation >= self.generation

    def context_for(self, step: Step) -> Cache:
        """The cache up to the step's first frame. Changes nothing."""
        if step.forget or self.next_frame is None:
            return self.start
        back = self.next_frame - step.start_frame
        assert back >= 0, f"a step starts at frame {step.start_frame}, but frame {self.next_frame} comes next"
        assert self._cache is not None
        return self._cache.take_back(back * self._config.frame_tokens) if back else self._cache

    def noise_for(self, step: Step) -> Floats:
        """[1, F, C, G, G]"""
        c = self._config
        shape = (c.latent_channels, c.latent_grid, c.latent_grid)
        return frame_noise(self.seed, step.start_frame, step.frames, shape)[None]

    def commit(self, step: Step, cache: Cache | None) -> None:
        """The step's frames are made, and `cache` includes them; None when it is kept where blocks are made."""
        self._cache, self.next_frame = cache, step.start_frame + step.frames
