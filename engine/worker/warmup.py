"""Running everything once before the first session, and measuring what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from engine.audio.features import LOG_FLOOR
from engine.audio.windows import WINDOW_MELS
from engine.backends.base import REFERENCE_PX
from engine.errors import StageLostError
from engine.model.config import ModelConfig
from engine.pipeline.placing import on_cores
from engine.pipeline.plan import Place
from engine.scheduler import MAX_BATCH, sustained_sessions
from engine.worker.base import Face, Step, WorkerInfo
from engine.worker.line import Line
from engine.worker.slots import SlotState

DECODE_GROUP = 2
"""Pictures decoded in one call: few, so that the first leaves early and a cancel is heeded soon."""

_ROUNDS = 3
"""Of each measurement; the median counts, since a machine at rest is not what sessions will meet."""


@dataclass(frozen=True, slots=True)
class Warm:
    """What a warm-up found. max_batch: most slots in one denoiser call. reference_ms: of encoding one portrait."""

    info: WorkerInfo
    max_batch: int
    reference_ms: float


def blank_step(config: ModelConfig, frames: int, denoising_steps: int) -> Step:
    """Silence, with nothing asked for, from frame 0 on."""
    silence = np.full((frames, WINDOW_MELS, config.mel_bins), LOG_FLOOR, np.float32)
    return Step(
        generation=0,
        start_frame=0,
        windows=silence,
        partner_windows=silence,
        state=np.zeros(frames, np.int64),
        expression=np.zeros((frames, config.expressions), np.float32),
        expression_given=np.zeros(frames, np.float32),
        pose=np.zeros((frames, config.pose_axes), np.float32),
        pose_given=np.zeros(frames, np.float32),
        denoising_steps=denoising_steps,
        forget=True,
    )


def warm_up(line: Line, model: str, picture_px: int, capacity: int | None = None) -> Warm:
    """Meet every block length, both numbers of denoising steps, every size of batch and of decoding group once.

    capacity: how many slots there will be, None for as many as the machine sustains. Raises whatever the stages do.
    """
    backend, sampling = line.back, line.back.sampling
    slot = SlotState(0, _blank_face(picture_px), backend.config)
    image = slot.take_reference_image()
    slot.adopt(backend.encode_reference(image))
    line.front.adopt(slot)
    reference_ms = _measure_ms(lambda: backend.encode_reference(image))
    _run(line, [slot], sampling.first_block_frames, sampling.first_steps)
    info = _measure(line, slot, model, picture_px)
    places = capacity or sustained_sessions(info)
    largest = _largest_batch(line, slot, min(MAX_BATCH, places))
    line.front.forget(slot.number)
    return Warm(info, largest, reference_ms)


def _blank_face(picture_px: int) -> Face:
    reference, picture = (np.zeros((1, 3, px, px), np.float32) for px in (REFERENCE_PX, picture_px))
    return Face(reference, picture)


def _run(line: Line, slots: list[SlotState], frames: int, denoising_steps: int) -> tuple[float, float]:
    """Denoise one block in each slot; milliseconds of the denoiser and of the audio encoder, all slots together."""
    steps = [blank_step(line.back.config, frames, denoising_steps)] * len(slots)
    done = line.front.denoise(slots, steps, lambda: True)
    return sum(part.denoise_ms for part in done), sum(part.audio_ms for part in done)


def _measure(line: Line, slot: SlotState, model: str, picture_px: int) -> WorkerInfo:
    sampling, config = line.back.sampling, line.back.config
    lengths = sorted({*config.block_lengths, sampling.first_block_frames, sampling.block_frames})
    calls = sampling.steps + 1

    costs = {}
    for frames in lengths:
        _run(line, [slot], frames, sampling.steps)  # The first one sets things up.
        rounds = [_run(line, [slot], frames, sampling.steps) for _ in range(_ROUNDS)]
        denoise_ms, audio_ms = (median(ms) for ms in zip(*rounds, strict=True))
        costs[frames] = (denoise_ms / calls, audio_ms)
    return WorkerInfo(
        model=model,
        backend=line.back.name,
        block_lengths=tuple(lengths),
        steps=sampling.steps,
        first_steps=sampling.first_steps,
        first_block_frames=sampling.first_block_frames,
        block_frames=sampling.block_frames,
        context_frames=config.context_frames,
        picture_px=picture_px,
        denoise_ms={frames: denoise_ms for frames, (denoise_ms, _) in costs.items()},
        decode_ms=_measure_decode_ms(line, slot),
        fixed_ms=costs[sampling.block_frames][1],
        moves_alpha=line.back.moves_alpha,
    )


def _measure_decode_ms(line: Line, slot: SlotState) -> float:
    """Of one picture, on the cores where it is decoded."""
    config = line.back.config
    latents = np.zeros((DECODE_GROUP, config.latent_channels, config.latent_grid, config.latent_grid), np.float32)

    def decode(count: int) -> None:
        line.compose(line.predict(latents[:count], slot), slot)

    with on_cores(line.plan.place_of("decode") if line.plan else Place()):
        decode(1)
        return _measure_ms(lambda: decode(DECODE_GROUP)) / DECODE_GROUP


def _measure_ms(call: Callable[[], object]) -> float:
    def timed() -> float:
        began = perf_counter()
        call()
        return 1e3 * (perf_counter() - began)

    timed()  # The first one sets things up.
    return median(timed() for _ in range(_ROUNDS))


def _largest_batch(line: Line, slot: SlotState, most: int) -> int:
    """Meet every batch size up to `most` with the usual block lengths; 1 when the model takes one session at a time."""
    sampling = line.back.sampling
    try:
        for sessions in range(2, most + 1):
            for frames in {sampling.first_block_frames, sampling.block_frames}:
                _run(line, [slot] * sessions, frames, 1)
    except StageLostError:
        raise
    except Exception:  # Graphs exported for one session fail in their library's own way.
        return 1
    return most
