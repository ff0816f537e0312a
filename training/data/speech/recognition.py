"""Phones and their times in recorded speech, by pocketsphinx (BSD; its US English model comes in the wheel).

With a transcript the words are aligned to the sound. Without one the words are recognised first, and what was
recognised is aligned: wrong words are mostly words that sound alike, and sound alike is what lips need. Measured on 8
sentences of Kokoro, whose phones are known, as the correlation of the mouth curves (jaw, pucker, stretch, lower lip
rolled in, lips pressed): transcript .85 .92 .84 .89 .76; recognised words .81 .78 .81 .85 .75 at 3 times real time on
one core; phone recognition without words .70 .54 .60 .65 .48.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from engine.errors import ExtraMissingError
from engine.types import SAMPLE_RATE_HZ
from training.data.speech.recorded import RecordedLine
from training.data.truth import Floats, Phone
from training.data.visemes import VOWELS

IPA_OF_ARPABET: dict[str, str] = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AY": "aɪ", "B": "b", "CH": "tʃ", "D": "d", "DH": "ð",
    "EH": "ɛ", "ER": "ɜ", "EY": "eɪ", "F": "f", "G": "ɡ", "HH": "h", "IH": "ɪ", "IY": "i", "JH": "dʒ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "oʊ", "OY": "ɔɪ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ",
    "T": "t", "TH": "θ", "UH": "ʊ", "UW": "u", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip

ALIGNER_IS_EARLY_S = 0.01
"""pocketsphinx's boundaries against the voices' own times, by the best shift of the mouth curves (steps of 10 ms)."""
FRAME_S = 0.01
WORD_SEARCH = {"maxhmmpf": 3000, "maxwpf": 8}
"""A narrower search than pocketsphinx's own: a third faster, the same mouth curves within .01."""

SPLIT_AT_S = 0.22
"""A longer gap between phones ends a phrase."""
PHRASE_S = (0.6, 9.0)
EDGE_S = 0.06
FADE_S = 0.02

LONGEST_PHONE_S = 0.45
PHONES_PER_SECOND = (5.0, 22.0)
MIN_VOWEL_FIT = 0.3
MAX_VOWEL_LAG_S = 0.06
_LEVEL_HZ = 100


@dataclass(frozen=True, slots=True)
class Phrase:
    """Some words between two pauses of a recording. audio [N] at 16 kHz, phones in seconds of it, stress per phone."""

    audio: Floats
    phones: tuple[Phone, ...]
    stress: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AlignmentCheck:
    """Whether phones can be believed, from the sound itself.

    vowel_fit: correlation of the vowels' places with the energy in 300-3000 Hz, at its best lag lag_s. rate: phones per
    second. longest_s: of a phone.
    """

    vowel_fit: float
    lag_s: float
    rate: float
    longest_s: float

    @property
    def good(self) -> bool:
        return (
            self.vowel_fit >= MIN_VOWEL_FIT
            and abs(self.lag_s) <= MAX_VOWEL_LAG_S
            and PHONES_PER_SECOND[0] <= self.rate <= PHONES_PER_SECOND[1]
            and self.longest_s <= LONGEST_PHONE_S
        )


def recognise(line: RecordedLine) -> tuple[Phrase, ...]:
    """The phrases of a recording whose alignment can be believed, in their order; none if nothing fits.

    Raises ExtraMissingError without pocketsphinx, UnreadableMediaError for a damaged file.
    """
    audio = line.audio()
    phones = timed_phones(audio, line.text)
    return tuple(phrase for phrase in cut_phrases(audio, phones) if check(phrase.audio, phrase.phones).good)


def timed_phones(audio: Floats, text: str = "") -> tuple[Phone, ...]:
    """Phones of speech [N] at 16 kHz; empty if no word was found."""
    pcm = (np.clip(audio / max(float(np.abs(audio).max()), 1e-6), -1, 1) * 16000).astype(np.int16).tobytes()
    words = _known_words(text) or _recognised_words(pcm)
    found = _aligned(pcm, words) if words else []
    return tuple(
        Phone(IPA_OF_ARPABET[name], first * FRAME_S + ALIGNER_IS_EARLY_S, last * FRAME_S + ALIGNER_IS_EARLY_S)
        for name, first, last in found
        if name in IPA_OF_ARPABET
    )


def cut_phrases(audio: Floats, phones: tuple[Phone, ...]) -> list[Phrase]:
    """A recording in parts between pauses; parts of unusual length are dropped."""
    groups: list[list[Phone]] = []
    for phone in phones:
        if not groups or phone.start_s - groups[-1][-1].end_s > SPLIT_AT_S:
            groups.append([])
        groups[-1].append(phone)
    kept = [g for g in groups if PHRASE_S[0] <= g[-1].end_s - g[0].start_s <= PHRASE_S[1]]
    return [_cut(audio, group) for group in kept]


