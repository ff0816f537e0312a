"""Whether sound and picture belong together, and how far they are apart.

The mouth's opening is compared with the loudness of speech at every lag from -0.5 to 0.5 s; both are freed of slow
changes first. One clip alone says little (its correlation is 0.2 to 0.5, and half of the peaks are chance), so a film's
lag comes from all its speech, and is believed only when its parts agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.types import FPS, SAMPLE_RATE_HZ
from training.data.media import Floats

STEP_MS = 10
MOST_MS = 500
LAGS_MS: NDArray[np.int64] = np.arange(-MOST_MS, MOST_MS + 1, STEP_MS)
"""Lags that are tried; positive where the sound comes later than the mouth."""

TOLERANCE_MS = 80
"""Lags up to this are left alone: lips lead sounds by tens of ms by nature."""
BELIEVED_R = 0.15
"""Correlation at the peak of a whole film from which its lag means something, however much speech there is."""
MISFIT_R = 0.1
"""Below this at every lag, over enough speech, the voice is not that of the face."""
ENOUGH_S = 30.0
"""Speech from which the absence of a correlation is evidence."""
AGREEMENT_MS = 60
"""The lags of a film's parts may differ by this."""
_STANDING_OUT = 0.15
"""How much better than within the tolerance a clip must correlate elsewhere to be called out of sync."""
_STRONG_R = 0.35
_ALONE_R, _ALONE_S = 0.5, 2.5
"""Correlation and seconds of speech that a film's only clip needs, since nothing confirms its lag."""

_STEP = SAMPLE_RATE_HZ * STEP_MS // 1000
_RANGE_DB = 35.0
_SLOW_S = 1.2
_LEAST_SPEECH_S = 0.8


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a stretch of speech says: curve [101] of correlations by LAGS_MS, and how many seconds of speech it saw."""

    curve: Floats
    seconds: float


@dataclass(frozen=True, slots=True)
class Sync:
    """verdict: `in_step`, `late` or `early` (the same lag everywhere, so it can be shifted away), `out_of_sync` (apart
    by different lags), `voice_does_not_fit`, or `unknown` (too little speech). lag_ms: of the sound behind the mouth.
    r: correlation there."""

    verdict: str
    lag_ms: int
    r: float
    seconds: float

    @property
    def shift_ms(self) -> int:
        """How much earlier the sound must be played."""
        return self.lag_ms if self.verdict in ("late", "early") else 0


def evidence(opening: Floats, voice: Floats, speech: NDArray[np.bool_]) -> Evidence | None:
    """Correlation by lag of the mouth's opening [F] with the voice [F * 640] where there is speech [F].

    None when less than 0.8 s of it can be compared, or the mouth does not move.
    """
    steps = np.arange(len(opening) * 1000 // (FPS * STEP_MS))
    mouth = np.interp((steps + 0.5) * STEP_MS * FPS / 1000 - 0.5, np.arange(len(opening)), opening)
    heard = np.repeat(speech, 1000 // (FPS * STEP_MS))[: len(steps)]
    seconds = float(heard.sum()) * STEP_MS / 1000
    if seconds < _LEAST_SPEECH_S:
        return None
    mouth, loud = without_slow(mouth), without_slow(loudness(voice)[: len(steps)])
    reach = MOST_MS // STEP_MS
    curve = np.zeros(len(LAGS_MS), np.float32)
    for i, lag in enumerate(range(-reach, reach + 1)):
        # The mouth at step s goes with the sound at s + lag.
        a, b = max(0, -lag), min(len(steps), len(steps) - lag)
        chosen = heard[a + lag : b + lag]
        curve[i] = _correlation(mouth[a:b][chosen], loud[a + lag : b + lag][chosen])
    return Evidence(curve, seconds) if np.abs(curve).max() > 0 else None


def loudness(voice: Floats) -> Floats:
    """Level in dB every 10 ms, over 30 ms, at most 35 dB below the loudest. High frequencies count more."""
    bright = np.append(voice[:1], voice[1:] - 0.9 * voice[:-1]).astype(np.float64)
    steps = len(voice) // _STEP
    power = np.square(bright[: steps * _STEP]).reshape(steps, _STEP).mean(1)
    power = np.convolve(power, np.ones(3) / 3, mode="same")
    level = 10 * np.log10(power + 1e-10)
    return np.maximum(level, level.max(initial=-100.0) - _RANGE_DB).astype(np.float32)


def without_slow(values: NDArray[np.floating]) -> Floats:
    """Values at 100 Hz minus their average over 1.2 s."""
    length = min(int(_SLOW_S * 1000 / STEP_MS), len(values))
    if length == 0:
        return values.astype(np.float32)
    weights = np.ones(length)
    slow = np.convolve(values, weights, mode="same") / np.convolve(np.ones(len(values)), weights, mode="same")
    return (values - slow).astype(np.float32)


def judge(parts: Sequence[Evidence]) -> Sync:
    """The film's sync from that of its parts."""
    seconds = sum(part.seconds for part in parts)
    if not parts:
        return Sync("unknown", 0, 0.0, 0.0)
    curve = pooled(parts)
    lag_ms, r = _peak(curve)
    if r < max(BELIEVED_R, by_chance(seconds)):
        verdict = "voice_does_not_fit" if r < MISFIT_R and seconds >= ENOUGH_S else "unknown"
    elif abs(lag_ms) <= TOLERANCE_MS:
        verdict = "in_step"
    elif _agree(parts, lag_ms, r):
        verdict = "late" if lag_ms > 0 else "early"
    else:
        verdict = "out_of_sync"
    return Sync(verdict, lag_ms, round(r, 3), round(seconds, 2))


