"""How an expression sounds, and how it changes the way a mouth speaks.

Directions follow P. N. Juslin and P. Laukka, "Communication of emotions in vocal expression and music performance:
different channels, same code?", Psychological Bulletin 129 (2003), table 7: anger is fast, loud, high and bright; fear
fast, high and flat; happiness fast, high, wide in pitch; sadness slow, soft, low, narrow and dull; tenderness like a
mild sadness. Sizes are this project's choice. They grow with the strength of the expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.types import EXPRESSIONS
from training.data.truth import UNIT

Curve = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one utterance is said, relative to the voice's usual way.

    rate: factor on the tempo. pitch_st: semitones. pitch_range: factor on the excursions of the pitch. level_db: of the
    sound. tilt_db: per octave above 500 Hz. breath_db: more noise in the voice (hibari only). effort: factor on how far
    the mouth moves.
    """

    rate: float = 1.0
    pitch_st: float = 0.0
    pitch_range: float = 1.0
    level_db: float = 0.0
    tilt_db: float = 0.0
    breath_db: float = 0.0
    effort: float = 1.0

    @property
    def stretch(self) -> float:
        """Factor on tempo, pitch and formants at once, for recordings whose parts cannot be changed one by one: the
        middle of what tempo and pitch ask for."""
        return float(np.clip(np.sqrt(self.rate * 2 ** (self.pitch_st / 12)), 0.88, 1.14))


NEUTRAL = Delivery()

DELIVERIES: dict[str, Delivery] = {
    "happy": Delivery(1.08, 2.0, 1.4, 2.0, 0.6, 0.0, 1.06),
    "sad": Delivery(0.82, -1.8, 0.55, -6.0, -1.5, 4.0, 0.8),
    "angry": Delivery(1.10, 1.5, 1.35, 6.0, 1.6, -2.0, 1.2),
    "surprised": Delivery(1.04, 3.5, 1.7, 3.0, 0.6, 0.0, 1.12),
    "afraid": Delivery(1.16, 3.0, 0.75, -1.0, 0.0, 4.0, 0.92),
    "disgusted": Delivery(0.90, -1.0, 0.85, 0.0, 0.5, 0.0, 1.0),
    "thinking": Delivery(0.82, -0.6, 0.7, -3.0, -0.7, 1.0, 0.88),
    "sympathetic": Delivery(0.90, -0.6, 0.85, -4.0, -1.0, 3.0, 0.92),
}
"""At full strength."""

SPREAD: dict[str, float] = {"happy": 0.5, "afraid": 0.35, "disgusted": 0.2, "angry": 0.15, "surprised": -0.2,
                            "sad": -0.2, "sympathetic": 0.1}  # fmt: skip
"""How far the speaking mouth is drawn wide (a smile) or kept narrow (negative), at full strength."""
AROUSAL: dict[str, float] = {"happy": 0.35, "angry": 0.5, "surprised": 0.4, "afraid": 0.25, "sad": -0.5,
                             "sympathetic": -0.25, "thinking": -0.25}  # fmt: skip
"""How much more the head and brows move, at full strength."""


def deliver(name: str, strength: float) -> Delivery:
    """The delivery of an expression (engine.types.EXPRESSIONS) at a strength in [0, 1]; factors are interpolated in the
    logarithm, levels linearly."""
    full = DELIVERIES[name]
    return Delivery(
        full.rate**strength,
        full.pitch_st * strength,
        full.pitch_range**strength,
        full.level_db * strength,
        full.tilt_db * strength,
        full.breath_db * strength,
        full.effort**strength,
    )


def along(track: Curve, sizes: dict[str, float]) -> Curve:
    """Sizes per expression times its strength: [N, 8] to [N]."""
    return track @ np.array([sizes.get(name, 0.0) for name in EXPRESSIONS])


def tint_mouth(units: Curve, expression: Curve) -> Curve:
    """The speaking mouth [N, 52] as the expression [N, 8] shapes it: a smile widens vowels and weakens rounding."""
    spread = along(expression, SPREAD)
    out = units.copy()
    for name in ("mouthStretchLeft", "mouthStretchRight", "mouthSmileLeft", "mouthSmileRight"):
        out[:, UNIT[name]] *= 1 + 0.6 * spread
    for name in ("mouthPucker", "mouthFunnel"):
        out[:, UNIT[name]] *= 1 - 0.4 * spread
    return out
