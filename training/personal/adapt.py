"""Adapting the decoder's later layers to one person.

The encoder, the first layers and the reference's features stay as they are: latents keep their meaning, so the
denoiser of the base model drives the adapted decoder. Two terms keep what the person's own frames do not show: on
motion that the base model's denoiser generates, flow and paint must stay what they were (Learning without Forgetting,
arXiv 1606.09282), and drawn frames supervise flow and visibility as in codec training.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.model.codec import Decoded, PortraitCodec, ReferenceFeatures
from engine.model.layers import resize
from training.codec import attention_map, gradient_loss, to_tensor
from training.personal.measure import Gain, Quality, gain, measure, resize_area, trainable
from training.personal.pairs import NotGainedError, PersonPairs
from training.run import Batch, Run, RunConfig

_LAYERS = ("flow8", "up16", "flow16", "up32", "flow32", "fuse32", "up64", "flow64", "fuse64", "paint")
ADAPTED = tuple(f"decoder.{name}." for name in _LAYERS)
"""All but the stem and the grid of 8: how this person's lips, lids and teeth move and look, not what a latent means.
With the layers from `fuse32` on alone, the gain in the mouth is a quarter (lab notes)."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PersonalConfig:
    """Budget and loss weights; pixels count 1. keep: of staying as before on generated motion."""

    minutes: float = 5.0
    steps: int = 100_000
    batch: int = 8
    lr: float = 1e-3
    mouth: float = 6.0
    eyes: float = 4.0
    interior: float = 8.0
    gradient: float = 1.0
    flow: float = 8.0
    mask: float = 0.5
    keep: float = 2.0
    latent_noise: float = 0.05
    seed: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Adapted:
    """codec: the adapted one. names: its changed parameters. gain: over all sources' held-out frames."""

    codec: PortraitCodec
    names: tuple[str, ...]
    gain: Gain
    steps: int


@dataclass(frozen=True, slots=True)
class _Known:
    """One source at the encoder's size, which is also the paint's: larger pictures would only cost more.

    latents [N, C, G, G] of frames [N, 3, P, P]; portrait [1, 3, P, P].
    """

    pairs: PersonPairs
    reference: ReferenceFeatures
    portrait: Tensor
    frames: Tensor
    latents: Tensor


class PersonalStage(nn.Module):
    """Batch to loss; `base` is the decoder as it was."""

    def __init__(self, codec: PortraitCodec, config: PersonalConfig) -> None:
        super().__init__()
        self.codec, self.config = codec, config
        self._base = [copy.deepcopy(codec.decoder).eval().requires_grad_(False)]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        config, image = self.config, batch["image"]
        reference = ReferenceFeatures(batch["ref_latent"], batch["ref_fine"], batch["ref_coarse"])
        n = len(image)
        latent = batch["latent"] + config.latent_noise * torch.randn_like(batch["latent"])
        drawn = "flow" in batch
        decoded = self.codec.decode(latent, reference.expand(n), batch["portrait"].expand(n, -1, -1, -1), not drawn)
        attention = attention_map(batch["landmarks"], image.shape[-1], config.mouth, config.eyes)
        if drawn:
            attention = attention + config.interior * resize(batch["mouth"][:, None], image.shape[-1])
        attention = attention / attention.mean((1, 2, 3), keepdim=True)
        terms = {
            "pixel": (attention * (decoded.image - image).abs()).mean(),
            "gradient": config.gradient * gradient_loss(decoded.image, image, attention),
            "keep": config.keep * self._change(batch["prior"], reference),
        }
        if drawn:
            terms["flow"], terms["mask"] = self._truth(decoded, batch, attention)
        return torch.stack(list(terms.values())).sum(), {k: float(v.detach()) for k, v in terms.items()}

    def _change(self, motion: Tensor, reference: ReferenceFeatures) -> Tensor:
        """How far flow (in pixels of 64) and paint on other motion have left the base decoder's."""
        n = len(motion)
        latent = self.codec.from_motion(motion, reference.expand(n))
        with torch.no_grad():
            _, flow, paint = self._base[0].predict(latent, reference.expand(n))
        _, flow_now, paint_now = self.codec.decoder.predict(latent, reference.expand(n))
        logits = (paint_now[:, 3:].sigmoid() - paint[:, 3:].sigmoid()).abs().mean()
        return 8 * (flow_now - flow).abs().mean() + 0.5 * logits + 0.25 * (paint_now[:, :3] - paint[:, :3]).abs().mean()

    def _truth(self, decoded: Decoded, batch: Batch, attention: Tensor) -> tuple[Tensor, Tensor]:
        known = batch["known"][:, None]
        flow = (known * (decoded.flow - batch["flow"]).abs()).sum() / known.sum().clamp(min=1)
        side = decoded.mask.shape[-1]
        mask = nn.functional.binary_cross_entropy_with_logits(
            decoded.mask_logits, resize(known, side).clamp(0, 1), resize(attention, side)
        )
        return self.config.flow * flow, self.config.mask * mask


