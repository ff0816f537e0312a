"""The probe: reads landmarks, face units, head and gaze off a canonical crop. The instrument of `visavis evaluate`.

Trained on rendered truth only. It is no loss of any model and is not the linear probe that keeps the codec's latent
legible, so that what it measures was not optimised for it. Its own error on held-out people lies in its file and is
printed beside every table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.model.face_reader import (
    LANDMARK_OUTPUTS,
    FaceReader,
    ReaderConfig,
    from_landmarks,
    load_reader,
    save_reader,
    to_landmarks,
)
from engine.portrait.landmarks import INDEX
from training.codec import to_tensor
from training.data.loading import CodecPairs
from training.data.truth import ARKIT_UNITS, UNIT, Floats
from training.evaluate.metrics import correlation, mouth_opening
from training.instruments import augment
from training.run import Batch, Run, RunConfig

PROBE = ReaderConfig(px=128, outputs=LANDMARK_OUTPUTS + len(ARKIT_UNITS) + 5)

_UNIT_SCALE, _ANGLE_SCALE = 0.25, 10.0
"""What counts as one unit of the raw outputs."""
_BATCH = 128


@dataclass(frozen=True, slots=True)
class Reading:
    """What the probe sees in F pictures: landmarks [F, 28, 2], units [F, 52], head [F, 3] and gaze [F, 2] (degrees)."""

    landmarks: Floats
    units: Floats
    head: Floats
    gaze: Floats


class Probe:
    """A trained probe: pictures in, `Reading` out. `errors` are its own figures on held-out people."""

    def __init__(self, reader: FaceReader, errors: dict[str, float]) -> None:
        self.reader, self.errors = reader.eval(), errors

    @staticmethod
    def load(path: Path) -> Probe:
        reader, meta = load_reader(path)
        return Probe(reader, meta["errors"])

    @torch.no_grad()
    def read(self, images: NDArray[np.uint8]) -> Reading:
        """images uint8 [F, S, S, 3], canonical crops of any size."""
        parts = [self.reader(self._fit(to_tensor(images[i : i + _BATCH]))) for i in range(0, len(images), _BATCH)]
        return split_outputs(torch.cat(parts))

    def _fit(self, images: Tensor) -> Tensor:
        px = self.reader.config.px
        if images.shape[-1] == px:
            return images
        return nn.functional.interpolate(images, size=(px, px), mode="bilinear", antialias=True)


def split_outputs(outputs: Tensor) -> Reading:
    """Raw outputs [F, outputs] in their natural units."""
    outputs = outputs.float()
    units, head, gaze = outputs[:, LANDMARK_OUTPUTS:].split((len(ARKIT_UNITS), 3, 2), 1)
    return Reading(
        to_landmarks(outputs).numpy(), (units * _UNIT_SCALE).numpy(),
        (head * _ANGLE_SCALE).numpy(), (gaze * _ANGLE_SCALE).numpy(),
    )  # fmt: skip


class ProbeStage(nn.Module):
    """Mean absolute error; landmarks and the opening between the lips count most."""

    def __init__(self, reader: FaceReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        outputs = self.reader(batch["image"]).float()
        points, rest = outputs[:, :LANDMARK_OUTPUTS], outputs[:, LANDMARK_OUTPUTS:]
        angles = torch.cat((batch["head"], batch["gaze"]), 1) / _ANGLE_SCALE
        target = torch.cat((batch["units"] / _UNIT_SCALE, angles), 1)
        wanted = from_landmarks(batch["landmarks"])
        terms = {
            "landmarks": 8 * (points - wanted).abs().mean(),
            "lips": 4 * (_lips(points) - _lips(wanted)).abs().mean(),
            "units": 0.5 * (rest - target).abs().mean(),
        }
        return torch.stack(list(terms.values())).sum(), {k: float(v.detach()) for k, v in terms.items()}


def _lips(points: Tensor) -> Tensor:
    points = points.unflatten(1, (-1, 2))
    return points[:, INDEX["lip_lower_inner"]] - points[:, INDEX["lip_upper_inner"]]


def labelled(data: CodecPairs, rows: NDArray[np.integer]) -> Batch:
    """image and labels of frames, as tensors."""
    raw = data.rows(rows)
    batch = {k: torch.from_numpy(raw[k].astype(np.float32)) for k in ("landmarks", "units", "head", "gaze")}
    return batch | {"image": to_tensor(raw["image"])}


def probe_batches(data: CodecPairs, size: int, seed: int) -> Iterator[Batch]:
    """Random frames with the mild faults that a codec or a video file adds."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    while True:
        batch = labelled(data, rng.integers(len(data), size=size))
        image, labels = augment.mirror(batch.pop("image"), batch)
        image, labels["landmarks"] = augment.recrop(
            image, labels["landmarks"], image.shape[-1], shift=0.03, scale=(0.93, 1.08), degrees=0.0
        )
        image = augment.colours(image, 0.4)
        image = augment.some(image, 0.4, augment.soften)
        image = augment.some(image, 0.3, lambda x: augment.add_noise(x, 0.06))
        image = augment.some(image, 0.2, augment.quantise)
        yield labels | {"image": image.contiguous(memory_format=torch.channels_last)}


