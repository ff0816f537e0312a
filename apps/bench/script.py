"""What is said to a session while it is measured: bursts as from a TTS, packets as from a microphone, both in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

import numpy as np
from numpy.typing import NDArray

from apps.bench.viewer import Viewer
from engine.clock import MICROSECONDS, now_us, sleep_until_us
from engine.session import AvatarSession
from engine.types import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

Floats = NDArray[np.float32]

PACKET_US = 20_000
PACKET_SAMPLES = SAMPLE_RATE_HZ * PACKET_US // MICROSECONDS

FAST_CHUNK_FRAMES = 8
FAST_AHEAD_FRAMES = 24
"""Sound ahead of the frames taken, where no clock paces them: enough for the next block and its look-ahead."""

FAST_PHASES = (("speaking", 150), ("listening", 75), ("idle", 75))
"""Who talks, and for how many frames, in turn."""


def part(voice: Floats, start_s: float, seconds: float) -> Floats:
    """So much of a voice, float32 [N] at 16 kHz, which begins again whenever it ends."""
    first = round(start_s * SAMPLE_RATE_HZ)
    return np.take(voice, np.arange(first, first + round(seconds * SAMPLE_RATE_HZ)), mode="wrap")


def say(session: AvatarSession, pcm: Floats) -> int:
    """A whole utterance at once; returns its turn."""
    turn_id = session.push_audio(pcm)
    session.flush()
    return turn_id


async def speak_live(push: Callable[[Floats], object], pcm: Floats) -> None:
    """Push packets as a microphone gives them, each once it is complete; the first sample exists now."""
    began_us = now_us()
    for number, start in enumerate(range(0, len(pcm), PACKET_SAMPLES), 1):
        await sleep_until_us(began_us + number * PACKET_US)
        push(pcm[start : start + PACKET_SAMPLES])


async def converse(session: AvatarSession, voice: Floats) -> None:
    """Talk with a paced session until cancelled: it speaks, rests, listens, rests, and is interrupted."""
    for start_s in count(0, 7):
        say(session, part(voice, start_s, 4))
        await asyncio.sleep(5)
        await speak_live(session.push_listening_audio, part(voice, start_s + 4, 3))
        await asyncio.sleep(1)
        say(session, part(voice, start_s + 4, 3))
        await asyncio.sleep(1.3)
        session.interrupt()
        await asyncio.sleep(0.7)


async def converse_fast(viewer: Viewer, voice: Floats, frames: int) -> None:
    """Drive a session that is not paced through so many frames, or to its early end: speaking, listening, idle."""
    session, silence = viewer.session, np.zeros(FAST_CHUNK_FRAMES * SAMPLES_PER_FRAME, np.float32)
    for pushed in range(0, frames, FAST_CHUNK_FRAMES):
        await viewer.reach(pushed - FAST_AHEAD_FRAMES)
        if viewer.ended:
            return
        sound = part(voice, pushed * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ, len(silence) / SAMPLE_RATE_HZ)
        phase = fast_phase(pushed)
        if phase == "listening":
            session.push_listening_audio(sound)
        session.push_audio(sound if phase == "speaking" else silence)
    session.flush()
    await viewer.reach(frames)


def fast_phase(frame: int) -> str:
    """Who talks at that frame."""
    place = frame % sum(length for _, length in FAST_PHASES)
    for name, length in FAST_PHASES:
        if place < length:
            return name
        place -= length
    raise AssertionError("the phases cover their sum")
