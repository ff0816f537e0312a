"""The public engine: a loaded model that turns a portrait and a voice into frames.

engine = load()
for frame in engine.generate("face.jpg", pcm):
    show(frame.image)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.audio.features import log_mel
from engine.audio.windows import frame_windows
from engine.backends.base import REFERENCE_PX, Backend, Floats, Reference
from engine.backends.mock import MockBackend
from engine.backends.registry import check_name, open_backend
from engine.bundle import AUTO, find_bundle
from engine.diffusion.flow import timesteps
from engine.diffusion.rollout import Cache, generate_block
from engine.diffusion.sampler import SAMPLERS
from engine.direction import expression_vector
from engine.errors import ArgumentError, AudioEmptyError
from engine.portrait.loading import ImageSource
from engine.portrait.portrait import Portrait, open_portrait
from engine.types import FPS, SAMPLES_PER_FRAME, AvatarState, VideoFrame
from engine.vad import automatic_states, frame_count

DEFAULT_SIZE_PX = 512
MIN_SIZE_PX, MAX_SIZE_PX, SIZE_STEP_PX = 128, 1024, 16
MAX_STEPS = 100


def load(model: str | os.PathLike[str] = AUTO, backend: str = "auto", threads: int | None = None) -> AvatarEngine:
    """Load a model bundle by name or path; `auto` is the best one that is installed.

    backend: `auto`, or a name of engine.backends.registry; `mock` needs no bundle. threads: CPU threads, None for the
    backend's own choice. Raises BundleError or BackendError.
    """
    check_name(backend)
    if backend == "mock":
        return AvatarEngine(MockBackend(), "mock")
    bundle = find_bundle(model)
    return AvatarEngine(open_backend(backend, bundle, threads), bundle.name)


Triple: TypeAlias = tuple[Floats, Floats, Floats]


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What steers the frames of one block, in the arguments of Backend.denoise."""

    audio: Floats
    listening: Floats
    state: NDArray[np.int64]
    expression: Floats
    expression_given: Floats
    pose: Floats
    pose_given: Floats


@dataclass(frozen=True, slots=True)
class _BoundDenoiser:
    """The denoiser with a block's conditions filled in, as engine.diffusion.rollout calls it."""

    backend: Backend
    conditions: _Conditions

    def __call__(self, latents: Floats, t: float, keys: Floats, values: Floats, valid: Floats) -> Triple:
        c = self.conditions
        return self.backend.denoise(
            latents=latents,
            timestep=np.array([t], np.float32),
            audio=c.audio,
            listening=c.listening,
            state=c.state,
            expression=c.expression,
            expression_given=c.expression_given,
            pose=c.pose,
            pose_given=c.pose_given,
            cache_keys=keys,
            cache_values=values,
            cache_valid=valid,
        )


@dataclass(frozen=True, slots=True)
class _Job:
    """One call of `generate`, checked and prepared. own, partner: mel frames; states [F]; expression [8] or None."""

    pcm: Floats
    own: Floats
    partner: Floats | None
    states: NDArray[np.int8]
    expression: Floats | None
    reference: Reference
    picture: Floats
    steps: int | None
    seed: int

    @property
    def frames(self) -> int:
        return len(self.states)


