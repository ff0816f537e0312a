"""Who speaks, listens and idles when, and both parties' voices laid onto the clip's time line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.types import SAMPLE_RATE_HZ, AvatarState
from training.data.text import draw_sentence
from training.data.truth import Floats, Phone
from training.data.visemes import VOWELS, SpokenPhone
from training.data.voices import Utterance, Voice, synthesise

SPEAKING, LISTENING, IDLE = AvatarState.SPEAKING, AvatarState.LISTENING, AvatarState.IDLE

PATTERNS: tuple[tuple[float, tuple[AvatarState, ...]], ...] = (
    (0.50, (SPEAKING,)),
    (0.06, (LISTENING,)),
    (0.05, (IDLE,)),
    (0.10, (SPEAKING, LISTENING)),
    (0.10, (LISTENING, SPEAKING)),
    (0.05, (IDLE, SPEAKING)),
    (0.04, (SPEAKING, IDLE)),
    (0.02, (IDLE, LISTENING)),
    (0.03, (SPEAKING, LISTENING, SPEAKING)),
    (0.02, (LISTENING, SPEAKING, LISTENING)),
    (0.01, (LISTENING, SPEAKING, IDLE)),
    (0.02, (IDLE, SPEAKING, IDLE)),
)
"""Shares of clips; about 70 % of all frames speak."""

LEAD_S = (0.16, 0.4)
"""From the change of state to the first sound; the mouth opens in it."""
TAIL_S = (0.2, 0.35)
"""From the last sound to the change of state; the mouth closes in it."""
PAUSE_S = (0.15, 0.75)
"""Between two sentences of one turn."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One state from start_s to end_s of the clip."""

    state: AvatarState
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice and what it may say: `lines` if given (sentences that lie in the cache), else anything of its split."""

    voice: Voice
    split: str
    cache: Path | None = None
    lines: tuple[str, ...] = ()

    def next_line(self, rng: np.random.Generator, longest: int | None = None) -> Utterance:
        """Speak a random sentence, if possible of at most `longest` letters."""
        if not self.lines:
            return synthesise(draw_sentence(rng, self.split, longest), self.voice)
        fitting = [x for x in self.lines if longest is None or len(x) <= longest] or [min(self.lines, key=len)]
        return synthesise(fitting[int(rng.integers(len(fitting)))], self.voice, self.cache)


@dataclass(frozen=True, slots=True)
class Placed:
    """An utterance and when it starts, in seconds of the clip (may be negative)."""

    utterance: Utterance
    start_s: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.utterance.seconds


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
                out[low:high] += item.utterance.audio[low - first : high - first]
        return out

    def spoken(self) -> list[SpokenPhone]:
        """Phones in clip time with their effort, also those before and after the clip."""
        return [phone for item in self.placed for phone in _with_effort(item)]


def arrange(
    rng: np.random.Generator, seconds: float, own: Speaker, partner: Speaker
) -> tuple[tuple[Turn, ...], VoiceTrack, VoiceTrack]:
    """A random sequence of states for a clip and the voices that go with it."""
    shares = np.array([share for share, _ in PATTERNS])
    states = PATTERNS[int(rng.choice(len(PATTERNS), p=shares / shares.sum()))][1]
    middle = _middle(rng, states, seconds, own, partner)
    if len(states) == 3 and middle is None and states[1] != IDLE:
        # Nothing short enough to say: the clip keeps its first two states.
        states = states[:2]
    turns = _turns(rng, states, seconds, middle)
    tracks: dict[AvatarState, list[Placed]] = {SPEAKING: [], LISTENING: []}
    for i, turn in enumerate(turns):
        if turn.state == IDLE:
            continue
        speaker = own if turn.state == SPEAKING else partner
        if i == 1 and len(turns) == 3 and middle is not None:
            tracks[turn.state].append(Placed(middle, turn.start_s + rng.uniform(*LEAD_S)))
        else:
            tracks[turn.state] += _fill(rng, speaker, turn, i == 0, i == len(turns) - 1)
    return turns, VoiceTrack(tuple(tracks[SPEAKING])), VoiceTrack(tuple(tracks[LISTENING]))


def say(utterances: Sequence[Utterance], pause_s: float, lead_s: float = 0.3) -> VoiceTrack:
    """Utterances one after the other."""
    placed: list[Placed] = []
    start = lead_s
    for utterance in utterances:
        placed.append(Placed(utterance, start))
        start = placed[-1].end_s + pause_s
    return VoiceTrack(tuple(placed))


def _middle(
    rng: np.random.Generator, states: tuple[AvatarState, ...], seconds: float, own: Speaker, partner: Speaker
) -> Utterance | None:
    """What is said between two other states; short enough to leave both at least a fifth of the clip."""
    if len(states) < 3 or states[1] == IDLE:
        return None
    speaker = own if states[1] == SPEAKING else partner
    room_s = 0.6 * seconds - LEAD_S[1] - TAIL_S[1]
    lines = (speaker.next_line(rng, longest=max(int(room_s * 11), 18)) for _ in range(4))
    return next((line for line in lines if line.seconds <= room_s), None)


def _turns(
    rng: np.random.Generator, states: tuple[AvatarState, ...], seconds: float, middle: Utterance | None
) -> tuple[Turn, ...]:
    if len(states) == 3:
        length = middle.seconds + LEAD_S[1] + TAIL_S[1] if middle else rng.uniform(0.25, 0.4) * seconds
        start = rng.uniform(0.2, 0.8) * (seconds - length)
        edges = [0.0, start, start + length, seconds]
    elif len(states) == 2:
        edges = [0.0, rng.uniform(0.28, 0.72) * seconds, seconds]
    else:
        edges = [0.0, seconds]
    return tuple(Turn(state, a, b) for state, a, b in zip(states, edges[:-1], edges[1:], strict=True))


def _fill(rng: np.random.Generator, speaker: Speaker, turn: Turn, from_before: bool, goes_on: bool) -> list[Placed]:
    """Speech for a turn. At the clip's edges it may be cut; inside it starts and ends with a sentence."""
    length = turn.end_s - turn.start_s
    stream = _stream(rng, speaker, length + (1.2 if from_before and goes_on else 0.0))
    if not from_before:
        shift = turn.start_s + rng.uniform(*LEAD_S)
        placed = [Placed(p.utterance, p.start_s + shift) for p in stream]
        return placed if goes_on else _ending_before(placed, turn.end_s - TAIL_S[0])
    total = stream[-1].end_s
    spare = max(total - length, 0.0)
    end = turn.end_s + rng.uniform(0, spare) if goes_on else turn.end_s - rng.uniform(*TAIL_S)
    return [Placed(p.utterance, p.start_s + end - total) for p in stream]


