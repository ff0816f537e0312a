"""The aligner: face points from the rough crop that a detector gives, so that the canonical crop can be cut exactly.

It is applied twice: the second look sees an almost canonical crop. Ships in the model bundle as `aligner.onnx`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.model.face_reader import FaceReader, ReaderConfig, from_landmarks, save_reader, to_landmarks
from engine.portrait.crop import CropBox, canonical_crop
from engine.portrait.paste import cut
from training.codec import to_tensor
from training.data.loading import CodecPairs
from training.instruments import augment
from training.run import Batch, Run, RunConfig

ALIGNER = ReaderConfig(px=96)
PASSES = 2

_SHIFT, _SCALE, _DEGREES = 0.18, (0.7, 1.4), 15.0
"""How far off a rough crop may be."""


class AlignerStage(nn.Module):
    """Mean absolute error of the landmarks, the contour that spans the crop counting twice."""

    def __init__(self, reader: FaceReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        error = (self.reader(batch["image"]).float() - from_landmarks(batch["landmarks"])).abs().unflatten(1, (-1, 2))
        loss = 8 * (error.mean() + error[:, -4:].mean())
        return loss, {"landmark_px": float(error.detach().mean()) * 128 / 4}


def faces(data: CodecPairs, rows: NDArray[np.integer], reference: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, S, S] and landmarks [B, 28, 2]: frames, or where `reference` says so their clip's reference."""
    raw = data.rows(rows)
    image = np.where(reference[:, None, None, None], raw["reference"], raw["image"])
    points = np.where(reference[:, None, None], raw["reference_landmarks"], raw["landmarks"])
    return to_tensor(image), torch.from_numpy(points.astype(np.float32))


def aligner_batches(data: CodecPairs, size: int, seed: int) -> Iterator[Batch]:
    """Rough crops of frames and references under every light and camera."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    while True:
        image, points = faces(data, rng.integers(len(data), size=size), rng.random(size) < 0.3)
        image, labels = augment.mirror(image, {"landmarks": points})
        # The second pass sees nearly canonical crops, so a third of the batch is that.
        near = size // 3
        close = augment.recrop(image[:near], labels["landmarks"][:near], ALIGNER.px, 0.05, (0.9, 1.12), _DEGREES)
        rough = augment.recrop(image[near:], labels["landmarks"][near:], ALIGNER.px, _SHIFT, _SCALE, _DEGREES)
        image = torch.cat((close[0], rough[0]))
        image = augment.some(augment.colours(image, 1.0), 0.1, augment.greyscale)
        image = augment.some(image, 0.3, lambda x: augment.gamma(x, 0.5))
        image = augment.some(image, 0.3, augment.soften)
        image = augment.some(image, 0.3, lambda x: augment.add_noise(x, 0.08))
        image = augment.some(image, 0.2, augment.quantise)
        yield {
            "image": image.contiguous(memory_format=torch.channels_last),
            "landmarks": torch.cat((close[1], rough[1])),
        }


def crop_overlap(a: CropBox, b: CropBox) -> float:
    """Intersection over union."""
    width = min(a.left + a.side, b.left + b.side) - max(a.left, b.left)
    height = min(a.top + a.side, b.top + b.side) - max(a.top, b.top)
    common = max(width, 0) * max(height, 0)
    return common / (a.side**2 + b.side**2 - common)


def align(reader: FaceReader, image: NDArray[np.uint8], crop: CropBox, passes: int = PASSES) -> tuple[CropBox, Tensor]:
    """Refined crop and landmarks (pixels of the picture) from a rough crop of an RGB picture [H, W, 3]."""
    points = torch.zeros(0)
    for _ in range(passes):
        seen = to_tensor(cut(image, crop, reader.config.px)[None])
        with torch.no_grad():
            points = torch.from_numpy(crop.to_source(to_landmarks(reader(seen).float())[0].numpy()))
        crop = canonical_crop(points.numpy())
    return crop, points


def measure_aligner(reader: FaceReader, data: CodecPairs, most: int = 200) -> dict[str, float]:
    """From rough crops of held-out references: overlap with the true canonical crop, landmark error in 1/128 of it."""
    rng = np.random.default_rng(2)
    firsts = np.unique(data.array("clip"), return_index=True)[1]
    reader = reader.cpu() if next(reader.parameters()).is_cuda else reader
    before, after, distance = [], [], []
    for row in rng.permutation(firsts)[:most]:
        raw = data.rows(np.array([row]))
        image = raw["reference"][0]
        truth_px = raw["reference_landmarks"][0] * len(image)
        true_crop = canonical_crop(truth_px)
        side = true_crop.side * np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
        middle = np.array((true_crop.left, true_crop.top)) + true_crop.side / 2 + rng.uniform(-0.12, 0.12, 2) * side
        rough = CropBox(*(middle - side / 2), side)
        crop, points = align(reader, image, rough)
        before.append(crop_overlap(rough, true_crop))
        after.append(crop_overlap(crop, true_crop))
        distance.append(np.linalg.norm(points.numpy() - truth_px, axis=-1).mean() * 128 / true_crop.side)
    return {
        "iou_rough": round(float(np.mean(before)), 4),
        "iou": round(float(np.mean(after)), 4),
        "iou_worst_decile": round(float(np.quantile(after, 0.1)), 4),
        "landmark_px": round(float(np.mean(distance)), 4),
    }


def train_aligner(data: list[Path], held_out: list[Path], config: RunConfig, cache: Path) -> Path:
    """Train on shards, measure on held-out shards, write `aligner.safetensors`; returns its path."""
    pairs, test = CodecPairs(data, cache / "train"), CodecPairs(held_out, cache / "test")
    reader = FaceReader(ALIGNER).to(memory_format=torch.channels_last)
    run = Run(config, AlignerStage(reader), reader)
    path = config.out / "aligner.safetensors"

    def on_sample(step: int) -> None:
        run.log({f"test_{k}": v for k, v in measure_aligner(reader, test).items()})

    def on_save(step: int) -> None:
        errors = measure_aligner(reader, test)
        save_reader(reader, path, {"stage": "aligner", "step": step, "clips": pairs.clips, "errors": errors})

    run.train(aligner_batches(pairs, config.batch, config.seed + run.rank), on_sample, on_save)
    return path
