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
from engine.types import EXPRESSIONS, FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, AvatarState
from training.data.behaviour import Events, Scene, behave, blur, expression_track, smoothstep, state_weights
from training.data.casting import Cast, Feeling, cast, draw_feeling
from training.data.speech.emotion import NEUTRAL, deliver, tint_mouth
from training.data.speech.recording import Recording, draw_recording, record
from training.data.speech.synthesis import synthesise
from training.data.stable import stable_rng
from training.data.tracks import VoiceTrack, phrases, say
from training.data.truth import Floats, Performance, Phone
from training.data.turns import Scenario, Turn, arrange
from training.data.visemes import (
    CURVE_HZ,
    VOWELS,
    Curve,
    SpeakingStyle,
    SpokenPhone,
    articulate,
    force_contacts,
)
from training.data.voices import SPLITS, voice

STEPS_PER_FRAME = CURVE_HZ // FPS
FRAME_CENTRE = STEPS_PER_FRAME // 2
"""A picture is shown for one frame, together with that frame's sound: it shows the middle of it."""

HEARD_FADE_S = 0.9
"""A listener stays lively for about so long after the last word."""
SPOKEN_PEAK_DBFS = -9.0
FELT_AROUND_S = (0.1, 0.5)
"""How much longer than the voice a feeling shows in the face."""


@dataclass(frozen=True, slots=True)
class _Plot:
    """Everything that is decided before movement is made."""

    scenario: Scenario
    expression: Curve
    style: SpeakingStyle
    own_set_up: Recording
    partner_set_up: Recording


def perform(
    seed: int,
    seconds: float = 4.0,
    split: str = "train",
    cache: Path | None = None,
    kokoro_share: float = 0.25,
    recorded_share: float = 0.25,
) -> Performance:
    """One clip of round(seconds * 25) frames, the same for the same arguments (and contents of the cache).

    split: `train` or `test`; voices and sentences of the two never meet. cache: a folder filled by
    `training.data.voice_cache`; these shares of the voices then come from it, the others are hibari.
    Raises ArgumentError for an unknown split or a length below one second.
    """
    if split not in SPLITS:
        raise ArgumentError(f"unknown split {split!r}: use train or test")
    if seconds < 1:
        raise ArgumentError(f"a performance lasts at least 1 s, not {seconds}")
    rng = stable_rng("performance", split, seed)
    frames = round(seconds * FPS)
    feeling = draw_feeling(rng)
    actors = cast(rng, split, cache, (kokoro_share, recorded_share), feeling)
    scenario = arrange(rng, frames / FPS, actors.own, actors.partner)
    expression = _felt(rng, feeling, scenario, frames * STEPS_PER_FRAME)
    plot = _Plot(scenario, expression, _draw_style(rng), draw_recording(rng), draw_recording(rng))
    return _act(rng, plot, frames, _about(actors, seed, split, plot))


def speak(
    text: str | Sequence[str],
    voice_name: str,
    seed: int = 0,
    expression: str | None = None,
    strength: float = 0.6,
    cache: Path | None = None,
) -> Performance:
    """Say the given sentences with an expression in face and voice, with 0.3 s before and 0.4 s after; clean sound, the
    whole clip in the speaking state.

    Raises ArgumentError for an unknown voice or expression, or if there is nothing to pronounce.
    """
    if expression is not None and expression not in EXPRESSIONS:
        raise UnknownExpressionError(f"unknown expression {expression!r}: use one of {', '.join(EXPRESSIONS)}")
    rng = stable_rng("speak", voice_name, seed)
    speaker = voice(voice_name)
    sentences = [text] if isinstance(text, str) else list(text)
    delivery = deliver(expression, strength) if expression else NEUTRAL
    track = say([synthesise(sentence, speaker, cache, delivery) for sentence in sentences], pause_s=0.3)
    frames = int(np.ceil((track.placed[-1].end_s + 0.4) * FPS))
    count = frames * STEPS_PER_FRAME
    curve = expression_track(rng, count, expression or EXPRESSIONS[0], strength if expression else 0.0, whole=True)
    scenario = Scenario((Turn(AvatarState.SPEAKING, 0.0, frames / FPS),), track, VoiceTrack())
    clean = Recording(SPOKEN_PEAK_DBFS)
    meta = {"voice": voice_name, "partner_voice": "", "seed": seed, "split": speaker.split}
    return _act(rng, _Plot(scenario, curve, _draw_style(rng), clean, clean), frames, meta)


def _felt(rng: np.random.Generator, feeling: Feeling, scenario: Scenario, count: int) -> Curve:
    """The expression's strengths [count, 8]: around what is said with feeling, else anywhere in the clip."""
    said = [p for p in scenario.own.placed if p.utterance.delivery != NEUTRAL]
    if not feeling.heard or not said:
        return expression_track(rng, count, feeling.name, feeling.strength, whole=False)
    time_s = np.arange(count) / CURVE_HZ
    start, end = said[0].start_s - rng.uniform(*FELT_AROUND_S), said[-1].end_s + rng.uniform(*FELT_AROUND_S)
    fade = smoothstep((time_s - start) / rng.uniform(0.2, 0.5) + 0.5) * smoothstep((end - time_s) / 0.4 + 0.5)
    track = np.zeros((count, len(EXPRESSIONS)))
    track[:, EXPRESSIONS.index(feeling.name)] = feeling.strength * fade
    return track


