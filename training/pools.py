"""Frames and sequences kept on the training device, refreshed from a stream, drawn from without waiting.

A pool holds the latest takes; each new one replaces the oldest. A batch is gathered, converted and augmented by the
device itself, so the trainer's processor time goes into starting work, not into data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.audio.features import LOG_FLOOR
from engine.audio.windows import LOOK_AHEAD_FRAMES, MELS_PER_FRAME, WINDOW_MELS
from engine.model.codec import PortraitCodec
from training.codec import RARE_FROM, RARE_SHARE
from training.data.clips import identity_grid
from training.data.takes import Arrays, Layout
from training.data.truth import UNIT
from training.run import Batch, autocast

_PICTURES = ("image", "reference")


@dataclass(frozen=True, slots=True)
class MelAugment:
    """As training.latents.augment_mel: gain, an equaliser of six random knots, and in half of the sequences a noise
    floor. Natural-log units."""

    gain: float = 1.5
    equaliser: float = 1.2
    noise_share: float = 0.5
    loudest_noise: float = -4.0
    noise_spread: float = 0.6


class RingStore:
    """The latest `places` takes of some arrays, on a device."""

    def __init__(self, layout: Layout, places: int, device: torch.device) -> None:
        self.places, self.device = places, device
        self.filled, self.added = 0, 0
        self._arrays = {
            name: torch.zeros((places, *shape), dtype=_torch_type(kind), device=device)
            for name, (shape, kind) in layout.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    @property
    def names(self) -> list[str]:
        return list(self._arrays)

    def add(self, take: Mapping[str, NDArray[np.generic] | Tensor]) -> None:
        """Put a take in the place of the oldest one; the take's own memory may be reused afterwards."""
        place = self.added % self.places
        for name, array in self._arrays.items():
            value = take[name]
            array[place].copy_(value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value)))
        self.added += 1
        self.filled = min(self.added, self.places)


