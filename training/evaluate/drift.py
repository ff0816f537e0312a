"""Minutes of one conversation: does the face stay who and what it was? `visavis evaluate --minutes 10`.

A person speaks, listens and idles in cycles of twelve seconds, streamed without a clock and without the session's
re-anchoring, so that what drifts is seen to drift. One cycle is one window: every window holds the same mix of states.
Trends are least-squares slopes with a 95 % interval from redrawing windows; a trend whose interval holds zero is flat
within the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.types import FPS, SAMPLES_PER_FRAME, AvatarState, VideoFrame
from engine.watchdog import DriftWatchdog
from training.data.clips import Clip
from training.data.media import Bytes
from training.data.truth import Floats
from training.evaluate.frechet import Observer, distance_to
from training.evaluate.identity import describe
from training.evaluate.likeness import person_of
from training.evaluate.sources import Runtime, whole_portrait

PHASES = ((AvatarState.SPEAKING, 150), (AvatarState.LISTENING, 75), (AvatarState.IDLE, 75))
"""Who talks, and for how many frames, in turn."""
CYCLE_FRAMES = sum(frames for _, frames in PHASES)
EVERY_FRAMES = 3
"""Neighbouring frames are alike."""
_DRAWS = 2000

CURVES: tuple[tuple[str, str], ...] = (
    ("fid", "FID-like distance to the true frames"),
    ("identity", "likeness to the portrait"),
    ("colour", "distance of the face's colour (CIELAB)"),
    ("sharpness", "fine detail, factor of the first seconds'"),
)


@dataclass(frozen=True, slots=True)
class Window:
    """Means over one cycle. fid: to the true frames of the same person, always from equally many frames."""

    minute: float
    fid: float
    identity: float
    colour: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class Trend:
    """slope of a curve over ten minutes with its 95 % interval; mean, and band: how far a minute's mean strays from it
    by chance alone (1.96 standard deviations of windows over the root of their number a minute).
    """

    mean: float
    band: float
    slope_per_10min: float
    low: float
    high: float

    @property
    def flat(self) -> bool:
        """Whether it is flat within the noise."""
        return self.low <= 0.0 <= self.high


@dataclass(frozen=True, slots=True)
class PersonDrift:
    """One person's minutes. by_minute: means of windows, a value for each minute, by curve."""

    person: str
    minutes: float
    frames: int
    windows: tuple[Window, ...]
    trends: dict[str, Trend]

    def by_minute(self, curve: str) -> list[float]:
        groups: dict[int, list[float]] = {}
        for window in self.windows:
            groups.setdefault(int(window.minute), []).append(getattr(window, curve))
        return [float(np.mean(group)) for group in groups.values()]

    def as_json(self) -> dict[str, object]:
        trends = {
            name: {k: round(v, 5) if np.isfinite(v) else None for k, v in asdict(t).items()} | {"flat": t.flat}
            for name, t in self.trends.items()
        }
        minutes = {name: [round(v, 5) for v in self.by_minute(name)] for name, _ in CURVES}
        return {"person": self.person, "minutes": self.minutes, "frames": self.frames, "trends": trends, **minutes}


@dataclass(frozen=True, slots=True)
class Sitter:
    """One person: the clip whose portrait is animated (without its frames), and features [N, K] of the true frames of
    all their clips.
    """

    clip: Clip
    features: Floats


def gather(observer: Observer, clips: Iterable[Clip], most: int) -> tuple[list[Sitter], Floats]:
    """At most so many people, spread over the clips, and what all clips say: float32 [N] at 16 kHz."""
    found: dict[str, tuple[Clip, list[Floats]]] = {}
    speech: list[Floats] = []
    for clip in clips:
        kept = found.setdefault(person_of(clip), (replace(clip, frames=clip.frames[:0]), []))
        kept[1].append(observer.read(clip.frames[::EVERY_FRAMES]).features)
        speech.append(_speech(clip))
    sitters = [Sitter(clip, np.concatenate(features)) for clip, features in found.values()]
    chosen = np.unique(np.linspace(0, len(sitters) - 1, min(most, len(sitters))).round().astype(int))
    return [sitters[i] for i in chosen], np.concatenate(speech)


