"""The stage functions of `engine.backends.base.Backend` as torch modules, ready to be traced into graphs."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from engine.backends.base import REFERENCE_PX
from engine.model.avatar import AvatarModel
from engine.model.codec import ReferenceFeatures
from engine.model.config import ModelConfig
from engine.model.denoiser import STATES, Conditions
from engine.model.layers import base_grid

Axes = dict[int, str]


@dataclass(frozen=True, slots=True)
class Stage:
    """One graph: its module, an example of each input by name, its outputs' names, and the axes that vary."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: dict[str, Axes]


class ReferenceStage(nn.Module):
    """Everything that is computed once per portrait."""

    def __init__(self, model: AvatarModel) -> None:
        super().__init__()
        self.codec, self.denoiser = model.codec, model.denoiser

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        reference = self.codec.encode_reference(image)
        keys, values = self.denoiser.prefill_reference(reference.latent)
        return reference.latent, reference.fine, reference.coarse, keys, values


class DenoiseStage(nn.Module):
    """`Denoiser.stream` with one time for the whole block."""

    def __init__(self, model: AvatarModel) -> None:
        super().__init__()
        self.denoiser = model.denoiser

    def forward(
        self, latents: Tensor, timestep: Tensor, audio: Tensor, listening: Tensor, state: Tensor,
        expression: Tensor, expression_given: Tensor, pose: Tensor, pose_given: Tensor,
        cache_keys: Tensor, cache_values: Tensor, cache_valid: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        conditions = Conditions(audio, listening, state, expression, expression_given, pose, pose_given)
        time = timestep[:, None] + torch.zeros_like(pose_given)
        return self.denoiser.stream(latents, time, conditions, cache_keys, cache_values, cache_valid)


class DecodeStage(nn.Module):
    """Motion latents to the parts of a picture that do not depend on its size.

    Returns displacement [F, 2, 64, 64] in fractions of half the picture's side, x first, and paint [F, 4, 128, 128]:
    RGB in [-1, 1], and in [0, 1] how much of the moved portrait shows. `engine.backends.compose` puts them together
    at full size, ten times as fast as a graph does on a CPU and without rounding positions to bfloat16.
    """

    def __init__(self, model: AvatarModel) -> None:
        super().__init__()
        self.codec = model.codec

    def forward(self, latents: Tensor, latent: Tensor, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        n = latents.shape[0]
        absolute = self.codec.from_motion(latents, ReferenceFeatures(latent, fine, coarse))
        repeated = ReferenceFeatures(*(t.expand(n, -1, -1, -1) for t in (latent, fine, coarse)))
        *_, flow, paint = self.codec.decoder.predict(absolute, repeated)
        displacement = flow - base_grid(flow.shape[-1], flow.device)
        return displacement, torch.cat((paint[:, :3], torch.sigmoid(paint[:, 3:])), 1)


def stages(model: AvatarModel, frames: int = 3) -> list[Stage]:
    """Every stage of a model; `frames` sizes the examples that are traced."""
    config = model.config
    reference = ReferenceStage(model)
    image = torch.zeros(1, 3, REFERENCE_PX, REFERENCE_PX)
    with torch.no_grad():
        latent, fine, coarse, keys, values = reference(image)
    denoise = _denoise_inputs(config, frames, keys, values)
    motion = torch.zeros(frames, config.latent_channels, config.latent_grid, config.latent_grid)
    decode = {"latents": motion, "latent": latent, "fine": fine, "coarse": coarse}
    varying = {k: _denoise_axes(k) for k in denoise}
    return [
        Stage("reference", reference, {"image": image}, ("latent", "fine", "coarse", "keys", "values"), {}),
        Stage("audio", model.audio, {"windows": torch.zeros(frames, config.audio_window, config.mel_bins)},
              ("embeddings",), {"windows": {0: "frames"}}),
        Stage("denoise", DenoiseStage(model), denoise, ("velocity", "keys", "values"), varying),
        Stage("decode", DecodeStage(model), decode, ("displacement", "paint"), {"latents": {0: "frames"}}),
    ]  # fmt: skip


def _denoise_axes(name: str) -> Axes:
    """Sessions that share a call, and frames of the block."""
    if name in ("timestep", "cache_valid"):
        return {0: "sessions"}
    if name.startswith("cache"):
        return {1: "sessions"}
    return {0: "sessions", 1: "frames"}


def _denoise_inputs(config: ModelConfig, frames: int, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
    c, g = config.latent_channels, config.latent_grid
    context = keys.new_zeros(*keys.shape[:3], config.context_frames * config.frame_tokens, keys.shape[-1])
    cache = torch.cat((keys, context), 3)
    conditions = Conditions(
        audio=torch.zeros(1, frames, config.audio_width),
        listening=torch.zeros(1, frames, config.audio_width),
        state=torch.full((1, frames), STATES - 1),
        expression=torch.zeros(1, frames, config.expressions),
        expression_given=torch.zeros(1, frames),
        pose=torch.zeros(1, frames, config.pose_axes),
        pose_given=torch.zeros(1, frames),
    )
    return {
        "latents": torch.zeros(1, frames, c, g, g),
        "timestep": torch.ones(1),
        **{f.name: getattr(conditions, f.name) for f in fields(conditions)},
        "cache_keys": cache,
        "cache_values": torch.cat((values, context), 3),
        "cache_valid": torch.ones(1, cache.shape[3]),
    }
