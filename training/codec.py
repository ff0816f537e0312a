"""Stage 1, `visavis train codec`: a frame from its latent and another picture of the same person.

The renderer's truth leads: flow, visibility and face units are supervised directly, pixels polish. From pixels alone
a small codec does not leave the identity warp within hours of CPU time (docs/lab-notes.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.avatar import AvatarModel, save_model
from engine.model.codec import Decoded, PortraitCodec
from engine.model.config import SIZES
from engine.model.layers import resize
from engine.portrait.landmarks import INDEX, LANDMARKS
from training.data.truth import ARKIT_UNITS
from training.grids import save_grid
from training.run import Batch, Run, RunConfig

if TYPE_CHECKING:
    from training.data.loading import CodecPairs

PROBE_OUTPUTS = len(ARKIT_UNITS) + 5 + 2 * len(LANDMARKS)
"""Units, head (3), gaze (2), landmarks."""

ANGLE_SCALE = 15.0
LANDMARK_SCALE = 10.0
_MOUTH = [INDEX[n] for n in ("mouth_right", "mouth_left", "lip_upper_outer", "lip_lower_outer")]
_EYES = ([INDEX["eye_right_outer"], INDEX["eye_right_inner"]], [INDEX["eye_left_outer"], INDEX["eye_left_inner"]])


_SPEECH = (
    "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLower", "mouthUpper", "mouthStretch", "mouthRoll",
    "mouthPress", "tongueOut",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CodecWeights:
    """Loss weights; pixels count 1 everywhere, more around mouth and eyes."""

    mouth: float = 8.0
    eyes: float = 12.0
    gradient: float = 1.0
    flow: float = 8.0
    interior: float = 12.0
    """Extra pixel weight inside the open mouth, which covers a thousandth of the pictures."""
    mask: float = 0.5
    probe: float = 5.0
    pixels_move_flow: bool = False
    latent_noise: float = 0.1
    """Standard deviation of the noise on the unit-variance latent: what the decoder must tolerate of the denoiser."""


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [N, S, S, 3] to float [N, 3, S, S] in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def attention_map(landmarks: Tensor, side: int, mouth: float, eyes: float) -> Tensor:
    """1 plus Gaussian hills on mouth and eyes, [B, 1, side, side]; landmarks [B, 28, 2] as fractions."""
    line = (torch.arange(side, device=landmarks.device) + 0.5) / side
    y, x = torch.meshgrid(line, line, indexing="ij")

    def hill(points: list[int], sigma: float) -> Tensor:
        centre = landmarks[:, points].mean(1)
        d2 = (x[None] - centre[:, 0, None, None]) ** 2 + (y[None] - centre[:, 1, None, None]) ** 2
        return torch.exp(-d2 / (2 * sigma**2))

    weight = 1 + mouth * hill(_MOUTH, 0.085) + eyes * sum(hill(eye, 0.045) for eye in _EYES)
    return weight[:, None]


def gradient_loss(a: Tensor, b: Tensor, weight: Tensor, scales: int = 3) -> Tensor:
    """L1 of horizontal and vertical differences on a pyramid; keeps edges where plain L1 blurs them."""
    total = a.new_zeros(())
    for _ in range(scales):
        e = a - b
        total = total + (weight[..., 1:, :] * (e[..., 1:, :] - e[..., :-1, :]).abs()).mean()
        total = total + (weight[..., :, 1:] * (e[..., :, 1:] - e[..., :, :-1]).abs()).mean()
        a, b, weight = (F.avg_pool2d(t, 2) for t in (a, b, weight))
    return total / scales


def probe_emphasis(mouth: float = 4.0, lids: float = 12.0) -> Tensor:
    """Weight [PROBE_OUTPUTS] of each probe output: what moves when people talk counts more, and blinks, which few
    frames show, most."""
    weights = {"jaw": mouth, "mouth": mouth, "lip": mouth, "eyeBlink": lids, "lid": lids}

    def weight(name: str) -> float:
        return next((value for prefix, value in weights.items() if name.startswith(prefix)), 1.0)

    units = [weight(name) for name in ARKIT_UNITS]
    points = [weight(name) for name in LANDMARKS for _ in "xy"]
    return torch.tensor([*units, *[1.0] * 5, *points])


def speech_emphasis() -> Tensor:
    """1 for probe outputs that are units which speech moves, 0 for all else; [PROBE_OUTPUTS]."""
    units = [float(name.startswith(_SPEECH)) for name in ARKIT_UNITS]
    return torch.tensor(units + [0.0] * (PROBE_OUTPUTS - len(units)))


def lips_apart() -> tuple[tuple[int, int], ...]:
    """Pairs of probe outputs whose differences are the lips' distance, outside and inside, and the mouth's width."""

    def output(name: str, axis: int) -> int:
        return len(ARKIT_UNITS) + 5 + 2 * INDEX[name] + axis

    pairs = (
        ("lip_lower_outer", "lip_upper_outer", 1),
        ("lip_lower_inner", "lip_upper_inner", 1),
        ("mouth_left", "mouth_right", 0),
    )
    return tuple((output(a, axis), output(b, axis)) for a, b, axis in pairs)


class CodecStage(nn.Module):
    """Batch of (image, reference, truth) to the codec's loss."""

    def __init__(self, codec: PortraitCodec, weights: CodecWeights) -> None:
        super().__init__()
        self.codec, self.weights = codec, weights
        self.emphasis: Tensor
        self.register_buffer("emphasis", probe_emphasis())

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        w, image = self.weights, batch["image"]
        references = self.codec.encode_reference(batch["reference"])
        latent = self.codec.encode(image, batch["reference"])
        latent = latent + w.latent_noise * torch.randn_like(latent)
        decoded = self.codec.decode(latent, references, batch["reference"], self._pixels_move_flow(batch))
        attention = attention_map(batch["landmarks"], image.shape[-1], w.mouth, w.eyes)
        attention = attention + w.interior * resize(batch["mouth"][:, None], image.shape[-1])
        attention = attention / attention.mean((1, 2, 3), keepdim=True)
        terms = {
            "pixel": (attention * (decoded.image - image).abs()).mean(),
            "gradient": w.gradient * gradient_loss(decoded.image, image, attention),
            "flow": w.flow * self._flow(decoded, batch, attention),
            "mask": w.mask * self._mask(decoded, batch, attention),
            "probe": w.probe * self._probe(latent - references.latent, batch),
        }
        loss = torch.stack(list(terms.values())).sum()
        return loss, {k: float(v.detach()) for k, v in terms.items()}

    def _pixels_move_flow(self, batch: Batch) -> bool | Tensor:
        """Where nobody knows the flow (real films), pixels are all there is to learn it from."""
        if self.weights.pixels_move_flow or batch["has_flow"].all():
            return self.weights.pixels_move_flow
        return batch["has_flow"] == 0

    def _flow(self, decoded: Decoded, batch: Batch, attention: Tensor) -> Tensor:
        # Lids and lips are a fiftieth of the picture: counted like the rest, their motion is the last to be learnt.
        target = batch["flow"]
        known = batch["known"][:, None] * resize(attention, target.shape[-1])
        total = _known_distance(decoded.flow, target, known)
        for coarse in decoded.flows_coarse:
            shrink = target.shape[-1] // coarse.shape[-1]
            small, seen = F.avg_pool2d(target, shrink), F.avg_pool2d(known, shrink)
            total = total + 0.5 * _known_distance(coarse, small, seen)
        return total

    def _mask(self, decoded: Decoded, batch: Batch, attention: Tensor) -> Tensor:
        known = resize(batch["known"][:, None], decoded.mask.shape[-1]).clamp(0, 1)
        told = batch["has_flow"]
        weight = attention * (told / told.mean().clamp(min=1 / len(told)))[:, None, None, None]
        return F.binary_cross_entropy_with_logits(decoded.mask_logits, known, weight)

    def _probe(self, moved: Tensor, batch: Batch) -> Tensor:
        assert self.codec.probe is not None
        predicted = self.codec.probe(moved.flatten(1))
        error = F.smooth_l1_loss(predicted, probe_targets(batch), beta=0.1, reduction="none")
        return (error * self.emphasis).mean()


