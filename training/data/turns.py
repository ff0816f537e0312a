"""Who has the floor when: the states of a clip and both parties' voices that go with them.

A listener is not always spoken to: the other party may be silent for a whole turn, start late or stop early. So the
state says who has the floor, the sound says what there is to react to, and a model has to hear the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.types import AvatarState
from training.data.speech.synthesis import Utterance
from training.data.tracks import Placed, Speaker, VoiceTrack, murmured

SPEAKING, LISTENING, IDLE = AvatarState.SPEAKING, AvatarState.LISTENING, AvatarState.IDLE

PATTERNS: tuple[tuple[float, tuple[AvatarState, ...]], ...] = (
    (0.46, (SPEAKING,)),
    (0.10, (LISTENING,)),
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
"""Shares of clips; about two thirds of all frames speak."""

LEAD_S = (0.16, 0.4)
"""From the change of state to the first sound; the mouth opens in it."""
TAIL_S = (0.2, 0.35)
"""From the last sound to the change of state; the mouth closes in it."""
PAUSE_S = (0.15, 0.75)
"""Between two sentences of one turn."""

SILENT_PARTNER_SHARE, LATE_PARTNER_SHARE = 0.3, 0.3
"""Listening turns without a word, and those in which the other party speaks at one end only."""
SILENCE_SHARE = (0.3, 0.7)
"""Of the turn, how long a late party waits, or one who is done early is silent."""
OVERLAP_SHARE, OVERLAP_S = 0.35, (0.15, 0.6)
"""The other party goes on into the avatar's turn, or cuts in before it is over."""

OWN_MURMUR_SHARE, PARTNER_MURMUR_SHARE = 0.45, 0.25
"""Turns of the other party that get a "mhm" of the avatar, and the other way round."""
MURMUR_AFTER_S = (0.1, 0.45)


@dataclass(frozen=True, slots=True)
class Turn:
    """One state from start_s to end_s of the clip."""

    state: AvatarState
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Scenario:
    """The states of a clip and what both parties say. murmurs: (start_s, end_s) of the avatar's "mhm"s."""

    turns: tuple[Turn, ...]
    own: VoiceTrack
    partner: VoiceTrack
    murmurs: tuple[tuple[float, float], ...] = ()


def arrange(rng: np.random.Generator, seconds: float, own: Speaker, partner: Speaker) -> Scenario:
    """A random sequence of states for a clip and the voices that go with it."""
    shares = np.array([share for share, _ in PATTERNS])
    states = PATTERNS[int(rng.choice(len(PATTERNS), p=shares / shares.sum()))][1]
    middle = _middle(rng, states, seconds, own, partner)
    if len(states) == 3 and middle is None and states[1] != IDLE:
        # Nothing short enough to say: the clip keeps its first two states.
        states = states[:2]
    turns = _turns(rng, states, seconds, middle)
    said: list[list[Placed]] = []
    for i, turn in enumerate(turns):
        if i == 1 and len(turns) == 3 and middle is not None:
            said.append([_placed(middle, turn.start_s + rng.uniform(*LEAD_S))])
        elif turn.state == IDLE:
            said.append([])
        elif turn.state == SPEAKING:
            said.append(_fill(rng, own, turn, i == 0, i == len(turns) - 1))
        else:
            said.append(_listened_to(rng, partner, turn, i == 0, i == len(turns) - 1))
    return _with_murmurs(rng, turns, said, own, partner)


def _placed(utterance: Utterance, start_s: float) -> Placed:
    return Placed(utterance, start_s, effort=utterance.delivery.effort)


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