def measure_drift(
    model: Runtime,
    observer: Observer,
    sitter: Sitter,
    speech: Floats,
    minutes: float,
    progress: Callable[[float], None] = lambda done: None,
) -> PersonDrift:
    """Stream one person; speech, float32 [N] at 16 kHz, is what they and their partner say, again and again."""
    portrait, features = sitter.clip, sitter.features
    watchdog = DriftWatchdog(whole_portrait(portrait).crop(model.size_px))
    points = observer.read(portrait.reference[None]).reading.landmarks[0]
    likeness = describe(portrait.reference, points)
    windows = []
    cycles = max(1, round(minutes * 60 * FPS / CYCLE_FRAMES))
    made = _converse(model, portrait, speech, cycles)
    for number in range(cycles):
        pictures = np.stack([f.image for i, f in zip(range(CYCLE_FRAMES), made, strict=False) if i % EVERY_FRAMES == 0])
        minute = (number + 0.5) * CYCLE_FRAMES / FPS / 60
        progress(number / cycles)
        windows.append(_window(observer, watchdog, likeness, features, pictures, minute))
    trends = {name: trend([w.minute for w in windows], [getattr(w, name) for w in windows]) for name, _ in CURVES}
    who = str(portrait.meta.get("subject", portrait.key))
    return PersonDrift(who, minutes, cycles * CYCLE_FRAMES, tuple(windows), trends)


def _window(
    observer: Observer, watchdog: DriftWatchdog, likeness: Floats, truth: Floats, pictures: Bytes, minute: float
) -> Window:
    seen = observer.read(pictures)
    few = range(0, len(pictures), 5)
    alike = [float(describe(pictures[i], seen.reading.landmarks[i]) @ likeness) for i in few]
    drift = [watchdog.measure(pictures[i]) for i in few]
    return Window(
        minute=minute,
        fid=distance_to([truth], [seen.features]),
        identity=float(np.mean(alike)),
        colour=float(np.mean([d.colour for d in drift])),
        sharpness=float(np.mean([d.sharpness for d in drift])),
    )


def _converse(model: Runtime, clip: Clip, speech: Floats, cycles: int) -> Iterator[VideoFrame]:
    state = np.tile(np.repeat([s for s, _ in PHASES], [n for _, n in PHASES]), cycles).astype(np.int8)
    samples = np.repeat(state, SAMPLES_PER_FRAME)
    sound = np.resize(speech, len(samples))
    own = np.where(samples == AvatarState.SPEAKING, sound, 0).astype(np.float32)
    partner = np.where(samples == AvatarState.LISTENING, sound, 0).astype(np.float32)
    return model.stream(clip, own, partner, state)


def _speech(clip: Clip) -> Floats:
    """What a clip's own voice says, without the stretches in which it says nothing; all of it if it never does."""
    speaking = np.repeat(clip.truth.state == AvatarState.SPEAKING, SAMPLES_PER_FRAME)
    return clip.voice[speaking] if speaking.any() else clip.voice


def trend(minutes: Sequence[float], values: Sequence[float], draws: int = _DRAWS) -> Trend:
    """Of values at times in minutes; the interval is open (infinite) with fewer than three windows."""
    x, y = np.asarray(minutes, np.float64), np.asarray(values, np.float64)
    a_minute = max(1.0, len(x) / max(float(np.ptp(x)), 1e-9)) if len(x) > 1 else 1.0
    residual = y - y.mean() - _slope(x, y) * (x - x.mean())
    band = 1.96 * float(residual.std() / np.sqrt(a_minute))
    if len(x) < 3:
        return Trend(float(y.mean()), band, 10 * _slope(x, y), float("-inf"), float("inf"))
    rows = np.random.default_rng(0).integers(len(x), size=(draws, len(x)))
    slopes = np.array([_slope(x[r], y[r]) for r in rows])
    low, high = np.quantile(slopes, (0.025, 0.975)).tolist()
    return Trend(float(y.mean()), band, 10 * _slope(x, y), 10 * low, 10 * high)


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    centred = x - x.mean()
    square = float((centred**2).sum())
    return float((centred * (y - y.mean())).sum() / square) if square > 0 else 0.0