class AvatarEngine:
    """A loaded model. Serves one `generate` at a time; close() or `with` frees it."""

    def __init__(self, backend: Backend, model: str) -> None:
        self.backend = backend
        self.model = model

    def __enter__(self) -> AvatarEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; idempotent."""
        self.backend.close()

    def open_portrait(self, source: ImageSource) -> Portrait:
        """Read a picture and find its face, with the model's own face-point network if it has one."""
        return open_portrait(source, self.backend.aligner)

    def generate(
        self,
        portrait: ImageSource | Portrait,
        pcm: NDArray[np.float32],
        *,
        partner: NDArray[np.float32] | None = None,
        states: NDArray[np.int8] | None = None,
        expression: Mapping[str, float] | None = None,
        steps: int | None = None,
        seed: int = 0,
        size: int = DEFAULT_SIZE_PX,
    ) -> Iterator[VideoFrame]:
        """Frames at 25 a second for a voice, float32 [N] at 16 kHz: ceil(N / 640), the last padded with silence

        portrait: a file, its bytes, RGB pixels, or a Portrait. partner: the other party's voice, for listening.
        states: AvatarState per frame [F], chosen by voice activity when None. expression: strengths by name, free when
        None. steps: denoising steps of every block, the model's own choice when None. size: side of the square frames.
        Arguments are checked here, before the first frame is asked for. Raises AvatarError.
        """
        _check_range("size", size, MIN_SIZE_PX, MAX_SIZE_PX)
        if size % SIZE_STEP_PX:
            raise ArgumentError(f"size must be a multiple of {SIZE_STEP_PX} pixels, not {size}")
        if steps is not None:
            _check_range("steps", steps, 1, MAX_STEPS)
        if not len(pcm):
            raise AudioEmptyError("there is no sound: not one sample was given")
        face = portrait if isinstance(portrait, Portrait) else self.open_portrait(portrait)
        job = _Job(
            pcm=pcm,
            own=log_mel(pcm),
            partner=None if partner is None else log_mel(partner),
            states=automatic_states(pcm, partner) if states is None else _check_states(states, frame_count(pcm)),
            expression=None if expression is None else expression_vector(expression),
            reference=self.backend.encode_reference(_to_planes(face.crop(REFERENCE_PX))),
            picture=_to_planes(face.crop(size)),
            steps=steps,
            seed=seed,
        )
        return self._frames(job)

    def _frames(self, job: _Job) -> Iterator[VideoFrame]:
        """The blocks one after the other, each decoded as soon as it is denoised."""
        sampling, config = self.backend.sampling, self.backend.config
        random = np.random.default_rng(job.seed)
        context_slots = config.context_frames * config.frame_tokens
        cache = Cache.start(job.reference["keys"], job.reference["values"], context_slots)
        start, length = 0, sampling.first_block_frames
        while start < job.frames:
            began = perf_counter()
            steps = job.steps or (sampling.steps if start else sampling.first_steps)
            shape = (1, length, config.latent_channels, config.latent_grid, config.latent_grid)
            latents, cache = generate_block(
                _BoundDenoiser(self.backend, self._conditions(job, start, length)),
                SAMPLERS[sampling.sampler],
                random.standard_normal(shape, np.float32),
                timesteps(steps, sampling.time_shift),
                cache,
                sampling.context_time,
            )
            denoised = perf_counter()
            shown = min(length, job.frames - start)
            images = self.backend.decode(latents[0, :shown], job.reference, job.picture)
            timing = {"denoise_ms": 1e3 * (denoised - began), "decode_ms": 1e3 * (perf_counter() - denoised)}
            for offset, image in enumerate(images):
                yield _frame(job, start + offset, image, timing)
            start, length = start + length, sampling.block_frames

    def _conditions(self, job: _Job, start: int, length: int) -> _Conditions:
        """Of frames start to start + length; those after the recording are silent and keep its last state."""
        states = np.pad(job.states[start : start + length], (0, max(0, start + length - job.frames)), "edge")
        expression = np.zeros((1, length, self.backend.config.expressions), np.float32)
        if job.expression is not None:
            expression[:] = job.expression
        given = np.full((1, length), float(job.expression is not None), np.float32)
        return _Conditions(
            audio=self._hear(job.own, start, length),
            listening=self._hear(job.own[:0] if job.partner is None else job.partner, start, length),
            state=states[None].astype(np.int64),
            expression=expression,
            expression_given=given,
            pose=np.zeros((1, length, self.backend.config.pose_axes), np.float32),
            pose_given=np.zeros((1, length), np.float32),
        )

    def _hear(self, mel: Floats, start: int, length: int) -> Floats:
        return self.backend.encode_audio(frame_windows(mel, start, length))[None]


def _frame(job: _Job, index: int, image: NDArray[np.uint8], timing: dict[str, float]) -> VideoFrame:
    audio = np.zeros(SAMPLES_PER_FRAME, np.float32)
    heard = job.pcm[index * SAMPLES_PER_FRAME : (index + 1) * SAMPLES_PER_FRAME]
    audio[: len(heard)] = heard
    return VideoFrame(image, audio, index * 1_000_000 // FPS, AvatarState(int(job.states[index])), timing)


def _to_planes(crop: NDArray[np.uint8]) -> Floats:
    """uint8 [S, S, 3] to float32 [1, 3, S, S] in [-1, 1]."""
    return np.ascontiguousarray(crop.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ArgumentError(f"{name} must lie between {low} and {high}, not {value}")


def _check_states(states: NDArray[Any], frames: int) -> NDArray[np.int8]:
    if len(states) != frames:
        raise ArgumentError(f"states must hold one label for each of the {frames} frames, not {len(states)}")
    if not np.isin(states, list(AvatarState)).all():
        raise ArgumentError("states must be values of AvatarState")
    return states.astype(np.int8)
