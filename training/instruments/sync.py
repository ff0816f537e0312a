"""Do lips and voice belong together? A two-tower scorer of our own.

After SyncNet (Chung & Zisserman 2016, "Out of time: automated lip sync in the wild").
One tower sees the mouth in 5 frames, the other hears the same 0.2 s as log-mel; both answer with a unit vector, and the
nearer the two, the better the match. Trained by telling the right moment from other moments of the same clip and from
other clips (InfoNCE, arXiv 1807.03748). It learns from people and voices that no model is trained on, is judged on yet
others, and is no loss of any model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from engine.audio.features import log_mel
from engine.audio.windows import MELS_PER_FRAME
from engine.types import SAMPLES_PER_FRAME, AvatarState
from training.data.clips import Clip
from training.data.held_out import TEST_PORTRAITS
from training.data.media import Bytes
from training.data.shards import iterate_shards
from training.data.truth import Floats
from training.instruments.files import config_of, read_file, write_file
from training.instruments.patches import PatchConfig, cut_mouths, eye_distance
from training.run import Batch, Run, RunConfig

SCORER_PORTRAITS = TEST_PORTRAITS[::2]
"""Held-out photographs that the scorer learns from; the others are kept to judge it."""

REACH_FRAMES = 10
_STEADY_FRAMES = 9
_VOICED_BELOW_PEAK = 5.0
"""Frames whose mean log-mel lies further below the loudest do not tell much about lips."""


@dataclass(frozen=True, slots=True)
class SyncConfig:
    """frames: length of a window. mouth_px: side of the grey mouth pictures, a multiple of 8. mels: bands heard."""

    frames: int = 5
    mouth_px: int = 32
    mouth_side: float = 1.5
    mels: int = 80
    width: int = 32
    embedding: int = 64


@dataclass(frozen=True, slots=True)
class SyncFigures:
    """confidence: median distance over all offsets minus the smallest, higher is better. distance: the smallest, 0 to 2
    between unit vectors, lower is better. offset_frames: where it is; positive when the picture is late.
    distance_in_place: the distance at offset 0. windows: how many moments count.
    """

    confidence: float
    distance: float
    offset_frames: int
    distance_in_place: float
    windows: int


@dataclass(frozen=True, slots=True)
class Track:
    """One clip for the scorer. mouth float32 [F, m, m], sound float32 [F * 4, mels], voiced bool [F]."""

    mouth: Floats
    sound: Floats
    voiced: NDArray[np.bool_]


class SyncNet(nn.Module):
    """Windows of mouths [N, frames, m, m] and of sound [N, mels, 4 * frames] to unit vectors [N, embedding]."""

    def __init__(self, config: SyncConfig) -> None:
        super().__init__()
        self.config = config
        w, out = config.width, config.embedding
        self.eye = nn.Sequential(
            nn.Conv2d(config.frames, w, 5, 2, 2), nn.SiLU(), nn.Conv2d(w, w * 3 // 2, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(w * 3 // 2, w * 2, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Dropout(0.1),
            nn.Linear(w * 2 * (config.mouth_px // 8) ** 2, 2 * out), nn.SiLU(), nn.Linear(2 * out, out),
        )  # fmt: skip
        self.ear = nn.Sequential(
            nn.Conv1d(config.mels, 2 * w, 3, 1, 1), nn.SiLU(), nn.Conv1d(2 * w, 2 * w, 3, 2, 1), nn.SiLU(),
            nn.Conv1d(2 * w, 2 * w, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Dropout(0.1),
            nn.Linear(2 * w * config.frames, 2 * out), nn.SiLU(), nn.Linear(2 * out, out),
        )  # fmt: skip
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    def look(self, mouths: Tensor) -> Tensor:
        return F.normalize(self.eye(mouths).float(), dim=1)

    def listen(self, sound: Tensor) -> Tensor:
        return F.normalize(self.ear(sound).float(), dim=1)


class SyncStage(nn.Module):
    """InfoNCE both ways: among the moments of one clip, and among all moments of the batch.

    Batches hold mouth [C, T, frames, m, m] and sound [C, T, mels, 4 * frames] of T moments of C clips.
    """

    def __init__(self, net: SyncNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        clips, moments = batch["mouth"].shape[:2]
        seen = self.net.look(batch["mouth"].flatten(0, 1))
        heard = self.net.listen(batch["sound"].flatten(0, 1))
        scores = self.net.sharpness.exp().clamp(max=50.0) * seen @ heard.T
        right = torch.arange(len(scores), device=scores.device)
        everywhere = (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2
        own = scores.unflatten(0, (clips, moments)).unflatten(2, (clips, moments))
        own = own.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        when = torch.arange(moments, device=scores.device).expand(clips, -1)
        inside = (F.cross_entropy(own.mT, when) + F.cross_entropy(own, when)) / 2
        found = float((own.detach().argmax(2) == when).float().mean())
        logs = {"inside": float(inside.detach()), "everywhere": float(everywhere.detach()), "found": found}
        return inside + 0.5 * everywhere, logs


class SyncScorer:
    """A trained scorer: frames, landmarks and a voice in, `SyncFigures` out. `errors`: on others."""

    def __init__(self, net: SyncNet, errors: dict[str, float]) -> None:
        self.net, self.errors = net.eval(), errors

    @staticmethod
    def load(path: Path) -> SyncScorer:
        header, weights = read_file(path)
        net = SyncNet(config_of(SyncConfig, header["config"]))
        net.load_state_dict(weights)
        return SyncScorer(net, config_of(dict, header["errors"]))

    def save(self, path: Path, meta: dict[str, object]) -> None:
        header = {"config": asdict(self.net.config), "errors": self.errors, "meta": meta}
        write_file(path, header, self.net.state_dict())

    def score(
        self, frames: Bytes, landmarks: Floats, voice: Floats, chosen: NDArray[np.bool_] | None = None
    ) -> SyncFigures:
        """frames uint8 [F, S, S, 3], their landmarks [F, 28, 2], voice float32 [F * 640] at 16 kHz.

        chosen bool [F]: moments that may count, by default all voiced ones.
        """
        track = track_of(frames, landmarks, voice, self.net.config)
        return figures(self.distances(track, track.voiced if chosen is None else chosen & track.voiced))

    @torch.no_grad()
    def distances(self, track: Track, chosen: NDArray[np.bool_]) -> Floats:
        """Distance of the mouth at t + d to the sound at t, [moments, 21] for d = -10..10."""
        first = np.arange(len(track.mouth) - self.net.config.frames + 1)
        if not len(first):
            return np.zeros((0, 2 * REACH_FRAMES + 1), np.float32)
        batch = windows_of(track, first, self.net.config)
        seen, heard = self.net.look(batch[0]).numpy(), self.net.listen(batch[1]).numpy()
        at = np.flatnonzero(chosen[first + self.net.config.frames // 2])
        at = at[(at >= REACH_FRAMES) & (at < len(first) - REACH_FRAMES)]
        offsets = range(-REACH_FRAMES, REACH_FRAMES + 1)
        columns = [np.linalg.norm(seen[at + d] - heard[at], axis=1) for d in offsets]
        return np.stack(columns, 1).astype(np.float32)


def figures(distances: Floats) -> SyncFigures:
    """From distances [moments, 21]; NaN when there are no moments."""
    if not len(distances):
        return SyncFigures(float("nan"), float("nan"), 0, float("nan"), 0)
    mean = distances.mean(0)
    best = int(mean.argmin())
    return SyncFigures(
        confidence=float(np.median(mean) - mean[best]),
        distance=float(mean[best]),
        offset_frames=best - REACH_FRAMES,
        distance_in_place=float(mean[REACH_FRAMES]),
        windows=len(distances),
    )


def track_of(frames: Bytes, landmarks: Floats, voice: Floats, config: SyncConfig) -> Track:
    """What the scorer is shown of a clip: grey mouths and sound without their means over the clip.

    The crop follows the head, not the lips: landmarks are smoothed over 9 frames.
    """
    steady = _smoothed(landmarks)
    distance = np.full(len(frames), np.median(eye_distance(landmarks)), np.float32)
    patch = PatchConfig(mouth_px=config.mouth_px, mouth_side=config.mouth_side)
    grey = [cv2.cvtColor(mouth, cv2.COLOR_RGB2GRAY) for mouth in cut_mouths(frames, steady, distance, patch)]
    mouth = np.stack(grey).astype(np.float32)
    return Track(_standardised(mouth, 4.0), *_heard(voice, len(frames)))


def _heard(voice: Floats, frames: int) -> tuple[Floats, NDArray[np.bool_]]:
    samples = frames * SAMPLES_PER_FRAME
    mel = log_mel(np.pad(voice[:samples], (0, max(0, samples - len(voice)))))
    loudness = mel.reshape(frames, MELS_PER_FRAME, -1).mean((1, 2))
    voiced = loudness > max(float(loudness.max()) - _VOICED_BELOW_PEAK, float(mel.min()) + 1.0)
    return _standardised(mel, 0.5), voiced


def _smoothed(landmarks: Floats) -> Floats:
    reach = _STEADY_FRAMES // 2
    padded = np.pad(landmarks, ((reach, reach), (0, 0), (0, 0)), "edge")
    sums = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), 0)
    return ((sums[_STEADY_FRAMES:] - sums[:-_STEADY_FRAMES]) / _STEADY_FRAMES).astype(np.float32)


def _standardised(values: Floats, least: float) -> Floats:
    """Without the mean over time, in units of the spread over everything, which is at least `least`."""
    moved = values - values.mean(0)
    return (moved / max(float(moved.std()), least)).astype(np.float32)


def windows_of(track: Track, first: NDArray[np.integer], config: SyncConfig) -> tuple[Tensor, Tensor]:
    """mouth [N, frames, m, m] and sound [N, mels, 4 * frames] of windows that begin at frames `first`."""
    frames = first[:, None] + np.arange(config.frames)
    mels = first[:, None] * MELS_PER_FRAME + np.arange(config.frames * MELS_PER_FRAME)
    return torch.from_numpy(track.mouth[frames]), torch.from_numpy(track.sound[mels]).mT


def person_of(clip: Clip) -> str:
    """Who a clip shows: the photograph's name, or the head's own."""
    name = str(clip.meta.get("subject", clip.key))
    return name.rpartition("-")[0] if clip.meta.get("kind") == "puppet" else name


def is_for_scorer(clip: Clip) -> bool:
    """Whether the scorer may learn from a held-out clip: by name for photographs, heads by turns of their number."""
    person = person_of(clip)
    if clip.meta.get("kind") == "puppet":
        return person in SCORER_PORTRAITS
    return sum(person.encode()) % 2 == 0


def sync_batches(tracks: list[Track], config: SyncConfig, clips: int, seed: int, moments: int = 12) -> Iterator[Batch]:
    """`clips` clips of `moments` voiced moments each, some mirrored, dimmed, shifted or noisy."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    usable = [t for t in tracks if len(_moments(t, config)) >= moments]
    while True:
        chosen = [usable[i] for i in rng.integers(len(usable), size=clips)]
        parts = [
            windows_of(t, np.sort(rng.choice(_moments(t, config), moments, replace=False)), config) for t in chosen
        ]
        mouth, sound = (torch.stack(part) for part in zip(*parts, strict=True))
        yield {"mouth": _unlike(mouth, rng), "sound": _masked(sound, rng)}


