"""Clips as the denoiser sees them: motion latents, log-mel of both voices, labels; and batches of sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from engine.audio.features import LOG_FLOOR, log_mel
from engine.audio.windows import MELS_PER_FRAME, WINDOW_MELS, frame_windows
from engine.model.codec import PortraitCodec
from training.codec import to_tensor
from training.run import Batch, autocast

if TYPE_CHECKING:
    from training.data.loading import ClipSequences

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class LatentClips:
    """All clips of a data set, frames laid end to end; clip i is rows start[i] to start[i + 1].

    latent [N, C, G, G] absolute; reference [R, C, G, G]; mel, partner_mel [4 N, 80]; state [N]; expression [N, 8];
    head [N, 3]; gaze [N, 2]; units [N, 52]; landmarks [N, 28, 2]; reference_landmarks [R, 28, 2];
    portrait uint8 [R, 128, 128, 3],
    the reference picture.
    """

    start: Array
    latent: Array
    reference: Array
    mel: Array
    partner_mel: Array
    state: Array
    expression: Array
    head: Array
    gaze: Array
    units: Array
    landmarks: Array
    reference_landmarks: Array
    portrait: Array

    def __len__(self) -> int:
        return len(self.reference)

    def frames(self, clip: int) -> int:
        return int(self.start[clip + 1] - self.start[clip])

    def save(self, folder: Path) -> None:
        """One .npy file per array."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)

    @staticmethod
    def load(folder: Path) -> LatentClips:
        return LatentClips(*(np.load(folder / f"{f.name}.npy", allow_pickle=False) for f in fields(LatentClips)))

    def motion_scale(self) -> float:
        """Standard deviation of frame latent minus reference latent."""
        clip = np.repeat(np.arange(len(self)), np.diff(self.start))
        rows = np.arange(0, len(self.latent), max(1, len(self.latent) // 20_000))
        difference = self.latent[rows].astype(np.float32) - self.reference[clip[rows]]
        return float(difference.std())

    def cut(self, clip: int, first: int, frames: int) -> dict[str, Array]:
        """One sequence of a clip; audio windows reach beyond the cut where the clip has sound."""
        a = int(self.start[clip]) + first
        mel_rows = slice(MELS_PER_FRAME * int(self.start[clip]), MELS_PER_FRAME * int(self.start[clip + 1]))
        row = slice(a, a + frames)
        return {
            "clip": np.array(clip, np.int64),
            "latent": self.latent[row],
            "reference": self.reference[clip],
            "windows": frame_windows(self.mel[mel_rows].astype(np.float32), first, frames),
            "partner_windows": frame_windows(self.partner_mel[mel_rows].astype(np.float32), first, frames),
            "state": self.state[row].astype(np.int64),
            "expression": self.expression[row],
            "pose": np.concatenate((self.head[row], self.gaze[row]), 1),
            "units": self.units[row],
            "landmarks": self.landmarks[row],
            "reference_landmarks": self.reference_landmarks[clip],
        }


@torch.no_grad()
def encode_clips(codec: PortraitCodec, clips: ClipSequences, device: torch.device, batch: int = 128) -> LatentClips:
    """Run the codec's encoder over every frame, and the mel front end over every voice."""
    codec = codec.to(device).eval()
    latents, references, mels, partners = [], [], [], []
    for i in range(len(clips)):
        clip = clips.clip(i)
        reference = to_tensor(clip["reference"][None]).to(device)
        with autocast(device):
            parts = []
            for first in range(0, len(clip["image"]), batch):
                images = to_tensor(clip["image"][first : first + batch]).to(device)
                parts.append(codec.encode(images, reference.expand(len(images), -1, -1, -1)).cpu())
            references.append(codec.encode(reference, reference).cpu().numpy()[0])
        latents.append(torch.cat(parts).numpy().astype(np.float16))
        mels.append(log_mel(clip["voice"]).astype(np.float16))
        partners.append(log_mel(clip["partner"]).astype(np.float16))
    counts = [len(x) for x in latents]
    labels = {k: np.array(clips.array(k)) for k in _LABELS}
    return LatentClips(
        start=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        latent=np.concatenate(latents), reference=np.stack(references), mel=np.concatenate(mels),
        partner_mel=np.concatenate(partners), portrait=np.array(clips.references), **labels,
    )  # fmt: skip


_LABELS = ("state", "expression", "head", "gaze", "units", "landmarks", "reference_landmarks")


def augment_mel(windows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Gain, a smooth random equaliser and a noise floor, as they act on log-mel [F, 32, 80]; one draw per sequence."""
    knots = rng.normal(0, 1.2, 6)
    tilt = np.interp(np.linspace(0, 5, windows.shape[-1]), np.arange(6), knots)
    shifted = windows + (rng.normal(0, 1.5) + tilt).astype(np.float32)
    # Digital silence stays silence: equalisers and gains do not act on the floor.
    shifted = np.where(windows <= LOG_FLOOR + 1e-3, windows, np.maximum(shifted, LOG_FLOOR))
    if rng.random() < 0.5:
        floor = rng.uniform(LOG_FLOOR, -4.0) + rng.normal(0, 0.6, windows.shape) + 0.5 * tilt
        shifted = np.logaddexp(shifted, floor)
    return shifted.astype(np.float32)


class SequenceBatches:
    """Random sequences of `frames` frames, as tensors."""

    def __init__(
        self,
        clips: LatentClips,
        frames: int,
        size: int,
        seed: int,
        augment: bool = True,
        even_states: float = 0.0,
    ) -> None:
        """even_states: share of the sequences that are drawn around a frame of a state, each state as often as the
        others; the rest come as the clips do, where people speak two thirds of the time and idle a tenth.
        """
        self.clips, self.frames, self.size, self.augment = clips, frames, size, augment
        self.even_states = even_states
        self.rng = np.random.default_rng(seed)
        long_enough = [i for i in range(len(clips)) if clips.frames(i) >= frames]
        self.choice = np.array(long_enough)
        if not len(self.choice):
            raise ValueError(f"no clip has {frames} frames; make longer clips (visavis data make --seconds)")
        frame_clip = np.repeat(np.arange(len(clips)), np.diff(clips.start))
        usable = np.isin(frame_clip, self.choice)
        found = (np.flatnonzero(usable & (clips.state == state)) for state in np.unique(clips.state))
        self.frames_of_states = [where for where in found if len(where)]
        self.frame_clip = frame_clip

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.draw()

    def draw(self) -> Batch:
        cuts = []
        for clip in self.rng.choice(self.choice, self.size):
            clip, first = self._around_a_state() if self.rng.random() < self.even_states else self._anywhere(int(clip))
            cut = self.clips.cut(clip, first, self.frames)
            if self.augment:
                cut["windows"] = augment_mel(cut["windows"], self.rng)
            cuts.append(cut)
        return {k: torch.from_numpy(_as_float(np.stack([c[k] for c in cuts]))) for k in cuts[0]}

    def _anywhere(self, clip: int) -> tuple[int, int]:
        return clip, int(self.rng.integers(0, self.clips.frames(clip) - self.frames + 1))

    def _around_a_state(self) -> tuple[int, int]:
        where = self.frames_of_states[self.rng.integers(len(self.frames_of_states))]
        frame = int(self.rng.choice(where))
        clip = int(self.frame_clip[frame])
        at, last = frame - int(self.clips.start[clip]), self.clips.frames(clip) - self.frames
        return clip, int(self.rng.integers(max(0, at - self.frames + 1), min(at, last) + 1))


def _as_float(array: Array) -> Array:
    return array if array.dtype == np.int64 else array.astype(np.float32)


__all__ = ["WINDOW_MELS", "LatentClips", "SequenceBatches", "augment_mel", "encode_clips"]
