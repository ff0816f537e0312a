"""Films for tests without a landmark model: each picture carries its number as a bar code, which a fake finder reads.

What the finder then says about a picture comes from the script that the film was written from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from engine.portrait.landmarks import INDEX, MEDIAPIPE_INDEX
from engine.types import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from training.data.truth import ARKIT_UNITS
from training.data.videos.config import VideoConfig
from training.data.videos.errors import VideoUnusable
from training.data.videos.faces import POINTS, Face
from training.data.videos.film import FilmReport, make_film
from training.data.videos.make import failed
from training.data.videos.people import Film
from training.data.videos.voice import WINDOW
from training.data.videos.watch import INNER_LIPS

WIDTH, HEIGHT = 320, 240
_BITS, _BLOCK = 12, 16
_FACE_PX = 90.0


@dataclass(frozen=True)
class Script:
    """What a film of F pictures shows: the mouth's opening [F] over the face's height, how loud the voice is [F * 640],
    faces [F], place of the face's centre [F, 2] in pixels, backdrop [F] as a grey level."""

    opening: np.ndarray
    voice: np.ndarray
    faces: np.ndarray
    place: np.ndarray
    backdrop: np.ndarray
    turn: np.ndarray = field(default_factory=lambda: np.eye(3, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.opening)


def talking(seconds: float, seed: int = 0, *, late_ms: int = 0) -> Script:
    """One face whose mouth and voice move together, the voice later by late_ms."""
    frames = round(seconds * FPS)
    rng = np.random.default_rng(seed)
    # Syllables of 80 to 400 ms and random strength; loudness in steps of 1 ms.
    ends = np.cumsum(rng.uniform(2, 10, frames + 20)) - rng.uniform(20, 80)
    strengths = np.where(np.arange(frames + 20) % 2, rng.uniform(0.5, 1.0, frames + 20), 0.05)
    loud = np.interp(np.arange(frames * 40) / 40, ends, strengths)
    opening = 0.09 * loud.reshape(frames, 40).mean(1)
    noise = rng.normal(size=frames * SAMPLES_PER_FRAME) * 0.2
    voice = noise * np.interp(np.arange(len(noise)) / 16, np.arange(len(loud)), loud)
    late = late_ms * SAMPLE_RATE_HZ // 1000
    voice = np.roll(voice, late)
    centre = np.tile([WIDTH / 2, HEIGHT / 2], (frames, 1))
    ones = np.ones(frames, int)
    return Script(opening, voice.astype(np.float32), ones, centre, np.full(frames, 90 + 20 * (seed % 5)))


def joined(*scripts: Script) -> Script:
    """One after the other."""
    names = ("opening", "voice", "faces", "place", "backdrop")
    return Script(*(np.concatenate([getattr(s, name) for s in scripts]) for name in names))


def write_film(path: Path, script: Script, rate: int = FPS, *, sound: bool = True) -> Path:
    """MP4 of the script, of `rate` pictures a second (the script's are repeated or left out)."""
    count = len(script) * rate // FPS
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        track = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono") if sound else None
        for i in range(count):
            picture = draw(script, min(round(i * FPS / rate), len(script) - 1))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track is not None:
            heard = av.AudioFrame.from_ndarray(script.voice[None], format="fltp", layout="mono")
            heard.sample_rate, heard.pts = SAMPLE_RATE_HZ, 0
            container.mux(track.encode(heard))
            container.mux(track.encode())
    return path


def draw(script: Script, frame: int) -> np.ndarray:
    """A square with stripes for a face, on a backdrop, and the frame's number in black and white blocks."""
    picture = np.full((HEIGHT, WIDTH, 3), script.backdrop[frame], np.uint8)
    x, y = script.place[frame].astype(int)
    half = int(_FACE_PX / 2)
    rows = np.arange(2 * half)[:, None, None] // 3 % 2
    picture[y - half : y + half, x - half : x + half] = (200, 160, 140) - 60 * rows.astype(np.uint8)
    for bit in range(_BITS):
        picture[:_BLOCK, bit * _BLOCK : (bit + 1) * _BLOCK] = 255 * (frame >> bit & 1)
    return picture


def number_of(picture: np.ndarray) -> int:
    middles = picture[_BLOCK // 2, _BLOCK // 2 : _BITS * _BLOCK : _BLOCK].mean(-1)
    return sum(int(m > 128) << bit for bit, m in enumerate(middles))


def finder(script: Script) -> Callable[[np.ndarray], list[Face]]:
    """What a landmark model would find in the film's pictures."""

    def find(picture: np.ndarray) -> list[Face]:
        frame = number_of(picture)
        shifts = ((0, 0), (0, 20), (10, 0))[: script.faces[frame]]
        return [face_at(script.place[frame] + shift, script.opening[frame], script.turn) for shift in shifts]

    return find


def face_at(place: np.ndarray, opening: float, turn: np.ndarray) -> Face:
    """478 points of a flat face 90 px high around `place`; the inner lips apart by opening times its height."""
    points = np.tile(np.asarray(place, np.float32), (POINTS, 1))
    named = list(MEDIAPIPE_INDEX)
    layout = {
        "forehead": (0, -0.5), "chin": (0, 0.5), "cheek_right": (-0.4, 0), "cheek_left": (0.4, 0),
        "eye_right_outer": (-0.25, -0.12), "eye_right_inner": (-0.1, -0.12), "eye_left_inner": (0.1, -0.12),
        "eye_left_outer": (0.25, -0.12), "nose_bridge": (0, -0.1), "nose_tip": (0, 0.08),
        "nostril_right": (-0.06, 0.1), "nostril_left": (0.06, 0.1), "mouth_right": (-0.15, 0.25),
        "mouth_left": (0.15, 0.25),
    }  # fmt: skip
    for name, at in layout.items():
        points[MEDIAPIPE_INDEX[named[INDEX[name]]]] += np.array(at, np.float32) * _FACE_PX
    angle = np.linspace(0, 2 * np.pi, len(INNER_LIPS), endpoint=False)
    ring = np.stack([0.1 * np.cos(angle), 0.25 + opening / 2 * np.sin(angle)], -1)
    points[list(INNER_LIPS)] = np.asarray(place) + ring * _FACE_PX
    points[[13, 14], 1] = place[1] + (0.25 + np.array([-0.5, 0.5]) * opening) * _FACE_PX
    scores = np.full(len(ARKIT_UNITS), 0.05, np.float32)
    scores[ARKIT_UNITS.index("jawOpen")] = min(5 * opening, 1.0)
    return Face(points, scores, np.asarray(turn, np.float32))


def loud_is_speech(samples: np.ndarray) -> np.ndarray:
    """A stand-in for Silero."""
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return (np.sqrt(np.square(windows).mean(1)) > 0.01).astype(np.float32)


def still(seconds: float, *, voice: bool = False, faces: int = 1, backdrop: int = 200) -> Script:
    """A mouth that rests, with or without somebody else's voice."""
    talk = talking(seconds, 3)
    heard = talk.voice if voice else np.zeros_like(talk.voice)
    count = np.full(len(talk), faces)
    return Script(np.zeros(len(talk)), heard, count, talk.place, np.full(len(talk), backdrop))


def film_of(name: str) -> Script:
    """The script of a film in tests of whole runs: its length in seconds, and how late its voice is, by its name."""
    seconds, late_ms = name.split("-")[1:3]
    return talking(float(seconds), len(name), late_ms=int(late_ms))


def make_fake(film: Film, out: Path, config: VideoConfig, model: Path | None) -> FilmReport:
    """What a worker does, without models; the film called `deadly` kills it."""
    if film.name.startswith("deadly"):
        os._exit(9)
    try:
        return make_film(film, out, config, finder(film_of(film.person)), loud_is_speech)
    except VideoUnusable as error:
        return failed(film, str(error))