def _known_distance(flow: Tensor, target: Tensor, known: Tensor) -> Tensor:
    return (known * (flow - target).abs()).sum() / known.sum().clamp(min=1)


def probe_targets(batch: Batch) -> Tensor:
    """[B, PROBE_OUTPUTS]: frame minus reference of units, head, gaze and landmarks, every entry of order one.

    The probe reads differences, as the denoiser's latents are: absolute latents say more about who it is.
    """
    change = {k: batch[k] - batch[f"reference_{k}"] for k in ("units", "head", "gaze", "landmarks")}
    angles = torch.cat((change["head"], change["gaze"]), 1) / ANGLE_SCALE
    return torch.cat((change["units"], angles, LANDMARK_SCALE * change["landmarks"].flatten(1)), 1)


def codec_batch(raw: dict[str, np.ndarray]) -> Batch:
    """Numpy batch of CodecPairs to tensors; flow becomes sampling positions [-1, 1], channels first."""
    batch = {
        "image": to_tensor(raw["image"]),
        "reference": to_tensor(raw["reference"]),
        "flow": torch.from_numpy(raw["flow"].astype(np.float32)).permute(0, 3, 1, 2) * 2 - 1,
        "known": torch.from_numpy(raw["known"].astype(np.float32)),
        "mouth": torch.from_numpy(raw["mouth"].astype(np.float32)),
        "has_flow": torch.from_numpy(raw["has_flow"].astype(np.float32)),
    }
    for key in ("landmarks", "units", "head", "gaze"):
        for name in (key, f"reference_{key}"):
            batch[name] = torch.from_numpy(raw[name].astype(np.float32))
    for key in ("known", "mouth"):
        batch[key] = batch[key] / 255 if raw[key].dtype == np.uint8 else batch[key]
    for key in ("image", "reference"):
        batch[key] = batch[key].contiguous(memory_format=torch.channels_last)
    return batch


