"""A long talk: pictures that come late or not at all, gaps in the sound, and memory that grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apps.bench.desktop.app import App
from apps.bench.desktop.eye import Seen
from apps.bench.desktop.talker import Talker
from apps.bench.desktop.tape import LONGEST_LAG_S, Tape, gone, lag_of, level_db
from apps.bench.stats import Spread, slope, spread
from engine.types import SAMPLE_RATE_HZ

STANDSTILL_S = 0.2
"""Five frames: a talking face that does not move for so long has visibly stopped."""

_MEMORY_EVERY_S = 2.0
_WARM_S = 20.0
"""Until then, caches fill."""

_LOUD_DB = -25.0
"""Below full scale: surely speech."""

_MOSTLY = 0.3
"""Share of a second that must be loud for its sound to be looked for."""


@dataclass(frozen=True, slots=True)
class Steady:
    """minutes: of talk. interval_ms: between changes of the picture, pauses of 200 ms and more left out. standstills:
    such pauses amid loud speech. late, dropped, lost_packets: as the app counts them, during the talk. memory_mb: at
    the end; memory_mb_per_minute: least squares after the first 20 s. sound_gaps_ms: of loud speech that the speaker
    did not give back, and sound_lag_ms from microphone to speaker; None when it was not listened to.
    """

    minutes: float
    pictures: int
    interval_ms: Spread
    standstills: int
    late: int
    dropped: int
    lost_packets: int
    memory_mb: float | None
    memory_mb_per_minute: float | None
    sound_gaps_ms: float | None
    sound_lag_ms: Spread | None


@dataclass(frozen=True, slots=True)
class Speech:
    """Something that was said: float32 [N] at 16 kHz, and when it sounded on time.monotonic."""

    sounds_s: float
    pcm: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Talk:
    """What was said, and the app's memory meanwhile: seconds and 10^6 bytes, one each."""

    said: list[Speech]
    memory_s: list[float]
    memory_mb: list[float]


def talk(
    app: App,
    talker: Talker,
    speeches: Sequence[NDArray[np.float32]],
    minutes: float,
    say: Callable[[str], None] = lambda _: None,
) -> Talk:
    """Say the speeches in turn, again and again, float32 [N] at 16 kHz each."""
    began_s = time.monotonic()
    done = Talk([], [], [])
    number = 0
    while (elapsed_s := time.monotonic() - began_s) < 60 * minutes:
        say(f"talking, {elapsed_s / 60:.1f} of {minutes:g} min")
        pcm = speeches[number % len(speeches)]
        number += 1
        said = talker.say(pcm).result(len(pcm) / SAMPLE_RATE_HZ + 60)
        done.said.append(Speech(said.sounds_s, pcm))
        _wait(app, done, said.sounds_s + len(pcm) / SAMPLE_RATE_HZ, began_s)
    return done


def _wait(app: App, done: Talk, until_s: float, began_s: float) -> None:
    while (left_s := until_s - time.monotonic()) > 0:
        if (memory := app.memory_mb) is not None:
            done.memory_s.append(time.monotonic() - began_s)
            done.memory_mb.append(memory)
        time.sleep(min(left_s, _MEMORY_EVERY_S))


def judge(done: Talk, seen: Seen, tape: Tape | None, before: dict[str, float], after: dict[str, float]) -> Steady:
    """seen: changes of the mouth on the screen. before, after: the app's figures around the talk."""
    first_s, last = done.said[0].sounds_s, done.said[-1]
    shown = seen.after(first_s)
    intervals_s = np.diff(shown.moment_s)
    warm = [place for place, moment_s in enumerate(done.memory_s) if moment_s >= _WARM_S]
    per_second = slope([done.memory_s[i] for i in warm], [done.memory_mb[i] for i in warm])
    lags, gaps_ms = _sound(done, tape)
    return Steady(
        minutes=(last.sounds_s + len(last.pcm) / SAMPLE_RATE_HZ - first_s) / 60,
        pictures=len(shown),
        interval_ms=spread(list(1e3 * intervals_s[intervals_s < STANDSTILL_S])),
        standstills=sum(_standstills(speech, shown) for speech in done.said),
        **{name: round(after[name] - before[name]) for name in ("late", "dropped", "lost_packets")},
        memory_mb=done.memory_mb[-1] if done.memory_mb else None,
        memory_mb_per_minute=None if per_second is None else 60 * per_second,
        sound_gaps_ms=gaps_ms,
        sound_lag_ms=None if lags is None else spread(lags),
    )


def _standstills(speech: Speech, shown: Seen) -> int:
    """Pauses of the picture that lie, but for the usual delay, wholly inside loud speech."""
    loud = level_db(speech.pcm) > _LOUD_DB
    count = 0
    for start_s, stop_s in zip(shown.moment_s, shown.moment_s[1:], strict=False):
        if stop_s - start_s < STANDSTILL_S:
            continue
        # The delay differs from machine to machine: only what is loud for as long again counts.
        first, last = (round(100 * (moment_s - speech.sounds_s)) for moment_s in (start_s - 0.5, stop_s))
        if first >= 0 and last <= len(loud) and loud[first:last].all():
            count += 1
    return count


def _sound(done: Talk, tape: Tape | None) -> tuple[list[float | None] | None, float | None]:
    """Lags in milliseconds of each second of speech, None for one that was not found; and loud speech that is gone."""
    if tape is None:
        return None, None
    lags: list[float | None] = []
    missing = 0
    for speech in done.said:
        for start in range(0, len(speech.pcm) - SAMPLE_RATE_HZ + 1, SAMPLE_RATE_HZ):
            said = speech.pcm[start : start + SAMPLE_RATE_HZ]
            loud = level_db(said) > _LOUD_DB
            if loud.mean() < _MOSTLY:
                continue
            heard = tape.heard(speech.sounds_s + start / SAMPLE_RATE_HZ, 1 + LONGEST_LAG_S)
            lag = lag_of(said, heard)
            lags.append(None if lag is None else 1e3 * lag / SAMPLE_RATE_HZ)
            missing += gone(said, loud, heard, lag)
    return lags, 10.0 * missing
