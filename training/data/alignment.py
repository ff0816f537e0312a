"""From an engine's token durations to phones in heard time.

The durations are right on average but for three things, all measured on the sound itself: it leads them by a constant;
stress marks and spaces hold time that is really spoken; and the last phone before a pause holds the silence after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.data.truth import Floats

SILENT_TOKENS = frozenset(';:,.!?—…"“”()')
STRESS_LEVEL: dict[str, int] = {"ˈ": 2, "ˌ": 1}
IPA_OF_TOKEN: dict[str, str] = {
    "A": "eɪ", "I": "aɪ", "O": "oʊ", "W": "aʊ", "Y": "ɔɪ", "Q": "əʊ", "ʤ": "dʒ", "ʧ": "tʃ", "T": "ɾ", "ᵊ": "ə",
    "ᵻ": "ɪ",
}  # fmt: skip
"""The phonemizer's one-letter tokens (misaki's alphabet) as IPA."""
LENGTHENING = frozenset(("ː", "\u0303", "ʲ", "ʰ"))
"""Length, a nasal vowel's tilde, palatal and breathed consonants: their time belongs to the sound before."""
STOPS = frozenset("pbtdkɡ")

LONGEST_STOP_S = 0.12
SHORTEST_LAST_S = 0.09
"""A phone before a pause is lengthened in speech; the engines' last duration often starts after the sound is over."""
SILENCE_BELOW_PEAK_DB = 38.0
LEVEL_HZ = 200


@dataclass(frozen=True, slots=True)
class TimedPhone:
    """A phone, its stress (0, 1, 2) and whether a pause comes before or after it."""

    symbol: str
    start_s: float
    end_s: float
    stress: int = 0
    first: bool = False
    last: bool = False


def align(
    tokens: str, durations_s: NDArray[np.float64], audio: Floats, rate_hz: float, lead_s: float
) -> list[TimedPhone]:
    """Phones in seconds of `audio` [N].

    durations_s: one per token plus the pads before and after. lead_s: how much earlier the sound is than they say.
    """
    edges = np.maximum(np.concatenate([[0.0], np.cumsum(durations_s)]) - lead_s, 0.0)
    phones = _spread(tokens, edges[1:-1])
    level_db = _level_db(audio, rate_hz)
    heard = np.flatnonzero(level_db > level_db.max() - SILENCE_BELOW_PEAK_DB) / LEVEL_HZ
    return [_cap_stop(p) for p in _settle_starts(_settle_ends(phones, heard), heard)]


def _spread(tokens: str, edges: NDArray[np.float64]) -> list[TimedPhone]:
    """Stress marks' time to the vowel after, length marks' to the vowel before, a space's half to each neighbour."""
    phones: list[TimedPhone] = []
    claimed_s, stress, paused = -1.0, 0, True
    for i, token in enumerate(tokens):
        start, end = float(edges[i]), float(edges[i + 1])
        if token in STRESS_LEVEL:
            claimed_s, stress = (start if claimed_s < 0 else claimed_s), STRESS_LEVEL[token]
        elif token in LENGTHENING and phones:
            phones[-1] = replace(phones[-1], end_s=end)
        elif token == " " and not paused:
            phones[-1] = replace(phones[-1], end_s=(start + end) / 2)
            claimed_s = (start + end) / 2
        elif token in SILENT_TOKENS and phones:
            phones[-1] = replace(phones[-1], last=True)
            claimed_s, paused = -1.0, True
        elif token not in SILENT_TOKENS and token != " ":
            begin = start if claimed_s < 0 else claimed_s
            phones.append(TimedPhone(IPA_OF_TOKEN.get(token, token), begin, end, stress, first=paused))
            claimed_s, stress, paused = -1.0, 0, False
    if phones:
        phones[-1] = replace(phones[-1], last=True)
    return phones


def _level_db(audio: Floats, rate_hz: float) -> NDArray[np.float64]:
    """Smoothed level at LEVEL_HZ."""
    hop = rate_hz / LEVEL_HZ
    energy = np.concatenate([[0.0], np.cumsum(audio.astype(np.float64) ** 2)])
    centres = np.arange(int(len(audio) / hop)) * hop
    low = np.clip(centres - hop, 0, len(audio)).astype(int)
    high = np.clip(centres + hop, 0, len(audio)).astype(int)
    level_db: NDArray[np.float64] = 10 * np.log10((energy[high] - energy[low]) / np.maximum(high - low, 1) + 1e-9)
    return level_db


def _settle_ends(phones: Sequence[TimedPhone], heard_s: NDArray[np.float64]) -> list[TimedPhone]:
    """End each phrase where its sound ends; if that is too early for the last phone, squeeze the two before it."""
    out = list(phones)
    for i, phone in enumerate(phones):
        if not phone.last:
            continue
        sounding = heard_s[(heard_s > phone.start_s - 0.15) & (heard_s < phone.end_s)]
        end = float(sounding[-1]) + 0.01 if len(sounding) else phone.start_s + SHORTEST_LAST_S
        anchor_index = max(i - 2, 0)
        anchor = phones[anchor_index].start_s
        start = max(min(phone.start_s, end - SHORTEST_LAST_S), anchor + 0.025 * (i - anchor_index))
        scale = (start - anchor) / max(phone.start_s - anchor, 1e-6)
        for k in range(anchor_index, i):
            first, last = (anchor + (t - anchor) * scale for t in (out[k].start_s, out[k].end_s))
            out[k] = replace(out[k], start_s=first, end_s=last)
        out[i] = replace(phone, start_s=start, end_s=max(end, start + 0.04))
    return out


def _settle_starts(phones: Sequence[TimedPhone], heard_s: NDArray[np.float64]) -> list[TimedPhone]:
    """A phrase starts when it is heard, but for stops, whose closure is silent."""
    out = list(phones)
    for i, phone in enumerate(phones):
        if phone.first and phone.symbol not in STOPS:
            sounding = heard_s[heard_s >= phone.start_s]
            onset = float(sounding[0]) if len(sounding) else phone.start_s
            out[i] = replace(phone, start_s=max(phone.start_s, min(onset, phone.end_s - 0.025)))
    return out


def _cap_stop(phone: TimedPhone) -> TimedPhone:
    """Before a pause the engines count the silence as part of the stop."""
    if phone.symbol not in STOPS:
        return phone
    return replace(phone, end_s=min(phone.end_s, phone.start_s + LONGEST_STOP_S))