def recolour(batch: Batch, rng: np.random.Generator) -> Batch:
    """Other exposure and white balance for both pictures of a pair: few people must stand for many skins and lights."""
    size = len(batch["image"])
    gain = rng.uniform(0.75, 1.2, (size, 1, 1, 1)) * rng.uniform(0.92, 1.08, (size, 3, 1, 1))
    bias = rng.uniform(-0.15, 0.15, (size, 1, 1, 1))
    scale, shift = (torch.from_numpy(x.astype(np.float32)) for x in (gain, bias))
    return batch | {k: (batch[k] * scale + shift).clamp_(-1, 1) for k in ("image", "reference")}


RARE_SHARE = 0.25
"""Of a batch: frames that show what is over in a moment. A blink fills one frame in forty."""
RARE_FROM = {"eyeBlinkLeft": 0.4, "mouthPucker": 0.4, "mouthSmileLeft": 0.5, "jawOpen": 0.45}


def rare_rows(units: np.ndarray) -> list[np.ndarray]:
    """Rows of units [N, 52] in which each of the fleeting units is strong; empty ones are left out."""
    found = (np.flatnonzero(units[:, ARKIT_UNITS.index(name)] > least) for name, least in RARE_FROM.items())
    return [rows for rows in found if len(rows)]


def endless(data: CodecPairs, size: int, seed: int) -> Iterator[Batch]:
    """Random pairs, a quarter of them with a fleeting unit, each kind alike."""
    rng = np.random.default_rng(seed)
    rare = rare_rows(np.asarray(data.array("units")))
    while True:
        rows = rng.integers(len(data), size=size)
        for place in range(round(size * RARE_SHARE) if rare else 0):
            rows[place] = rng.choice(rare[int(rng.integers(len(rare)))])
        yield recolour(codec_batch(data.rows(rows)), rng)


def psnr(a: Tensor, b: Tensor, weight: Tensor | None = None) -> float:
    """dB for images in [-1, 1]; weight [B, 1, H, W] restricts it to a region."""
    e2 = (a - b).square()
    mse = e2.mean() if weight is None else (e2 * weight).sum() / (weight.sum() * a.shape[1]).clamp(min=1e-6)
    return float(10 * torch.log10(4 / mse.clamp(min=1e-10)))


