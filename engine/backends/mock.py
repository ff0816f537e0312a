"""A model without weights: the portrait's mouth opens with the loudness of the voice.

It fills `engine.backends.base.Backend`, so tests and user interfaces can be tried in a second and without a bundle.
Its velocity points straight at the wanted latent, which makes every sampler exact after one step.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.audio.features import LOG_FLOOR
from engine.audio.windows import LOOK_AHEAD_FRAMES, MELS_PER_FRAME, WINDOW_MELS
from engine.backends.base import Floats, Landmarker, Reference, Sampling
from engine.model.config import TINY, ModelConfig
from engine.portrait.planes import to_pixels
from engine.types import EXPRESSIONS, AvatarState

_MOUTH_Y = 0.68
"""Where the lips meet in the canonical crop."""
_LARGEST_OPENING = 0.05
_LOUDEST = 4.0
"""Mean log-mel value at which the mouth is wide open."""


class MockBackend:
    """Deterministic and cheap; latent channel 0 is the mouth's opening, channel 1 a smile."""

    name = "mock"
    config: ModelConfig = TINY
    sampling = Sampling(steps=1, first_steps=1)
    manner = sampling.manner()
    aligner: Landmarker | None = None
    moves_alpha = True

    def encode_reference(self, image: Floats) -> Reference:
        assert image.shape[:2] == (1, 3)
        empty = np.zeros(self._cache_shape(frames=1), np.float32)
        return {"keys": empty, "values": empty}

    def encode_audio(self, windows: Floats) -> Floats:
        now = slice(
            WINDOW_MELS - MELS_PER_FRAME * (1 + LOOK_AHEAD_FRAMES), WINDOW_MELS - MELS_PER_FRAME * LOOK_AHEAD_FRAMES
        )
        loudness = (windows[:, now].mean((1, 2)) - LOG_FLOOR) / (_LOUDEST - LOG_FLOOR)
        embedding = np.zeros((len(windows), self.config.audio_width), np.float32)
        embedding[:, 0] = np.clip(loudness, 0, 1)
        return embedding

    def denoise(
        self,
        *,
        latents: Floats,
        timestep: Floats,
        audio: Floats,
        listening: Floats,
        state: NDArray[np.int64],
        expression: Floats,
        expression_given: Floats,
        pose: Floats,
        pose_given: Floats,
        cache_keys: Floats,
        cache_values: Floats,
        cache_valid: Floats,
    ) -> tuple[Floats, Floats, Floats]:
        wanted = np.zeros_like(latents)
        wanted[:, :, 0] = (audio[:, :, 0] * (state == AvatarState.SPEAKING))[:, :, None, None]
        smile = expression[:, :, EXPRESSIONS.index("happy")] * expression_given
        wanted[:, :, 1] = smile[:, :, None, None]
        # x_t = (1 - t) x0 + t eps and v = eps - x0, so v = (x_t - x0) / t; at t = 0 only keys and values are wanted.
        t = timestep[:, None, None, None, None]
        velocity = np.where(t > 0, (latents - wanted) / np.maximum(t, np.float32(1e-6)), np.float32(0))
        fresh = np.zeros(self._cache_shape(latents.shape[1], len(latents)), np.float32)
        return velocity, fresh, fresh

    def decode(self, latents: Floats, reference: Reference, portrait: Floats) -> NDArray[np.uint8]:
        picture = to_pixels(portrait[0])
        openings = np.clip(latents[:, 0].mean((1, 2)), 0, 1)
        return np.stack([_open_mouth(picture, float(opening)) for opening in openings])

    def close(self) -> None:
        pass

    def _cache_shape(self, frames: int, sessions: int = 1) -> tuple[int, ...]:
        c = self.config
        return (c.depth, sessions, c.heads, frames * c.frame_tokens, c.head_width)


def _open_mouth(picture: NDArray[np.uint8], opening: float) -> NDArray[np.uint8]:
    """The picture with the part below the lips pulled down and the gap left dark."""
    side = len(picture)
    across, below = _jaw(side)
    drop_px = np.round(opening * _LARGEST_OPENING * side * across[None] * below[:, None]).astype(np.intp)
    rows = np.arange(side)[:, None]
    moved = picture[np.maximum(rows - drop_px, 0), np.arange(side)[None]]
    gap = (rows > _MOUTH_Y * side) & (rows <= _MOUTH_Y * side + drop_px)
    dark = np.array([30, 30, 30, 255][: picture.shape[-1]], np.uint8)
    return np.where(gap[..., None], dark, moved)


@lru_cache(maxsize=4)
def _jaw(side: int) -> tuple[Floats, Floats]:
    """How much each column and each row takes part in opening the mouth, [side] each."""
    place = (np.arange(side, dtype=np.float32) + 0.5) / side
    across = np.exp(-(((place - 0.5) / 0.1) ** 4))
    below = np.where(place > _MOUTH_Y, np.exp(-(((place - _MOUTH_Y) / 0.16) ** 2)), 0)
    return across.astype(np.float32), below.astype(np.float32)
