"""Who speaks: voices that follow from their names, and which of them are held out for test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from engine.errors import ArgumentError
from training.data.acoustics import PLAIN, Colour, draw_colour
from training.data.speech.recorded import recorded_split
from training.data.stable import stable_rng, stable_unit

ENGINES: tuple[str, ...] = ("hibari", "kokoro")
RECORDED = "recorded"
"""The kind of voice whose lines are recordings of a human; see training.data.speech.recorded."""
VARIANT_TRACT: tuple[float, float] = (0.92, 1.09)
SPLITS: tuple[str, ...] = ("train", "test")
KOKORO_MIX_PRIOR: tuple[float, ...] = (0.08, 0.5, 0.5, 0.5, 0.6)
"""Dirichlet parameters of a mix of styles; jf_alpha is the least intelligible in English, so it gets little weight."""

TEST_PITCH_BANDS_ST: tuple[tuple[float, float], ...] = ((-6.5, -5.0), (-1.0, 0.5), (3.0, 4.0))
"""Pitch changes in semitones that only test voices have; train voices take the rest of PITCH_RANGE_ST."""
PITCH_RANGE_ST: tuple[float, float] = (-11.0, 5.0)


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker. Everything follows from the name, so a voice is the same in every run.

    style: weights of training.data.speech.engines.KOKORO_STYLES (empty for hibari). pitch: factor on the fundamental
    with the vocal tract kept (hibari only). tract: factor by which the whole spectrum is stretched (resampling). speed:
    tempo, 1 is normal. pitch_range: factor on the excursions of the pitch, breath_db: more noise in the voice (both
    hibari only).
    """

    name: str
    engine: str
    style: tuple[float, ...]
    pitch: float
    tract: float
    speed: float
    colour: Colour
    pitch_range: float = 1.0
    breath_db: float = 0.0

    @property
    def split(self) -> str:
        return voice_split(self.name)


def voice_split(name: str) -> str:
    """`test` for about one synthetic voice in six, by a hash of its name, and for the humans held back by name."""
    base = base_name(name)
    if base.startswith(RECORDED):
        return recorded_split(base.partition("-")[2])
    return "test" if stable_unit("voice:" + base) < 1 / 6 else "train"


def base_name(name: str) -> str:
    """The name without its variant: `kokoro-0003` for `kokoro-0003.2`."""
    return name.partition(".")[0]


def voice(name: str) -> Voice:
    """The voice of a name like `hibari-0012`, `kokoro-0003` or `recorded-103`. A variant, as in `kokoro-0003.2`, is
    another speaker made of the same sound: a longer or shorter vocal tract and another timbre.

    Raises ArgumentError for an unknown engine.
    """
    engine = name.partition("-")[0]
    if engine not in (*ENGINES, RECORDED):
        raise ArgumentError(f"unknown voice {name!r}: a name starts with one of {', '.join((*ENGINES, RECORDED))}")
    base = _recorded_voice(name) if engine == RECORDED else _synthetic_voice(base_name(name), engine)
    if name == base.name:
        return base
    rng = stable_rng("variant", name)
    tract = base.tract * float(rng.uniform(*VARIANT_TRACT))
    return replace(base, name=name, tract=tract, colour=draw_colour(rng))


def _recorded_voice(name: str) -> Voice:
    # A recording has its own timbre and microphone already.
    return Voice(base_name(name), RECORDED, (), 1.0, 1.0, 1.0, PLAIN)


def _synthetic_voice(name: str, engine: str) -> Voice:
    rng = stable_rng("voice", name)
    pitch_st = _draw_pitch_st(rng, voice_split(name))
    style = tuple(float(w) for w in rng.dirichlet(KOKORO_MIX_PRIOR)) if engine == "kokoro" else ()
    if engine == "kokoro":
        pitch, tract = 1.0, 2 ** (pitch_st * 0.3 / 12)
    else:
        # Low voices have long vocal tracts: about a third of the pitch change shows in the formants.
        pitch, tract = 2 ** (pitch_st * 0.68 / 12), 2 ** (pitch_st * 0.32 / 12) * rng.uniform(0.97, 1.03)
    speed, colour = float(rng.uniform(0.86, 1.2)), draw_colour(rng)
    pitch_range, breath_db = float(np.exp(rng.normal(0, 0.22))), float(rng.normal(0, 2.5))
    return Voice(name, engine, style, pitch, tract, speed, colour, pitch_range, breath_db)


@lru_cache(maxsize=64)
def voice_names(engine: str, split: str, count: int) -> tuple[str, ...]:
    """The first `count` voices of one engine that belong to a split."""
    names: list[str] = []
    index = 0
    while len(names) < count:
        name = f"{engine}-{index:04d}"
        if voice_split(name) == split:
            names.append(name)
        index += 1
    return tuple(names)


def _draw_pitch_st(rng: np.random.Generator, split: str) -> float:
    while True:
        value = float(rng.uniform(*PITCH_RANGE_ST))
        held_out = any(low <= value < high for low, high in TEST_PITCH_BANDS_ST)
        if held_out == (split == "test"):
            return value
