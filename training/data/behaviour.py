"""What a person does besides speaking: head, gaze, blinks, brows, breathing, listening signs, expressions.

All curves are at visemes.CURVE_HZ. Angles are degrees with the signs of engine.types.POSE_AXES.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.types import EXPRESSIONS, AvatarState
from training.data.speech.emotion import AROUSAL, along
from training.data.truth import UNIT
from training.data.visemes import CURVE_HZ, Curve

HEAD_LIMIT_DEG = (14.0, 11.0, 9.0)
GAZE_LIMIT_DEG = (15.0, 12.0)
BLINKS_PER_MINUTE = 17.0
DOUBLE_BLINK_SHARE = 0.12
BLINK_CLOSE_S, BLINK_HOLD_S, BLINK_OPEN_S = 0.06, 0.045, 0.15
"""The hold is longer than a video frame, so every blink has a picture with closed eyes."""

EXPRESSION_UNITS: dict[str, dict[str, float]] = {
    "happy": {"mouthSmile": 0.62, "cheekSquint": 0.5, "eyeSquint": 0.2, "mouthDimple": 0.15, "browOuterUp": 0.1},
    "sad": {"browInnerUp": 0.7, "mouthFrown": 0.55, "mouthShrugLower": 0.25, "eyeSquint": 0.12, "browDown": 0.08},
    "angry": {"browDown": 0.8, "eyeSquint": 0.3, "noseSneer": 0.3, "mouthPress": 0.25, "mouthFrown": 0.2,
              "eyeWide": 0.12},
    "surprised": {"browInnerUp": 0.75, "browOuterUp": 0.75, "eyeWide": 0.6, "jawOpen": 0.16},
    "afraid": {"browInnerUp": 0.8, "browOuterUp": 0.3, "browDown": 0.15, "eyeWide": 0.55, "mouthStretch": 0.4,
               "jawOpen": 0.06},
    "disgusted": {"noseSneer": 0.75, "mouthUpperUp": 0.35, "browDown": 0.45, "cheekSquint": 0.3, "mouthFrown": 0.25,
                  "eyeSquint": 0.25},
    "thinking": {"browDownLeft": 0.25, "browOuterUpRight": 0.4, "eyeSquint": 0.2, "mouthPress": 0.2, "mouthLeft": 0.2},
    "sympathetic": {"browInnerUp": 0.55, "mouthSmile": 0.18, "mouthFrown": 0.12, "eyeSquint": 0.1, "mouthPress": 0.12},
}  # fmt: skip
"""Offsets at full strength; a name without a side moves both sides."""

ARTICULATORS = ("jawOpen", "mouthPress", "mouthUpperUp", "mouthStretch", "mouthShrugLower", "mouthLeft")
"""Parts of an expression that give way while the mouth speaks."""


@dataclass(frozen=True, slots=True)
class Events:
    """Moments that movement reacts to, in seconds. stresses: (time, effort) of the own and the other voice; phrase ends
    of both; starts of the own "mhm"s."""

    stresses: tuple[tuple[float, float], ...]
    own_ends_s: tuple[float, ...]
    partner_ends_s: tuple[float, ...]
    partner_stresses: tuple[tuple[float, float], ...] = ()
    murmurs_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """What behaviour may depend on: weight of each state [N, 3] (smooth), expression [N, 8], events, and what is heard
    of the other party: heard [N] in [0, 1] (1 while it speaks, fading afterwards), melody [N], its rise and fall."""

    weights: Curve
    expression: Curve
    events: Events
    heard: Curve
    melody: Curve

    @property
    def listening(self) -> Curve:
        """[N]: how much this person listens to speech, as against waiting for it."""
        return self.weights[:, AvatarState.LISTENING] * self.heard

    @property
    def liveliness(self) -> Curve:
        """[N]: factor on movement by what is felt."""
        return np.clip(1 + along(self.expression, AROUSAL), 0.4, 1.8)

    @property
    def count(self) -> int:
        return len(self.weights)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """units [N, 52] without the speaking mouth, head [N, 3], gaze [N, 2]."""

    units: Curve
    head: Curve
    gaze: Curve


def state_weights(state: NDArray[np.int8], fade_s: float = 0.35) -> Curve:
    """One-hot states [N] at 200 Hz, blurred over a fade: [N, 3]."""
    hot = np.eye(len(AvatarState))[state]
    width = int(fade_s * CURVE_HZ)
    return np.stack([blur(column, width) for column in hot.T], 1)


def expression_track(rng: np.random.Generator, count: int, name: str, strength: float, whole: bool) -> Curve:
    """Strengths [count, 8] of one expression: through the whole clip, or with fades of 200-600 ms in and out."""
    track = np.zeros((count, len(EXPRESSIONS)))
    time_s = np.arange(count) / CURVE_HZ
    length_s = count / CURVE_HZ
    start = -9.0 if whole or rng.random() < 0.4 else rng.uniform(0.1, 0.5) * length_s
    end = length_s + 9.0 if whole or (start > 0 and rng.random() < 0.6) else rng.uniform(0.6, 0.95) * length_s
    rise = smoothstep((time_s - start) / rng.uniform(0.2, 0.6))
    fall = smoothstep((end - time_s) / rng.uniform(0.2, 0.6))
    track[:, EXPRESSIONS.index(name)] = strength * rise * fall
    return track


def behave(rng: np.random.Generator, scene: Scene) -> Behaviour:
    """Everything but the speaking mouth, for one clip."""
    looks = _gaze_targets(rng, scene)
    head = _head(rng, scene, looks)
    gaze = _gaze(rng, looks, head)
    units = expression_units(scene)
    units += _brows(rng, scene)
    units += _listening_signs(rng, scene)
    blink = _blinks(rng, scene, looks)
    for side in ("Left", "Right"):
        units[:, UNIT["eyeBlink" + side]] = np.maximum(units[:, UNIT["eyeBlink" + side]], blink)
        units[:, UNIT["eyeWide" + side]] *= 1 - blink
    return Behaviour(units, head, gaze)


def expression_units(scene: Scene) -> Curve:
    """Unit offsets [N, 52]; the articulators' part halves while speaking, so that the words stay readable."""
    units = scene.expression @ _EXPRESSION_MATRIX
    quiet = 1 - 0.5 * scene.weights[:, AvatarState.SPEAKING]
    for name in ARTICULATORS:
        for column in unit_columns(name):
            units[:, column] *= quiet
    return units


