"""The block-causal denoiser: a transformer over [reference | clean context | noisy block] of motion latents.

Bidirectional inside a block, causal across blocks. Every frame carries its own modulation (adaLN-zero, DiT,
arXiv 2212.09748) from diffusion time, own voice, partner's voice, state label, expression and pose, so a state can
switch on any frame. Two forms of one computation:

- `stream`: one block against cached keys and values (the run-time form, exported to ONNX);
- `forward`: a whole training sequence, all blocks at once with teacher-forced context (the form of CausVid,
  arXiv 2412.07772, and the oracle of the streamed one).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.attention import Attention, DistanceBias
from engine.model.config import ModelConfig
from engine.model.tiles import tile_mask

STATES = 4
"""speaking, listening, idle, and unknown (dropped in training)."""
UNKNOWN_STATE = 3

_ANGLE_SCALE = 20.0
"""Degrees that count as one unit of the pose condition."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Per-frame conditions. audio, listening [B, F, Da]; state int64 [B, F]; expression [B, F, 8] with
    expression_given [B, F]; pose [B, F, 5] degrees with pose_given [B, F]. Given flags are 0 or 1.
    """

    audio: Tensor
    listening: Tensor
    state: Tensor
    expression: Tensor
    expression_given: Tensor
    pose: Tensor
    pose_given: Tensor

    def slice(self, start: int, stop: int) -> Conditions:
        return Conditions(*(getattr(self, f.name)[:, start:stop] for f in fields(self)))

    def with_audio(self, audio: Tensor) -> Conditions:
        return replace(self, audio=audio)


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoids of 1000 t; t [...] in [0, 1] to [..., width]."""
    half = width // 2
    rate = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = 1000.0 * t.float()[..., None] * rate
    return torch.cat((angle.cos(), angle.sin()), -1)


class Conditioner(nn.Module):
    """Conditions and diffusion time to one vector per frame, [B, F, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.width = d
        self.time = nn.Sequential(nn.Linear(d, d), nn.SiLU(), nn.Linear(d, d))
        self.audio = nn.Linear(config.audio_width, d)
        self.listening = nn.Linear(config.audio_width, d)
        self.state = nn.Embedding(STATES, d)
        self.expression = nn.Sequential(nn.Linear(config.expressions + 1, d), nn.SiLU(), nn.Linear(d, d))
        self.pose = nn.Sequential(nn.Linear(config.pose_axes + 1, d), nn.SiLU(), nn.Linear(d, d))

    def forward(self, t: Tensor, c: Conditions) -> Tensor:
        """t [B, F]."""
        given_e, given_p = c.expression_given[..., None], c.pose_given[..., None]
        expression = torch.cat((c.expression * given_e, given_e), -1)
        pose = torch.cat((c.pose * given_p / _ANGLE_SCALE, given_p), -1)
        return (
            self.time(time_embedding(t, self.width).to(c.audio.dtype))
            + self.audio(c.audio)
            + self.listening(c.listening)
            + self.state(c.state)
            + self.expression(expression)
            + self.pose(pose)
        )


class Block(nn.Module):
    """Attention and MLP, modulated per frame; the gates start at zero."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.tokens = config.frame_tokens
        self.norm1 = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(d, config.heads)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU("tanh"), nn.Linear(4 * d, d))
        self.modulation = nn.Linear(d, 6 * d)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def modulate(self, condition: Tensor) -> tuple[Tensor, ...]:
        """condition [B, F, D] to six modulations [B, F, 1, D], shared by the tokens of a frame."""
        return self.modulation(F.silu(condition))[:, :, None].chunk(6, -1)

    def before(self, x: Tensor, m: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        return self.attention.project((self._by_frame(self.norm1(x)) * (1 + m[1]) + m[0]).flatten(1, 2))

    def after(self, x: Tensor, attended: Tensor, m: tuple[Tensor, ...]) -> Tensor:
        x = self._by_frame(x) + m[2] * self._by_frame(attended)
        return (x + m[5] * self.mlp(self.norm2(x) * (1 + m[4]) + m[3])).flatten(1, 2)

    def _by_frame(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.tokens))