def _draw_style(rng: np.random.Generator) -> SpeakingStyle:
    return SpeakingStyle(*rng.uniform((0.8, 0.85, 0.6, -1.0), (1.2, 1.15, 1.4, 1.0)).tolist())


def _about(actors: Cast, seed: int, split: str, plot: _Plot) -> dict[str, object]:
    return {
        "voice": actors.own.voice.name,
        "partner_voice": actors.partner.voice.name,
        "seed": seed,
        "split": split,
        "sound": plot.own_set_up.about,
        "partner_sound": plot.partner_set_up.about,
        "murmurs": _rounded(plot.scenario.murmurs),
        "heard": _rounded(plot.scenario.partner.phrases),
    }


def _act(rng: np.random.Generator, plot: _Plot, frames: int, meta: dict[str, object]) -> Performance:
    """Make all curves at 200 Hz and sample the middle of each frame."""
    seconds, count = frames / FPS, frames * STEPS_PER_FRAME
    scenario = plot.scenario
    state = _state_track(scenario.turns, count)
    spoken = scenario.own.spoken()
    scene = _scene(plot, state, spoken, seconds)
    behaviour = behave(rng, scene)
    mouth = articulate(spoken, seconds, plot.style)
    units = force_contacts(behaviour.units + tint_mouth(mouth.units, plot.expression), mouth.lip_seal, mouth.lip_teeth)
    dry = [track.audio(frames * SAMPLES_PER_FRAME) for track in (scenario.own, scenario.partner)]
    crowd = [sound for sound in dry if sound.any()]
    audio = [record(s, r, rng, crowd) for s, r in zip(dry, (plot.own_set_up, plot.partner_set_up), strict=True)]
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
        meta={
            **meta,
            "text": scenario.own.text,
            "partner_text": scenario.partner.text,
            "segments": _segments(scenario.turns),
        },
    )


def _scene(plot: _Plot, state: NDArray[np.int8], spoken: Sequence[SpokenPhone], seconds: float) -> Scene:
    partner = plot.scenario.partner.spoken()
    events = Events(
        _stresses(spoken, seconds),
        _ends_within(plot.scenario.own, seconds),
        _ends_within(plot.scenario.partner, seconds),
        _stresses(partner, seconds),
        tuple(start for start, _ in plot.scenario.murmurs),
    )
    partner_audio = plot.scenario.partner.audio(round(seconds * SAMPLE_RATE_HZ))
    heard = _heard(partner, len(state))
    return Scene(state_weights(state), plot.expression, events, heard, _melody(partner_audio, heard))


def _heard(partner: Sequence[SpokenPhone], count: int) -> Curve:
    """1 while the other party speaks, rising 0.2 s after its first word and fading after its last: [count]."""
    before_s = 2.0
    mask = np.zeros(count + int(before_s * CURVE_HZ))
    for item in partner:
        first, last = ((t + before_s) * CURVE_HZ for t in (item.phone.start_s, item.phone.end_s + 0.25))
        mask[max(int(first), 0) : max(int(last), 0)] = 1
    rise, fade = 1 / (0.2 * CURVE_HZ), 1 / (HEARD_FADE_S * CURVE_HZ)
    level, heard = 0.0, np.empty(len(mask))
    for i, now in enumerate(mask):
        level = min(level + rise, 1.0) if now else max(level - fade, 0.0)
        heard[i] = level
    return smoothstep(heard[-count:])


def _melody(audio: Floats, heard: Curve) -> Curve:
    """Rise and fall of a voice's loudness over words and phrases, of about unit size, 0 where nobody speaks: [N]."""
    count = len(heard)
    level = np.sqrt(np.mean(audio[: len(audio) // count * count].reshape(count, -1) ** 2, 1))
    words = blur(level, int(0.5 * CURVE_HZ))
    swell = words - blur(words, int(2.0 * CURVE_HZ))
    return heard * np.clip(swell / max(float(np.std(swell)), 1e-4), -2.5, 2.5)


def _state_track(turns: Sequence[Turn], count: int) -> NDArray[np.int8]:
    track = np.zeros(count, np.int8)
    for turn in turns:
        track[round(turn.start_s * CURVE_HZ) : round(turn.end_s * CURVE_HZ)] = turn.state
    return track


def _stresses(spoken: Sequence[SpokenPhone], seconds: float) -> tuple[tuple[float, float], ...]:
    """(time, effort) of the vowels that stand out, in the clip and shortly around it."""
    return tuple(
        (item.phone.start_s, item.effort)
        for item in spoken
        if item.phone.symbol in VOWELS and item.effort > 1.08 and -0.3 < item.phone.start_s < seconds + 0.3
    )


def _ends_within(track: VoiceTrack, seconds: float) -> tuple[float, ...]:
    spoken = phrases([item.phone for item in track.spoken()])
    return tuple(end for _, end in spoken if 0 <= end < seconds)


def _inside(spoken: Sequence[SpokenPhone], seconds: float) -> tuple[Phone, ...]:
    """Phones that sound within the clip, cut at its edges."""
    heard = (item.phone for item in spoken if item.phone.end_s > 0 and item.phone.start_s < seconds)
    return tuple(Phone(p.symbol, max(p.start_s, 0.0), min(p.end_s, seconds)) for p in heard)


def _rounded(spans: Sequence[tuple[float, float]]) -> list[list[float]]:
    return [[round(start, 3), round(end, 3)] for start, end in spans]


def _segments(turns: Sequence[Turn]) -> list[list[object]]:
    return [[turn.state.name.lower(), round(turn.start_s, 3), round(turn.end_s, 3)] for turn in turns]
