"""A folder of spoken sentences, for engines too slow to be run while clips are made."""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

from training.data.text import draw_sentence
from training.data.voices import (
    ENGINE_RATE_HZ,
    cache_path,
    cached_text,
    read_cached,
    stable_rng,
    synthesise,
    voice,
    voice_names,
)

KOKORO_VOICES: dict[str, int] = {"train": 40, "test": 8}
"""How many mixes a data set has; test mixes never occur in train."""
LINES_IN_A_ROW = 12
"""A voice speaks so many lines before the next voice comes, so that a small cache has few voices with several lines."""
BATCH = 12


def prewarm(cache: Path, split: str, minutes: float, workers: int = 1) -> float:
    """Fill a cache with Kokoro speech until it holds about `minutes` of a split; returns the minutes it then holds.

    What is said by whom depends on the split only, so a longer run continues a shorter one. Takes about
    0.4 minutes of one core per minute of speech.
    """
    cache.mkdir(parents=True, exist_ok=True)
    held_s, index = 0.0, 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        while held_s < minutes * 60:
            jobs = [_line(split, i) for i in range(index, index + BATCH)]
            held_s += sum(pool.map(_seconds_of, jobs, [cache] * len(jobs)))
            index += BATCH
    cached_lines.cache_clear()
    return held_s / 60


@lru_cache(maxsize=8)
def cached_lines(cache: Path, split: str) -> dict[str, tuple[str, ...]]:
    """For every Kokoro voice of a split that has speech in the cache, its sentences (sorted)."""
    lines: dict[str, list[str]] = defaultdict(list)
    for name in voice_names("kokoro", split, KOKORO_VOICES[split]):
        for path in sorted(cache.glob(f"{name}_*.npz")):
            lines[name].append(cached_text(path))
    return {name: tuple(sorted(texts)) for name, texts in lines.items()}


def _line(split: str, index: int) -> tuple[str, str]:
    """Voice and text of the n-th line of a split."""
    names = voice_names("kokoro", split, KOKORO_VOICES[split])
    return names[index // LINES_IN_A_ROW % len(names)], draw_sentence(stable_rng("line", split, index), split)


def _seconds_of(job: tuple[str, str], cache: Path) -> float:
    name, text = job
    speaker = voice(name)
    path = cache_path(text, speaker, cache)
    if not path.exists():
        synthesise(text, speaker, cache)
    return len(read_cached(path).audio) / (ENGINE_RATE_HZ * speaker.tract)