class PairPool:
    """Pairs for the codec: batches as training.codec.codec_batch makes them."""

    def __init__(self, layout: Layout, places: int, device: torch.device, seed: int = 0) -> None:
        """places: takes held; a take of 24 frames at 128 px has 1.9 MB, at 256 px 5.5 MB."""
        self.store = RingStore(layout, places, device)
        self.frames = layout["image"][0][0]
        self._grid = torch.from_numpy(identity_grid()).to(device)
        self._random = torch.Generator(device).manual_seed(seed)
        self._rare = torch.zeros((len(RARE_FROM), places * self.frames), device=device)
        self._kinds: list[int] = []

    def add(self, take: Arrays) -> None:
        """Keep a take, and remember which of its frames show a fleeting unit (training.codec.RARE_FROM)."""
        first = self.store.added % self.store.places * self.frames
        for kind, (name, least) in enumerate(RARE_FROM.items()):
            strong = take["units"][:, UNIT[name]] > least
            self._rare[kind, first : first + self.frames] = torch.from_numpy(strong.astype(np.float32))
            if strong.any() and kind not in self._kinds:
                self._kinds.append(kind)
        self.store.add(take)

    def draw(self, size: int, recolour: bool = True) -> Batch:
        """`size` random frames with their references, RARE_SHARE of them with a fleeting unit, each kind alike."""
        batch = self._batch(self._rows(size))
        return self._recoloured(batch, size) if recolour else batch

    def _batch(self, rows: Tensor) -> Batch:
        store = self.store
        take, frame = rows // self.frames, rows % self.frames
        batch: Batch = {}
        for name in store.names:
            picked = store[name][take] if name.startswith(("reference", "is_")) else store[name][take, frame]
            batch[name] = picked
        flow = (batch.pop("displacement").float() + self._grid) * 2 - 1
        batch["flow"] = flow.permute(0, 3, 1, 2)
        for name in ("known", "mouth"):
            batch[name] = batch[name].float() / 255
        batch["has_flow"] = batch["known"].flatten(1).any(1).float()
        for name in _PICTURES:
            batch[name] = _to_planes(batch[name])
        return batch

    def first(self, size: int) -> Batch:
        """The first `size` frames held, evenly over the takes, as they are: for measurements."""
        rows = torch.linspace(0, self.store.filled * self.frames - 1, size, device=self.store.device).long()
        return self._batch(rows)

    def _rows(self, size: int) -> Tensor:
        store, random = self.store, self._random
        rows = torch.randint(store.filled * self.frames, (size,), generator=random, device=store.device)
        each = round(size * RARE_SHARE) // max(1, len(self._kinds))
        for place, kind in enumerate(self._kinds if each else ()):
            weights = self._rare[kind, : store.filled * self.frames]
            if store.added <= store.places or bool(weights.any()):
                strong = torch.multinomial(weights, each, replacement=True, generator=random)
                rows[place * each : (place + 1) * each] = strong
        return rows

    def _recoloured(self, batch: Batch, size: int) -> Batch:
        """Exposure and white balance of both pictures of a pair, as training.codec.recolour."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(shape, generator=self._random, device=self.store.device)

        gain = uniform(0.75, 1.2, size, 1, 1, 1) * uniform(0.92, 1.08, size, 3, 1, 1)
        bias = uniform(-0.15, 0.15, size, 1, 1, 1)
        return batch | {name: (batch[name] * gain + bias).clamp(-1, 1) for name in _PICTURES}


def _to_planes(images: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] to float [B, 3, S, S] in [-1, 1], channels last in memory."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


class SequencePool:
    """Sequences for the denoiser, pictures as latents: batches as training.latents.SequenceBatches makes them."""

    def __init__(
        self, layout: Layout, codec: PortraitCodec, places: int, device: torch.device, seed: int = 0, chunk: int = 256
    ) -> None:
        """codec encodes what is added, `chunk` frames at a time; a take of 64 frames has 0.2 MB then."""
        self.codec, self._chunk = codec, chunk
        self.frames = layout["image"][0][0]
        config = codec.config
        latent = (config.latent_channels, config.latent_grid, config.latent_grid)
        kept = {name: spec for name, spec in layout.items() if name != "image"}
        kept |= {"latent": ((self.frames, *latent), np.float16), "reference_latent": (latent, np.float32)}
        self.store = RingStore(kept, places, device)
        self._random = torch.Generator(device).manual_seed(seed)
        self.augment = MelAugment()

    @torch.no_grad()
    def add(self, take: Arrays) -> None:
        """Encode a take's pictures and keep the rest of it."""
        device = self.store.device
        images = _to_planes(torch.from_numpy(take["image"]).to(device))
        reference = _to_planes(torch.from_numpy(take["reference"]).to(device)[None])
        with autocast(device):
            parts = [self.codec.encode(i, reference.expand(len(i), -1, -1, -1)) for i in images.split(self._chunk)]
            own = self.codec.encode(reference, reference)[0]
        self.store.add({**take, "latent": torch.cat(parts), "reference_latent": own.float()})

    def motion_scale(self) -> float:
        """Standard deviation of frame latent minus reference latent over what is held."""
        store, filled = self.store, self.store.filled
        moved = store["latent"][:filled].float() - store["reference_latent"][:filled, None]
        return float(moved.std())

    def draw(self, size: int, frames: int, augment: bool = True) -> Batch:
        """`size` random stretches of so many frames."""
        store = self.store
        take = torch.randint(store.filled, (size,), generator=self._random, device=store.device)
        first = torch.randint(self.frames - frames + 1, (size,), generator=self._random, device=store.device)
        return self._cut(take, first, frames, augment)

    def whole(self, frames: int, most: int) -> Batch:
        """The first frames of the first takes, unaugmented: for measurements."""
        count = min(most, self.store.filled)
        take = torch.arange(count, device=self.store.device)
        batch = self._cut(take, torch.zeros_like(take), min(frames, self.frames), augment=False)
        return batch | {"portrait": _to_planes(self.store["reference"][take])}

    def _cut(self, take: Tensor, first: Tensor, frames: int, augment: bool) -> Batch:
        store = self.store
        rows = first[:, None] + torch.arange(frames, device=store.device)
        of = take[:, None]
        own = windows_of(store["mel"].flatten(1, 2), take, first, frames)
        partner = windows_of(store["partner_mel"].flatten(1, 2), take, first, frames)
        return {
            "latent": store["latent"][of, rows].float(),
            "reference": store["reference_latent"][take],
            "windows": augment_windows(own, self.augment, self._random) if augment else own,
            "partner_windows": partner,
            "state": store["state"][of, rows].long(),
            "expression": store["expression"][of, rows],
            "pose": torch.cat((store["head"][of, rows], store["gaze"][of, rows]), -1),
            "units": store["units"][of, rows],
            "landmarks": store["landmarks"][of, rows],
            "reference_landmarks": store["reference_landmarks"][take],
        }


