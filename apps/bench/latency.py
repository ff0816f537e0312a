"""How long the person on screen takes to answer: to a voice, to an interrupt, to a new state.

Every attempt starts from rest at a random phase of the 40 ms frames, and is one session's, while no other one runs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from apps.bench.script import PACKET_SAMPLES, PACKET_US, Floats, part, say, speak_live
from apps.bench.stats import Spread, spread
from apps.bench.viewer import ANSWER_S, Viewer, on_screen, within
from engine.clock import MICROSECONDS, now_us
from engine.timeline.lane import BLEND_SAMPLES
from engine.types import FRAME_US, AvatarState, VideoFrame
from engine.worker.base import Face, Worker

BURST_S = 2.0
REST_S = 0.5
"""Between attempts: enough for the mouth to close, and for the engine to be ahead again."""

_PHASES_S = 8 * FRAME_US / MICROSECONDS
"""Rests vary by so much: the longest usual block."""

_TALKED_S = (0.2, 0.9)
"""How far into the burst the interrupt comes."""

_SWITCHES = (AvatarState.LISTENING, AvatarState.IDLE, AvatarState.SPEAKING)
"""Set in turn, beginning at rest, so that each of them is a change."""


@dataclass(frozen=True, slots=True)
class Latency:
    """From an action to a frame that the viewer has taken.

    latency_realtime_ms: a voice begins, in packets of 20 ms as it is spoken; from the moment its first sample exists,
    which is 20 ms before its first packet is pushed, to the first frame with its turn. The wait for sound is in it.
    latency_burst_ms: 2 s of voice are pushed at once, as from a TTS; to the first frame with their turn.
    interrupt_to_state_ms: from `interrupt` amid that voice to the first frame whose state is no longer speaking.
    interrupt_to_silence_ms: to the first frame without sound, but for the 5 ms in which it fades.
    state_switch_ms: from `set_state` to the first frame of that state. state_switch_frames: the same in frames taken,
    of which the one with the new state is the last; 1 is the very next frame.
    """

    latency_realtime_ms: Spread
    latency_burst_ms: Spread
    interrupt_to_state_ms: Spread
    interrupt_to_silence_ms: Spread
    state_switch_ms: Spread
    state_switch_frames: Spread


@dataclass(frozen=True, slots=True)
class _Cut:
    """One burst and its interrupt; None for what was missed."""

    answer_ms: float | None = None
    to_state_ms: float | None = None
    to_silence_ms: float | None = None


async def measure_latency(worker: Worker, face: Face, voice: Floats, repeats: int, seed: int = 0) -> Latency:
    """Each measure `repeats` times. Raises AvatarError."""
    random = np.random.default_rng(seed)
    live: list[float | None] = []
    cuts: list[_Cut] = []
    switches: list[tuple[float, int] | None] = []
    async with on_screen(worker, face) as viewer:
        await viewer.reach(1)
        for _ in range(repeats):
            await _rest(random)
            live.append(await answer_live_ms(viewer, voice))
            await _rest(random)
            cuts.append(await _burst_and_cut(viewer, voice, random))
        for number in range(repeats):
            await _rest(random)
            switches.append(await _switch(viewer, _SWITCHES[number % len(_SWITCHES)]))
    return Latency(
        latency_realtime_ms=spread(live),
        latency_burst_ms=spread([cut.answer_ms for cut in cuts]),
        interrupt_to_state_ms=spread([cut.to_state_ms for cut in cuts]),
        interrupt_to_silence_ms=spread([cut.to_silence_ms for cut in cuts]),
        state_switch_ms=spread([switch and switch[0] for switch in switches]),
        state_switch_frames=spread([switch and float(switch[1]) for switch in switches]),
    )


async def answer_live_ms(viewer: Viewer, voice: Floats) -> float | None:
    """One value of latency_realtime_ms; the voice is cut off once it is answered."""
    session, pcm = viewer.session, part(voice, 0, ANSWER_S)
    await asyncio.sleep(PACKET_US / MICROSECONDS)
    began_us = now_us() - PACKET_US
    turn_id = session.push_audio(pcm[:PACKET_SAMPLES])
    answer = viewer.expect(lambda frame: frame.turn_id == turn_id)
    speaking = asyncio.get_running_loop().create_task(speak_live(session.push_audio, pcm[PACKET_SAMPLES:]))
    sighting = await within(answer)
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    session.interrupt()
    return (sighting.moment_us - began_us) / 1e3 if sighting else None


async def _burst_and_cut(viewer: Viewer, voice: Floats, random: np.random.Generator) -> _Cut:
    began_us = now_us()
    turn_id = say(viewer.session, part(voice, 0, BURST_S))
    answer = await within(viewer.expect(lambda frame: frame.turn_id == turn_id))
    if answer is None:
        viewer.session.interrupt()
        return _Cut()
    await asyncio.sleep(random.uniform(*_TALKED_S))
    talked = await _is_talking(viewer, turn_id, random)
    cut_us = now_us()
    viewer.session.interrupt()
    quiet = viewer.expect(lambda frame: not frame.audio[BLEND_SAMPLES:].any())
    closed = await within(viewer.expect(lambda frame: frame.state != AvatarState.SPEAKING))
    silent = await within(quiet)
    return _Cut(
        (answer.moment_us - began_us) / 1e3,
        (closed.moment_us - cut_us) / 1e3 if closed and talked else None,
        (silent.moment_us - cut_us) / 1e3 if silent and talked else None,
    )


async def _is_talking(viewer: Viewer, turn_id: int, random: np.random.Generator) -> bool:
    """Whether the person speaks, so that there is something to interrupt; a pause is waited out."""

    def talks(frame: VideoFrame) -> bool:
        return frame.turn_id == turn_id and frame.state == AvatarState.SPEAKING and bool(frame.audio.any())

    if viewer.last is not None and talks(viewer.last):
        return True
    talking = await within(viewer.expect(talks), BURST_S)
    # Waiting for a frame would make every interrupt follow one.
    await asyncio.sleep(random.uniform(0, FRAME_US / MICROSECONDS))
    return talking is not None


async def _switch(viewer: Viewer, state: AvatarState) -> tuple[float, int] | None:
    """Milliseconds and frames until the state is seen. `state` must not be the one that is shown."""
    began_us, frames = now_us(), viewer.frames
    viewer.session.set_state(state)
    sighting = await within(viewer.expect(lambda frame: frame.state == state))
    return ((sighting.moment_us - began_us) / 1e3, sighting.number - frames) if sighting else None


async def _rest(random: np.random.Generator) -> None:
    await asyncio.sleep(REST_S + random.uniform(0, _PHASES_S))
