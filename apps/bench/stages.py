"""Where the time of a block goes: the model's stages, and our own share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter, thread_time

import cv2
import numpy as np
from numpy.typing import NDArray

from apps.bench.script import Floats, say
from apps.bench.viewer import on_screen
from engine.audio.silero import silero
from engine.session import SessionConfig
from engine.types import FPS, VideoFrame
from engine.worker.base import Face, Worker

_JPEG_QUALITY = 85
_JPEGS = 15
_STAGES = ("audio_ms", "denoise_ms", "decode_ms", "wait_ms")


@dataclass(frozen=True, slots=True)
class StageRow:
    """Medians of blocks of one length, milliseconds a block. wait_ms: from when the worker got the step until a stage
    took it. blocks: how many were seen.
    """

    block_frames: int
    blocks: int
    audio_ms: float
    denoise_ms: float
    decode_ms: float
    wait_ms: float


@dataclass(frozen=True, slots=True)
class Unpaced:
    """The voice at once, as fast as it goes. Means per block; those of the stages are of the wall clock.

    engine_ms: CPU time of the event loop's thread, our code around the model, the detection of speech included.
    speech_ms: that detection alone. overhead_share: engine_ms of (audio + denoise + decode + engine). realtime_factor:
    seconds of video per second. encode_jpeg_ms: one frame to JPEG, which is no part of the above.
    """

    blocks: int
    block_frames: float
    audio_ms: float
    denoise_ms: float
    decode_ms: float
    wait_ms: float
    engine_ms: float
    speech_ms: float
    overhead_share: float
    realtime_factor: float
    encode_jpeg_ms: float


@dataclass(frozen=True, slots=True)
class Stages:
    """by_block_length: of a live conversation, whose blocks vary."""

    by_block_length: list[StageRow]
    unpaced: Unpaced


class SpeechClock:
    """Silero, with the CPU time that it takes noted."""

    def __init__(self, probability: Callable[[Floats], float] | None = None) -> None:
        """probability: another detector. Opened here, so that opening is not counted."""
        self._probability = probability or silero()
        self.seconds = 0.0

    def __call__(self, window: Floats) -> float:
        began = thread_time()
        result = self._probability(window)
        self.seconds += thread_time() - began
        return result


def rows(blocks: Iterable[Mapping[str, float]]) -> list[StageRow]:
    """One for each block length, rising. blocks: timing as frames carry it."""
    by_length: dict[int, list[Mapping[str, float]]] = defaultdict(list)
    for timing in blocks:
        by_length[round(timing.get("frames", 0))].append(timing)
    return [_row(length, by_length[length]) for length in sorted(by_length)]


def _row(length: int, blocks: list[Mapping[str, float]]) -> StageRow:
    audio_ms, denoise_ms, decode_ms, wait_ms = (median(b.get(stage, 0.0) for b in blocks) for stage in _STAGES)
    return StageRow(length, len(blocks), audio_ms, denoise_ms, decode_ms, wait_ms)


async def measure_unpaced(worker: Worker, face: Face, voice: Floats, speech: SpeechClock | None = None) -> Unpaced:
    """Show the whole voice without pacing. Raises AvatarError."""
    clock = speech or SpeechClock()
    async with on_screen(worker, face, SessionConfig(paced=False), speech=clock) as viewer:
        began, cpu_s = perf_counter(), thread_time()
        turn_id = say(viewer.session, voice)
        await viewer.expect(lambda frame: frame.turn_id == turn_id and frame.end_of_turn)
        seconds, cpu_s = perf_counter() - began, thread_time() - cpu_s
        blocks, last, frames = list(viewer.blocks), viewer.last, viewer.frames
    return _unpaced(blocks, frames, seconds, cpu_s, clock.seconds, 0.0 if last is None else encode_jpeg_ms(last))


def _unpaced(
    blocks: list[dict[str, float]], frames: int, seconds: float, cpu_s: float, speech_s: float, jpeg_ms: float
) -> Unpaced:
    count = max(1, len(blocks))
    audio_ms, denoise_ms, decode_ms, wait_ms = (sum(b.get(stage, 0.0) for b in blocks) / count for stage in _STAGES)
    engine_ms = 1e3 * cpu_s / count
    return Unpaced(
        blocks=len(blocks),
        block_frames=frames / count,
        audio_ms=audio_ms,
        denoise_ms=denoise_ms,
        decode_ms=decode_ms,
        wait_ms=wait_ms,
        engine_ms=engine_ms,
        speech_ms=1e3 * speech_s / count,
        overhead_share=engine_ms / (audio_ms + denoise_ms + decode_ms + engine_ms),
        realtime_factor=frames / FPS / seconds,
        encode_jpeg_ms=jpeg_ms,
    )


def encode_jpeg_ms(frame: VideoFrame) -> float:
    """Median of a few encodings of one picture, by OpenCV at quality 85."""
    return 1e3 * median(_jpeg_s(frame.image) for _ in range(_JPEGS))


def _jpeg_s(image: NDArray[np.uint8]) -> float:
    began = perf_counter()
    cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return perf_counter() - began