def by_chance(seconds: float) -> float:
    """Correlation that the best of all lags reaches by chance in so much speech: 2.5 standard deviations at four
    independent moments a second, since syllables are about that long."""
    return 2.5 / float(np.sqrt(4 * max(seconds, 0.1)))


def pooled(parts: Sequence[Evidence]) -> Floats:
    """One curve from several: Fisher's mean of their correlations, weighted by seconds of speech."""
    z = np.stack([np.arctanh(np.clip(part.curve, -0.99, 0.99)) for part in parts])
    return np.tanh(np.average(z, axis=0, weights=[part.seconds for part in parts])).astype(np.float32)


def out_of_step(part: Evidence, shift_ms: int = 0) -> bool:
    """Whether a clip, once its film's sound is shifted, clearly fits better at a lag beyond the tolerance."""
    near = np.abs(LAGS_MS - shift_ms) <= TOLERANCE_MS
    best = float(part.curve.max())
    return best >= max(_STRONG_R, by_chance(part.seconds)) and best - float(part.curve[near].max()) >= _STANDING_OUT


def shifted(voice: Floats, earlier_ms: int) -> Floats:
    """The voice played earlier by so many ms (later when negative), as long as before, silence where it is missing."""
    samples = earlier_ms * SAMPLE_RATE_HZ // 1000
    moved = np.zeros_like(voice)
    if samples >= 0:
        moved[: max(len(voice) - samples, 0)] = voice[samples:]
    else:
        moved[-samples:] = voice[:samples]
    return moved


def _agree(parts: Sequence[Evidence], lag_ms: int, r: float) -> bool:
    """Whether every second part finds the same lag as the others; a single part must be strong."""
    if len(parts) == 1:
        return r >= _ALONE_R and parts[0].seconds >= _ALONE_S
    halves = (pooled(parts[::2]), pooled(parts[1::2]))
    return all(abs(_peak(half)[0] - lag_ms) <= AGREEMENT_MS for half in halves)


def _peak(curve: Floats) -> tuple[int, float]:
    best = int(curve.argmax())
    return int(LAGS_MS[best]), float(curve[best])


def _correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    if len(a) < 2:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-9 else 0.0
