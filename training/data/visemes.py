"""Phones to face units with coarticulation.

Method: dominance functions, after Cohen and Massaro, "Modeling coarticulation in synthetic visual speech" (1993).
Each phone pulls every unit towards its target with a weight that decays with the distance in time from the phone;
a unit's value is the weighted mean. Phones with little to say about a unit (k, h about the lips) have a small weight
there and take their neighbours' shape. Unlike the original, closures (p b m, f v) are forced afterwards, because a
weighted mean never quite closes a 25 ms stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.truth import UNIT, Phone

Curve = NDArray[np.float64]

CURVE_HZ = 200
"""Rate of all movement curves before they are sampled at the frame rate."""

JAW_OPEN_LIMIT = 0.6
"""Above it the drawn heads show gum through the chin."""
JAW_KNEE = 0.45
"""From here on the jaw bends smoothly towards its limit."""

SHAPES: tuple[str, ...] = (
    "jawOpen", "mouthFunnel", "mouthPucker", "mouthStretch", "mouthSmile", "mouthLowerDown", "mouthUpperUp",
    "mouthPress", "mouthRollLower", "mouthRollUpper", "mouthShrugUpper", "jawForward", "mouthDimple", "tongue",
)  # fmt: skip
"""Controls of one speaking mouth; those with a left and a right unit move both."""
SHAPE: dict[str, int] = {name: i for i, name in enumerate(SHAPES)}


@dataclass(frozen=True, slots=True)
class Viseme:
    """Target and dominance of one kind of phone.

    target: shape values. lips, jaw, tongue: dominance over the lip shapes, the jaw and the tongue, in [0, 1].
    before_s, after_s: time constants of the weight before and after the phone's core.
    """

    target: dict[str, float]
    lips: float = 0.6
    jaw: float = 0.8
    tongue: float = 0.6
    before_s: float = 0.055
    after_s: float = 0.055


@dataclass(frozen=True, slots=True)
class SpeakingStyle:
    """How one person articulates. Factors around 1; asymmetry in [-1, 1] moves strength to the left side."""

    jaw: float = 1.0
    lips: float = 1.0
    teeth: float = 1.0
    asymmetry: float = 0.0


@dataclass(frozen=True, slots=True)
class SpokenPhone:
    """A phone of a clip with how strongly it is said: effort about 1, higher on stress and loud words."""

    phone: Phone
    effort: float = 1.0


@dataclass(frozen=True, slots=True)
class Articulation:
    """Curves at 200 Hz: units [N, 52] without closures, tongue [N], lip_seal and lip_teeth in [0, 1], [N]."""

    units: Curve
    tongue: Curve
    lip_seal: Curve
    lip_teeth: Curve


REST = Viseme({}, lips=0.7, jaw=0.8, tongue=0.4, before_s=0.08, after_s=0.06)


def _vowel(**target: float) -> Viseme:
    return Viseme(target, lips=0.7, jaw=1.0, tongue=0.3, before_s=0.06, after_s=0.06)


def _rounded(**target: float) -> Viseme:
    # Rounding starts well before its vowel (Cohen and Massaro give it a slower attack).
    return Viseme(target, lips=1.0, jaw=1.0, tongue=0.3, before_s=0.09, after_s=0.065)


_OPEN = _vowel(jawOpen=0.46, mouthLowerDown=0.26, mouthUpperUp=0.14)
_FRONT_OPEN = _vowel(jawOpen=0.42, mouthLowerDown=0.3, mouthUpperUp=0.18, mouthStretch=0.2, mouthSmile=0.06)
_MID = _vowel(jawOpen=0.28, mouthLowerDown=0.22, mouthUpperUp=0.1, mouthStretch=0.1)
_SCHWA = Viseme({"jawOpen": 0.2, "mouthLowerDown": 0.16, "mouthUpperUp": 0.06}, lips=0.35, jaw=0.5, tongue=0.2)
_NEAR_FRONT = _vowel(jawOpen=0.18, mouthLowerDown=0.22, mouthUpperUp=0.08, mouthStretch=0.22, mouthSmile=0.1)
_FRONT = _vowel(jawOpen=0.13, mouthLowerDown=0.24, mouthUpperUp=0.1, mouthStretch=0.34, mouthSmile=0.2)
_ROUND_OPEN = _rounded(jawOpen=0.32, mouthFunnel=0.42, mouthPucker=0.16, mouthLowerDown=0.12)
_ROUND_MID = _rounded(jawOpen=0.24, mouthFunnel=0.42, mouthPucker=0.36)
_ROUND_NEAR = _rounded(jawOpen=0.16, mouthFunnel=0.34, mouthPucker=0.46)
_ROUND_CLOSE = _rounded(jawOpen=0.11, mouthFunnel=0.3, mouthPucker=0.7)
_GLIDE_W = Viseme({"jawOpen": 0.08, "mouthFunnel": 0.26, "mouthPucker": 0.75}, 1.0, 0.9, 0.3, 0.07, 0.055)
_BILABIAL = Viseme({"jawOpen": 0.02}, lips=0.5, jaw=0.8, tongue=0.1, before_s=0.035, after_s=0.035)
_LABIODENTAL = Viseme(
    {"jawOpen": 0.06, "mouthUpperUp": 0.2, "mouthRollLower": 0.3}, 0.9, 0.9, 0.1, before_s=0.04, after_s=0.04
)
_DENTAL = Viseme({"jawOpen": 0.13, "mouthLowerDown": 0.26, "mouthUpperUp": 0.1, "tongue": 1.0}, 0.45, 0.8, 1.0)
_ALVEOLAR = Viseme({"jawOpen": 0.11, "mouthLowerDown": 0.22, "mouthUpperUp": 0.08, "tongue": 1.0}, 0.25, 0.7, 1.0)
_LATERAL = Viseme({"jawOpen": 0.17, "mouthLowerDown": 0.22, "mouthUpperUp": 0.08, "tongue": 1.0}, 0.3, 0.7, 1.0)
_SIBILANT = Viseme(
    {"jawOpen": 0.06, "mouthLowerDown": 0.3, "mouthUpperUp": 0.14, "mouthStretch": 0.18, "tongue": 0.55}, 0.5, 1.0, 0.7
)
_POSTALVEOLAR = Viseme(
    {"jawOpen": 0.08, "mouthFunnel": 0.55, "mouthPucker": 0.2, "mouthLowerDown": 0.14, "tongue": 0.4}, 0.9, 1.0, 0.6
)
_RHOTIC = Viseme({"jawOpen": 0.13, "mouthFunnel": 0.4, "mouthPucker": 0.3, "tongue": 0.25}, 0.7, 0.6, 0.4)
_VELAR = Viseme({"jawOpen": 0.16, "mouthLowerDown": 0.12}, lips=0.12, jaw=0.5, tongue=0.4)
_BREATH = Viseme({"jawOpen": 0.2, "mouthLowerDown": 0.1}, lips=0.08, jaw=0.25, tongue=0.1)
_PALATAL = Viseme({"jawOpen": 0.12, "mouthStretch": 0.25, "mouthSmile": 0.12, "mouthLowerDown": 0.16}, 0.4, 0.7, 0.3)

_KINDS: tuple[tuple[str, Viseme], ...] = (
    ("ɑ a ɐ ɒ", _OPEN), ("æ", _FRONT_OPEN), ("ɛ e ɜ ʌ", _MID), ("ə ɚ ɨ", _SCHWA), ("ɪ", _NEAR_FRONT), ("i", _FRONT),
    ("ɔ", _ROUND_OPEN), ("o", _ROUND_MID), ("ʊ", _ROUND_NEAR), ("u", _ROUND_CLOSE), ("w", _GLIDE_W),
    ("p b m", _BILABIAL), ("f v", _LABIODENTAL), ("θ ð", _DENTAL), ("t d n ɾ ʔ", _ALVEOLAR), ("l", _LATERAL),
    ("s z", _SIBILANT), ("ʃ ʒ tʃ dʒ", _POSTALVEOLAR), ("ɹ r", _RHOTIC), ("k ɡ ŋ x", _VELAR), ("h", _BREATH),
    ("j ç ʝ ʎ", _PALATAL), ("ɲ", _ALVEOLAR), ("β ɸ", _BILABIAL), ("ʁ χ ɣ", _VELAR), ("y", _ROUND_CLOSE),
    ("ø", _ROUND_NEAR), ("œ", _ROUND_OPEN),
)  # fmt: skip
VISEMES: dict[str, Viseme] = {symbol: viseme for symbols, viseme in _KINDS for symbol in symbols.split()}
DIPHTHONGS: dict[str, tuple[str, str]] = {
    "eɪ": ("ɛ", "ɪ"), "aɪ": ("a", "ɪ"), "oʊ": ("o", "ʊ"), "aʊ": ("a", "ʊ"), "ɔɪ": ("ɔ", "ɪ"), "əʊ": ("ɜ", "ʊ"),
}  # fmt: skip
DIPHTHONG_TURN = 0.6
"""Share of a diphthong's time that belongs to its first vowel."""

