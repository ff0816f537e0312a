"""Convolution blocks shared by the encoder and the decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))); the second convolution starts small: a new block is nearly the identity."""

    def __init__(self, channels: int, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


def downsample(c_in: int, c_out: int, factor: int = 2, kernel: int = 1) -> nn.Sequential:
    """Shrink the grid: pixels into channels, then a convolution.

    A strided 4 x 4 convolution does the same, but its gradient is ten times slower on CPUs (no oneDNN kernel for it).
    """
    return nn.Sequential(nn.PixelUnshuffle(factor), nn.Conv2d(c_in * factor**2, c_out, kernel, padding=kernel // 2))


class Upsample(nn.Module):
    """Double the grid: nearest neighbour, then a convolution that hides the blocks."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def base_grid(side: int, device: torch.device) -> Tensor:
    """Sampling positions of the identity warp, [1, 2, side, side] in [-1, 1], pixel centres, x first."""
    line = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((x, y))[None]


def warp(image: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample image [B, C, H, W] at grid [B, 2, h, w] in [-1, 1]; outside, the edge repeats. mode: or `bicubic`."""
    return F.grid_sample(
        image, grid.permute(0, 2, 3, 1).to(image.dtype), mode=mode, padding_mode="border", align_corners=False
    )


def resize(x: Tensor, side: int) -> Tensor:
    """Bilinear resize to side x side; the identity when nothing changes."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
