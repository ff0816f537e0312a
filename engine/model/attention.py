"""Attention over [reference | context | block] with a learned bias by frame distance.

Positions are relative frame distances, added to the logits as a table per head. Keys and values can therefore be
cached as they are: shifting the window changes only which bias a cached slot meets, and nothing is ever re-rotated.
(The T5 form of relative position, arXiv 1910.10683, section 2.1, with exact distances instead of buckets.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.config import ModelConfig


class DistanceBias(nn.Module):
    """Bias [heads, Tq, Tk] from signed frame distances; the last column of the table is the reference's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reach = config.context_frames + max(config.block_lengths)
        self.table = nn.Parameter(torch.zeros(config.heads, 2 * self.reach + 2))

    def forward(self, distance: Tensor, is_reference: Tensor) -> Tensor:
        """distance int64 [Tq, Tk], query frame minus key frame; is_reference bool, broadcastable to it."""
        index = distance.clamp(-self.reach, self.reach) + self.reach
        index = torch.where(is_reference, 2 * self.reach + 1, index)
        return self.table[:, index]


class HeadNorm(nn.RMSNorm):
    """RMSNorm in the type of its input: with a float32 weight, autocast would leave the fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys, which keeps bf16 training stable."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_q = HeadNorm(width // heads, eps=1e-6)
        self.norm_k = HeadNorm(width // heads, eps=1e-6)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, D] to queries, keys, values [B, heads, T, D / heads]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.norm_q(q), self.norm_k(k), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """bias [B or 1, heads or 1, Tq, Tk], a large negative number where attention is not allowed."""
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.out(x.transpose(1, 2).flatten(2))
