"""The probe: reads landmarks, face units, head and gaze off a canonical crop. The instrument of `visavis evaluate`.

Trained on rendered truth only. It is no loss of any model and is not the linear probe that keeps the codec's latent
legible, so that what it measures was not optimised for it. Its own error on held-out people lies in its file and is
printed beside every table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.model.face_reader import (
    LANDMARK_OUTPUTS,
    FaceReader,
    ReaderConfig,
    from_landmarks,
    to_landmarks,
)
from engine.portrait.landmarks import INDEX
from training.codec import to_tensor
from training.data.loading import ClipSequences
from training.data.truth import ARKIT_UNITS, UNIT, Floats
from training.evaluate.metrics import correlation, mouth_opening
from training.instruments import augment
from training.instruments.files import config_of, read_file, write_file
from training.instruments.patches import (
    PatchConfig,
    PatchReader,
    PatchStage,
    change_scale,
    changes,
    clip_of,
    fit,
    measure_changes,
    patch_batches,
)
from training.run import Batch, Run, RunConfig

PROBE = ReaderConfig(px=128, outputs=LANDMARK_OUTPUTS + len(ARKIT_UNITS) + 5)

_PATCHES = "patches."
"""Where the weights of the close look begin in the file."""
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
    """A trained probe: pictures in, `Reading` out. `errors` are its own figures on held-out people.

    patches: its close look; files from before there was one have none, and their units come from the whole crop.
    """

    def __init__(self, reader: FaceReader, errors: dict[str, float], patches: PatchReader | None = None) -> None:
        self.reader, self.errors = reader.eval(), errors
        self.patches = patches.eval() if patches is not None else None

    @staticmethod
    def load(path: Path) -> Probe:
        header, weights = read_file(path)
        reader = FaceReader(config_of(ReaderConfig, header["config"]))
        reader.load_state_dict({k: v for k, v in weights.items() if not k.startswith(_PATCHES)})
        patches = None
        if "patches" in header:
            patches = PatchReader(config_of(PatchConfig, header["patches"]))
            part = {k.removeprefix(_PATCHES): v for k, v in weights.items() if k.startswith(_PATCHES)}
            patches.load_state_dict(part)
        return Probe(reader, json.loads(header["meta"])["errors"], patches)

    def save(self, path: Path, meta: dict[str, Any]) -> None:
        """Weights in fp16 with configurations, meta and errors; renamed into place when complete."""
        weights = dict(self.reader.state_dict())
        header = {"config": asdict(self.reader.config), "meta": meta | {"errors": self.errors}}
        if self.patches is not None:
            weights |= {_PATCHES + k: v for k, v in self.patches.state_dict().items()}
            header["patches"] = asdict(self.patches.config)
        write_file(path, header, weights)

    @torch.no_grad()
    def read(self, images: NDArray[np.uint8], reference: NDArray[np.uint8] | None = None) -> Reading:
        """images uint8 [F, S, S, 3], canonical crops of any size; reference uint8 [S, S, 3]: the portrait that they
        move, by default the picture that is most like all the others. With a close look, units are what differs from
        the reference; gaze is better seen in the whole crop.
        """
        parts = [self.reader(self._fit(to_tensor(images[i : i + _BATCH]))) for i in range(0, len(images), _BATCH)]
        outputs = torch.cat(parts)
        seen = split_outputs(outputs)
        if self.patches is None:
            return seen
        still = images[_middle(seen.landmarks)] if reference is None else reference
        fitted = fit(still, self.reader.config.px)
        points = to_landmarks(self.reader(to_tensor(fitted[None])).float())[0].numpy()
        parts = [
            self.patches.read(images[i : i + _BATCH], seen.landmarks[i : i + _BATCH], still, points)
            for i in range(0, len(images), _BATCH)
        ]
        return replace(seen, units=torch.cat(parts).numpy())

    def _fit(self, images: Tensor) -> Tensor:
        px = self.reader.config.px
        if images.shape[-1] == px:
            return images
        return nn.functional.interpolate(images, size=(px, px), mode="bilinear", antialias=True)


def _middle(landmarks: Floats) -> int:
    """The frame whose points lie nearest to where they usually are."""
    return int(np.abs(landmarks - np.median(landmarks, 0)).sum((1, 2)).argmin())


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


def labelled(data: ClipSequences, rows: NDArray[np.integer]) -> Batch:
    """image and labels of frames, as tensors."""
    names = ("landmarks", "units", "head", "gaze")
    batch = {k: torch.from_numpy(np.asarray(data.array(k)[rows], np.float32)) for k in names}
    return batch | {"image": to_tensor(np.asarray(data.frames[rows]))}


def probe_batches(data: ClipSequences, size: int, seed: int) -> Iterator[Batch]:
    """Random frames with the mild faults that a codec or a video file adds."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    while True:
        batch = labelled(data, np.sort(rng.integers(len(data.frames), size=size)))
        image, labels = augment.mirror(batch.pop("image"), batch)
        image, labels["landmarks"] = augment.recrop(
            image, labels["landmarks"], image.shape[-1], shift=0.03, scale=(0.93, 1.08), degrees=0.0
        )
        image = augment.colours(image, 0.4)
        image = augment.some(image, 0.4, augment.soften)
        image = augment.some(image, 0.3, lambda x: augment.add_noise(x, 0.06))
        image = augment.some(image, 0.2, augment.quantise)
        yield labels | {"image": image.contiguous(memory_format=torch.channels_last)}


