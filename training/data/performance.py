"""A whole clip of one person: who speaks when, what is heard, and how face and head move.

`perform` makes training clips from a seed; `speak` lets a voice say given sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import ArgumentError, UnknownExpressionError
from engine.types import EXPRESSIONS, FPS, SAMPLES_PER_FRAME, AvatarState
from training.data.acoustics import noise_floor
from training.data.behaviour import Events, Scene, behave, expression_track, state_weights
from training.data.truth import Floats, Performance, Phone
from training.data.turns import Speaker, Turn, VoiceTrack, arrange, say
from training.data.visemes import (
    CURVE_HZ,
    VOWELS,
    Curve,
    SpeakingStyle,
    SpokenPhone,
    articulate,
    force_contacts,
)
from training.data.voice_cache import cached_lines
from training.data.voices import SPLITS, stable_rng, synthesise, voice, voice_names

STEPS_PER_FRAME = CURVE_HZ // FPS
FRAME_CENTRE = STEPS_PER_FRAME // 2
"""A picture is shown for one frame, together with that frame's sound: it shows the middle of it."""

PHRASE_GAP_S = 0.16
EXPRESSION_SHARE = 0.25
NOISY_SHARE = 0.25
HIBARI_VOICES = 240
GAIN_DBFS = (-26.0, -6.0)
NOISE_BELOW_PEAK_DB = (40.0, 60.0)


@dataclass(frozen=True, slots=True)
class _Plot:
    """Everything that is decided before movement is made."""

    turns: tuple[Turn, ...]
    own: VoiceTrack
    partner: VoiceTrack
    expression: Curve
    style: SpeakingStyle


def perform(
    seed: int,
    seconds: float = 4.0,
    split: str = "train",
    cache: Path | None = None,
    kokoro_share: float = 0.25,
) -> Performance:
    """One clip of round(seconds * 25) frames, the same for the same arguments (and contents of the cache).

    split: `train` or `test`; voices and sentences of the two never meet. cache: a folder filled by
    `training.data.voice_cache.prewarm`; `kokoro_share` of the clips then use a voice from it, the others hibari.
    Raises ArgumentError for an unknown split or a length below one second.
    """
    if split not in SPLITS:
        raise ArgumentError(f"unknown split {split!r}: use train or test")
    if seconds < 1:
        raise ArgumentError(f"a performance lasts at least 1 s, not {seconds}")
    rng = stable_rng("performance", split, seed)
    frames = round(seconds * FPS)
    own, partner = _cast(rng, split, cache, kokoro_share)
    turns, own_track, partner_track = arrange(rng, frames / FPS, own, partner)
    plot = _Plot(turns, own_track, partner_track, _random_expression(rng, frames), _draw_style(rng))
    meta = {"voice": own.voice.name, "partner_voice": partner.voice.name, "seed": seed, "split": split}
    return _act(rng, plot, frames, meta)


def speak(
    text: str | Sequence[str],
    voice_name: str,
    seed: int = 0,
    expression: str | None = None,
    strength: float = 0.6,
    cache: Path | None = None,
) -> Performance:
    """Say the given sentences, with 0.3 s before and 0.4 s after; the whole clip is in the speaking state.

    Raises ArgumentError for an unknown voice or expression, or if there is nothing to pronounce.
    """
    if expression is not None and expression not in EXPRESSIONS:
        raise UnknownExpressionError(f"unknown expression {expression!r}: use one of {', '.join(EXPRESSIONS)}")
    rng = stable_rng("speak", voice_name, seed)
    speaker = voice(voice_name)
    sentences = [text] if isinstance(text, str) else list(text)
    track = say([synthesise(sentence, speaker, cache) for sentence in sentences], pause_s=0.3)
    frames = int(np.ceil((track.placed[-1].end_s + 0.4) * FPS))
    count = frames * STEPS_PER_FRAME
    curve = expression_track(rng, count, expression or EXPRESSIONS[0], strength if expression else 0.0, whole=True)
    turns = (Turn(AvatarState.SPEAKING, 0.0, frames / FPS),)
    meta = {"voice": voice_name, "partner_voice": "", "seed": seed, "split": speaker.split}
    return _act(rng, _Plot(turns, track, VoiceTrack(), curve, _draw_style(rng)), frames, meta)


def _cast(rng: np.random.Generator, split: str, cache: Path | None, kokoro_share: float) -> tuple[Speaker, Speaker]:
    """The own voice and another one for the partner."""
    wants = rng.random(2) < kokoro_share
    picks = rng.random(2)
    pool = cached_lines(cache, split) if cache is not None else {}
    own = _speaker(picks[0], split, cache, pool if wants[0] else {}, taken="")
    partner = _speaker(picks[1], split, cache, pool if wants[1] else {}, taken=own.voice.name)
    return own, partner


