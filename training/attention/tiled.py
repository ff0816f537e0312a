"""Attention over tiles in two dense calls, so that what is left out costs nothing, with no kernel of our own.

Frames that are not global each see the global ones and themselves: one call for all of them, with keys of k + 1 frames.
Global frames see everything: one call with k frames of queries. Both are linear in the frames for fixed k.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.model.tiles import global_frames


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, frames: int, count: int) -> Tensor:
    """What attention with engine.model.tiles.tile_mask gives. q, k, v [B, heads, frames * n, D]; result likewise."""
    told = global_frames(frames, count)
    if len(told) == frames:
        return F.scaled_dot_product_attention(q, k, v)
    index = torch.tensor(told, device=q.device)
    others = torch.tensor([i for i in range(frames) if i not in set(told)], device=q.device)
    qf, kf, vf = (x.unflatten(2, (frames, -1)) for x in (q, k, v))
    out = torch.empty_like(qf)
    out[:, :, index] = F.scaled_dot_product_attention(qf[:, :, index].flatten(2, 3), k, v).unflatten(2, (len(told), -1))
    # Each frame by itself is one of a batch: its queries see the global frames' keys and its own.
    seen = [torch.cat((_repeat(x[:, :, index].flatten(2, 3), len(others)), x[:, :, others]), 3) for x in (kf, vf)]
    own = F.scaled_dot_product_attention(*(x.flatten(1, 2) for x in (qf[:, :, others], *seen)))
    out[:, :, others] = own.unflatten(1, (q.shape[1], len(others)))
    return out.flatten(2, 3)


def _repeat(x: Tensor, times: int) -> Tensor:
    """[B, heads, T, D] to [B, heads, times, T, D], without a copy."""
    return x[:, :, None].expand(-1, -1, times, -1, -1)