def _moments(track: Track, config: SyncConfig) -> NDArray[np.int64]:
    """First frames of windows that are voiced in the middle, every second one, since neighbours look the same."""
    first = np.arange(0, len(track.mouth) - config.frames + 1, 2)
    return first[track.voiced[first + config.frames // 2]]


def _unlike(mouth: Tensor, rng: np.random.Generator) -> Tensor:
    """Changes that are the same for a whole clip, so that they say nothing about time; and white noise."""
    clips = len(mouth)
    flip = torch.from_numpy(rng.random(clips) < 0.5).view(-1, 1, 1, 1, 1)
    mouth = torch.where(flip, mouth.flip(-1), mouth)
    gain = torch.from_numpy(rng.uniform(0.6, 1.4, (clips, 1, 1, 1, 1)).astype(np.float32))
    moved = [torch.roll(m, tuple(rng.integers(-2, 3, 2)), (-2, -1)) for m in mouth]
    return gain * torch.stack(moved) + 0.15 * torch.randn_like(mouth)


def _masked(sound: Tensor, rng: np.random.Generator) -> Tensor:
    """Another loudness for each clip, a band of frequencies silenced (SpecAugment, arXiv 1904.08779), noise."""
    sound = sound.clone()
    for clip in sound:
        low = int(rng.integers(0, sound.shape[2]))
        clip[:, low : low + int(rng.integers(0, 12))] = 0.0
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (len(sound), 1, 1, 1)).astype(np.float32))
    return gain * sound + 0.1 * torch.randn_like(sound)