def check(audio: Floats, phones: tuple[Phone, ...]) -> AlignmentCheck:
    """How well phones fit speech [N] at 16 kHz."""
    lengths = [p.end_s - p.start_s for p in phones]
    level = _band_level(audio)
    mask = np.zeros(len(level))
    for phone in phones:
        if phone.symbol in VOWELS:
            mask[int(phone.start_s * _LEVEL_HZ) : int(phone.end_s * _LEVEL_HZ)] = 1
    lags = range(-12, 13)
    if mask.std() == 0 or level.std() == 0:
        return AlignmentCheck(0.0, 0.0, len(phones) / max(sum(lengths), 1e-6), max(lengths, default=0.0))
    fits = [float(np.corrcoef(mask, np.roll(level, -lag))[0, 1]) for lag in lags]
    best = int(np.argmax(fits))
    return AlignmentCheck(fits[best], lags[best] / _LEVEL_HZ, len(phones) / sum(lengths), max(lengths))


def _band_level(audio: Floats) -> Floats:
    """Log energy between 300 and 3000 Hz at 100 Hz, smoothed over 20 ms."""
    from scipy.signal import butter, sosfiltfilt

    hop = SAMPLE_RATE_HZ // _LEVEL_HZ
    band = sosfiltfilt(butter(3, (300, 3000), "band", fs=SAMPLE_RATE_HZ, output="sos"), audio)
    energy = np.convolve(band**2, np.hanning(2 * hop), "same")[hop // 2 :: hop]
    return np.log(energy + 1e-5 * energy.max() + 1e-12).astype(np.float32)


def _cut(audio: Floats, phones: Iterable[Phone]) -> Phrase:
    group = list(phones)
    first = max(round((group[0].start_s - EDGE_S) * SAMPLE_RATE_HZ), 0)
    last = min(round((group[-1].end_s + EDGE_S) * SAMPLE_RATE_HZ), len(audio))
    part = audio[first:last].copy()
    ramp = np.linspace(0, 1, int(FADE_S * SAMPLE_RATE_HZ), dtype=np.float32)
    part[: len(ramp)] *= ramp
    part[-len(ramp) :] *= ramp[::-1]
    start_s = first / SAMPLE_RATE_HZ
    moved = tuple(Phone(p.symbol, p.start_s - start_s, p.end_s - start_s) for p in group)
    return Phrase(part / max(float(np.abs(part).max()), 1e-6), moved, _stress(part, moved))


def _stress(audio: Floats, phones: tuple[Phone, ...]) -> tuple[int, ...]:
    """Vowels that stand out by level and length from the phrase's others: 2, the next third 1."""
    vowels = [i for i, p in enumerate(phones) if p.symbol in VOWELS]
    weight = np.array([_prominence(audio, phones[i]) for i in vowels])
    out = [0] * len(phones)
    for rank, k in enumerate(np.argsort(-weight)):
        out[vowels[int(k)]] = 2 if rank < len(vowels) / 4 else 1 if rank < len(vowels) / 2 else 0
    return tuple(out)


def _prominence(audio: Floats, phone: Phone) -> float:
    low, high = int(phone.start_s * SAMPLE_RATE_HZ), int(phone.end_s * SAMPLE_RATE_HZ)
    part = audio[low : max(high, low + 1)]
    return float(np.sqrt(np.mean(part**2)) * (phone.end_s - phone.start_s) ** 0.5) if len(part) else 0.0


def _known_words(text: str) -> str:
    """The transcript's words that the dictionary has, or nothing if it lacks too many of them."""
    words = re.sub("[^a-z' ]", " ", text.lower()).split()
    known = [word for word in words if _aligner().lookup_word(word)]
    return " ".join(known) if words and len(known) > 0.9 * len(words) else ""


def _recognised_words(pcm: bytes) -> str:
    recogniser = _recogniser()
    _hear(recogniser, pcm)
    guess = recogniser.hyp()
    return str(guess.hypstr) if guess is not None else ""


def _aligned(pcm: bytes, words: str) -> list[tuple[str, int, int]]:
    """(ARPAbet name, first frame, last frame + 1); two passes: words, then phones within them."""
    aligner = _aligner()
    aligner.set_align_text(words)
    try:
        _hear(aligner, pcm)
        aligner.set_alignment()
        _hear(aligner, pcm)
    except RuntimeError:
        # The words do not fit the sound at all.
        return []
    found = aligner.get_alignment()
    return [(p.name, p.start, p.start + p.duration) for word in found or () for p in word]


def _hear(decoder: Any, pcm: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()


@lru_cache(maxsize=1)
def _recogniser() -> Any:
    return _pocketsphinx().Decoder(samprate=SAMPLE_RATE_HZ, cmn="batch", loglevel="FATAL", **WORD_SEARCH)


@lru_cache(maxsize=1)
def _aligner() -> Any:
    return _pocketsphinx().Decoder(samprate=SAMPLE_RATE_HZ, cmn="batch", loglevel="FATAL", lm=None)


def _pocketsphinx() -> Any:
    try:
        return importlib.import_module("pocketsphinx")
    except ImportError as error:
        raise ExtraMissingError("aligning recorded speech needs pocketsphinx: `pip install visavis[train]`") from error
