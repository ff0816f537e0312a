"""Optical flow of latent motion, by the codec's own decoder: ours, exact to what will be seen, and differentiable.

The decoder moves the portrait's pixels by sampling positions; their change from one frame to the next is how the face's
skin moves, in fractions of half the picture's side. Taken where the decoder has 16 x 16 positions, it costs a fraction
of a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.model.codec import PortraitDecoder, to_positions

SMALL = 1e-4


def flow_of(decoder: PortraitDecoder, latents: Tensor, reference: Tensor) -> Tensor:
    """[B, F - 1, 2, 16, 16], x first, from absolute latents [B, F, C, G, G] and the reference's [B, C, G, G]."""
    size, frames = latents.shape[:2]
    origin = reference[:, None].expand_as(latents).flatten(0, 1)
    positions = to_positions(decoder.coarse(latents.flatten(0, 1), origin)[2]).unflatten(0, (size, frames))
    return positions[:, 1:] - positions[:, :-1]


def with_speed(flow: Tensor, scale: float) -> Tensor:
    """[B, T, 3, h, w]: the flow in units of `scale`, and its size. Smooth at zero, where a square root is not."""
    flow = flow / scale
    return torch.cat((flow, (flow.square().sum(2, keepdim=True) + SMALL).sqrt()), 2)
