"""Real photographs and real voices, where no truth is known: what can be said of the bundle a user runs.

Every figure stands beside what chance or nothing would give: the correlation with the voice beside that with other
people's voices, the own portrait's likeness beside the nearest other one's, the second instrument beside the probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from engine.engine import AvatarEngine
from engine.portrait.portrait import Portrait
from engine.types import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, AvatarState
from engine.vad import automatic_states
from training.data.media import Bytes
from training.data.truth import Floats
from training.evaluate import metrics
from training.evaluate.identity import descriptors, similarity
from training.evaluate.second import Landmarker
from training.evaluate.voice_curves import articulation, loudness
from training.instruments.probe import Probe
from training.instruments.sync import SyncFigures, SyncScorer

_LEAD_S, _REST_S = 0.4, 2.0
"""Silence before and after the speech; the second is where the mouth must be still."""
_IDENTITY_EVERY = 5
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class RealFace:
    """A photograph ready to be animated. name: that of its file."""

    name: str
    portrait: Portrait


@dataclass(frozen=True, slots=True)
class RealVoice:
    """A recorded human voice. name: the speaker; pcm: float32 [N] at 16 kHz."""

    name: str
    pcm: Floats


@dataclass(frozen=True, slots=True)
class RealConfig:
    """takes: pairs of portrait and voice, each portrait with the next voice in turn. seconds: of speech in a take."""

    takes: int = 10
    seconds: float = 5.0
    size_px: int = 256
    steps: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Take:
    """One portrait saying one thing: voice float32 [F * 640], states int8 [F], frames uint8 [F, S, S, 3]."""

    face: str
    voice: str
    pcm: Floats
    states: NDArray[np.int8]
    frames: Bytes
    reference: Bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """What one instrument says of a take: opening [F]; blinks in all of it, None where it cannot tell."""

    opening: Floats
    blinks: int


@dataclass(frozen=True, slots=True)
class TakeFigures:
    """Correlations of the mouth's opening with the voice while speaking; `other` is the mean with other voices.

    r_articulation_at_lag is the best within 0.4 s, at lag_ms (positive: the picture is late). silence_ratio: variance
    of the opening in the silence after the speech over that while speaking. nearest: whose portrait the frames are most
    like; own_share: share of frames that are most like their own; own, next: mean likeness to it and to the best other.
    second_*: the same by the second instrument, NaN without it.
    """

    face: str
    voice: str
    r_loudness: float
    r_articulation: float
    r_articulation_other: float
    r_articulation_at_lag: float
    lag_ms: float
    silence_ratio: float
    blinks_per_minute: float
    second_r_loudness: float
    second_r_articulation: float
    second_silence_ratio: float
    second_blinks_per_minute: float
    agreement: float
    nearest: str
    own_share: float
    own: float
    next: float
    sync: SyncFigures | None

    def as_json(self) -> dict[str, object]:
        """JSON has no NaN: such figures are null."""
        return {k: _plain(v) for k, v in asdict(self).items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 4)
    return value


@dataclass(frozen=True, slots=True)
class PortraitCodec:
    """One photograph moved as a puppet and put through the codec: PSNR in dB of all, the face's box, and the box when
    the portrait is shown unmoved instead.
    """

    name: str
    psnr: float
    psnr_face: float
    psnr_face_copy: float


@dataclass(frozen=True, slots=True)
class RealEvaluation:
    """takes and their figures in the same order; codec: empty without assets; held_out: photographs and voices that
    no model was trained on. model, command, facts: what was measured, how to do it again, versions and seeds.
    """

    takes: tuple[Take, ...]
    figures: tuple[TakeFigures, ...]
    codec: tuple[PortraitCodec, ...]
    held_out: dict[str, list[str]]
    instruments: dict[str, dict[str, float]]
    model: str = ""
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()

    def summary(self) -> dict[str, float]:
        """Means over takes; swaps counts takes that are nearest to another portrait."""
        numbers = [f.as_json() for f in self.figures]
        names = [k for k, v in asdict(self.figures[0]).items() if isinstance(v, float)]
        out = {name: _mean([n[name] for n in numbers]) for name in names}
        out["swaps"] = sum(f.nearest != f.face for f in self.figures)
        for name in ("confidence", "distance", "distance_in_place"):
            out[f"sync_{name}"] = _mean([getattr(f.sync, name) for f in self.figures if f.sync])
        near = [abs(f.sync.offset_frames) <= 1 for f in self.figures if f.sync]
        out["sync_in_place_share"] = _mean(near)
        if self.codec:
            out["codec_psnr_face"] = _mean([c.psnr_face for c in self.codec])
            out["codec_psnr_face_worst"] = min(c.psnr_face for c in self.codec)
        return out

    def as_json(self) -> dict[str, object]:
        return {
            "summary": _plain(self.summary()),
            "takes": [f.as_json() for f in self.figures],
            "codec": [asdict(c) for c in self.codec],
            "held_out": self.held_out,
            "instruments": self.instruments,
            "model": self.model,
            "command": self.command,
            "facts": dict(self.facts),
        }


def _mean(values: Sequence[object]) -> float:
    known = [float(v) for v in values if isinstance(v, int | float | np.bool_) and not np.isnan(v)]
    return round(float(np.mean(known)), 4) if known else _NAN


def lines_of(voice: RealVoice, seconds: float, take: int) -> Floats:
    """A stretch of a voice with silence before and after, float32 [F * 640]; another one for each take."""
    count = round(seconds * SAMPLE_RATE_HZ)
    latest = max(0, len(voice.pcm) - count)
    first = (take * count) % (latest + 1)
    part = voice.pcm[first : first + count]
    part = 0.5 * part / max(float(np.abs(part).max()), 1e-4)
    whole = np.concatenate([np.zeros(round(_LEAD_S * SAMPLE_RATE_HZ)), part, np.zeros(round(_REST_S * SAMPLE_RATE_HZ))])
    return np.pad(whole, (0, -len(whole) % SAMPLES_PER_FRAME)).astype(np.float32)


def make_takes(
    engine: AvatarEngine, faces: Sequence[RealFace], voices: Sequence[RealVoice], config: RealConfig
) -> Iterator[Take]:
    """Takes one after the other, as the engine makes them."""
    for i in range(config.takes):
        face, voice = faces[i % len(faces)], voices[(i + i // len(faces)) % len(voices)]
        pcm = lines_of(voice, config.seconds, i // len(voices))
        made = engine.generate(
            face.portrait, pcm, steps=config.steps, seed=config.seed + i, size=config.size_px
        )  # fmt: skip
        frames = np.stack([frame.image for frame in made])
        yield Take(face.name, voice.name, pcm, automatic_states(pcm), frames, face.portrait.crop(config.size_px))


class _Likeness(TypedDict):
    nearest: str
    own_share: float
    own: float
    next: float


class RealInstruments:
    """Probe, and where they are given the sync scorer and the second instrument."""

    def __init__(self, probe: Probe, sync: SyncScorer | None, second: Landmarker | None) -> None:
        self.probe, self.sync, self.second = probe, sync, second

    def close(self) -> None:
        """Free the second instrument."""
        if self.second is not None:
            self.second.close()

    def errors(self) -> dict[str, dict[str, float]]:
        """Each instrument's own figures on held-out people."""
        return {"probe": self.probe.errors} | ({"sync scorer": self.sync.errors} if self.sync else {})

    def measure(self, take: Take, others: Sequence[Floats], gallery: Gallery) -> TakeFigures:
        """others: the pcm of other voices, for what chance gives."""
        reading = self.probe.read(take.frames, take.reference)
        opening = metrics.mouth_opening(reading.landmarks)
        speaking = take.states == AvatarState.SPEAKING
        heard = articulation(take.pcm)
        scores = metrics.lag_scores(opening, heard, speaking)
        lag_ms, at_lag = metrics.lag_of(scores)
        minutes = len(take.frames) / FPS / 60
        blinks = metrics.count_blinks(metrics.blink_curve(reading.units))
        second, second_blinks = self._second(take.frames)
        return TakeFigures(
            face=take.face,
            voice=take.voice,
            r_loudness=metrics.correlation(opening[speaking], loudness(take.pcm)[speaking]),
            r_articulation=metrics.correlation(opening[speaking], heard[speaking]),
            r_articulation_other=_mean([_unrelated(opening, speaking, pcm) for pcm in others]),
            r_articulation_at_lag=at_lag,
            lag_ms=lag_ms,
            silence_ratio=metrics.silence_ratio([(opening, take.states)]),
            blinks_per_minute=blinks / minutes,
            second_r_loudness=_r(second, loudness(take.pcm), speaking),
            second_r_articulation=_r(second, heard, speaking),
            second_silence_ratio=metrics.silence_ratio([(second, take.states)]) if len(second) else _NAN,
            second_blinks_per_minute=second_blinks / minutes,
            agreement=_r(second, opening, speaking),
            **gallery.compare(take.face, take.frames[::_IDENTITY_EVERY], reading.landmarks[::_IDENTITY_EVERY]),
            sync=self.sync.score(take.frames, reading.landmarks, take.pcm, speaking) if self.sync else None,
        )

    def _second(self, frames: Bytes) -> tuple[Floats, float]:
        """Opening [F] and blinks by the second instrument; empty and NaN without it or where it loses the face."""
        if self.second is None:
            return np.zeros(0, np.float32), _NAN
        points, units = self.second.read(frames)
        if np.isnan(points).any():
            return np.zeros(0, np.float32), _NAN
        return metrics.mouth_opening(points), metrics.count_blinks(metrics.blink_curve(units))