def measure_probe(reader: FaceReader, data: ClipSequences, most: int = 1024) -> dict[str, float]:
    """Its error on held-out people: landmarks in pixels of the 128-pixel crop, correlations over all frames."""
    rows = np.random.default_rng(1).permutation(len(data.frames))[:most]
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


def measure_close_look(probe: Probe, data: ClipSequences, most: int = 1280) -> dict[str, float]:
    """How well differences to the reference are read on held-out people; points are the probe's own."""
    rows = np.linspace(0, int(data.lengths.sum()) - 1, most).astype(np.int64)
    clips = clip_of(data)[rows]
    seen: list[Floats] = []
    for clip in np.unique(clips):
        reading = probe.read(np.asarray(data.frames[rows[clips == clip]]), np.asarray(data.references[clip]))
        seen.append(reading.units)
    return {k: round(v, 4) for k, v in measure_changes(np.concatenate(seen), changes(data, rows, clips)).items()}


def train_probe(
    data: list[Path],
    held_out: list[Path],
    config: RunConfig,
    cache: Path,
    start: Path | None = None,
    refine: bool = False,
) -> Path:
    """Train on shards, measure on held-out shards, write `probe.safetensors` and, from what it then sees,
    `states.safetensors`; returns the path of the probe.

    The look at the whole crop takes half the time, the close look the rest. start: a probe whose look at the whole crop
    is kept; with `refine` that look is trained further instead, and the close look is kept.
    """
    from training.instruments.states import train_states  # states reads through the probe

    path = config.out / "probe.safetensors"
    config.out.mkdir(parents=True, exist_ok=True)
    given = None if start is None else Probe.load(start)
    if given is not None and refine:
        refined = _train_whole(data, held_out, replace(config, out=config.out / "whole"), cache, given)
        refined.save(path, {"stage": "probe", "refined": True})
    else:
        half = replace(config, minutes=config.minutes / 2) if given is None else config
        whole = given or _train_whole(data, held_out, replace(half, out=config.out / "whole"), cache, None)
        _train_close(whole, data, held_out, replace(half, out=config.out / "close"), cache, path)
    if int(os.environ.get("RANK", "0")) == 0:
        train_states(data, held_out, path, config.out / "states.safetensors")
    return path


def _sequences(data: list[Path], held_out: list[Path], cache: Path) -> tuple[ClipSequences, ClipSequences]:
    return ClipSequences(data, cache / "sequences-train"), ClipSequences(held_out, cache / "sequences-test")


def _train_whole(data: list[Path], held_out: list[Path], config: RunConfig, cache: Path, start: Probe | None) -> Probe:
    clips, test = _sequences(data, held_out, cache)
    reader = FaceReader(PROBE) if start is None else start.reader
    reader = reader.to(memory_format=torch.channels_last)
    run = Run(config, ProbeStage(reader), reader)

    def on_sample(step: int) -> None:
        run.log({f"test_{k}": v for k, v in measure_probe(reader, test).items()})

    run.train(probe_batches(clips, config.batch, config.seed + run.rank), on_sample)
    reader.load_state_dict(run.ema.shadow)
    probe = Probe(reader.cpu(), measure_probe(reader, test), None if start is None else start.patches)
    if probe.patches is not None:
        probe.errors |= measure_close_look(probe, test)
    return probe


def _train_close(
    whole: Probe, data: list[Path], held_out: list[Path], config: RunConfig, cache: Path, path: Path
) -> None:
    """Add the close look to a probe and write both."""
    clips, test = _sequences(data, held_out, cache)
    patches = PatchReader(PatchConfig())
    patches.scale.copy_(change_scale(clips))
    run = Run(config, PatchStage(patches), patches)

    @lru_cache(maxsize=1)
    def measured(step: int) -> Probe:
        copy = PatchReader(patches.config)
        copy.load_state_dict(patches.state_dict())
        probe = Probe(whole.reader, dict(whole.errors), copy.cpu())
        probe.errors |= measure_close_look(probe, test)
        return probe

    def on_sample(step: int) -> None:
        run.log({f"test_{k}": v for k, v in measured(step).errors.items()})

    def on_save(step: int) -> None:
        measured(step).save(path, {"stage": "probe", "step": step, "clips": len(clips)})

    run.train(patch_batches(clips, patches.config, config.batch, config.seed + run.rank), on_sample, on_save)
