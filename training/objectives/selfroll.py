"""Roll-outs of the student by the engine's own block loop, with a gradient (Self-Forcing, arXiv 2506.08009).

What a student is shown in training are then its own frames, as at run time, and not a recorded clip's. To keep a
roll-out's memory that of one pass: only the last step of each block carries a gradient; a block's keys and values are
those of a pass without one, so nothing flows from a block into those before it; and all blocks of a roll-out end after
the same number of steps, drawn anew each time, so that every prefix of the sampler is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.diffusion.flow import timesteps
from engine.diffusion.rollout import Cache, Manner, generate_block
from engine.diffusion.sampler import consistency
from engine.model.denoiser import Conditions, Denoiser


@dataclass(frozen=True, slots=True)
class Rolling:
    """How to roll out. steps, shift: of the consistency sampler. manner: as the engine will draw. first_steps: of a
    roll-out's first block, which has nothing to lean on (First-Frame Enhancement, arXiv 2511.01419); 0 for as many as
    the others.
    """

    steps: int = 2
    shift: float = 1.5
    manner: Manner = Manner()
    first_steps: int = 0

    @property
    def times(self) -> list[float]:
        return timesteps(self.steps, self.shift)


def draw_exit(steps: int) -> int:
    """After how many steps the blocks of a roll-out end, 1 to `steps`, each as often."""
    return int(torch.randint(steps, ())) + 1


def roll_out(
    denoiser: Denoiser, c: Conditions, reference: Tensor, blocks: Tensor, how: Rolling, exit_steps: int, noise: Tensor,
    gradient: bool = False,
) -> Tensor:  # fmt: skip
    """Motion latents [B, F, C, G, G] from noise of that shape, block by block.

    c: conditions of F frames; reference: latent [B, C, G, G]; blocks: block index of each frame, int64 [F], rising, see
    random_blocks; exit_steps: steps that each block takes. gradient: through the last step of every block.
    """
    cfg = denoiser.config
    with torch.no_grad():
        keys, values = denoiser.prefill_reference(reference)
    cache = Cache.start(keys, values, cfg.context_frames * cfg.frame_tokens)
    out, first = [], 0
    for length in torch.bincount(blocks).tolist():
        times = timesteps(how.first_steps, how.shift) if how.first_steps and not out else how.times[:exit_steps]
        model = _Bound(denoiser, c.slice(first, first + length), times[-1] if gradient else None)
        latents, cache = generate_block(
            model, consistency, noise[:, first : first + length], times, _detached(cache), how.manner
        )
        out.append(latents)
        first += length
    return torch.cat(out, 1)


class _Bound:
    """The denoiser with a block's conditions; with a gradient at one time and no other."""

    def __init__(self, denoiser: Denoiser, given: Conditions, gradient_at: float | None) -> None:
        self._denoiser, self._given, self._gradient_at = denoiser, given, gradient_at

    def __call__(self, x: Tensor, t: float, keys: Tensor, values: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        times = torch.full(x.shape[:2], float(t), device=x.device)
        counts = self._gradient_at is not None and t == self._gradient_at
        with torch.set_grad_enabled(counts):
            return self._denoiser.stream(x if counts else x.detach(), times, self._given, keys, values, valid)


def _detached(cache: Cache) -> Cache:
    recent = None if cache.recent is None else cache.recent.detach()
    return Cache(cache.keys.detach(), cache.values.detach(), cache.valid, cache.reference_slots, recent)


def exits_seen(exits: Sequence[int], steps: int) -> list[float]:
    """Share of roll-outs that ended after 1, 2, ... `steps` steps."""
    return [exits.count(n + 1) / max(1, len(exits)) for n in range(steps)]