def _r(seen: Floats, heard: Floats, chosen: NDArray[np.bool_]) -> float:
    return metrics.correlation(seen[chosen], heard[chosen]) if len(seen) else _NAN


def _unrelated(opening: Floats, speaking: NDArray[np.bool_], pcm: Floats) -> float:
    """Correlation with what another voice would have asked for."""
    n = min(len(opening), -(-len(pcm) // SAMPLES_PER_FRAME))
    return metrics.correlation(opening[:n][speaking[:n]], articulation(pcm)[:n][speaking[:n]])


class Gallery:
    """Portraits to compare frames with."""

    def __init__(self, probe: Probe, faces: Sequence[RealFace], size_px: int) -> None:
        pictures = np.stack([face.portrait.crop(size_px) for face in faces])
        self.names = [face.name for face in faces]
        self._known = descriptors(pictures, probe.read(pictures).landmarks)

    def compare(self, name: str, frames: Bytes, landmarks: Floats) -> _Likeness:
        """nearest, own_share, own and next of TakeFigures."""
        likeness = similarity(descriptors(frames, landmarks), self._known)
        at = self.names.index(name)
        others = np.delete(likeness, at, 1)
        best = others.max(1) if others.shape[1] else np.zeros(len(likeness))
        return {
            "nearest": self.names[int(likeness.mean(0).argmax())],
            "own_share": float((likeness[:, at] > best).mean()),
            "own": float(likeness[:, at].mean()),
            "next": float(best.mean()),
        }


def evaluate_real(
    engine: AvatarEngine,
    faces: Sequence[RealFace],
    voices: Sequence[RealVoice],
    instruments: RealInstruments,
    config: RealConfig,
    codec: Sequence[PortraitCodec] = (),
    progress: Callable[[str, float], None] = lambda what, done: None,
) -> RealEvaluation:
    """Make the takes and measure them. faces and voices must not be empty."""
    gallery = Gallery(instruments.probe, faces, config.size_px)
    takes, figures = [], []
    for take in make_takes(engine, faces, voices, config):
        others = [lines_of(v, config.seconds, 0) for v in voices if v.name != take.voice]
        takes.append(take)
        figures.append(instruments.measure(take, others, gallery))
        progress(f"{take.face} with voice {take.voice}", len(takes) / config.takes)
    held_out = {"portraits": sorted({t.face for t in takes}), "voices": sorted({t.voice for t in takes})}
    return RealEvaluation(tuple(takes), tuple(figures), tuple(codec), held_out, instruments.errors(), engine.model)
