"""One party's voice on a clip's time line: who says it, what is said when, how strongly each sound is spoken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.types import SAMPLE_RATE_HZ
from training.data.speech.emotion import NEUTRAL, Delivery
from training.data.speech.synthesis import Utterance, synthesise
from training.data.text import BACKCHANNELS, draw_sentence
from training.data.truth import Floats, Phone
from training.data.visemes import VOWELS, SpokenPhone
from training.data.voices import Voice

PHRASE_GAP_S = 0.16
"""A longer gap between phones ends a phrase."""

MURMUR_LEVEL = 0.5
MURMUR_EFFORT = 0.7
"""A "mhm" is said at about half the level, with the lips moving less."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice and what it may say: `lines` if given (what lies in the cache), else anything of its split."""

    voice: Voice
    split: str
    cache: Path | None = None
    lines: tuple[str, ...] = ()
    delivery: Delivery = NEUTRAL

    def next_line(self, rng: np.random.Generator, longest: int | None = None, after: str = "") -> Utterance:
        """Speak a random sentence, if possible of at most `longest` letters and not `after`, the last one, again."""
        if not self.lines:
            return synthesise(draw_sentence(rng, self.split, longest), self.voice, delivery=self.delivery)
        others = [line for line in self.lines if line != after] or list(self.lines)
        fitting = [x for x in others if longest is None or len(x) <= longest] or [min(others, key=len)]
        return synthesise(fitting[int(rng.integers(len(fitting)))], self.voice, self.cache, self.delivery)

    def murmur(self, rng: np.random.Generator) -> Utterance | None:
        """A short sign of attention, or None from a voice that can only say what lies in the cache."""
        if self.lines:
            return None
        return synthesise(BACKCHANNELS[int(rng.integers(len(BACKCHANNELS)))], self.voice)


@dataclass(frozen=True, slots=True)
class Placed:
    """An utterance and when it starts, in seconds of the clip (may be negative). level: factor on its samples."""

    utterance: Utterance
    start_s: float
    level: float = 1.0
    effort: float = 1.0

    @property
    def end_s(self) -> float:
        return self.start_s + self.utterance.seconds

    @property
    def phrases(self) -> list[tuple[float, float]]:
        """(start, end) of its phrases in seconds of the clip."""
        return [(a + self.start_s, b + self.start_s) for a, b in phrases(self.utterance.phones)]


@dataclass(frozen=True, slots=True)
class VoiceTrack:
    """One party's voice: placed utterances, cut to the clip where they are rendered."""

    placed: tuple[Placed, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(p.utterance.text for p in self.placed)

    def audio(self, samples: int) -> Floats:
        """The clip's samples, [samples] at 16 kHz; zeros where nobody speaks."""
        out = np.zeros(samples, np.float32)
        for item in self.placed:
            first = round(item.start_s * SAMPLE_RATE_HZ)
            low, high = max(first, 0), min(first + len(item.utterance.audio), samples)
            if low < high:
                out[low:high] += item.level * item.utterance.audio[low - first : high - first]
        return out

    @property
    def phrases(self) -> tuple[tuple[float, float], ...]:
        """(start, end) of all phrases, also those before and after the clip."""
        return tuple(span for item in self.placed for span in item.phrases)

    def spoken(self) -> list[SpokenPhone]:
        """Phones in clip time with their effort, also those before and after the clip."""
        return [phone for item in self.placed for phone in _with_effort(item)]


def phrases(phones: Sequence[Phone]) -> list[tuple[float, float]]:
    """(start, end) of the parts between pauses."""
    spans: list[tuple[float, float]] = []
    for phone in phones:
        if not spans or phone.start_s - spans[-1][1] > PHRASE_GAP_S:
            spans.append((phone.start_s, phone.end_s))
        else:
            spans[-1] = (spans[-1][0], max(phone.end_s, spans[-1][1]))
    return spans


def say(utterances: Sequence[Utterance], pause_s: float, lead_s: float = 0.3) -> VoiceTrack:
    """Utterances one after the other."""
    placed: list[Placed] = []
    start = lead_s
    for utterance in utterances:
        placed.append(Placed(utterance, start, effort=utterance.delivery.effort))
        start = placed[-1].end_s + pause_s
    return VoiceTrack(tuple(placed))


def murmured(utterance: Utterance, start_s: float) -> Placed:
    """A sign of attention put in while the other party speaks."""
    return Placed(utterance, start_s, MURMUR_LEVEL, MURMUR_EFFORT)


def _with_effort(item: Placed) -> list[SpokenPhone]:
    """Stress and loudness as effort: stressed and loud vowels are said wider, and all sounds by who speaks up."""
    utterance = item.utterance
    loud = np.array([_level(utterance, p) for p in utterance.phones])
    vowel = np.array([p.symbol in VOWELS for p in utterance.phones])
    usual = float(np.median(loud[vowel])) if vowel.any() else 1.0
    spoken = []
    for phone, level, is_vowel, stress in zip(utterance.phones, loud, vowel, utterance.stress, strict=True):
        effort = (0.86, 1.0, 1.14)[stress] * np.clip(level / max(usual, 1e-6), 0.3, 2.0) ** 0.25 if is_vowel else 1.0
        moved = Phone(phone.symbol, phone.start_s + item.start_s, phone.end_s + item.start_s)
        spoken.append(SpokenPhone(moved, float(effort) * item.effort))
    return spoken


def _level(utterance: Utterance, phone: Phone) -> float:
    low, high = int(phone.start_s * SAMPLE_RATE_HZ), int(phone.end_s * SAMPLE_RATE_HZ)
    part = utterance.audio[low : max(high, low + 1)]
    return float(np.sqrt(np.mean(part**2))) if len(part) else 0.0