def unit_columns(name: str) -> tuple[int, ...]:
    """The columns of a unit, or of both its sides."""
    return (UNIT[name],) if name in UNIT else (UNIT[name + "Left"], UNIT[name + "Right"])


def _expression_matrix() -> Curve:
    matrix = np.zeros((len(EXPRESSIONS), len(UNIT)))
    for row, name in enumerate(EXPRESSIONS):
        for unit, value in EXPRESSION_UNITS[name].items():
            matrix[row, list(unit_columns(unit))] += value
    return matrix


_EXPRESSION_MATRIX = _expression_matrix()


def smoothstep(x: Curve) -> Curve:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def blur(curve: Curve, width: int) -> Curve:
    """A curve [N] smoothed by a Hann window of `width` samples, edges held."""
    kernel = np.hanning(max(width, 1) + 2)[1:-1]
    padded = np.pad(curve, (len(kernel) // 2, len(kernel) - 1 - len(kernel) // 2), mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), "valid")


def bump(time_s: Curve, centre_s: float, width_s: float) -> Curve:
    """A raised cosine of height 1 and full width `width_s`."""
    phase = np.clip((time_s - centre_s) / width_s, -0.5, 0.5)
    return 0.5 + 0.5 * np.cos(2 * np.pi * phase)


def wander(rng: np.random.Generator, count: int, low_hz: float = 0.06, high_hz: float = 1.6) -> Curve:
    """1/f noise [count] of unit standard deviation, band-limited so that it is smooth."""
    size = count + int(CURVE_HZ / low_hz)
    frequency = np.fft.rfftfreq(size, 1 / CURVE_HZ)
    gain = np.where((frequency >= low_hz) & (frequency <= high_hz), 1 / np.maximum(frequency, low_hz), 0.0)
    noise = np.fft.irfft(gain * (rng.standard_normal(len(gain)) + 1j * rng.standard_normal(len(gain))), size)
    steady: Curve = (noise / noise.std())[:count]
    return steady


def _within(angles: Curve, limit_deg: tuple[float, ...]) -> Curve:
    """Angles [N, K] bent smoothly so that they stay inside the limits."""
    limit = np.array(limit_deg)
    bent: Curve = limit * np.tanh(angles / limit)
    return bent


def _times(scene: Scene) -> Curve:
    return np.arange(scene.count) / CURVE_HZ


SWAY_DEG = np.array([[2.6, 1.7, 1.3], [0.6, 0.45, 0.4], [1.5, 1.0, 0.9]])
"""Standard deviation of yaw, pitch, roll when speaking, waiting to be spoken to, idle."""
SWAY_HEARING_DEG = np.array([1.4, 1.1, 1.2])
"""What speech adds for a listener."""


def _head(rng: np.random.Generator, scene: Scene, looks: Curve) -> Curve:
    size = scene.weights @ SWAY_DEG + scene.listening[:, None] * SWAY_HEARING_DEG
    sway = np.stack([wander(rng, scene.count) for _ in range(3)], 1) * size * rng.uniform(0.6, 1.5)
    rest = rng.normal(0, (2.0, 1.3, 1.0))
    if rng.random() < 0.08:
        rest[0] += rng.choice([-1, 1]) * rng.uniform(4, 8)
    head = rest + sway * scene.liveliness[:, None]
    head[:, :2] += np.stack([blur(looks[:, i], 70) for i in range(2)], 1) * (0.3, 0.22)
    head[:, 1] += _speech_nods(rng, scene) + _listening_nods(rng, scene) + _breathing(rng, scene)
    head += _echo(rng, scene)
    kind = np.tanh(scene.expression[:, EXPRESSIONS.index("sympathetic")])
    head[:, 2] += kind * rng.choice([-1, 1]) * rng.uniform(2, 5)
    head[:, 1] += scene.expression[:, EXPRESSIONS.index("sad")] * 3.0
    return _within(head, HEAD_LIMIT_DEG)


def _speech_nods(rng: np.random.Generator, scene: Scene) -> Curve:
    """Small dips of the chin on stressed vowels (pitch > 0 looks down)."""
    time_s, nods = _times(scene), np.zeros(scene.count)
    liveliness = rng.uniform(0.4, 1.4)
    for at, effort in scene.events.stresses:
        if rng.random() < 0.45:
            nods += liveliness * effort * rng.uniform(0.7, 2.6) * bump(time_s, at + 0.04, rng.uniform(0.26, 0.5))
    return nods * scene.liveliness


def _listening_nods(rng: np.random.Generator, scene: Scene) -> Curve:
    """One to three nods after the other's phrases end and with an own "mhm", small ones at its stressed words."""
    time_s, nods = _times(scene), np.zeros(scene.count)
    starts = [end + rng.uniform(0.0, 0.25) for end in scene.events.partner_ends_s if rng.random() < 0.65]
    starts += [at - 0.05 for at in scene.events.murmurs_s]
    for start in starts:
        height, period = rng.uniform(1.5, 4.2), rng.uniform(0.4, 0.65)
        for i in range(int(rng.integers(1, 4))):
            nods += height * 0.7**i * bump(time_s, start + (i + 0.5) * period, period * 1.15)
    for at, effort in scene.events.partner_stresses:
        if rng.random() < 0.14:
            nods += effort * rng.uniform(0.8, 2.2) * bump(time_s, at + 0.28, rng.uniform(0.32, 0.55))
    return nods * scene.weights[:, AvatarState.LISTENING]


def _echo(rng: np.random.Generator, scene: Scene) -> Curve:
    """The head follows the rise and fall of the other's voice, a quarter of a second late: [N, 3]."""
    late = np.roll(scene.melody, int(ECHO_LAG_S * CURVE_HZ))
    late[: int(ECHO_LAG_S * CURVE_HZ)] = scene.melody[0]
    share = rng.normal(0, (0.5, 0.8, 0.6))
    return (late * scene.weights[:, AvatarState.LISTENING])[:, None] * share


ECHO_LAG_S = 0.25


def _breathing(rng: np.random.Generator, scene: Scene) -> Curve:
    calm = 1 - 0.7 * scene.weights[:, AvatarState.SPEAKING]
    wave = np.sin(2 * np.pi * (rng.uniform(0.2, 0.32) * _times(scene) + rng.random()))
    return calm * rng.uniform(0.25, 0.6) * wave


def _gaze_targets(rng: np.random.Generator, scene: Scene) -> Curve:
    """Where the eyes want to look, in degrees from the viewer: steps [N, 2]."""
    targets = np.zeros((scene.count, 2))
    aside = scene.weights @ np.array([0.2, 0.16, 0.42]) - 0.12 * scene.listening
    thinking = scene.expression[:, EXPRESSIONS.index("thinking")]
    aside = np.clip(aside + 0.6 * thinking, 0, 0.85)
    index = 0
    while index < scene.count:
        away = rng.random() < aside[index]
        hold_s = rng.uniform(0.35, 1.2) if away else 0.5 + rng.exponential(1.3)
        stop = index + int(hold_s * CURVE_HZ)
        targets[index:stop] = _glance(rng, bool(thinking[index] > 0.3)) if away else rng.normal(0, (0.9, 0.6))
        index = stop
    return targets


def _glance(rng: np.random.Generator, thinking: bool) -> Curve:
    sideways = rng.choice([-1, 1]) * rng.uniform(4, 14)
    if thinking:
        return np.array([sideways, -rng.uniform(3, 10)])
    return np.array([sideways, rng.normal(1.0, 3.5)])


def _gaze(rng: np.random.Generator, looks: Curve, head: Curve) -> Curve:
    """Eyes relative to the head: the vestibulo-ocular reflex takes the head's turn back out."""
    turn = blur(looks[:, 0], 8), blur(looks[:, 1], 8)
    drift = np.stack([wander(rng, len(looks), 0.3, 4.0) for _ in range(2)], 1) * 0.25
    gaze = np.stack(turn, 1) - 0.9 * head[:, :2] + drift
    return _within(gaze, GAZE_LIMIT_DEG)


def blink_times(rng: np.random.Generator, scene: Scene, looks: Curve) -> list[float]:
    """Onsets in seconds: a Poisson process, more at phrase ends and large shifts of gaze."""
    length_s = scene.count / CURVE_HZ
    # Blinks that come with phrase ends and glances make up the rest.
    times = list(rng.uniform(0, length_s, rng.poisson(0.88 * BLINKS_PER_MINUTE / 60 * length_s)))
    jumps = np.flatnonzero(np.abs(np.diff(looks[:, 0])) > 7) / CURVE_HZ
    moments = [*jumps, *scene.events.own_ends_s, *scene.events.partner_ends_s]
    times += [float(m) for m in moments if rng.random() < 0.1]
    times += [t + 0.34 for t in times if rng.random() < DOUBLE_BLINK_SHARE]
    kept: list[float] = []
    for at in sorted(times):
        if not kept or at - kept[-1] >= 0.32:
            kept.append(at)
    return kept


def _blinks(rng: np.random.Generator, scene: Scene, looks: Curve) -> Curve:
    time_s, lids = _times(scene), np.zeros(scene.count)
    for at in blink_times(rng, scene, looks):
        opening = at + BLINK_CLOSE_S + BLINK_HOLD_S
        shape = smoothstep((time_s - at) / BLINK_CLOSE_S) * smoothstep(1 - (time_s - opening) / BLINK_OPEN_S)
        lids = np.maximum(lids, shape)
    # Upper lids are never quite still and never all the way up.
    return np.maximum(lids, 0.04 + 0.02 * wander(rng, scene.count, 0.1, 2.0).clip(-1.5, 2))


def _brows(rng: np.random.Generator, scene: Scene) -> Curve:
    """Accents on some stressed vowels, and slow drift."""
    time_s, raise_ = _times(scene), np.zeros(scene.count)
    liveliness = rng.uniform(0.2, 1.2)
    for at, effort in scene.events.stresses:
        if rng.random() < 0.22:
            raise_ += liveliness * effort * rng.uniform(0.12, 0.4) * bump(time_s, at, rng.uniform(0.3, 0.7))
    raise_ *= scene.liveliness
    # Who waits for words keeps a still brow.
    still = 1 - 0.6 * np.clip(scene.weights[:, AvatarState.LISTENING] - scene.listening, 0, 1)
    drift = 0.04 * still * (wander(rng, scene.count, 0.06, 0.8) + 1).clip(0, 3)
    return _brow_units(np.minimum(raise_, 0.6) + drift)


def _brow_units(raise_: Curve) -> Curve:
    units = np.zeros((len(raise_), len(UNIT)))
    units[:, UNIT["browInnerUp"]] = raise_
    for column in unit_columns("browOuterUp"):
        units[:, column] = 0.7 * raise_
    return units


def _listening_signs(rng: np.random.Generator, scene: Scene) -> Curve:
    """Smiles and raised brows at the other's phrase ends and stressed words; the lips stay together."""
    time_s = _times(scene)
    smile, brows = np.zeros(scene.count), np.zeros(scene.count)
    for at, effort in scene.events.partner_stresses:
        if rng.random() < 0.12:
            height = effort * rng.uniform(0.12, 0.4)
            brows = np.maximum(brows, height * bump(time_s, at + 0.25, rng.uniform(0.4, 0.8)))
    for end in scene.events.partner_ends_s:
        if rng.random() < 0.45:
            smile = np.maximum(smile, rng.uniform(0.15, 0.5) * _plateau(time_s, end + 0.1, rng.uniform(0.9, 2.0)))
        if rng.random() < 0.3:
            brows = np.maximum(brows, rng.uniform(0.2, 0.5) * bump(time_s, end + 0.3, rng.uniform(0.5, 0.9)))
    units = _brow_units(brows)
    for column, share in _SMILE:
        units[:, column] += share * smile
    return units * scene.weights[:, [AvatarState.LISTENING]]


_SMILE: Sequence[tuple[int, float]] = tuple(
    (column, share) for name, share in (("mouthSmile", 1.0), ("cheekSquint", 0.6)) for column in unit_columns(name)
)


def _plateau(time_s: Curve, start_s: float, length_s: float) -> Curve:
    shape: Curve = smoothstep((time_s - start_s) / 0.35) * smoothstep((start_s + length_s - time_s) / 0.5)
    return shape