@torch.no_grad()
def measure_codec(codec: PortraitCodec, batch: Batch) -> dict[str, float]:
    """PSNR of output, of copying the reference, in the mouth box; flow error in pixels of 128."""
    device = next(codec.parameters()).device
    batch = {k: v.to(device) for k, v in batch.items()}
    references = codec.encode_reference(batch["reference"])
    latent = codec.encode(batch["image"], batch["reference"])
    decoded = codec.decode(latent, references, batch["reference"])
    mouth = mouth_box(batch["landmarks"], batch["image"].shape[-1])
    error = (decoded.flow - batch["flow"]).norm(dim=1) * 64
    known = batch["known"]
    result = {
        "psnr": psnr(decoded.image, batch["image"]),
        "psnr_mouth": psnr(decoded.image, batch["image"], mouth),
        "psnr_copy": psnr(batch["reference"], batch["image"]),
        "psnr_copy_mouth": psnr(batch["reference"], batch["image"], mouth),
        "flow_error_px": float((error * known).sum() / known.sum().clamp(min=1)),
    }
    if codec.probe is not None:
        moved = latent - references.latent
        predicted, target = codec.probe(moved.flatten(1)), probe_targets(batch)
        for name in ("jawOpen", "mouthPucker", "mouthSmileLeft", "eyeBlinkLeft"):
            i = ARKIT_UNITS.index(name)
            result[f"probe_{name}"] = correlation(predicted[:, i], target[:, i])
    return result


def mouth_box(landmarks: Tensor, side: int) -> Tensor:
    """Mask [B, 1, side, side] of the mouth: its landmark box, grown by 35 % of the mouth's width."""
    points = landmarks[:, _MOUTH]
    low, high = points.amin(1), points.amax(1)
    grow = 0.35 * (high[:, :1] - low[:, :1])
    low, high = low - grow, high + grow
    line = (torch.arange(side, device=landmarks.device) + 0.5) / side
    inside_x = (line[None] >= low[:, :1]) & (line[None] <= high[:, :1])
    inside_y = (line[None] >= low[:, 1:]) & (line[None] <= high[:, 1:])
    return (inside_y[:, :, None] & inside_x[:, None, :])[:, None].float()


def correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.float() - a.float().mean(), b.float() - b.float().mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-8))


def train_codec(
    data: list[Path], held_out: list[Path], config: RunConfig, size: str, cache: Path, start: Path | None = None
) -> Path:
    """Train on shards, measure on held-out shards, write `model.safetensors`; returns its path."""
    from engine.model.avatar import load_model
    from training.data.loading import CodecPairs

    pairs, test = CodecPairs(data, cache / "train"), CodecPairs(held_out, cache / "test")
    model = load_model(start)[0] if start else AvatarModel(SIZES[size], PROBE_OUTPUTS)
    model.codec.to(memory_format=torch.channels_last)
    run = Run(config, CodecStage(model.codec, CodecWeights()), model.codec)
    fixed = codec_batch(test.batch(64, np.random.default_rng(1)))

    def on_sample(step: int) -> None:
        measured = measure_codec(model.codec, fixed)
        run.log({f"test_{k}": v for k, v in measured.items()})
        sample_grid(model.codec, fixed, config.out / f"samples-{step:06d}.png", run.device)

    path = config.out / "model.safetensors"

    def on_save(step: int) -> None:
        meta: dict[str, Any] = {"stage": "codec", "step": step, "test": measure_codec(model.codec, fixed)}
        save_model(model, path, meta)

    run.train(endless(pairs, config.batch, config.seed + run.rank), on_sample, on_save)
    return path


@torch.no_grad()
def sample_grid(codec: PortraitCodec, batch: Batch, path: Path, device: torch.device) -> None:
    """Twelve pairs as a PNG; rows: reference, frame, decoded, warped, mask."""
    part = {k: v[:12].to(device) for k, v in batch.items()}
    references = codec.encode_reference(part["reference"])
    decoded = codec.decode(codec.encode(part["image"], part["reference"]), references, part["reference"])
    mask = resize(decoded.mask, 128).expand(-1, 3, -1, -1) * 2 - 1
    save_grid([part["reference"], part["image"], decoded.image, decoded.warped, mask], path)
