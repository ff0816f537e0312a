"""The portrait codec: a picture to a small motion latent, and back through the user's own pixels.

The decoder knows the portrait. From the latents of frame and reference it predicts a coarse flow field, a blend mask
and painted content; the flow moves the portrait at full size, the paint fills what the portrait does not show (mouth
interior, lids, uncovered skin). Flow grids are coarse, so the output size is free: a codec trained at 128 runs at 512.
The idea of driving a portrait by latent-conditioned warping goes back to FOMM (arXiv 2003.00196) and LIA
(arXiv 2203.09043); direct supervision of flow and mask comes from our renderer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.config import ModelConfig
from engine.model.layers import ResidualBlock, Upsample, base_grid, downsample, resize, warp

FLOW_REACH = 0.5
"""Largest displacement of the flow, as a fraction of the picture (tanh-bounded)."""

FLOW_GAIN = 0.1
"""Slope of displacement against the head's output. True displacements are about 0.02; with a slope of one, every
optimiser step throws the whole picture further than that and the flow never settles."""


@dataclass(frozen=True, slots=True)
class ReferenceFeatures:
    """What is computed once per portrait. latent [B, C, G, G]; fine [B, c, 64, 64]; coarse [B, c, 32, 32]."""

    latent: Tensor
    fine: Tensor
    coarse: Tensor

    def expand(self, batch: int) -> ReferenceFeatures:
        """Repeat along the batch axis, so that one reference serves several frames."""
        n = batch // self.latent.shape[0]
        return ReferenceFeatures(*(t.repeat_interleave(n, 0) for t in (self.latent, self.fine, self.coarse)))


@dataclass(frozen=True, slots=True)
class Decoded:
    """image [B, 3, S, S] in [-1, 1] and its parts: warped [B, 3, S, S], mask [B, 1, 128, 128] (1 = warped pixel),
    flow [B, 2, 64, 64] as sampling positions in [-1, 1], mask_logits [B, 1, 128, 128].
    flows_coarse are the flow's first estimates on grids of 8, 16 and 32, for supervision.
    """

    image: Tensor
    warped: Tensor
    mask: Tensor
    mask_logits: Tensor
    flow: Tensor
    flows_coarse: tuple[Tensor, ...]


class LatentEncoder(nn.Module):
    """Picture and reference [B, 3, 128, 128] in [-1, 1] to latent [B, C, 4, 4], of zero mean and unit variance each.

    Seeing both, it can say what moved without first learning what every face looks like at rest.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        w = config.encoder_widths
        layers: list[nn.Module] = [downsample(6, w[0], 4, 3), ResidualBlock(w[0]), ResidualBlock(w[0])]
        for c_in, c_out in zip(w[:-1], w[1:], strict=True):
            layers += [downsample(c_in, c_out), ResidualBlock(c_out)]
        layers += [nn.GroupNorm(8, w[-1]), nn.SiLU(), nn.Conv2d(w[-1], config.latent_channels, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        latent = self.layers(torch.cat((image, reference), 1)).float()
        return F.layer_norm(latent, latent.shape[1:])


class ReferenceEncoder(nn.Module):
    """Appearance features of the portrait on grids of 64 and 32, for the painter."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        fine, coarse = config.reference_widths
        self.fine = nn.Sequential(downsample(3, fine, kernel=3), ResidualBlock(fine))
        self.coarse = nn.Sequential(downsample(fine, coarse), ResidualBlock(coarse))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(image)
        return fine, self.coarse(fine)


class FlowHead(nn.Module):
    """Features to two raw flow channels; starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv = nn.Conv2d(channels, 2, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(x)))


class PortraitDecoder(nn.Module):
    """Latent and reference features to a picture of the portrait's own size."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        w4, w8, w16, w32, w64 = config.decoder_widths
        fine, coarse = config.reference_widths
        c = config.latent_channels
        self.stem = nn.Sequential(nn.Conv2d(2 * c, w4, 3, padding=1), ResidualBlock(w4))
        self.up8 = nn.Sequential(Upsample(w4, w8), ResidualBlock(w8))
        self.flow8 = FlowHead(w8)
        self.up16 = nn.Sequential(Upsample(w8, w16), ResidualBlock(w16))
        self.flow16 = FlowHead(w16)
        self.up32 = nn.Sequential(Upsample(w16, w32), ResidualBlock(w32))
        self.flow32 = FlowHead(w32)
        self.fuse32 = nn.Sequential(nn.Conv2d(w32 + coarse, w32, 3, padding=1), ResidualBlock(w32))
        self.up64 = nn.Sequential(Upsample(w32, w64), ResidualBlock(w64, norm=False))
        self.flow64 = FlowHead(w64)
        self.fuse64 = nn.Sequential(nn.Conv2d(w64 + fine, w64, 3, padding=1), ResidualBlock(w64, norm=False))
        self.paint = nn.Sequential(nn.Conv2d(w64, 16, 3, padding=1), nn.PixelShuffle(2))

    def forward(
        self, latent: Tensor, reference: ReferenceFeatures, portrait: Tensor, pixels_move_flow: bool | Tensor = True
    ) -> Decoded:
        """latent [B, C, 4, 4], reference of batch B, portrait [B, 3, S, S] in [-1, 1].

        pixels_move_flow=False stops the gradient of pixel losses at the sampling positions: where the true flow is
        known, what the pixels say about it is noise. A bool tensor [B] says so for each picture.
        """

        flows_coarse, flow64, paint = self.predict(latent, reference, pixels_move_flow)
        mask_logits = paint[:, 3:]
        side = portrait.shape[-1]
        # Cubic keeps fine detail; while training, bilinear is quicker and gives smoother gradients.
        mode = "bilinear" if self.training else "bicubic"
        warped = warp(portrait, resize_grid(_held(flow64, pixels_move_flow), side), mode)
        mask = torch.sigmoid(mask_logits)
        blend = resize(mask, side)
        image = blend * warped + (1 - blend) * resize(paint[:, :3], side)
        return Decoded(image, warped, mask, mask_logits, flow64, flows_coarse)

    def coarse(self, latent: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What needs the reference's latent only: features at 16 x 16, and raw positions at 8 x 8 and 16 x 16 (see
        to_positions).
        """
        # What moves is the difference; given as such, a portrait at rest maps to no motion from the first step on.
        h = self.up8(self.stem(torch.cat((latent - reference, reference), 1)))
        raw8 = self.flow8(h).float()
        h = self.up16(h)
        return h, raw8, _double(raw8) + self.flow16(h).float()

    def predict(
        self, latent: Tensor, reference: ReferenceFeatures, pixels_move_flow: bool | Tensor = True
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """What does not depend on the output size: flows_coarse, flow, and paint with mask logits [B, 4, 128, 128]."""

        h, raw8, raw16 = self.coarse(latent, reference.latent)
        h = self.up32(h)
        raw32 = _double(raw16) + self.flow32(h).float()
        flow32 = to_positions(raw32)
        h = self.fuse32(torch.cat((h, warp(reference.coarse, _held(flow32, pixels_move_flow))), 1))
        h = self.up64(h)
        flow64 = to_positions(_double(raw32) + self.flow64(h).float())
        h = self.fuse64(torch.cat((h, warp(reference.fine, _held(flow64, pixels_move_flow))), 1))
        return (to_positions(raw8), to_positions(raw16), flow32), flow64, self.paint(h).float()


def _held(flow: Tensor, moves: bool | Tensor) -> Tensor:
    """The flow [B, 2, n, n], without a gradient where pixels must not move it."""
    if isinstance(moves, bool):
        return flow if moves else flow.detach()
    return torch.where(moves[:, None, None, None], flow, flow.detach())


def _double(raw: Tensor) -> Tensor:
    return resize(raw, 2 * raw.shape[-1])


def to_positions(raw: Tensor) -> Tensor:
    """Output of flow heads [B, 2, n, n] to sampling positions in [-1, 1]."""
    return base_grid(raw.shape[-1], raw.device) + 2 * FLOW_REACH * torch.tanh(FLOW_GAIN * raw)


def resize_grid(flow: Tensor, side: int) -> Tensor:
    """Upsample sampling positions by their displacement, so that the border keeps its slope of one."""
    displacement = flow - base_grid(flow.shape[-1], flow.device)
    return base_grid(side, flow.device) + resize(displacement, side)


class PortraitCodec(nn.Module):
    """Encoder, reference encoder and decoder, with the linear probe that keeps the latent legible.

    `latent_scale` is the standard deviation of (frame latent - reference latent) over the training data; the diffusion
    model works on that difference divided by it, so that a portrait at rest is the origin.
    """

    def __init__(self, config: ModelConfig, probe_outputs: int = 0) -> None:
        super().__init__()
        self.config = config
        self.encoder = LatentEncoder(config)
        self.reference_encoder = ReferenceEncoder(config)
        self.decoder = PortraitDecoder(config)
        self.latent_scale: Tensor
        self.register_buffer("latent_scale", torch.ones(()))
        size = config.latent_channels * config.latent_grid**2
        self.probe = nn.Linear(size, probe_outputs) if probe_outputs else None

    def encode(self, image: Tensor, reference: Tensor) -> Tensor:
        """Pictures of one person [B, 3, 128, 128] in [-1, 1] to [B, C, 4, 4]."""
        return self.encoder(image, reference)

    def encode_reference(self, image: Tensor) -> ReferenceFeatures:
        """[B, 3, 128, 128] in [-1, 1], the canonical crop of the portrait."""
        fine, coarse = self.reference_encoder(image)
        return ReferenceFeatures(self.encode(image, image), fine, coarse)

    def to_motion(self, latent: Tensor, reference: ReferenceFeatures) -> Tensor:
        """Absolute latent to what the diffusion model sees."""
        return (latent - reference.latent) / self.latent_scale

    def from_motion(self, motion: Tensor, reference: ReferenceFeatures) -> Tensor:
        return motion * self.latent_scale + reference.latent

    def decode(
        self, latent: Tensor, reference: ReferenceFeatures, portrait: Tensor, pixels_move_flow: bool | Tensor = True
    ) -> Decoded:
        return self.decoder(latent, reference, portrait, pixels_move_flow)