def tracks_from(clips: Iterable[Clip], config: SyncConfig) -> list[Track]:
    """Tracks of clips that speak, along their true landmarks."""
    tracks = []
    for clip in clips:
        track = track_of(clip.frames, clip.truth.landmarks, clip.voice, config)
        speaking = clip.truth.state == AvatarState.SPEAKING
        tracks.append(Track(track.mouth, track.sound, track.voiced & speaking))
    return tracks


def calibrate(scorer: SyncScorer, tracks: list[Track]) -> dict[str, float]:
    """What the scorer makes of the truth: in place, shifted by 1 to 5 frames either way, with another clip's voice, and
    without a voice. `found` are shares of clips whose offset is found within a frame.
    """
    tracks = [t for t in tracks if len(_moments(t, scorer.net.config)) >= 8]
    truth = [figures(scorer.distances(t, t.voiced)) for t in tracks]
    shifted = [
        (figures(scorer.distances(_shifted(t, d), t.voiced)).offset_frames, d)
        for t in tracks for d in (-5, -3, -1, 1, 3, 5)
    ]  # fmt: skip
    others = [_with_voice(a, b) for a, b in zip(tracks, tracks[1:] + tracks[:1], strict=True)]
    other = [figures(scorer.distances(t, t.voiced)) for t in others]
    mute = [figures(scorer.distances(Track(t.mouth, 0 * t.sound, t.voiced), t.voiced)) for t in tracks]
    return {
        "clips": len(tracks),
        "confidence": _mean(f.confidence for f in truth),
        "distance": _mean(f.distance for f in truth),
        "found": _mean(abs(f.offset_frames) <= 1 for f in truth),
        "found_shifted": _mean(abs(seen - d) <= 1 for seen, d in shifted),
        "confidence_other_voice": _mean(f.confidence for f in other),
        "distance_other_voice": _mean(f.distance for f in other),
        "found_other_voice": _mean(abs(f.offset_frames) <= 1 for f in other),
        "confidence_no_voice": _mean(f.confidence for f in mute),
    }


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return round(float(np.mean(known)), 4) if known else float("nan")