BILABIALS = frozenset("pbm")
LABIODENTALS = frozenset("fv")
VOWELS = frozenset((*"ɑaɐɒæɛeɜʌəɚɨɪiɔoʊuyøœ", *DIPHTHONGS))

PAUSE_S = 0.08
"""A longer gap between phones lets the mouth go to rest."""
CLOSED_BEFORE_S = 0.15
"""Lips at rest stay together until an /m/ that starts a phrase; they do not open for its vowel first."""
SEAL_RAMP_S = 0.035
SHORTEST_SEAL_S = 0.05
"""Longer than one video frame, so that no closure falls between two pictures."""


def articulate(spoken: Sequence[SpokenPhone], seconds: float, style: SpeakingStyle) -> Articulation:
    """Mouth movement at 200 Hz for the phones of a clip; pauses go towards rest."""
    count = round(seconds * CURVE_HZ)
    time_s = (np.arange(count) + 0.5) / CURVE_HZ
    shapes = _blend(_pieces(spoken, seconds), time_s)
    shapes = _smooth(shapes, 0.03)
    shapes[:, SHAPE["jawOpen"]] *= style.jaw
    shapes[:, 1 : SHAPE["jawForward"]] *= style.lips
    shapes[:, SHAPE["mouthLowerDown"]] *= style.teeth
    shapes[:, SHAPE["mouthUpperUp"]] *= style.teeth
    seal = _contact(spoken, BILABIALS, time_s)
    teeth = _contact(spoken, LABIODENTALS, time_s)
    return Articulation(_to_units(shapes, style), shapes[:, SHAPE["tongue"]], seal, teeth)