def _speaker(pick: float, split: str, cache: Path | None, pool: dict[str, tuple[str, ...]], taken: str) -> Speaker:
    names = [name for name in (pool or voice_names("hibari", split, HIBARI_VOICES)) if name != taken]
    if not names:
        return _speaker(pick, split, cache, {}, taken)
    name = names[int(pick * len(names))]
    return Speaker(voice(name), split, cache, pool.get(name, ()))


def _random_expression(rng: np.random.Generator, frames: int) -> Curve:
    name = EXPRESSIONS[int(rng.integers(len(EXPRESSIONS)))]
    strength = rng.uniform(0.35, 1.0) if rng.random() < EXPRESSION_SHARE else 0.0
    return expression_track(rng, frames * STEPS_PER_FRAME, name, strength, whole=False)


def _draw_style(rng: np.random.Generator) -> SpeakingStyle:
    return SpeakingStyle(*rng.uniform((0.8, 0.85, 0.6, -1.0), (1.2, 1.15, 1.4, 1.0)).tolist())


def _act(rng: np.random.Generator, plot: _Plot, frames: int, meta: dict[str, object]) -> Performance:
    """Make all curves at 200 Hz and sample the middle of each frame."""
    seconds = frames / FPS
    state = _state_track(plot.turns, frames * STEPS_PER_FRAME)
    spoken = plot.own.spoken()
    scene = Scene(state_weights(state), plot.expression, _events(plot, spoken, seconds))
    behaviour = behave(rng, scene)
    mouth = articulate(spoken, seconds, plot.style)
    units = force_contacts(behaviour.units + mouth.units, mouth.lip_seal, mouth.lip_teeth)
    audio = _recorded(rng, plot.own, frames), _recorded(rng, plot.partner, frames)
    at = slice(FRAME_CENTRE, None, STEPS_PER_FRAME)
    return Performance(
        units=units[at].astype(np.float32),
        head=behaviour.head[at].astype(np.float32),
        gaze=behaviour.gaze[at].astype(np.float32),
        tongue=np.clip(mouth.tongue[at], 0, 1).astype(np.float32),
        state=state[at],
        expression=plot.expression[at].astype(np.float32),
        voice=audio[0],
        partner=audio[1],
        phones=_inside(spoken, seconds),
        meta={**meta, "text": plot.own.text, "partner_text": plot.partner.text, "segments": _segments(plot.turns)},
    )


def _state_track(turns: Sequence[Turn], count: int) -> NDArray[np.int8]:
    track = np.zeros(count, np.int8)
    for turn in turns:
        track[round(turn.start_s * CURVE_HZ) : round(turn.end_s * CURVE_HZ)] = turn.state
    return track


def _events(plot: _Plot, spoken: Sequence[SpokenPhone], seconds: float) -> Events:
    stresses = tuple(
        (item.phone.start_s, item.effort)
        for item in spoken
        if item.phone.symbol in VOWELS and item.effort > 1.08 and -0.3 < item.phone.start_s < seconds + 0.3
    )
    return Events(stresses, _phrase_ends(spoken, seconds), _phrase_ends(plot.partner.spoken(), seconds))


def _phrase_ends(spoken: Sequence[SpokenPhone], seconds: float) -> tuple[float, ...]:
    """Ends of phones that a pause follows, within the clip."""
    starts = [item.phone.start_s for item in spoken[1:]]
    ends = [item.phone.end_s for item in spoken]
    pauses = zip(ends, [*starts, np.inf], strict=False)
    return tuple(end for end, start in pauses if start - end > PHRASE_GAP_S and 0 <= end < seconds)


def _recorded(rng: np.random.Generator, track: VoiceTrack, frames: int) -> Floats:
    """The clip's samples with a random gain, sometimes over a quiet noise floor (at most -46 dBFS)."""
    audio = track.audio(frames * SAMPLES_PER_FRAME)
    gain_db, below_db, noisy = rng.uniform(*GAIN_DBFS), rng.uniform(*NOISE_BELOW_PEAK_DB), rng.random() < NOISY_SHARE
    peak = float(np.abs(audio).max())
    if peak == 0:
        return audio
    audio *= 10 ** (gain_db / 20) / peak
    if noisy:
        audio += noise_floor(rng, len(audio), gain_db - below_db)
    return audio


def _inside(spoken: Sequence[SpokenPhone], seconds: float) -> tuple[Phone, ...]:
    """Phones that sound within the clip, cut at its edges."""
    heard = (item.phone for item in spoken if item.phone.end_s > 0 and item.phone.start_s < seconds)
    return tuple(Phone(p.symbol, max(p.start_s, 0.0), min(p.end_s, seconds)) for p in heard)


def _segments(turns: Sequence[Turn]) -> list[list[object]]:
    return [[turn.state.name.lower(), round(turn.start_s, 3), round(turn.end_s, 3)] for turn in turns]
