"""Who plays a clip: two voices, what they can say, and what the first one feels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.types import EXPRESSIONS
from training.data.speech.emotion import NEUTRAL, Delivery, deliver
from training.data.tracks import Speaker
from training.data.voice_cache import cached_lines, cached_recorded
from training.data.voices import voice, voice_names

HIBARI_VOICES = 400
VARIANTS = 6
"""Speakers made of each voice of the cache, see training.data.voices.voice."""
EXPRESSION_SHARE = 0.4
HEARD_SHARE = 0.7
"""Of the feelings, those that the voice has, too; the others show in the face alone, as with a flat synthetic voice."""
Pool = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Feeling:
    """An expression (engine.types.EXPRESSIONS), its strength in [0, 1], and whether it is heard in the voice."""

    name: str
    strength: float
    heard: bool

    @property
    def delivery(self) -> Delivery:
        return deliver(self.name, self.strength) if self.heard else NEUTRAL


@dataclass(frozen=True, slots=True)
class Cast:
    """The person on screen and the other party."""

    own: Speaker
    partner: Speaker


def draw_feeling(rng: np.random.Generator) -> Feeling:
    """A random expression, mostly of strength 0."""
    name = EXPRESSIONS[int(rng.integers(len(EXPRESSIONS)))]
    felt, strength, heard = rng.random() < EXPRESSION_SHARE, rng.uniform(0.35, 1.0), rng.random() < HEARD_SHARE
    return Feeling(name, float(strength), bool(heard)) if felt else Feeling(name, 0.0, False)


def cast(
    rng: np.random.Generator, split: str, cache: Path | None, shares: tuple[float, float], feeling: Feeling
) -> Cast:
    """Two different voices. shares: how many of them come from the cache's Kokoro and recorded speech."""
    pools: tuple[Pool, Pool] = (
        ({}, {}) if cache is None else (cached_lines(cache, split), cached_recorded(cache, split))
    )
    own = _speaker(rng, split, cache, _pool(rng, pools, shares), "", feeling.delivery)
    other = deliver(EXPRESSIONS[int(rng.integers(len(EXPRESSIONS)))], float(rng.uniform(0.3, 1.0)))
    delivery = other if rng.random() < EXPRESSION_SHARE else NEUTRAL
    partner = _speaker(rng, split, cache, _pool(rng, pools, shares), own.voice.name, delivery)
    return Cast(own, partner)


def _pool(rng: np.random.Generator, pools: tuple[Pool, Pool], shares: tuple[float, float]) -> Pool:
    pick = rng.random()
    if pick < shares[0]:
        return pools[0]
    return pools[1] if pick < shares[0] + shares[1] else {}


def _speaker(
    rng: np.random.Generator, split: str, cache: Path | None, pool: Pool, taken: str, delivery: Delivery
) -> Speaker:
    pick, variant = rng.random(), int(rng.integers(VARIANTS))
    base = taken.partition(".")[0]
    names = [name for name in pool if name != base]
    if not names:
        hibari = [name for name in voice_names("hibari", split, HIBARI_VOICES) if name != base]
        return Speaker(voice(hibari[int(pick * len(hibari))]), split, delivery=delivery)
    name = names[int(pick * len(names))]
    return Speaker(voice(f"{name}.{variant}" if variant else name), split, cache, pool[name], delivery)