class Denoiser(nn.Module):
    """Velocity of the flow x_t = (1 - t) x_0 + t eps, v = eps - x_0, for motion latents [B, F, C, G, G]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.embed = nn.Linear(config.token_channels, d)
        self.embed_reference = nn.Linear(config.token_channels, d)
        self.cell = nn.Parameter(torch.randn(config.frame_tokens, d) * 0.02)
        self.reference_condition = nn.Parameter(torch.zeros(d))
        self.null_audio = nn.Parameter(torch.zeros(config.audio_width))
        self.conditioner = Conditioner(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.bias = DistanceBias(config)
        self.final_norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.final_modulation = nn.Linear(d, 2 * d)
        self.final = nn.Linear(d, config.token_channels)
        for layer in (self.final_modulation, self.final):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def to_tokens(self, latents: Tensor) -> Tensor:
        """[B, F, C, G, G] to [B, F * tokens, C * patch^2]."""
        p, g = self.config.patch, self.config.latent_grid // self.config.patch
        x = latents.unflatten(-1, (g, p)).unflatten(-3, (g, p))
        return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """Inverse of to_tokens."""
        c, p, g = self.config.latent_channels, self.config.patch, self.config.latent_grid // self.config.patch
        x = tokens.unflatten(2, (c, p, p)).unflatten(1, (-1, g, g))
        return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)

    def _embed_frames(self, latents: Tensor) -> Tensor:
        frames = latents.shape[1]
        return self.embed(self.to_tokens(latents)) + self.cell.repeat(frames, 1)

    def _embed_reference(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed_reference(self.to_tokens(reference[:, None])) + self.cell
        return x, self.reference_condition.expand(x.shape[0], 1, -1).to(x.dtype)

    def _head(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.final_modulation(F.silu(condition))[:, :, None].chunk(2, -1)
        frames = self.final_norm(x).unflatten(1, (-1, self.config.frame_tokens))
        return self.from_tokens(self.final(frames * (1 + scale) + shift).flatten(1, 2)).float()

    def prefill_reference(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the reference tokens, computed once per portrait.

        reference: its latent [B, C, G, G]. Returns two tensors [L, B, heads, tokens, head_width].
        """
        x, condition = self._embed_reference(reference)
        tokens = x.shape[1]
        zeros = torch.zeros(tokens, tokens, dtype=torch.int64, device=x.device)
        bias = self.bias(zeros, torch.ones_like(zeros, dtype=torch.bool))[None]
        keys, values = [], []
        for block in self.blocks:
            m = block.modulate(condition)
            q, k, v = block.before(x, m)
            x = block.after(x, block.attention.attend(q, k, v, bias), m)
            keys.append(k)
            values.append(v)
        return torch.stack(keys), torch.stack(values)

    def stream(
        self, latents: Tensor, t: Tensor, c: Conditions, keys: Tensor, values: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One block against the cache.

        latents [B, F, C, G, G]; t [B, F]; keys, values [L, B, heads, S, head_width] where the slots S are the
        reference's tokens, then context_frames * tokens in time order, newest last; valid [B, S] is 1 for filled slots.
        Returns the velocity [B, F, C, G, G] and this block's own keys and values [L, B, heads, F * tokens, ...].
        """
        n, frames = self.config.frame_tokens, latents.shape[1]
        x = self._embed_frames(latents)
        condition = self.conditioner(t, c)
        bias = self._stream_bias(frames, keys.shape[3], valid)
        biases = self._with_tiles(bias, self._stream_tiles, frames, keys.shape[3])
        new_keys, new_values = [], []
        for i, block in enumerate(self.blocks):
            m = block.modulate(condition)
            q, k, v = block.before(x, m)
            attended = block.attention.attend(q, torch.cat((keys[i], k), 2), torch.cat((values[i], v), 2), biases[i])
            x = block.after(x, attended, m)
            new_keys.append(k)
            new_values.append(v)
        assert x.shape[1] == n * frames
        return self._head(x, condition), torch.stack(new_keys), torch.stack(new_values)

    def _stream_bias(self, frames: int, slots: int, valid: Tensor) -> Tensor:
        n, context = self.config.frame_tokens, self.config.context_frames
        device = valid.device
        block = torch.arange(frames, device=device).repeat_interleave(n)
        past = torch.arange(-context, 0, device=device).repeat_interleave(n)
        reference = torch.zeros(slots - context * n, dtype=torch.int64, device=device)
        key_frame = torch.cat((reference, past, block))
        is_reference = torch.arange(slots + frames * n, device=device) < slots - context * n
        bias = self.bias(block[:, None] - key_frame[None], is_reference[None])
        own = torch.ones_like(valid[:, :1]).expand(-1, frames * n)
        filled = torch.cat((valid, own), 1)
        return bias[None] + (filled - 1.0)[:, None, None] * 1e4

    def forward(
        self, noisy: Tensor, clean: Tensor, t: Tensor, c: Conditions, reference: Tensor, block_of: Tensor,
        t_clean: Tensor,
    ) -> Tensor:  # fmt: skip
        """All blocks of a training sequence at once.

        noisy, clean [B, F, C, G, G] at times t, t_clean [B, F]; reference latent [B, C, G, G]; block_of int64 [F],
        the block index of each frame, rising. A noisy frame attends to the reference, to clean frames of earlier
        blocks within context_frames of its block's start, and to its own noisy block; a clean frame likewise, with
        its own clean block. Returns the velocity for `noisy`.
        """
        n, frames = self.config.frame_tokens, noisy.shape[1]
        x_reference, c_reference = self._embed_reference(reference)
        x = torch.cat((x_reference, self._embed_frames(clean), self._embed_frames(noisy)), 1)
        c_clean, c_noisy = self.conditioner(t_clean, c), self.conditioner(t, c)
        condition = torch.cat((c_reference.to(c_clean.dtype), c_clean, c_noisy), 1)
        biases = self._with_tiles(self._training_bias(block_of), self._training_tiles, block_of)
        for block, bias in zip(self.blocks, biases, strict=True):
            m = block.modulate(condition)
            q, k, v = block.before(x, m)
            x = block.after(x, block.attention.attend(q, k, v, bias), m)
        return self._head(x[:, n * (1 + frames) :], c_noisy)

    def _training_bias(self, block_of: Tensor) -> Tensor:
        n, frames, device = self.config.frame_tokens, len(block_of), block_of.device
        index = torch.arange(frames, device=device)
        start = (block_of[:, None] > block_of[None]).sum(1)
        same = block_of[:, None] == block_of[None]
        earlier = index[None] < start[:, None]
        context = earlier & (index[None] >= (start - self.config.context_frames)[:, None])
        allowed = torch.zeros(1 + 2 * frames, 1 + 2 * frames, dtype=torch.bool, device=device)
        allowed[:, 0] = True
        allowed[1 : 1 + frames, 1 : 1 + frames] = context | same
        allowed[1 + frames :, 1 : 1 + frames] = context
        allowed[1 + frames :, 1 + frames :] = same
        frame = torch.cat((torch.zeros(1, dtype=torch.int64, device=device), index, index))
        is_reference = torch.arange(1 + 2 * frames, device=device)[None] == 0
        bias = self.bias(frame[:, None] - frame[None], is_reference.expand(len(frame), -1))
        bias = bias.masked_fill(~allowed, -1e4)
        return bias.repeat_interleave(n, 1).repeat_interleave(n, 2)[None]

    def _with_tiles(self, bias: Tensor, allowed: Callable[..., Tensor], *where: Any) -> list[Tensor]:
        """The bias of each layer: without the tiles that it does not see. allowed(count, *where) says which it sees."""
        masks = {count: bias.masked_fill(~allowed(count, *where), -1e4) for count in set(self.config.tiles) if count}
        return [masks.get(count, bias) for count in self.config.tiles or (0,) * self.config.depth]

    def _stream_tiles(self, count: int, frames: int, slots: int) -> Tensor:
        """bool [Tq, Tk] of a block of frames against the cache and itself: positions are those in its window."""
        n, context = self.config.frame_tokens, self.config.context_frames
        seen = tile_mask(context + frames, count, self.cell.device)[context:]
        reference = torch.ones(frames, 1, dtype=torch.bool, device=seen.device).repeat_interleave(
            slots // n - context, 1
        )
        return torch.cat((reference, seen), 1).repeat_interleave(n, 0).repeat_interleave(n, 1)

    def _training_tiles(self, count: int, block_of: Tensor) -> Tensor:
        """bool [T, T] of reference, clean and noisy frames: each block has the window that it has in a stream."""
        frames, context, device = len(block_of), self.config.context_frames, block_of.device
        seen = torch.ones(frames, frames, dtype=torch.bool, device=device)
        first = 0
        for length in torch.bincount(block_of).tolist():
            window = tile_mask(context + length, count, device)[context:]
            kept = min(context, first)
            seen[first : first + length, first - kept : first + length] = window[:, context - kept :]
            first += length
        whole = torch.ones(1 + 2 * frames, 1 + 2 * frames, dtype=torch.bool, device=device)
        whole[1:, 1:] = seen.repeat(2, 2)
        n = self.config.frame_tokens
        return whole.repeat_interleave(n, 0).repeat_interleave(n, 1)
