"""A small convolutional network that reads numbers off a face crop: landmarks always, units and pose when asked.

One family, two uses: the aligner of the portrait finder (landmarks from a rough crop, ships in the bundle) and the
probe that evaluation trusts (landmarks, face units, head, gaze from a canonical crop). The first outputs are the 28
landmarks of `engine.portrait.landmarks`, so every use reads them the same way.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.model.layers import ResidualBlock, downsample, resize
from engine.portrait.landmarks import LANDMARKS

LANDMARK_OUTPUTS = 2 * len(LANDMARKS)
LANDMARK_GAIN = 4.0
"""Landmark outputs are (fraction - 0.5) times this, so that they are of order one."""


_SHARPNESS = 8.0
"""Gain of the softmax maps' logits; without it they take thousands of steps to leave the uniform map."""


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """px: side of the crop it sees, a multiple of 16. outputs: the landmarks' 56, then whatever else is read."""

    px: int = 128
    outputs: int = LANDMARK_OUTPUTS
    widths: tuple[int, int, int] = (48, 80, 112)
    """Channels at px / 4, / 8 and / 16."""
    squeezed: int = 24
    hidden: int = 160


class FaceReader(nn.Module):
    """Crop [B, 3, px, px] in [-1, 1] to raw outputs [B, outputs].

    A landmark is the mean position under a softmax map (integral regression, arXiv 1711.08229), which moves with the
    face by construction and so needs few people to learn from, plus a correction from the whole picture, which also
    reaches points outside it. Everything else comes from the whole picture.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c = config.widths
        self.quarter = nn.Sequential(nn.Conv2d(3, a, 4, stride=4), ResidualBlock(a))
        self.eighth = nn.Sequential(downsample(a, b), ResidualBlock(b))
        self.sixteenth = nn.Sequential(downsample(b, c), ResidualBlock(c))
        self.from_sixteenth, self.from_eighth = nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)
        self.maps = nn.Sequential(
            nn.SiLU(), nn.Conv2d(a, a, 3, padding=1), nn.SiLU(), nn.Conv2d(a, LANDMARK_OUTPUTS // 2, 1)
        )
        self.head = nn.Sequential(
            nn.GroupNorm(8, c), nn.SiLU(), nn.Conv2d(c, config.squeezed, 1), nn.Flatten(),
            nn.Linear(config.squeezed * (config.px // 16) ** 2, config.hidden), nn.SiLU(),
            nn.Linear(config.hidden, config.outputs),
        )  # fmt: skip
        side = config.px // 4
        line = ((torch.arange(side) + 0.5) / side - 0.5) * LANDMARK_GAIN
        self.line: Tensor
        self.register_buffer("line", line, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        quarter = self.quarter(image)
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        eighth = eighth + resize(self.from_sixteenth(sixteenth), eighth.shape[-1])
        quarter = quarter + resize(self.from_eighth(eighth), quarter.shape[-1])
        maps = self.maps(quarter).float()
        weight = (_SHARPNESS * maps).flatten(2).softmax(-1).unflatten(-1, maps.shape[2:])
        # Sums, not a product of matrices: autocast would round positions to bfloat16, a quarter of a pixel.
        seen = torch.stack([(weight.sum(axis) * self.line).sum(-1) for axis in (2, 3)], -1).flatten(1)
        rest = self.head(sixteenth).float()
        return torch.cat((seen + rest[:, :LANDMARK_OUTPUTS], rest[:, LANDMARK_OUTPUTS:]), 1)

    def landmarks(self, image: Tensor) -> Tensor:
        """[B, 28, 2] as fractions of the crop."""
        return to_landmarks(self(image))


def to_landmarks(outputs: Tensor) -> Tensor:
    """Raw outputs [B, outputs] to landmarks [B, 28, 2]."""
    return outputs[:, :LANDMARK_OUTPUTS].unflatten(1, (-1, 2)) / LANDMARK_GAIN + 0.5


def from_landmarks(landmarks: Tensor) -> Tensor:
    """Landmarks [B, 28, 2] to the outputs that mean them, [B, 56]."""
    return ((landmarks - 0.5) * LANDMARK_GAIN).flatten(1)


def save_reader(reader: FaceReader, path: Path, meta: dict[str, Any]) -> None:
    """Weights in fp16 with config and meta (JSON) in one safetensors file; renamed into place when complete."""
    from safetensors.torch import save_file

    weights = {k: v.detach().cpu().half().contiguous() for k, v in reader.state_dict().items()}
    header = {"config": json.dumps(asdict(reader.config)), "meta": json.dumps(meta)}
    temporary = path.with_suffix(".part")
    save_file(weights, temporary, metadata=header)
    temporary.replace(path)


def load_reader(path: Path) -> tuple[FaceReader, dict[str, Any]]:
    """Reader in eval mode, fp32, and the meta it was saved with."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    values = json.loads(header["config"])
    reader = FaceReader(ReaderConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}))
    reader.load_state_dict(weights)
    return reader.eval(), json.loads(header["meta"])


def export_aligner(reader: FaceReader, path: Path) -> None:
    """ONNX graph `image` float [1, 3, px, px] in [-1, 1] to `landmarks` [1, 28, 2], fractions of the crop."""

    class _Landmarks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reader = reader

        def forward(self, image: Tensor) -> Tensor:
            return self.reader.landmarks(image)

    example = torch.zeros(1, 3, reader.config.px, reader.config.px)
    torch.onnx.export(
        _Landmarks().eval(), (example,), str(path), input_names=["image"], output_names=["landmarks"],
        opset_version=17, dynamo=False,
    )  # fmt: skip
