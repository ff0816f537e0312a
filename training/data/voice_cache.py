"""A folder of spoken sentences and recorded phrases, for what is too slow to be done while clips are made."""

from __future__ import annotations

import json
import multiprocessing
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

from engine.types import SAMPLE_RATE_HZ
from training.data.speech.engines import ENGINE_RATE_HZ
from training.data.speech.languages import draw_foreign
from training.data.speech.recognition import recognise
from training.data.speech.recorded import RecordedLine, recorded_lines
from training.data.speech.store import write_phrase
from training.data.speech.synthesis import cache_path, cached_text, read_cached, synthesise
from training.data.stable import stable_rng, stable_unit
from training.data.text import draw_sentence
from training.data.voices import RECORDED, voice, voice_names, voice_split

KOKORO_VOICES: dict[str, int] = {"train": 40, "test": 8}
"""How many mixes a data set has; test mixes never occur in train."""
LINES_IN_A_ROW = 12
"""A voice speaks so many lines before the next voice comes, so that a small cache has few voices with several lines."""
BATCH = 12


def prewarm(cache: Path, split: str, minutes: float, workers: int = 1, foreign: bool = False) -> float:
    """Fill a cache with Kokoro speech until it holds about `minutes` of a split; returns the minutes it then holds.

    What is said by whom depends on the split (and `foreign`) only, so a longer run continues a shorter one. Takes about
    0.4 minutes of one core per minute of speech. foreign: a third of the lines in other languages, which needs the
    extra `languages`.
    """
    cache.mkdir(parents=True, exist_ok=True)
    held_s, index = 0.0, 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        while held_s < minutes * 60:
            jobs = [_line(split, i, foreign) for i in range(index, index + BATCH)]
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


def prepare_recorded(assets: Path, cache: Path, split: str, workers: int = 1) -> float:
    """Find the phones of all recorded speech of a split that the cache lacks; returns the minutes it then holds.

    Takes about a third of a minute of one core per minute of speech. What an utterance gave, even nothing, is noted, so
    that a second call does no work twice. Raises ExtraMissingError without pocketsphinx.
    """
    cache.mkdir(parents=True, exist_ok=True)
    lines = [line for line in recorded_lines(assets, split) if not _note(cache, line).exists()]
    if lines:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
            list(pool.map(_keep_phrases, lines, [cache] * len(lines)))
    cached_recorded.cache_clear()
    voices = cached_recorded(cache, split)
    notes = (json.loads(path.read_text()) for path in sorted(cache.glob(f"{RECORDED}-*.json")))
    return sum(note["seconds"] for note in notes if note["voice"] in voices) / 60


@lru_cache(maxsize=8)
def cached_recorded(cache: Path, split: str) -> dict[str, tuple[str, ...]]:
    """For every recorded voice of a split that has phrases in the cache, their names (sorted)."""
    phrases: dict[str, list[str]] = defaultdict(list)
    for path in sorted(cache.glob(f"{RECORDED}-*.npz")):
        name, _, phrase = path.stem.partition("_")
        if voice_split(name) == split:
            phrases[name].append(phrase)
    return {name: tuple(names) for name, names in sorted(phrases.items())}


def _keep_phrases(line: RecordedLine, cache: Path) -> None:
    name = f"{RECORDED}-{line.speaker}"
    phrases = recognise(line)
    for i, phrase in enumerate(phrases):
        write_phrase(cache, name, f"{line.name}-{i:02d}", phrase)
    seconds = sum(len(phrase.audio) for phrase in phrases) / SAMPLE_RATE_HZ
    _note(cache, line).write_text(json.dumps({"voice": name, "seconds": seconds}))


def _note(cache: Path, line: RecordedLine) -> Path:
    return cache / f"{RECORDED}-{line.speaker}_{line.name}.json"


def _line(split: str, index: int, foreign: bool) -> tuple[str, str]:
    """Voice and text of the n-th line of a split."""
    names = voice_names("kokoro", split, KOKORO_VOICES[split])
    name = names[index // LINES_IN_A_ROW % len(names)]
    if foreign and index % 3 == 2:
        return name, draw_foreign(stable_unit(f"foreign:{split}:{index}"), split)
    return name, draw_sentence(stable_rng("line", split, index), split)


def _seconds_of(job: tuple[str, str], cache: Path) -> float:
    name, text = job
    speaker = voice(name)
    path = cache_path(text, speaker, cache)
    if not path.exists():
        synthesise(text, speaker, cache)
    return len(read_cached(path).audio) / (ENGINE_RATE_HZ * speaker.tract)
