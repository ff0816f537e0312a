"""Does the person react to whom they listen to? The same portraits idle, listening to silence, listening to speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engine.engine import AvatarEngine
from engine.portrait.crop import CropBox
from engine.portrait.portrait import Portrait
from engine.types import FPS, AvatarState
from training.data.clips import Clip
from training.data.media import Bytes
from training.data.truth import UNIT, Floats
from training.evaluate.motion import smooth
from training.instruments.probe import Probe

_BROWS = ("browInnerUp", "browOuterUpLeft", "browOuterUpRight", "browDownLeft", "browDownRight")
_SECONDS = 6
_GIF_PX, _GIF_EVERY = 128, 2


@dataclass(frozen=True, slots=True)
class Energy:
    """How much a face moves: head_deg2 the mean squared speed of yaw and pitch in (deg/s)^2, brows the variance of the
    brow units.
    """

    head_deg2: float
    brows: float


@dataclass(frozen=True, slots=True)
class Reactions:
    """Medians over clips of energies relative to the same portrait idle, and the share of clips in which both the
    head's and the brows' rise when there is speech to listen to.
    """

    clips: int
    head_to_idle: float
    brows_to_idle: float
    head_of_silence_to_idle: float
    brows_of_silence_to_idle: float
    rising_head: float
    rising_brows: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def measure_reactions(
    engine: AvatarEngine, probe: Probe, clips: Sequence[Clip], size_px: int, gif: Path | None = None
) -> Reactions:
    """Clips lend portraits, and their voices as what is listened to. gif: a film of the first four, idle above,
    listening below.
    """
    rows: list[tuple[Energy, Energy, Energy]] = []
    shown: list[tuple[Bytes, Bytes]] = []
    for i, clip in enumerate(clips):
        voice = np.resize(clip.voice, _SECONDS * 16_000).astype(np.float32)
        idle = _frames(engine, clip, None, AvatarState.IDLE, size_px, i)
        quiet = _frames(engine, clip, None, AvatarState.LISTENING, size_px, i)
        listening = _frames(engine, clip, voice, AvatarState.LISTENING, size_px, i)
        rows.append((energy(probe, idle), energy(probe, quiet), energy(probe, listening)))
        if len(shown) < 4:
            shown.append((idle, listening))
    if gif is not None:
        write_gif(shown, gif)
    head = np.array([[e.head_deg2 for e in row] for row in rows])
    brows = np.array([[e.brows for e in row] for row in rows])
    return Reactions(
        clips=len(rows),
        head_to_idle=float(np.median(head[:, 2] / head[:, 0])),
        brows_to_idle=float(np.median(brows[:, 2] / brows[:, 0])),
        head_of_silence_to_idle=float(np.median(head[:, 1] / head[:, 0])),
        brows_of_silence_to_idle=float(np.median(brows[:, 1] / brows[:, 0])),
        rising_head=float((head[:, 2] > head[:, 0]).mean()),
        rising_brows=float((brows[:, 2] > brows[:, 0]).mean()),
    )


def energy(probe: Probe, frames: Bytes) -> Energy:
    """Of frames uint8 [F, S, S, 3]. Readings are smoothed over 5 frames, so that the probe's noise counts little."""
    reading = probe.read(frames)
    speed = np.diff(smooth(reading.head[:, :2]), axis=0) * FPS
    brows = smooth(reading.units[:, [UNIT[name] for name in _BROWS]])
    return Energy(float(np.square(speed).sum(1).mean()) + 1e-6, float(brows.var(0).sum()) + 1e-8)


def write_gif(pairs: Sequence[tuple[Bytes, Bytes]], path: Path) -> None:
    """Each pair above one another, side by side."""
    columns = [np.concatenate([_small(idle), _small(listening)], 1) for idle, listening in pairs]
    film = np.concatenate(columns, 2)
    images = [Image.fromarray(frame) for frame in film]
    images[0].save(path, save_all=True, append_images=images[1:], duration=1000 * _GIF_EVERY // FPS, loop=0)


def _small(frames: Bytes) -> Bytes:
    chosen = frames[::_GIF_EVERY]
    return np.stack([np.asarray(Image.fromarray(f).resize((_GIF_PX, _GIF_PX))) for f in chosen])


def _frames(
    engine: AvatarEngine, clip: Clip, partner: Floats | None, state: AvatarState, size_px: int, seed: int
) -> Bytes:
    silence = np.zeros(_SECONDS * 16_000, np.float32)
    portrait = Portrait(clip.reference, CropBox(0.0, 0.0, float(len(clip.reference))))
    states = np.full(_SECONDS * FPS, state, np.int8)
    made = engine.generate(portrait, silence, partner=partner, states=states, seed=seed, size=size_px)
    return np.stack([frame.image for frame in made])
