"""One party's microphone: the room it stands in, what else it hears, and the line to the listener.

Only sound goes through here. The face follows the dry voice, whose times the whole chain keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.data.speech.channels import Channel, draw_channel, transmit
from training.data.speech.noises import NOISES, make_noise
from training.data.speech.rooms import Room, draw_room, reverberate
from training.data.truth import Floats

ROOM_SHARE, NOISE_SHARE, CHANNEL_SHARE = 0.3, 0.35, 0.35
PEAK_DBFS = (-26.0, -5.0)
NOISE_BELOW_PEAK_DB = (18.0, 60.0)
"""18 dB below the peaks of speech is about 6 dB below its loudness."""
FULL_SCALE = 0.999


@dataclass(frozen=True, slots=True)
class Recording:
    """peak_dbfs: of neutral speech, at full scale 0. noise: one of NOISES or empty. noise_dbfs: its RMS level."""

    peak_dbfs: float
    room: Room | None = None
    noise: str = ""
    noise_dbfs: float = -60.0
    channel: Channel | None = None

    @property
    def about(self) -> dict[str, object]:
        """What a clip's meta keeps of it."""
        codec = self.channel.codec if self.channel else ""
        return {"room": self.room is not None, "noise": self.noise, "codec": codec}


def draw_recording(rng: np.random.Generator) -> Recording:
    """A random set-up: half of them clean, the rest with a room, noise or a line, or several of these."""
    peak_dbfs, clean = rng.uniform(*PEAK_DBFS), rng.random() < 0.4
    room = draw_room(rng) if rng.random() < ROOM_SHARE else None
    noise = str(rng.choice(NOISES)) if rng.random() < NOISE_SHARE else ""
    noise_dbfs = peak_dbfs - rng.uniform(*NOISE_BELOW_PEAK_DB)
    channel = draw_channel(rng) if rng.random() < CHANNEL_SHARE else None
    return Recording(peak_dbfs) if clean else Recording(peak_dbfs, room, noise, noise_dbfs, channel)


def record(dry: Floats, recording: Recording, rng: np.random.Generator, others: Sequence[Floats] = ()) -> Floats:
    """A dry voice [N], peak about 1, as it arrives: [N] in [-1, 1]. `others`: voices that babble may be made of."""
    sound = dry * np.float32(10 ** (recording.peak_dbfs / 20))
    if recording.room is not None and dry.any():
        sound = reverberate(sound, recording.room, rng)
    if recording.noise:
        level = np.float32(10 ** (recording.noise_dbfs / 20))
        sound = sound + level * make_noise(recording.noise, rng, len(dry), others)
    if recording.channel is not None:
        sound = transmit(sound, recording.channel, rng)
    return np.clip(sound, -FULL_SCALE, FULL_SCALE).astype(np.float32)
