"""Does rounding grow? A quantised bundle beside the float one over many blocks, from the same noise, voice and wishes.

Two answers, since a roll-out feeds on itself:

- **forced**: each block starts from the float run's context, so the figure is the rounding of that block alone;
- **free**: each run lives on its own context, as in use. Small differences may then grow by themselves, so a third run
  goes along, in float, whose noise is disturbed by a thousandth: what becomes of that is the floor of the measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.audio.features import mel_filters
from engine.backends.base import Backend, Floats
from engine.types import SAMPLE_RATE_HZ
from export.parity import psnr_db
from export.quantize.takes import Player, Take, noises

Opening = Callable[[NDArray[np.uint8]], Floats]
"""How far the mouth is open, [F], in pictures [F, P, P, 3]."""

DISTURBANCE = 1e-3
WAYS = ("forced", "free", "disturbed")
MOST_LOST_DB = 1.0
MOST_SYNC_LOST = 0.02
_ENDS = 10
"""Blocks whose mean stands for how a long run begins and ends; one alone depends on what is said in it."""
_VOICED_HZ = (300.0, 3000.0)
_CURRENT = slice(20, 24)
"""Mel frames of a window that belong to its own video frame."""


@dataclass(frozen=True, slots=True)
class Curve:
    """PSNR against the float run, by block."""

    psnr_db: tuple[float, ...]

    @property
    def first_db(self) -> float:
        return self.psnr_db[0]

    @property
    def last_db(self) -> float:
        return self.psnr_db[-1]

    @property
    def begins_db(self) -> float:
        return mean_db(self.psnr_db[:_ENDS])

    @property
    def ends_db(self) -> float:
        return mean_db(self.psnr_db[-_ENDS:])


@dataclass(frozen=True, slots=True)
class Sync:
    """Correlations of the mouth's opening. float, quantised, disturbed: of that run with the voice (energy between 300
    and 3000 Hz). together: of the quantised run with the float run; floor: of the disturbed run with it.
    """

    float_r: float
    quantised_r: float
    disturbed_r: float
    together: float
    floor: float

    @property
    def lost(self) -> float:
        return self.float_r - self.quantised_r


@dataclass(frozen=True, slots=True)
class Drift:
    """Of one take. ways: see WAYS. sync is None without an instrument that sees mouths."""

    blocks: int
    frames: int
    ways: Mapping[str, Curve]
    sync: Sync | None

    @property
    def steady(self) -> bool:
        """No worse at the end than at the beginning, however good that was, in either way."""
        return all(self.ways[way].begins_db - self.ways[way].ends_db <= MOST_LOST_DB for way in ("forced", "free"))

    def passes(self, least_db: float) -> bool:
        """The free run is near enough in the first block and at most 1 dB below that mark at the end, and its lips fit
        as well as the float run's. One that begins far above the mark may lose more than 1 dB: see `steady`.
        """
        free = self.ways["free"]
        fits = self.sync is None or abs(self.sync.lost) <= MOST_SYNC_LOST
        return free.first_db >= least_db and free.ends_db >= least_db - MOST_LOST_DB and fits

    def to_dict(self) -> dict[str, Any]:
        names = ("first_db", "last_db", "begins_db", "ends_db")
        return {
            "blocks": self.blocks,
            "frames": self.frames,
            "steady": self.steady,
            **{way: {n: round(getattr(curve, n), 2) for n in names} for way, curve in self.ways.items()},
            "psnr_db": {way: [round(v, 2) for v in curve.psnr_db] for way, curve in self.ways.items()},
            "sync": {k: round(v, 4) for k, v in asdict(self.sync).items()} if self.sync else None,
        }


def measure_drift(
    truth: Backend, quantised: Backend, take: Take, opening: Opening | None = None, every: int = 1,
    tell: Callable[[int], None] = lambda block: None,
) -> Drift:  # fmt: skip
    """Both over a take. every: pictures are compared in each so many blocks, and in those of the two ends."""
    config = truth.config
    exact, free, disturbed = Player(truth, take), Player(quantised, take), Player(truth, take)
    random = np.random.default_rng(take.scene.seed + 1)
    starts = np.cumsum((0, *take.scene.blocks))
    curves: dict[str, list[float]] = {way: [] for way in WAYS}
    openings: list[tuple[Floats, ...]] = []
    heard: list[Floats] = []
    for number, noise in enumerate(noises(take, config)):
        forced, _ = free.tried(number, noise, exact.cache)
        shaken = noise + DISTURBANCE * random.standard_normal(noise.shape, np.float32)
        latents = exact.step(number, noise), free.step(number, noise), disturbed.step(number, shaken)
        tell(number)
        if number % every and _ENDS <= number < len(take.scene.blocks) - _ENDS:
            continue
        seen = exact.pictures(latents[0]), free.pictures(latents[1]), disturbed.pictures(latents[2])
        for way, pictures in zip(WAYS, (free.pictures(forced), *seen[1:]), strict=True):
            curves[way].append(psnr_db(seen[0], pictures))
        if opening is not None:
            openings.append(tuple(opening(pictures) for pictures in seen))
            heard.append(voice_curve(take.speaking[starts[number] : starts[number + 1]]))
    sync = _sync(openings, np.concatenate(heard)) if openings else None
    return Drift(len(take.scene.blocks), int(starts[-1]), {k: Curve(tuple(v)) for k, v in curves.items()}, sync)


def mean_db(values: Sequence[float]) -> float:
    """PSNR of the mean squared error of several."""
    return float(-10 * np.log10(np.mean(10 ** (-np.asarray(values) / 10))))


def voice_curve(windows: Floats) -> Floats:
    """How loud the first formants are in each frame, compressed as the mouth's opening is; windows [F, 32, 80]."""
    filters = mel_filters()
    centres = np.linspace(0, SAMPLE_RATE_HZ / 2, filters.shape[1])[filters.argmax(1)]
    voiced = (centres >= _VOICED_HZ[0]) & (centres <= _VOICED_HZ[1])
    energy = np.exp(windows[:, _CURRENT, :][:, :, voiced]).mean((1, 2))
    curve: Floats = (energy**0.25).astype(np.float32)
    return curve


def _sync(openings: Sequence[tuple[Floats, ...]], heard: Floats) -> Sync:
    exact, free, disturbed = (np.concatenate(parts) for parts in zip(*openings, strict=True))
    return Sync(_r(exact, heard), _r(free, heard), _r(disturbed, heard), _r(exact, free), _r(exact, disturbed))


def _r(a: Floats, b: Floats) -> float:
    """Pearson's; 0 when either does not vary."""
    x, y = np.asarray(a, np.float64) - np.mean(a), np.asarray(b, np.float64) - np.mean(b)
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale > 1e-12 else 0.0
