"""Sentences spoken by a voice: phones in heard time, timbre and delivery, and a cache of what the engines made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr

from engine.errors import ArgumentError
from engine.types import SAMPLE_RATE_HZ
from training.data.acoustics import apply_colour
from training.data.alignment import align
from training.data.speech.emotion import NEUTRAL, Delivery
from training.data.speech.engines import ENGINE_RATE_HZ, SOUND_LEADS_DURATIONS_S, RawSpeech, run_engine
from training.data.speech.store import read_phrase
from training.data.truth import Floats, Phone
from training.data.voices import RECORDED, Voice, base_name

EDGE_S = 0.06
"""Silence kept before the first and after the last phone."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One spoken sentence.

    audio: [N] at 16 kHz, peak about 1 in a neutral delivery. phones: in heard time from the first sample; pauses are
    the gaps between them.
    stress: one of 0, 1, 2 per phone.
    """

    audio: Floats
    phones: tuple[Phone, ...]
    stress: tuple[int, ...]
    text: str
    voice: str
    delivery: Delivery = NEUTRAL

    @property
    def seconds(self) -> float:
        return len(self.audio) / SAMPLE_RATE_HZ


def synthesise(text: str, speaker: Voice, cache: Path | None = None, delivery: Delivery = NEUTRAL) -> Utterance:
    """Speak one sentence. The result depends on the arguments only; with a cache folder, engine output is kept there.

    A cache holds neutral speech, which other deliveries stretch. A recorded voice says what its cache holds: `text` is
    the name of a phrase. Raises ArgumentError if the text has nothing to pronounce, or a recorded voice lacks it.
    """
    if speaker.engine == RECORDED:
        return _replay(text, speaker, cache, delivery)
    raw = _from_cache(text, speaker, cache) if cache is not None else run_engine(text, speaker, delivery)
    timed = align(raw.tokens, raw.durations_s, raw.audio, ENGINE_RATE_HZ, raw.lead_s)
    # hibari itself speaks faster and higher; what is taken from a cache is stretched.
    stretch = speaker.tract * (1.0 if cache is None and speaker.engine == "hibari" else delivery.stretch)
    audio, phones = _stretched(raw.audio, ENGINE_RATE_HZ, [Phone(p.symbol, p.start_s, p.end_s) for p in timed], stretch)
    audio, phones = _trim(audio, phones)
    return Utterance(_coloured(audio, speaker, delivery), phones, tuple(p.stress for p in timed), text, speaker.name,
                     delivery)  # fmt: skip


def _replay(name: str, speaker: Voice, cache: Path | None, delivery: Delivery) -> Utterance:
    """A recorded phrase from the cache."""
    if cache is None:
        raise ArgumentError(f"{speaker.name} is a recorded voice: it needs the cache that holds its phrases")
    phrase = read_phrase(cache, base_name(speaker.name), name)
    audio, phones = _stretched(phrase.audio, SAMPLE_RATE_HZ, phrase.phones, speaker.tract * delivery.stretch)
    return Utterance(_coloured(audio, speaker, delivery), phones, phrase.stress, name, speaker.name, delivery)


def _stretched(
    audio: Floats, rate_hz: float, phones: Sequence[Phone], factor: float
) -> tuple[Floats, tuple[Phone, ...]]:
    """Speech at 16 kHz whose pitch, formants and tempo are all `factor` higher, and its phones."""
    if rate_hz * factor != SAMPLE_RATE_HZ:
        audio = soxr.resample(audio, rate_hz * factor, SAMPLE_RATE_HZ).astype(np.float32)
    return audio, tuple(Phone(p.symbol, p.start_s / factor, p.end_s / factor) for p in phones)


def _coloured(audio: Floats, speaker: Voice, delivery: Delivery) -> Floats:
    """The voice's timbre and the delivery's level and tilt; peak 1 in a neutral delivery."""
    colour = replace(speaker.colour, tilt_db=speaker.colour.tilt_db + delivery.tilt_db)
    audio = apply_colour(audio, colour)
    return audio * np.float32(10 ** (delivery.level_db / 20) / max(float(np.abs(audio).max()), 1e-6))


def cache_path(text: str, speaker: Voice, cache: Path) -> Path:
    """Where the engine's output for a sentence lies; the key is engine, voice, text and speed."""
    name = base_name(speaker.name)
    key = "\x1f".join((speaker.engine, name, text, f"{speaker.speed:.6f}"))
    return cache / f"{name}_{hashlib.blake2b(key.encode(), digest_size=10).hexdigest()}.npz"


def _from_cache(text: str, speaker: Voice, cache: Path) -> RawSpeech:
    path = cache_path(text, speaker, cache)
    if path.exists():
        return read_cached(path)
    raw = run_engine(text, speaker, NEUTRAL)
    cache.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}.tmp")
    about = {"tokens": raw.tokens, "text": text, "lead_s": raw.lead_s}
    with scratch.open("wb") as file:
        np.savez(
            file,
            audio=np.round(np.clip(raw.audio, -1, 1) * 32767).astype(np.int16),
            durations_s=raw.durations_s,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        )
    scratch.replace(path)
    return read_cached(path)


def read_cached(path: Path) -> RawSpeech:
    """A cached engine output."""
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes().decode())
        lead_s = about.get("lead_s", SOUND_LEADS_DURATIONS_S["kokoro"])
        return RawSpeech(file["audio"].astype(np.float32) / 32767, about["tokens"], file["durations_s"], lead_s)


def cached_text(path: Path) -> str:
    """The sentence of a cached engine output, without reading its sound."""
    with np.load(path, allow_pickle=False) as file:
        return str(json.loads(file["about"].tobytes().decode())["text"])


def _trim(audio: Floats, phones: tuple[Phone, ...]) -> tuple[Floats, tuple[Phone, ...]]:
    """Cut the engines' silence before and after, with short fades at the new edges."""
    first = max(round((phones[0].start_s - EDGE_S) * SAMPLE_RATE_HZ), 0)
    last = min(round((phones[-1].end_s + EDGE_S) * SAMPLE_RATE_HZ), len(audio))
    audio = audio[first:last].copy()
    ramp = np.linspace(0, 1, int(0.02 * SAMPLE_RATE_HZ), dtype=np.float32)
    audio[: len(ramp)] *= ramp
    audio[-len(ramp) :] *= ramp[::-1]
    moved_s = first / SAMPLE_RATE_HZ
    return audio, tuple(Phone(p.symbol, p.start_s - moved_s, p.end_s - moved_s) for p in phones)