def _listened_to(
    rng: np.random.Generator, partner: Speaker, turn: Turn, from_before: bool, goes_on: bool
) -> list[Placed]:
    """The other party's words in a listening turn: none, at one end only, or all through it, maybe past its ends."""
    kind = rng.random()
    if kind < SILENT_PARTNER_SHARE:
        return []
    quiet_s = rng.uniform(*SILENCE_SHARE) * turn.seconds
    if kind < SILENT_PARTNER_SHARE + LATE_PARTNER_SHARE:
        if goes_on and (not from_before or rng.random() < 0.5):
            return _fill(rng, partner, replace(turn, start_s=turn.start_s + quiet_s), False, True)
        if from_before:
            return _fill(rng, partner, replace(turn, end_s=turn.end_s - quiet_s), True, False)
    placed = _fill(rng, partner, turn, from_before, goes_on)
    if rng.random() >= OVERLAP_SHARE or from_before == goes_on:
        return placed
    past_s = rng.uniform(*OVERLAP_S) + (TAIL_S if from_before else LEAD_S)[0]
    shift_s = past_s if from_before else -past_s
    return [replace(p, start_s=p.start_s + shift_s) for p in placed]


def _fill(rng: np.random.Generator, speaker: Speaker, turn: Turn, from_before: bool, goes_on: bool) -> list[Placed]:
    """Speech for a turn. At the clip's edges it may be cut; inside it starts and ends with a sentence."""
    stream = _stream(rng, speaker, turn.seconds + (1.2 if from_before and goes_on else 0.0))
    if not from_before:
        shift = turn.start_s + rng.uniform(*LEAD_S)
        placed = [replace(p, start_s=p.start_s + shift) for p in stream]
        return placed if goes_on else [p for p in placed if p.end_s <= turn.end_s - TAIL_S[0]]
    total = stream[-1].end_s
    spare = max(total - turn.seconds, 0.0)
    end = turn.end_s + rng.uniform(0, spare) if goes_on else turn.end_s - rng.uniform(*TAIL_S)
    return [replace(p, start_s=p.start_s + end - total) for p in stream]


def _stream(rng: np.random.Generator, speaker: Speaker, at_least_s: float) -> list[Placed]:
    placed: list[Placed] = []
    start = 0.0
    while not placed or placed[-1].end_s < at_least_s:
        last = placed[-1].utterance.text if placed else ""
        placed.append(_placed(speaker.next_line(rng, after=last), start))
        start = placed[-1].end_s + rng.uniform(*PAUSE_S)
    return placed


def _with_murmurs(
    rng: np.random.Generator, turns: Sequence[Turn], said: Sequence[list[Placed]], own: Speaker, partner: Speaker
) -> Scenario:
    """Both tracks, with the signs of attention that each party gives the other."""
    tracks: dict[AvatarState, list[Placed]] = {SPEAKING: [], LISTENING: []}
    murmurs: list[tuple[float, float]] = []
    for turn, placed in zip(turns, said, strict=True):
        if turn.state == IDLE:
            continue
        tracks[turn.state] += placed
        attentive, share = (own, OWN_MURMUR_SHARE) if turn.state == LISTENING else (partner, PARTNER_MURMUR_SHARE)
        murmur = _murmur(rng, attentive, turn, placed) if rng.random() < share else None
        if murmur is not None:
            tracks[SPEAKING if turn.state == LISTENING else LISTENING].append(murmur)
            if turn.state == LISTENING:
                murmurs.append((murmur.start_s, murmur.end_s))
    own_track, partner_track = (_track(tracks[state]) for state in (SPEAKING, LISTENING))
    return Scenario(tuple(turns), own_track, partner_track, tuple(murmurs))


def _track(placed: list[Placed]) -> VoiceTrack:
    return VoiceTrack(tuple(sorted(placed, key=lambda p: p.start_s)))


def _murmur(rng: np.random.Generator, attentive: Speaker, turn: Turn, heard: Sequence[Placed]) -> Placed | None:
    """A "mhm" shortly after a phrase of the other party, if there is one with room after it."""
    utterance = attentive.murmur(rng)
    if utterance is None:
        return None
    ends = [end + rng.uniform(*MURMUR_AFTER_S) for p in heard for _, end in p.phrases]
    fitting = [at for at in ends if turn.start_s < at < turn.end_s - utterance.seconds - TAIL_S[0]]
    return murmured(utterance, fitting[int(rng.integers(len(fitting)))]) if fitting else None
