"""Someone before the microphone: a quiet room, into which words are said at known moments."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from apps.bench.desktop.sound import Voice
from engine.audio.resample import Resampler
from engine.errors import AvatarError
from engine.types import SAMPLE_RATE_HZ

ROOM = 3e-4
"""Root mean square of the room's noise: -70 dBFS. A real room is never digitally silent."""

_SHORTEST_WORD_S, _LONGEST_WORD_S, _WORD_GAP_S = 0.25, 0.7, 0.2
"""A syllable that is over at once may pass for noise."""

_ONSET_DB, _QUIET_DB = -20.0, -35.0
"""Below the recording's loudest 10 ms: where a word begins, and what counts as a pause before it."""


@dataclass(frozen=True, slots=True)
class Said:
    """written_s: when the first sample was handed to the device; sounds_s: when the device said that it would sound.
    Both on time.monotonic.
    """

    written_s: float
    sounds_s: float


class Talker:
    """with Talker(voice) as talker: talker.say(word).result() is when it was said."""

    def __init__(self, voice: Voice, room: float = ROOM) -> None:
        self._voice, self._room = voice, room
        self._random = np.random.default_rng(1)
        self._waiting: queue.Queue[tuple[NDArray[np.float32], Future[Said]]] = queue.Queue(maxsize=4)
        self._open = True
        self._thread = threading.Thread(target=self._run, name="bench-talker", daemon=True)

    def __enter__(self) -> Talker:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._thread.join()
        self._voice.close()

    def say(self, pcm: NDArray[np.float32]) -> Future[Said]:
        """pcm: float32 [N] at 16 kHz. The answer comes when its first sample is written, or the device's error."""
        resampler = Resampler(SAMPLE_RATE_HZ, self._voice.rate_hz)
        samples = np.concatenate([resampler.push(pcm), resampler.flush()])
        said: Future[Said] = Future()
        self._waiting.put((samples, said), timeout=len(pcm) / SAMPLE_RATE_HZ + 60)
        return said

    def _run(self) -> None:
        step, samples = self._voice.step, np.zeros(0, np.float32)
        try:
            while self._open:
                if not len(samples):
                    samples = self._next()
                self._breathe(samples[:step])
                samples = samples[step:]
        except AvatarError as error:
            self._open = False
            while not self._waiting.empty():
                self._waiting.get()[1].set_exception(error)

    def _next(self) -> NDArray[np.float32]:
        try:
            samples, said = self._waiting.get_nowait()
        except queue.Empty:
            return np.zeros(self._voice.step, np.float32)
        now_s = time.monotonic()
        said.set_result(Said(now_s, now_s + self._voice.latency_us() / 1e6))
        return samples

    def _breathe(self, samples: NDArray[np.float32]) -> None:
        """Write 10 ms, with the room's noise."""
        noise = self._random.standard_normal(self._voice.step).astype(np.float32) * np.float32(self._room)
        noise[: len(samples)] += samples
        self._voice.write(noise)


def words(pcm: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Markers: stretches of a recording that begin at once, with a word after a pause; float32 [N] at 16 kHz each.

    A word, and not a click, since the app opens its ear for speech only.
    """
    hop = SAMPLE_RATE_HZ // 100
    energy = np.square(pcm[: len(pcm) // hop * hop].reshape(-1, hop)).mean(1)
    level_db = 10 * np.log10(energy / energy.max() + 1e-12)
    pause = round(100 * _WORD_GAP_S)
    found = []
    for place in np.flatnonzero(level_db >= _ONSET_DB):
        before = level_db[max(0, place - pause) : place]
        if len(before) == pause and (before < _ONSET_DB).all() and before[-3:].max() < _ONSET_DB:
            found.append(_cut(pcm, int(place) * hop, level_db[place:]))
    return [word for word in found if len(word) >= _SHORTEST_WORD_S * SAMPLE_RATE_HZ]


def _cut(pcm: NDArray[np.float32], start: int, level_db: NDArray[np.float32]) -> NDArray[np.float32]:
    """Until the next pause, with 2 ms to begin and 20 ms to end."""
    hop = SAMPLE_RATE_HZ // 100
    longest = round(100 * _LONGEST_WORD_S)
    quiet = np.flatnonzero(level_db[10:longest] < _QUIET_DB)
    stop = start + hop * (10 + int(quiet[0]) if len(quiet) else longest)
    word = pcm[start:stop].copy()
    word[:32] *= np.linspace(0, 1, 32, dtype=np.float32)
    word[-320:] *= np.linspace(1, 0, 320, dtype=np.float32)
    return word