def adapt(codec: PortraitCodec, sources: Sequence[PersonPairs], motion: Floats, config: PersonalConfig) -> Adapted:
    """The codec adapted to the person of all sources; the one that is given stays as it is.

    motion [M, C, G, G]: what the base model's denoiser generates. Raises NotGainedError when face, mouth and eyes of
    held-out frames did not gain or anything lost, and PersonUnusable when there is too little to hold out.
    """
    torch.manual_seed(config.seed)
    parts = [source.split() for source in sources]
    before = Quality.join([measure(codec, held_out) for _, held_out in parts])
    adapted = copy.deepcopy(codec)
    names = trainable(adapted, ADAPTED)
    known = [_encode(adapted, pairs) for pairs, _ in parts]
    steps = _train(adapted, _batches(known, torch.from_numpy(motion), config), config)
    result = gain(before, Quality.join([measure(adapted, held_out) for _, held_out in parts]))
    if not result.gained:
        lost = f"; worse: {', '.join(result.losses)}" if result.losses else ""
        raise NotGainedError(
            f"after {steps} steps held-out frames show no gain ({result.sentence()}{lost}); nothing was written. Give"
            " more minutes or a longer film"
        )
    return Adapted(adapted, tuple(names), result, steps)


@torch.no_grad()
def _encode(codec: PortraitCodec, pairs: PersonPairs) -> _Known:
    portrait = resize_area(to_tensor(pairs.reference[None]), codec.config.encode_px)
    frames = torch.cat([resize_area(to_tensor(frame[None]), codec.config.encode_px) for frame in pairs.frames])
    latents = torch.cat([codec.encode(frame[None], portrait) for frame in frames])
    return _Known(pairs, codec.encode_reference(portrait), portrait, frames, latents)


def _batches(known: Sequence[_Known], motion: Tensor, config: PersonalConfig) -> Iterator[Batch]:
    """Each of one source, since a batch shares its reference."""
    rng = np.random.default_rng(config.seed)
    while True:
        source = known[int(rng.integers(len(known)))]
        rows = rng.integers(len(source.pairs), size=config.batch)
        batch = {
            "image": source.frames[torch.from_numpy(rows)],
            "latent": source.latents[torch.from_numpy(rows)],
            "landmarks": torch.from_numpy(source.pairs.landmarks[rows]),
            "portrait": source.portrait,
            "ref_latent": source.reference.latent, "ref_fine": source.reference.fine,
            "ref_coarse": source.reference.coarse,
            "prior": motion[torch.from_numpy(rng.integers(len(motion), size=max(1, config.batch // 2)))],
        }  # fmt: skip
        if truth := source.pairs.truth:
            batch["flow"] = torch.from_numpy(truth.flow[rows]).permute(0, 3, 1, 2) * 2 - 1
            batch["known"], batch["mouth"] = torch.from_numpy(truth.known[rows]), torch.from_numpy(truth.mouth[rows])
        yield batch


def _train(codec: PortraitCodec, batches: Iterator[Batch], config: PersonalConfig) -> int:
    """Change the codec's adapted layers in place to their averaged weights; returns the steps it took."""
    with tempfile.TemporaryDirectory() as scratch:
        budget = RunConfig(
            out=Path(scratch) / "personalize", steps=config.steps, minutes=config.minutes, lr=config.lr, warmup=20,
            weight_decay=0.0, ema=0.99, seed=config.seed, save_every_minutes=1e9, sample_every=1 << 62,
            device="cpu", threads=config.threads,
        )  # fmt: skip
        run = Run(budget, PersonalStage(codec, config), codec)
        averaged: dict[str, Tensor] = {}
        run.train(batches, on_save=lambda _: averaged.update({k: v.clone() for k, v in codec.state_dict().items()}))
        codec.load_state_dict(averaged)
    codec.eval()
    return run.step
