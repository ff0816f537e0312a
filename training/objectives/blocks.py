"""What every objective on the block-causal denoiser shares: block partitions, times, dropped conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.model.audio import AudioEncoder
from engine.model.denoiser import UNKNOWN_STATE, Conditions, Denoiser
from training.run import Batch


@dataclass(frozen=True, slots=True)
class DropRates:
    """How often a condition is withheld in training, so that it is optional at run time."""

    everything: float = 0.1
    """Own voice, partner's voice and state together: the unconditional branch of guidance."""
    state: float = 0.1
    listening: float = 0.1
    expression: float = 0.4
    pose: float = 0.7


def random_blocks(frames: int, lengths: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Block index of each frame, int64 [frames]; lengths drawn uniformly (dynamic block length, LLIA)."""
    index: list[int] = []
    block = 0
    while len(index) < frames:
        length = lengths[int(torch.randint(len(lengths), (), generator=generator))]
        index += [block] * length
        block += 1
    return torch.tensor(index[:frames])


def per_block(values: Tensor, block_of: Tensor) -> Tensor:
    """values [B, blocks] to [B, F]."""
    return values[:, block_of]


def encode_voices(audio: AudioEncoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """Embeddings [B, F, Da] of the own voice and of the partner's."""
    shape = batch["windows"].shape[:2]
    both = torch.cat((batch["windows"].flatten(0, 1), batch["partner_windows"].flatten(0, 1)))
    own, partner = audio(both).unflatten(0, (2, *shape)).unbind(0)
    return own, partner


@dataclass(frozen=True, slots=True)
class Withheld:
    """Which sequences of a batch are not told what: bool [B, 1] each."""

    everything: Tensor
    listening: Tensor
    state: Tensor
    expression: Tensor
    pose: Tensor


def draw_withheld(size: int, rates: DropRates, device: torch.device) -> Withheld:
    def chance(rate: float) -> Tensor:
        return torch.rand(size, 1, device=device) < rate

    everything = chance(rates.everything)
    return Withheld(
        everything, everything | chance(rates.listening), everything | chance(rates.state), chance(rates.expression),
        chance(rates.pose),
    )  # fmt: skip


def conditions(denoiser: Denoiser, own: Tensor, partner: Tensor, batch: Batch, withheld: Withheld | None) -> Conditions:
    """Conditions of a batch; withheld=None withholds only expressions that nobody knows (negative)."""
    given = torch.ones(own.shape[:2], device=own.device)
    state, pose_given, expression_given = batch["state"], given, (batch["expression"] >= 0).all(-1).float()
    if withheld is not None:
        null = denoiser.null_audio.to(own.dtype)
        own = torch.where(withheld.everything[..., None], null, own)
        partner = torch.where(withheld.listening[..., None], null, partner)
        state = torch.where(withheld.state, UNKNOWN_STATE, state)
        expression_given = expression_given * ~withheld.expression
        pose_given = given * ~withheld.pose
    return Conditions(own, partner, state, batch["expression"], expression_given, batch["pose"], pose_given)


def without_voice(denoiser: Denoiser, c: Conditions) -> Conditions:
    """The unconditional branch of guidance: no voices, unknown state; expression and pose stay."""
    null = denoiser.null_audio.to(c.audio.dtype).expand_as(c.audio)
    state = torch.full_like(c.state, UNKNOWN_STATE)
    return Conditions(null, null, state, c.expression, c.expression_given, c.pose, c.pose_given)


class LegibleError(nn.Module):
    """Squared error of motion latents as the codec's linear probe reads it: units, pose, landmarks.

    Latent distance alone gives the mouth no more weight than a cheek; what people watch is what the probe predicts.
    """

    def __init__(
        self,
        probe: nn.Linear,
        latent_scale: Tensor,
        emphasis: Tensor | None = None,
        between: Sequence[tuple[int, int]] = (),
    ) -> None:
        """emphasis: weight of each probe output's squared error, 1 each when None. between: pairs of outputs whose
        difference counts like one more output; that of two points says how they part, wherever the head is.
        """
        super().__init__()
        weight = probe.weight.detach().float() * latent_scale.float()
        parted = [weight[a] - weight[b] for a, b in between]
        if emphasis is not None:
            weight = weight * emphasis.to(weight.device).sqrt()[:, None]
        weight = torch.cat((weight, torch.stack(parted))) if parted else weight
        self.weight: Tensor
        self.register_buffer("weight", weight)
        shown = weight[weight.square().sum(1) > 0]
        self.basis: Tensor
        self.register_buffer("basis", torch.linalg.svd(shown, full_matrices=False)[2], persistent=False)

    def forward(self, error: Tensor) -> Tensor:
        """error [B, F, C, G, G] to [B, F]."""
        return (error.float().flatten(2) @ self.weight.T).square().sum(-1)

    def within(self, motion: Tensor) -> Tensor:
        """The part of motion [B, F, C, G, G] that is read at all: its projection on the rows that count."""
        flat = motion.float().flatten(2)
        return ((flat @ self.basis.T) @ self.basis).view_as(motion)