def _ending_before(placed: list[Placed], limit_s: float) -> list[Placed]:
    return [p for p in placed if p.end_s <= limit_s]


def _stream(rng: np.random.Generator, speaker: Speaker, at_least_s: float) -> list[Placed]:
    placed: list[Placed] = []
    start = 0.0
    while not placed or placed[-1].end_s < at_least_s:
        placed.append(Placed(speaker.next_line(rng), start))
        start = placed[-1].end_s + rng.uniform(*PAUSE_S)
    return placed


def _with_effort(item: Placed) -> list[SpokenPhone]:
    """Stress and loudness as effort: stressed and loud vowels are said wider."""
    utterance = item.utterance
    loud = np.array([_level(utterance, p) for p in utterance.phones])
    vowel = np.array([p.symbol in VOWELS for p in utterance.phones])
    usual = float(np.median(loud[vowel])) if vowel.any() else 1.0
    spoken = []
    for phone, level, is_vowel, stress in zip(utterance.phones, loud, vowel, utterance.stress, strict=True):
        effort = (0.86, 1.0, 1.14)[stress] * np.clip(level / max(usual, 1e-6), 0.3, 2.0) ** 0.25 if is_vowel else 1.0
        moved = Phone(phone.symbol, phone.start_s + item.start_s, phone.end_s + item.start_s)
        spoken.append(SpokenPhone(moved, float(effort)))
    return spoken


def _level(utterance: Utterance, phone: Phone) -> float:
    low, high = int(phone.start_s * SAMPLE_RATE_HZ), int(phone.end_s * SAMPLE_RATE_HZ)
    part = utterance.audio[low : max(high, low + 1)]
    return float(np.sqrt(np.mean(part**2))) if len(part) else 0.0
