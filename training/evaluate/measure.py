"""One row of the table: what the probe says about a source's frames, clip by clip, and the figures over all clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.types import FPS, AvatarState
from training.data.clips import Clip
from training.data.media import Bytes
from training.data.truth import Floats
from training.evaluate import frechet, metrics, motion
from training.evaluate.frechet import Observer
from training.evaluate.likeness import Gallery, describe_frames
from training.instruments.states import StateNamer, Windows, confusion, curves, join, windows

MIN_SPEAKING_FRAMES = 30
"""A clip that speaks less says too little about lip sync."""
_STRIP_FRAMES, _STRIP_PX = 10, 128
_FEATURES_EVERY = 2
"""Neighbouring frames are alike; every second one is enough for a Fréchet distance."""


@dataclass(frozen=True, slots=True)
class ClipFigures:
    """opening [F] as the probe reads it, truth_opening [F] as it was rendered; strip uint8 [10, 128, 128, 3].

    units [F, 52] as the probe reads them. features [N, K], films [M, 2 C]: see frechet, of every second frame.
    faces [N, D]: see likeness.
    lag_scores is None when the clip hardly speaks; psnr, psnr_mouth and ssim are None where pixels cannot be compared.
    """

    key: str
    opening: Floats
    truth_opening: Floats
    state: NDArray[np.int8]
    lag_scores: NDArray[np.float64] | None
    r_opening: float | None
    amplitude: float | None
    landmark_px: float
    energy: float
    blinks: int
    windows: Windows
    psnr: float | None
    psnr_mouth: float | None
    ssim: float | None
    strip: Bytes
    units: Floats
    features: Floats
    films: Floats
    faces: Floats
    jerk: float
    seam: motion.Seam
    head: motion.HeadSpeed
    r_head: float


@dataclass(frozen=True, slots=True)
class RowFigures:
    """What is printed. NaN where the clips do not tell.

    clips, speaking_clips: how many, and how many of them speak enough to count for r, lag and amplitude.
    r_opening: mean over clips of the correlation of mouth opening with the truth while speaking.
    lag_ms: where the clips' mean correlation peaks; r_at_lag: that peak. amplitude: spread of the opening over the
    truth's.
    silence_ratio: variance of the opening while listening or idle over that while speaking.
    motion_energy: mean squared landmark velocity over that of the true frames. blinks_per_minute: as the probe sees.
    state_accuracy: share of one-state windows that the classifier names rightly; state_confusion: windows by state
    (rows: speaking, listening, idle) and name (columns).
    landmark_px: distance to the rendered landmarks in 1/128 of the picture. psnr, psnr_mouth (dB), ssim: pixels.
    identity: likeness to the portrait, 1 as like as true frames, 0 as unlike as other people; recognised: share of
    frames that are liker their own portrait than any other person's (see likeness). fid, fvd: see frechet.
    jerk: jerkiness of landmarks over that of the true frames. seam: see motion.seam_ratio. r_head: correlation of yaw
    and pitch with the truth. head_speaking, head_listening, head_idle: mean squared speed of the head over the truth's.
    """

    name: str
    clips: int
    speaking_clips: int
    r_opening: float
    lag_ms: float
    r_at_lag: float
    amplitude: float
    silence_ratio: float
    motion_energy: float
    blinks_per_minute: float
    state_accuracy: float
    state_confusion: tuple[tuple[int, ...], ...]
    landmark_px: float
    psnr: float
    psnr_mouth: float
    ssim: float
    identity: float = float("nan")
    recognised: float = float("nan")
    fid: float = float("nan")
    fvd: float = float("nan")
    jerk: float = float("nan")
    seam: float = float("nan")
    r_head: float = float("nan")
    head_speaking: float = float("nan")
    head_listening: float = float("nan")
    head_idle: float = float("nan")

    def as_json(self) -> dict[str, object]:
        """JSON has no NaN: such figures are null."""
        return {k: _rounded(v) if isinstance(v, float) else v for k, v in asdict(self).items()}


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def measure_clip(
    observer: Observer, clip: Clip, frames: Bytes, paired: bool, edges: NDArray[np.bool_] | None = None
) -> ClipFigures:
    """Everything about one clip's frames uint8 [F, S, S, 3]; paired: they show what the true frames show; edges
    [F - 1]: where blocks end, None where there are none.
    """
    observed = observer.read(frames, clip.reference)
    seen = observed.reading
    opening, truth = metrics.mouth_opening(seen.landmarks), metrics.mouth_opening(clip.truth.landmarks)
    speaking = clip.truth.state == AvatarState.SPEAKING
    enough = int(speaking.sum()) >= MIN_SPEAKING_FRAMES
    pixels = _pixels(clip, frames) if paired else (None, None, None)
    return ClipFigures(
        key=clip.key,
        opening=opening,
        truth_opening=truth,
        state=clip.truth.state,
        lag_scores=metrics.lag_scores(opening, truth, speaking) if enough else None,
        r_opening=metrics.correlation(opening[speaking], truth[speaking]) if enough else None,
        amplitude=float(opening[speaking].std() / max(truth[speaking].std(), 1e-6)) if enough else None,
        landmark_px=float(np.linalg.norm(seen.landmarks - clip.truth.landmarks, axis=-1).mean() * 128),
        energy=metrics.motion_energy(seen.landmarks),
        blinks=metrics.count_blinks(metrics.blink_curve(seen.units)),
        windows=windows(seen, clip.truth.state),
        psnr=pixels[0],
        psnr_mouth=pixels[1],
        ssim=pixels[2],
        strip=strip(frames),
        units=seen.units,
        features=observed.features[::_FEATURES_EVERY],
        films=frechet.films(curves(seen)),
        faces=describe_frames(frames, seen.landmarks),
        jerk=motion.jerkiness(seen.landmarks),
        seam=motion.Seam() if edges is None else motion.seam(frames, edges),
        head=motion.head_speed(seen.head, clip.truth.state),
        r_head=motion.head_correlation(seen.head, clip.truth.head),
    )


def _pixels(clip: Clip, frames: Bytes) -> tuple[float, float, float]:
    truth = clip.frames
    mouth = metrics.mouth_weight(clip.truth.landmarks, truth.shape[1])
    every = range(0, len(truth), 5)
    similar = float(np.mean([metrics.ssim(frames[i], truth[i]) for i in every]))
    return metrics.psnr(frames, truth), metrics.psnr(frames, truth, mouth), similar


def strip(frames: Bytes) -> Bytes:
    """Ten frames spread over the clip, small, for contact sheets."""
    chosen = np.linspace(0, len(frames) - 1, _STRIP_FRAMES).round().astype(int)
    size = (_STRIP_PX, _STRIP_PX)
    return np.stack([cv2.resize(frames[i], size, interpolation=cv2.INTER_AREA) for i in chosen]).astype(np.uint8)


def summarise(
    name: str,
    clips: Sequence[ClipFigures],
    truth: Sequence[ClipFigures],
    namer: StateNamer | None,
    gallery: Gallery,
) -> RowFigures:
    """A row from its clips; truth: the same clips' true frames through the same probe; gallery: their portraits."""
    scores = [c.lag_scores for c in clips if c.lag_scores is not None]
    lag_ms, r_at_lag = metrics.lag_of(np.mean(scores, 0)) if scores else (float("nan"), float("nan"))
    named = confusion(namer, join(c.windows for c in clips)) if namer else np.zeros((3, 3), int)
    minutes = sum(len(c.opening) for c in clips) / FPS / 60
    heads = motion.head_energy([c.head for c in clips], [c.head for c in truth])
    return RowFigures(
        name=name,
        clips=len(clips),
        speaking_clips=len(scores),
        r_opening=_mean([c.r_opening for c in clips]),
        lag_ms=lag_ms,
        r_at_lag=r_at_lag,
        amplitude=_mean([c.amplitude for c in clips]),
        silence_ratio=metrics.silence_ratio([(c.opening, c.state) for c in clips]),
        motion_energy=sum(c.energy for c in clips) / max(sum(c.energy for c in truth), 1e-12),
        blinks_per_minute=sum(c.blinks for c in clips) / minutes,
        state_accuracy=float(np.trace(named) / named.sum()) if named.any() else float("nan"),
        state_confusion=tuple(map(tuple, named.tolist())),
        landmark_px=_mean([c.landmark_px for c in clips]),
        psnr=_mean([c.psnr for c in clips]),
        psnr_mouth=_mean([c.psnr_mouth for c in clips]),
        ssim=_mean([c.ssim for c in clips]),
        identity=gallery.identity([c.faces for c in clips]),
        recognised=gallery.recognised([c.faces for c in clips]),
        fid=frechet.distance_to([c.features for c in truth], [c.features for c in clips]),
        fvd=frechet.distance_to([c.films for c in truth], [c.films for c in clips]),
        jerk=_mean([c.jerk for c in clips]) / max(_mean([c.jerk for c in truth]), 1e-9),
        seam=motion.seam_ratio([c.seam for c in clips]),
        r_head=_mean([c.r_head for c in clips]),
        head_speaking=heads[AvatarState.SPEAKING],
        head_listening=heads[AvatarState.LISTENING],
        head_idle=heads[AvatarState.IDLE],
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else float("nan")