def measure_probe(reader: FaceReader, data: CodecPairs, most: int = 1024) -> dict[str, float]:
    """Its error on held-out people: landmarks in pixels of the 128-pixel crop, correlations over all frames."""
    rows = np.random.default_rng(1).permutation(len(data))[:most]
    batch = labelled(data, np.sort(rows))
    device = next(reader.parameters()).device
    with torch.no_grad():
        outputs = torch.cat([reader(part.to(device)).float().cpu() for part in batch["image"].split(_BATCH)])
    seen, truth = split_outputs(outputs), {k: v.numpy() for k, v in batch.items() if k != "image"}
    distance = np.linalg.norm(seen.landmarks - truth["landmarks"], axis=-1) * 128
    errors = {
        "landmark_px": float(distance.mean()),
        "mouth_px": float(distance[:, _MOUTH_POINTS].mean()),
        "r_opening": correlation(mouth_opening(seen.landmarks), mouth_opening(truth["landmarks"])),
    }
    for name, unit in _REPORTED.items():
        errors[f"r_{name}"] = correlation(seen.units[:, UNIT[unit]], truth["units"][:, UNIT[unit]])
    for i, name in enumerate(("yaw", "pitch")):
        errors[f"r_{name}"] = correlation(seen.head[:, i], truth["head"][:, i])
    return {k: round(v, 4) for k, v in errors.items()}


_REPORTED = {"jawOpen": "jawOpen", "blink": "eyeBlinkLeft", "smile": "mouthSmileLeft", "pucker": "mouthPucker"}
_MOUTH_POINTS = slice(18, 24)


def train_probe(data: list[Path], held_out: list[Path], config: RunConfig, cache: Path) -> Path:
    """Train on shards, measure on held-out shards, write `probe.safetensors` and, from what it then sees,
    `states.safetensors`; returns the path of the probe."""
    from training.instruments.states import train_states  # states reads through the probe

    pairs, test = CodecPairs(data, cache / "train"), CodecPairs(held_out, cache / "test")
    reader = FaceReader(PROBE).to(memory_format=torch.channels_last)
    run = Run(config, ProbeStage(reader), reader)
    path = config.out / "probe.safetensors"

    def on_sample(step: int) -> None:
        run.log({f"test_{k}": v for k, v in measure_probe(reader, test).items()})

    def on_save(step: int) -> None:
        meta = {"stage": "probe", "step": step, "clips": pairs.clips, "errors": measure_probe(reader, test)}
        save_reader(reader, path, meta)

    run.train(probe_batches(pairs, config.batch, config.seed + run.rank), on_sample, on_save)
    if run.rank == 0:
        train_states(data, held_out, path, config.out / "states.safetensors")
    return path
