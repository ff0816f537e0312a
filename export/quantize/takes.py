"""Roll-outs for calibration and proof: real portraits and voices, and everything that a user may ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Backend, Floats, Reference
from engine.diffusion.flow import timesteps
from engine.diffusion.rollout import Cache, generate_block
from engine.diffusion.sampler import SAMPLERS
from engine.model.config import ModelConfig
from engine.types import AvatarState
from export.scenes import Scene

_ASKED_BLOCKS = 3
"""So many blocks in a row are asked for the same thing."""
_POSE_SPREAD_DEG = 8.0
_UNKNOWN_STATE = 3
_STATES = (AvatarState.SPEAKING, AvatarState.SPEAKING, AvatarState.LISTENING, AvatarState.IDLE, _UNKNOWN_STATE)


@dataclass(frozen=True, slots=True)
class Take:
    """A scene and what is asked in it. speaking, listening: windows of either voice [F, 32, 80]. asked: per frame
    [F, ...], as `Backend.denoise` takes it without its batch axis.
    """

    scene: Scene
    speaking: Floats
    listening: Floats
    asked: Mapping[str, NDArray[Any]]


def speech(scene: Scene, config: ModelConfig) -> Take:
    """Speaking all the time, with nothing else asked for."""
    frames = len(scene.windows)
    asked = _nothing(config, frames)
    return Take(scene, scene.windows, _silence(scene.windows), {**asked, "state": np.zeros(frames, np.int64)})


def variety(scene: Scene, config: ModelConfig) -> Take:
    """States, voices of either party, expressions and poses, alone and together, by the scene's seed.

    Ranges of layers that only these reach would else be unknown.
    """
    random = np.random.default_rng(scene.seed)
    frames, silence = len(scene.windows), _silence(scene.windows)
    asked = _nothing(config, frames)
    speaking, listening = scene.windows.copy(), silence.copy()
    ends = np.cumsum(scene.blocks)[_ASKED_BLOCKS - 1 :: _ASKED_BLOCKS]
    for part in np.split(np.arange(frames), ends):
        state = int(random.choice(_STATES))
        asked["state"][part] = state
        if state == AvatarState.LISTENING:
            listening[part] = scene.windows[part]
        if state in (AvatarState.LISTENING, AvatarState.IDLE):
            speaking[part] = silence[part]
        if random.random() < 0.5:
            asked["expression"][part, random.integers(config.expressions)] = random.uniform(0.3, 1.0)
            asked["expression_given"][part] = 1
        if random.random() < 0.5:
            asked["pose"][part] = random.normal(0, _POSE_SPREAD_DEG, config.pose_axes)
            asked["pose_given"][part] = 1
    return Take(scene, speaking, listening, asked)


class Player:
    """A backend on its way through a take, block by block."""

    def __init__(self, backend: Backend, take: Take) -> None:
        config = backend.config
        self._backend, self._take = backend, take
        self._starts = np.cumsum((0, *take.scene.blocks))
        self.reference: Reference = backend.encode_reference(take.scene.small)
        slots = config.context_frames * config.frame_tokens
        self.cache = Cache.start(self.reference["keys"], self.reference["values"], slots)

    def step(self, number: int, noise: Floats) -> Floats:
        """The motion latents [F, C, G, G] of a block, which joins the context."""
        latents, self.cache = self.tried(number, noise, self.cache)
        return latents

    def tried(self, number: int, noise: Floats, cache: Cache) -> tuple[Floats, Cache]:
        """A block after the context of whichever run, and the context that would include it."""
        sampling = self._backend.sampling
        steps = sampling.steps if number else sampling.first_steps
        latents, after = generate_block(
            self._model(number), SAMPLERS[sampling.sampler], noise, timesteps(steps, sampling.time_shift),
            cache, self._backend.manner,
        )  # fmt: skip
        return latents[0], after

    def pictures(self, latents: Floats) -> NDArray[np.uint8]:
        return self._backend.decode(latents, self.reference, self._take.scene.large)

    def _model(self, number: int) -> Any:
        part = slice(self._starts[number], self._starts[number + 1])
        backend, take = self._backend, self._take
        conditions = {
            "audio": backend.encode_audio(take.speaking[part])[None],
            "listening": backend.encode_audio(take.listening[part])[None],
            **{name: values[part][None] for name, values in take.asked.items()},
        }

        def model(latents: Any, t: float, keys: Any, values: Any, valid: Any) -> tuple[Any, Any, Any]:
            return backend.denoise(
                latents=latents, timestep=np.array([t], np.float32), **conditions,
                cache_keys=keys, cache_values=values, cache_valid=valid,
            )  # fmt: skip

        return model


def noises(take: Take, config: ModelConfig) -> Iterator[Floats]:
    """The noise of every block, by the scene's seed."""
    random = np.random.default_rng(take.scene.seed)
    grid = (config.latent_channels, config.latent_grid, config.latent_grid)
    for length in take.scene.blocks:
        yield random.standard_normal((1, length, *grid), np.float32)


def play(backend: Backend, take: Take) -> Iterator[NDArray[np.uint8]]:
    """Pictures of every block [F, P, P, 3]."""
    player = Player(backend, take)
    for number, noise in enumerate(noises(take, backend.config)):
        yield player.pictures(player.step(number, noise))


def _nothing(config: ModelConfig, frames: int) -> dict[str, NDArray[Any]]:
    return {
        "state": np.full(frames, _UNKNOWN_STATE, np.int64),
        "expression": np.zeros((frames, config.expressions), np.float32),
        "expression_given": np.zeros(frames, np.float32),
        "pose": np.zeros((frames, config.pose_axes), np.float32),
        "pose_given": np.zeros(frames, np.float32),
    }


def _silence(windows: Floats) -> Floats:
    return np.full_like(windows, windows.min())
