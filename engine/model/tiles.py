"""Attention tiles (Efficient-vDiT, arXiv 2502.06155): which frames see which, when not all see all.

Between two frames all tokens attend or none, so attention is a square of frames by frames. Kept are its diagonal and
the rows and columns of some global frames, evenly spaced: with k of n frames global, (n - k)(n - k - 1) of n^2 tiles
are left out, and what is kept grows with n and not with n^2. Where the paper spaces them is not public.
"""

from __future__ import annotations

import torch
from torch import Tensor


def global_frames(frames: int, count: int) -> list[int]:
    """Indices of `count` global frames of so many, the first one included; all of them when count is 0 or too many."""
    if count <= 0 or count >= frames:
        return list(range(frames))
    return [i * frames // count for i in range(count)]


def tile_mask(frames: int, count: int, device: torch.device | None = None) -> Tensor:
    """bool [frames, frames]: whether a frame attends to another."""
    is_global = torch.zeros(frames, dtype=torch.bool, device=device)
    is_global[global_frames(frames, count)] = True
    return torch.eye(frames, dtype=torch.bool, device=device) | is_global[:, None] | is_global[None]


def tile_sparsity(frames: int, count: int) -> float:
    """Share of tiles that are left out."""
    k = len(global_frames(frames, count))
    return (frames - k) * (frames - k - 1) / frames**2 if k < frames else 0.0