class VoicePool:
    """Log-mel and mouth curves of performances, for the audio encoder: batches as training.audio.bank_batches."""

    RUN_FRAMES = 32

    def __init__(self, mel: Tensor, targets: Tensor, seed: int = 0) -> None:
        """mel [4 N, 80]; targets [N, K]; both on the device that trains."""
        self._mel, self._targets = mel[None], targets
        self._random = torch.Generator(mel.device).manual_seed(seed)

    def draw(self, size: int, augment: bool = True) -> Batch:
        """size frames (rounded down to runs of 32 that share one augmentation)."""
        runs, device = max(1, size // self.RUN_FRAMES), self._mel.device
        first = torch.randint(len(self._targets) - self.RUN_FRAMES, (runs,), generator=self._random, device=device)
        windows = windows_of(self._mel, torch.zeros_like(first), first, self.RUN_FRAMES)
        if augment:
            windows = augment_windows(windows, MelAugment(), self._random)
        rows = first[:, None] + torch.arange(self.RUN_FRAMES, device=device)
        return {"windows": windows.flatten(0, 1), "targets": self._targets[rows].flatten(0, 1)}


def windows_of(mel: Tensor, take: Tensor, first: Tensor, frames: int) -> Tensor:
    """engine.audio.windows.frame_windows for a batch: mel [P, M, 80], take and first [B] to [B, frames, 32, 80]."""
    last = MELS_PER_FRAME * (1 + LOOK_AHEAD_FRAMES)
    at = MELS_PER_FRAME * (first[:, None] + torch.arange(frames, device=mel.device))
    index = at[..., None] + torch.arange(last - WINDOW_MELS, last, device=mel.device)
    inside = (index >= 0) & (index < mel.shape[1])
    windows = mel[take[:, None, None], index.clamp(0, mel.shape[1] - 1)].float()
    return torch.where(inside[..., None], windows, LOG_FLOOR)


def augment_windows(windows: Tensor, how: MelAugment, random: torch.Generator) -> Tensor:
    """training.latents.augment_mel on a batch of sequences [B, F, 32, 80], one draw each."""
    size, device = len(windows), windows.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random, device=device)

    knots = how.equaliser * normal(size, 1, 6)
    tilt = torch.nn.functional.interpolate(knots, windows.shape[-1], mode="linear", align_corners=True)[:, None]
    shifted = (windows + how.gain * normal(size, 1, 1, 1) + tilt).clamp(min=LOG_FLOOR)
    # Digital silence stays silence: equalisers and gains do not act on the floor.
    shifted = torch.where(windows <= LOG_FLOOR + 1e-3, windows, shifted)
    level = LOG_FLOOR + (how.loudest_noise - LOG_FLOOR) * uniform(size, 1, 1, 1)
    floor = level + how.noise_spread * normal(*windows.shape) + 0.5 * tilt
    noisy = uniform(size, 1, 1, 1) < how.noise_share
    return torch.where(noisy, torch.logaddexp(shifted, floor), shifted)


def _torch_type(kind: type) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, kind)).dtype
