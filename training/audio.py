"""Stage 0, `visavis train audio`: the audio encoder learns mouth shapes from voices alone.

Phone times give the mouth's curves without a picture being drawn, so the encoder can hear hours of speech for the
price of minutes of video. The head that predicts the units is dropped afterwards; the teacher goes on from the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.audio.features import log_mel
from engine.audio.windows import MELS_PER_FRAME, frame_windows
from engine.model.avatar import AvatarModel, load_model, save_model
from engine.model.config import SIZES
from training.codec import PROBE_OUTPUTS, correlation
from training.data.truth import ARKIT_UNITS, Performance
from training.latents import augment_mel
from training.run import Batch, Run, RunConfig

MOUTH_UNITS = [i for i, name in enumerate(ARKIT_UNITS) if name.startswith(("jaw", "mouth")) and "Smile" not in name]
_CLIP_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class VoiceBank:
    """mel [4 N, 80] and targets [N, mouth units + tongue] of utterances laid end to end, silence between them."""

    mel: NDArray[np.float16]
    targets: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.targets)


def voice_clip(job: tuple[int, str, str]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """One performance's mel and mouth targets; a plain function of its arguments, for worker processes."""
    from training.data.performance import perform

    seed, split, cache = job
    p: Performance = perform(seed, seconds=_CLIP_SECONDS, split=split, cache=Path(cache) if cache else None)
    targets = np.concatenate((p.units[:, MOUTH_UNITS], p.tongue[:, None]), 1)
    return log_mel(p.voice).astype(np.float16), targets.astype(np.float16)


def make_voice_bank(hours: float, split: str, workers: int, cache: Path | None, seed: int) -> VoiceBank:
    jobs = [(seed + i, split, str(cache or "")) for i in range(max(1, round(hours * 3600 / _CLIP_SECONDS)))]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(voice_clip, jobs, chunksize=8))
    return VoiceBank(np.concatenate([m for m, _ in parts]), np.concatenate([t for _, t in parts]))


def load_or_make(path: Path, hours: float, split: str, workers: int, cache: Path | None, seed: int) -> VoiceBank:
    """The bank kept in folder `path`, made once."""
    if not (path / "targets.npy").exists():
        path.mkdir(parents=True, exist_ok=True)
        bank = make_voice_bank(hours, split, workers, cache, seed)
        np.save(path / "mel.npy", bank.mel)
        np.save(path / "targets.npy", bank.targets)
    return VoiceBank(np.load(path / "mel.npy"), np.load(path / "targets.npy"))


class AudioStage(nn.Module):
    """Mean squared error of mouth units read from each frame's embedding."""

    def __init__(self, model: AvatarModel) -> None:
        super().__init__()
        self.audio = model.audio
        self.head = nn.Linear(model.config.audio_width, len(MOUTH_UNITS) + 1)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        predicted = self.head(self.audio(batch["windows"])).float()
        loss = 100 * (predicted - batch["targets"]).square().mean()
        jaw = MOUTH_UNITS.index(ARKIT_UNITS.index("jawOpen"))
        return loss, {"r_jawOpen": correlation(predicted[:, jaw].detach(), batch["targets"][:, jaw])}


def bank_batches(bank: VoiceBank, size: int, seed: int, augment: bool = True) -> Iterator[Batch]:
    """Batches of `size` frames, in runs of 32 that share one augmentation."""
    rng = np.random.default_rng(seed)
    while True:
        windows, targets = [], []
        for first in rng.integers(8, len(bank) - 40, size // 32):
            mel = bank.mel[MELS_PER_FRAME * (first - 8) : MELS_PER_FRAME * (first + 40)].astype(np.float32)
            cut = frame_windows(mel, 8, 32)
            windows.append(augment_mel(cut, rng) if augment else cut)
            targets.append(bank.targets[first : first + 32].astype(np.float32))
        yield {
            "windows": torch.from_numpy(np.concatenate(windows)),
            "targets": torch.from_numpy(np.concatenate(targets)),
        }


def train_audio(bank: VoiceBank, held_out: VoiceBank, config: RunConfig, size: str, start: Path | None) -> Path:
    """Train, measure on held-out voices and sentences, write `model.safetensors`; returns its path."""
    model = load_model(start)[0] if start else AvatarModel(SIZES[size], PROBE_OUTPUTS)
    stage = AudioStage(model)
    run = Run(config, stage, stage)
    test = next(bank_batches(held_out, 4096, 1, augment=False))

    def measure() -> dict[str, float]:
        device = run.device
        predicted = stage.head(stage.audio(test["windows"].to(device))).float().cpu()
        names = ("jawOpen", "mouthPucker", "mouthFunnel", "mouthPressLeft", "mouthRollLower")
        index = [MOUTH_UNITS.index(ARKIT_UNITS.index(n)) for n in names]
        return {
            f"test_r_{n}": correlation(predicted[:, i], test["targets"][:, i])
            for n, i in zip(names, index, strict=True)
        }

    path = config.out / "model.safetensors"
    run.train(
        bank_batches(bank, config.batch, config.seed + run.rank),
        on_sample=lambda step: run.log(measure()),
        on_save=lambda step: save_model(model, path, {"stage": "audio", "step": step, "test": measure()}),
    )
    return path