def _shifted(track: Track, frames: int) -> Track:
    """The picture `frames` later than the sound; edges repeat around, and the scorer does not look at them."""
    return Track(np.roll(track.mouth, frames, 0), track.sound, track.voiced)


def _with_voice(track: Track, other: Track) -> Track:
    n = min(len(track.mouth), len(other.mouth))
    return Track(track.mouth[:n], other.sound[: n * MELS_PER_FRAME], other.voiced[:n])


def train_sync(data: list[Path], config: RunConfig) -> Path:
    """Train on the scorer's half of held-out shards, calibrate on the other half, write `sync.safetensors`."""
    sizes = SyncConfig()
    mine, theirs = [], []
    for clip in iterate_shards(data):
        (mine if is_for_scorer(clip) else theirs).extend(tracks_from([clip], sizes))
    net = SyncNet(sizes)
    run = Run(config, SyncStage(net), net)
    path = config.out / "sync.safetensors"

    def on_sample(step: int) -> None:
        run.log({f"test_{k}": v for k, v in calibrate(_copy(net), theirs).items()})

    def on_save(step: int) -> None:
        scorer = _copy(net)
        scorer.errors = calibrate(scorer, theirs)
        scorer.save(path, {"stage": "sync", "step": step, "clips": len(mine)})

    run.train(sync_batches(mine, sizes, config.batch, config.seed + run.rank), on_sample, on_save)
    return path


def _copy(net: SyncNet) -> SyncScorer:
    copy = SyncNet(net.config)
    copy.load_state_dict(net.state_dict())
    return SyncScorer(copy.cpu(), {})