def force_contacts(units: Curve, seal: Curve, teeth: Curve) -> Curve:
    """Close the lips where `seal` is 1 and put the lower lip under the teeth where `teeth` is 1; [N, 52] at any rate.

    Applied last, on top of expressions: a smile may show on an /m/, an opening may not.
    """
    out = units.copy()
    _towards(out, seal, {"jawOpen": 0.02, "mouthFunnel": 0.1, "mouthShrugUpper": 0.0})
    _towards(out, seal, {"mouthLowerDownLeft": 0.0, "mouthLowerDownRight": 0.0})
    _towards(out, seal, {"mouthUpperUpLeft": 0.0, "mouthUpperUpRight": 0.0})
    _at_least(out, seal, {"mouthPressLeft": 0.4, "mouthPressRight": 0.4})
    _at_least(out, seal, {"mouthRollLower": 0.28, "mouthRollUpper": 0.24})
    loose = teeth * (1 - seal)
    _towards(out, loose, {"jawOpen": 0.06, "mouthFunnel": 0.06, "mouthPucker": 0.1})
    _towards(out, loose, {"mouthLowerDownLeft": 0.0, "mouthLowerDownRight": 0.0})
    _at_least(out, loose, {"mouthRollLower": 0.6, "mouthUpperUpLeft": 0.26, "mouthUpperUpRight": 0.26})
    jaw = UNIT["jawOpen"]
    over = np.maximum(out[:, jaw] - JAW_KNEE, 0)
    span = JAW_OPEN_LIMIT - JAW_KNEE
    out[:, jaw] = np.minimum(out[:, jaw], JAW_KNEE) + span * np.tanh(over / span)
    return np.clip(out, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class _Piece:
    viseme: Viseme
    start_s: float
    end_s: float
    effort: float


def _pieces(spoken: Sequence[SpokenPhone], seconds: float) -> list[_Piece]:
    """Phones with diphthongs in two and the pauses between them as rest."""
    pieces: list[_Piece] = []
    last_s = -0.5
    for item in spoken:
        start, end = item.phone.start_s, item.phone.end_s
        if start - last_s > PAUSE_S:
            pieces.append(_Piece(REST, last_s, start, 1.0))
        pieces.extend(_phone_pieces(item, start, end))
        last_s = end
    pieces.append(_Piece(REST, last_s, max(seconds, last_s) + 0.5, 1.0))
    return pieces


def _phone_pieces(item: SpokenPhone, start: float, end: float) -> list[_Piece]:
    symbol = item.phone.symbol
    if symbol in DIPHTHONGS:
        turn = start + DIPHTHONG_TURN * (end - start)
        first, second = DIPHTHONGS[symbol]
        return [_Piece(VISEMES[first], start, turn, item.effort), _Piece(VISEMES[second], turn, end, item.effort)]
    return [_Piece(VISEMES.get(symbol, _SCHWA), start, end, item.effort)]


def _blend(pieces: Sequence[_Piece], time_s: Curve) -> Curve:
    """The dominance-weighted mean of all targets, [N, shapes]."""
    start = np.array([p.start_s for p in pieces])
    end = np.array([p.end_s for p in pieces])
    # A phone holds its weight over its middle; a long pause holds rest until shortly before the next sound.
    core = np.minimum(0.3 * (end - start), 0.04)
    late = time_s[:, None] - (end - core)
    early = (start + core) - time_s[:, None]
    before = np.array([p.viseme.before_s for p in pieces])
    after = np.array([p.viseme.after_s for p in pieces])
    distance = np.maximum(early, 0) / before + np.maximum(late, 0) / after
    weight = np.exp(-(distance**1.3))
    target = np.array([[p.effort * p.viseme.target.get(s, 0.0) for s in SHAPES] for p in pieces])
    strength = np.array([_strengths(p.viseme) for p in pieces])
    blended: Curve = (weight @ (strength * target)) / (weight @ strength + 1e-6)
    return blended


def _strengths(viseme: Viseme) -> list[float]:
    kind = {"jawOpen": viseme.jaw, "jawForward": viseme.jaw, "tongue": viseme.tongue}
    return [kind.get(shape, viseme.lips) for shape in SHAPES]


def _smooth(curves: Curve, width_s: float) -> Curve:
    kernel = np.hanning(int(width_s * CURVE_HZ) + 2)[1:-1]
    kernel /= kernel.sum()
    pad = len(kernel) // 2
    padded = np.pad(curves, ((pad, len(kernel) - 1 - pad), (0, 0)), mode="edge")
    out = np.zeros_like(curves)
    for i, share in enumerate(kernel):
        out += share * padded[i : i + len(curves)]
    return out


def _contact(spoken: Sequence[SpokenPhone], symbols: frozenset[str], time_s: Curve) -> Curve:
    """1 inside the given phones (at least SHORTEST_SEAL_S long), cosine ramps around them."""
    gate = np.zeros(len(time_s))
    last_s = -np.inf
    for item in spoken:
        start, end = item.phone.start_s, item.phone.end_s
        after_pause, last_s = start - last_s > PAUSE_S, end
        if item.phone.symbol not in symbols:
            continue
        start -= CLOSED_BEFORE_S if after_pause else 0.0
        middle, half = (start + end) / 2, max(end - start, SHORTEST_SEAL_S) / 2
        outside = np.maximum(np.abs(time_s - middle) - half, 0) / SEAL_RAMP_S
        gate = np.maximum(gate, 0.5 + 0.5 * np.cos(np.pi * np.minimum(outside, 1)))
    return gate


def _to_units(shapes: Curve, style: SpeakingStyle) -> Curve:
    units = np.zeros((len(shapes), len(UNIT)))
    for name, column in SHAPE.items():
        if name in UNIT:
            units[:, UNIT[name]] = shapes[:, column]
        elif name != "tongue":
            units[:, UNIT[name + "Left"]] = shapes[:, column] * (1 + 0.15 * style.asymmetry)
            units[:, UNIT[name + "Right"]] = shapes[:, column] * (1 - 0.15 * style.asymmetry)
    return units


def _towards(units: Curve, gate: Curve, goal: dict[str, float]) -> None:
    for name, value in goal.items():
        column = units[:, UNIT[name]]
        column += gate * (np.minimum(column, value) - column)


def _at_least(units: Curve, gate: Curve, goal: dict[str, float]) -> None:
    for name, value in goal.items():
        column = units[:, UNIT[name]]
        column += gate * (np.maximum(column, value) - column)
