"""What adversarial methods share: relativistic losses, their regulariser, and judges that read a frozen denoiser.

A relativistic judge says by how much one clip is more real than another (RpGAN, arXiv 1807.00734). Its loss alone does
not converge; penalties on how much judgements change with a little noise on real and on drawn clips (R1 and R2, R3GAN,
arXiv 2501.05441) make it, here by finite differences (APT, arXiv 2501.08316), which need no second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.denoiser import Conditions, Denoiser

Judging = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """share: of the judge's direction beside distribution matching's. smooth: weight of both roughness penalties, with
    noise of size sigma.
    """

    share: float = 0.5
    smooth: float = 1.0
    sigma: float = 0.05


def judge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What a judge minimises, from its judgements of both."""
    return F.softplus(fake - real).mean()


def student_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What a student minimises, [B]."""
    return F.softplus(real - fake)


def roughness(judging: Judging, x: Tensor, judged: Tensor, sigma: float) -> Tensor:
    """((D(x + sigma noise) - D(x)) / sigma)^2: the squared slope of judgements along a random direction, mean."""
    return ((judging(x + sigma * torch.randn_like(x)) - judged) / sigma).square().mean()


def opposed(judging: Judging, real: Tensor, fake: Tensor, how: JudgeConfig) -> tuple[Tensor, dict[str, float]]:
    """A judge's whole loss on real and drawn samples, and what to log."""
    of_real, of_fake = judging(real), judging(fake)
    told = judge_loss(of_real, of_fake)
    rough = roughness(judging, real, of_real, how.sigma) + roughness(judging, fake, of_fake, how.sigma)
    logs = {"judge": float(told.detach()), "judge_apart": float((of_real - of_fake).detach().mean())}
    return told + 0.5 * how.smooth * rough, logs


class Judge(nn.Module):
    """Judgements [B, answers] of a clip, from what a frozen denoiser makes of it.

    The denoiser is shown the whole clip as one block, so that every frame sees every other: a judge that sees only
    backwards, or frame by frame, rewards standing still (AAD-1). Learnt queries gather each layer's tokens, as
    Self-Forcing's do; the trunk itself learns nothing, so that judging cannot spoil a score that shares it.
    """

    def __init__(self, trunk: Denoiser, answers: int = 1, layers: Sequence[int] = (), width: int = 64) -> None:
        """layers: after which ones tokens are read, counted from 0; by default the middle one and the last."""
        super().__init__()
        depth = trunk.config.depth
        self._trunk = [trunk]  # In a list, so that it is no part of what learns.
        self.layers = tuple(layers) or (depth // 2, depth - 1)
        d = trunk.config.width
        self.queries = nn.Parameter(torch.randn(len(self.layers), 1, width) * 0.02)
        self.keys = nn.ModuleList(nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * width)) for _ in self.layers)
        self.out = nn.Sequential(
            nn.LayerNorm(width * len(self.layers)), nn.Linear(width * len(self.layers), width), nn.SiLU(),
            nn.Linear(width, answers),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, given: Conditions, reference: Tensor) -> Tensor:
        """x [B, F, C, G, G] at times t [B, F]."""
        read = []
        tokens = self._read(x, t, given, reference)
        for query, key, layer in zip(self.queries, self.keys, tokens, strict=True):
            k, v = key(layer.float()).chunk(2, -1)
            read.append(F.scaled_dot_product_attention(query.expand(len(x), -1, -1), k, v)[:, 0])
        judged: Tensor = self.out(torch.cat(read, -1))
        return judged

    def _read(self, x: Tensor, t: Tensor, given: Conditions, reference: Tensor) -> list[Tensor]:
        """The noisy frames' tokens after each of the layers."""
        trunk, found = self._trunk[0], {}
        noisy = x.shape[1] * trunk.config.frame_tokens

        def keep(layer: int) -> Callable[..., None]:
            def hook(_: nn.Module, inputs: tuple[Any, ...], __: Any = None) -> None:
                found[layer] = inputs[0].flatten(1, -2) if inputs[0].ndim == 4 else inputs[0]

            return hook

        # What enters the norm after a layer is what the layer gave.
        after = [*(block.norm1 for block in trunk.blocks[1:]), trunk.final_norm]
        hooks = [after[layer].register_forward_pre_hook(keep(layer)) for layer in self.layers]
        try:
            one_block = torch.zeros(x.shape[1], dtype=torch.int64, device=x.device)
            trunk(x, x, t, given, reference, one_block, torch.zeros_like(t))
        finally:
            for hook in hooks:
                hook.remove()
        return [found[layer][:, -noisy:] for layer in self.layers]


def at_parity(base: Tensor, other: Tensor, share: float) -> Tensor:
    """Both directions on samples [B, ...] as one, the other's mean size brought to that share of the base's: losses of
    different kinds have scales that mean nothing to each other (DMD2's authors advise to weigh them so).
    """
    ratio = base.abs().mean() / other.abs().mean().clamp_min(1e-12)
    return base + share * ratio * other


def adverse(judging: Judging, x: Tensor, real: Tensor) -> Tensor:
    """The direction on samples x that makes them look less real than `real` was judged; subtract it. Of x's shape."""
    with torch.enable_grad():
        moved = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(student_loss(real.detach(), judging(moved)).sum(), moved)
    return slope
