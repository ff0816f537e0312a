"""A session's frames as a film, for as long as they come."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray

from apps.media import Mp4Writer
from engine.types import FRAME_US, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, VideoFrame

LONGEST_GAP = 250
"""Frames that are filled in where the stream left some out: 10 s."""


async def film(frames: AsyncIterator[VideoFrame], path: str | os.PathLike[str]) -> int:
    """Write frames into an MP4 until they end, or until this is cancelled; returns how many. The file appears when it
    is complete. Raises OutputNotWritableError, and what the frames raise.
    """
    writer: Mp4Writer | None = None
    last: VideoFrame | None = None
    try:
        async for frame in frames:
            if writer is None:
                height, width = frame.image.shape[:2]
                writer = Mp4Writer(path, (width, height), np.zeros(0, np.int16), SAMPLE_RATE_HZ, threads=1)
            missing = 0 if last is None else min((frame.pts_us - last.pts_us) // FRAME_US - 1, LONGEST_GAP)
            for _ in range(missing):
                await asyncio.to_thread(writer.write, frame.image[..., :3], _SILENCE)
            await asyncio.to_thread(writer.write, frame.image[..., :3], _to_int16(frame.audio))
            last = frame
    finally:
        if writer is not None:
            writer.close()
    return 0 if writer is None else writer.frames


_SILENCE = np.zeros(SAMPLES_PER_FRAME, np.int16)


def _to_int16(audio: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.round(np.clip(audio, -1, 1) * 32_767).astype(np.int16)
