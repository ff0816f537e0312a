"""A voice that needs no file: what it is made of does not matter to a server, only how much of it there is."""

from __future__ import annotations

import math
from array import array

_PITCH_HZ, _HARMONICS, _SYLLABLES_PER_S, _LEVEL = 120, (1, 2, 3, 5), 4, 4000


def voice(milliseconds: float, rate_hz: int) -> bytes:
    """A hummed vowel, PCM s16le: a few harmonics, louder and softer four times a second."""
    count = round(milliseconds * rate_hz / 1000)
    syllable = [_sample(number / rate_hz) for number in range(min(count, rate_hz // _SYLLABLES_PER_S))]
    repeats = math.ceil(count / len(syllable)) if syllable else 0
    return array("h", (syllable * repeats)[:count]).tobytes()


def _sample(moment_s: float) -> int:
    turn = 2 * math.pi * moment_s
    loudness = 0.6 - 0.4 * math.cos(turn * _SYLLABLES_PER_S)
    return round(_LEVEL * loudness * sum(math.sin(turn * _PITCH_HZ * k) / k for k in _HARMONICS))
