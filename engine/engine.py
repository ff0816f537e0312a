"""The public engine: a loaded model that turns a portrait and a voice into frames.

engine = load()
for frame in engine.generate("face.jpg", pcm):       # a whole recording
    show(frame.image)
async with engine.session("face.jpg") as avatar:     # a conversation, see engine.session
    avatar.push_audio(pcm)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.audio.features import log_mel
from engine.audio.windows import frame_windows
from engine.backends.base import REFERENCE_PX, Backend, Floats
from engine.backends.registry import check_name
from engine.bundle import AUTO, find_bundle
from engine.direction import expression_vector
from engine.errors import ArgumentError, AudioEmptyError, AvatarError, BackendUnavailableError
from engine.events import SessionEvent
from engine.pipeline.chain import Piece, run_chain
from engine.pipeline.opening import MOCK, open_line
from engine.pipeline.plan import Plan, read_plan
from engine.portrait.loading import ImageSource
from engine.portrait.matte import cut_out
from engine.portrait.planes import to_planes
from engine.portrait.portrait import Portrait, open_portrait
from engine.session import AvatarSession, SessionConfig
from engine.types import FPS, SAMPLES_PER_FRAME, AvatarState, VideoFrame
from engine.vad import automatic_states, frame_count
from engine.worker.base import Face, Step
from engine.worker.line import Line
from engine.worker.slots import SlotState
from engine.worker.thread import ThreadWorker

DEFAULT_SIZE_PX = 512
MIN_SIZE_PX, MAX_SIZE_PX, SIZE_STEP_PX = 128, 1024, 16
MAX_STEPS = 100


def load(
    model: str | os.PathLike[str] = AUTO,
    backend: str = "auto",
    threads: int | None = None,
    pipeline: Plan | str | os.PathLike[str] | None = None,
) -> AvatarEngine:
    """Load a model bundle by name or path; `auto` is the best one that is installed.

    backend: `auto`, or a name of engine.backends.registry; `mock` needs no bundle. threads: CPU threads, None for the
    backend's own choice. pipeline: stages on places of their own: a plan, its text or its file, see
    engine.pipeline.plan. Raises BundleError, BackendError, PipelinePlanError or StageLostError.
    """
    check_name(backend)
    plan = pipeline if isinstance(pipeline, Plan) or pipeline is None else read_plan(pipeline)
    bundle = None if backend == MOCK else find_bundle(model)
    return AvatarEngine(open_line(bundle, backend, plan, threads), bundle.name if bundle else MOCK)


@dataclass(frozen=True, slots=True)
class _Job:
    """One call of `generate`, checked and prepared. own, partner: mel frames; states [F]; expression [8] or None."""

    pcm: Floats
    own: Floats
    partner: Floats | None
    states: NDArray[np.int8]
    expression: Floats | None
    face: Face
    steps: int | None

    @property
    def frames(self) -> int:
        return len(self.states)


class AvatarEngine:
    """A loaded model. Serves one `generate` at a time, or any number of sessions of one event loop that the machine
    sustains; the two do not mix. close() or `with` frees it; after sessions, await aclose() or use `async with`.
    """

    def __init__(self, model_or_line: Backend | Line, model: str) -> None:
        self.line = model_or_line if isinstance(model_or_line, Line) else Line.of(model_or_line)
        self.backend = self.line.back
        self.model = model
        self._starting: asyncio.Future[ThreadWorker] | None = None
        """The worker of this engine's sessions, once one was asked for."""

    def __enter__(self) -> AvatarEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; idempotent. Raises ArgumentError when sessions have run: they need `aclose`."""
        if self._starting is not None:
            raise ArgumentError("this engine has run sessions; close it with `await engine.aclose()`")
        self.line.close()

    async def __aenter__(self) -> AvatarEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End every session and free the model; idempotent."""
        starting, self._starting = self._starting, None
        if starting is None:
            self.line.close()
            return
        try:
            worker = await starting
        except AvatarError:
            self.line.close()
            return
        await worker.aclose()

    @asynccontextmanager
    async def session(
        self,
        portrait: ImageSource | Portrait,
        *,
        size: int = DEFAULT_SIZE_PX,
        seed: int = 0,
        alpha: bool = False,
        config: SessionConfig | None = None,
        on_event: Callable[[SessionEvent], None] | None = None,
    ) -> AsyncIterator[AvatarSession]:
        """A live conversation with this person; see engine.session. The first one warms the model up, a second or two.

        size: side of the square frames. alpha: without the background, as RGBA. Raises PortraitError, ArgumentError,
        BackendUnavailableError when the backend knows no alpha, or EngineFullError when this machine can sustain no
        more sessions.
        """
        face = self.face(portrait, size, seed, alpha)
        async with AvatarSession(await self.worker(size), face, config, on_event) as session:
            yield session

    async def worker(self, picture_px: int = DEFAULT_SIZE_PX, capacity: int | None = None) -> ThreadWorker:
        """What runs this engine's sessions, started when first asked for. picture_px: the side that its costs, and so
        its capacity, are measured at; capacity: sessions at once, None for what the machine sustains.
        """
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start_worker(picture_px, capacity))
        try:
            return await asyncio.shield(self._starting)
        except BaseException:
            if self._starting.done() and (self._starting.cancelled() or self._starting.exception()):
                self._starting = None
            raise

    async def _start_worker(self, picture_px: int, capacity: int | None) -> ThreadWorker:
        worker = ThreadWorker(self.line, self.model, picture_px, capacity)
        await worker.start()
        return worker

    def face(
        self, portrait: ImageSource | Portrait, size: int = DEFAULT_SIZE_PX, seed: int = 0, alpha: bool = False
    ) -> Face:
        """What a worker shows of a portrait; alpha: cut out of its background, which takes half a second. Raises
        PortraitError, ArgumentError, or BackendUnavailableError when the backend knows no alpha.
        """
        _check_size(size)
        if alpha and not self.backend.moves_alpha:
            raise BackendUnavailableError(
                f"the {self.backend.name} backend cannot leave the background out; load the model with another one"
            )
        opened = portrait if isinstance(portrait, Portrait) else self.open_portrait(portrait)
        picture = opened.crop(size)
        return Face(to_planes(opened.crop(REFERENCE_PX)), to_planes(cut_out(picture) if alpha else picture), seed)

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
        _check_size(size)
        if self._starting is not None:
            raise ArgumentError("generate cannot share the model with sessions; load another engine for it")
        if steps is not None:
            _check_range("steps", steps, 1, MAX_STEPS)
        if not len(pcm):
            raise AudioEmptyError("there is no sound: not one sample was given")
        job = _Job(
            pcm=pcm,
            own=log_mel(pcm),
            partner=None if partner is None else log_mel(partner),
            states=automatic_states(pcm, partner) if states is None else _check_states(states, frame_count(pcm)),
            expression=None if expression is None else expression_vector(expression),
            face=self.face(portrait, size, seed),
            steps=steps,
        )
        return self._frames(job)

    def _frames(self, job: _Job) -> Iterator[VideoFrame]:
        """The blocks one after the other, or through the stages of the plan."""
        slot = SlotState(0, job.face, self.backend.config)
        slot.adopt(self.backend.encode_reference(slot.take_reference_image()))
        self.line.front.adopt(slot)
        with closing(run_chain(self.line, slot, self._pieces(job))) as pieces:
            for piece in pieces:
                timing = dict(piece.timing)
                for offset, image in enumerate(piece.content):
                    yield _frame(job, piece.step.start_frame + offset, image, timing)

    def _pieces(self, job: _Job) -> Iterator[Piece]:
        start, length = 0, self.backend.sampling.first_block_frames
        while start < job.frames:
            yield Piece(self._step(job, start, length), min(length, job.frames - start))
            start, length = start + length, self.backend.sampling.block_frames

    def _step(self, job: _Job, start: int, length: int) -> Step:
        """Of frames start to start + length; those after the recording are silent and keep its last state."""
        states = np.pad(job.states[start : start + length], (0, max(0, start + length - job.frames)), "edge")
        expression = np.zeros((length, self.backend.config.expressions), np.float32)
        if job.expression is not None:
            expression[:] = job.expression
        sampling = self.backend.sampling
        return Step(
            generation=0,
            start_frame=start,
            windows=frame_windows(job.own, start, length),
            partner_windows=frame_windows(job.own[:0] if job.partner is None else job.partner, start, length),
            state=states.astype(np.int64),
            expression=expression,
            expression_given=np.full(length, float(job.expression is not None), np.float32),
            pose=np.zeros((length, self.backend.config.pose_axes), np.float32),
            pose_given=np.zeros(length, np.float32),
            denoising_steps=job.steps or (sampling.steps if start else sampling.first_steps),
        )


def _frame(job: _Job, index: int, image: NDArray[np.uint8], timing: dict[str, float]) -> VideoFrame:
    audio = np.zeros(SAMPLES_PER_FRAME, np.float32)
    heard = job.pcm[index * SAMPLES_PER_FRAME : (index + 1) * SAMPLES_PER_FRAME]
    audio[: len(heard)] = heard
    return VideoFrame(image, audio, index * 1_000_000 // FPS, AvatarState(int(job.states[index])), timing)


def _check_size(size: int) -> None:
    _check_range("size", size, MIN_SIZE_PX, MAX_SIZE_PX)
    if size % SIZE_STEP_PX:
        raise ArgumentError(f"size must be a multiple of {SIZE_STEP_PX} pixels, not {size}")


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ArgumentError(f"{name} must lie between {low} and {high}, not {value}")


def _check_states(states: NDArray[Any], frames: int) -> NDArray[np.int8]:
    if len(states) != frames:
        raise ArgumentError(f"states must hold one label for each of the {frames} frames, not {len(states)}")
    if not np.isin(states, list(AvatarState)).all():
        raise ArgumentError("states must be values of AvatarState")
    return states.astype(np.int8)
