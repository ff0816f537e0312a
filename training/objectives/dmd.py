"""DMD2 on the student's own roll-outs, the base of most methods here (DMD2, arXiv 2405.14867; Self-Forcing,
arXiv 2506.08009).

The generator's loss moves roll-outs along the difference between the frozen teacher's score, guided, and a fake score
that is trained meanwhile, by flow matching, on what the student draws. Deviations: both scores judge each block given
the student's own blocks before it, as the teacher was trained, where Self-Forcing's judge a whole clip without an
order; every block has its own time; the gradient may be weighted towards what the codec's probe reads, which is the
same descent in another metric; and the critic's updates between two of the generator share the conditions of a batch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from engine.diffusion.flow import add_noise, to_x0, velocity
from engine.model.audio import AudioEncoder
from engine.model.denoiser import Conditions, Denoiser
from training.objectives.blocks import (
    DropRates,
    LegibleError,
    conditions,
    draw_withheld,
    encode_voices,
    per_block,
    random_blocks,
    without_voice,
)
from training.objectives.score import matching_gradient, pull, score_times
from training.objectives.selfroll import Rolling, draw_exit, roll_out
from training.run import Batch


@dataclass(frozen=True, slots=True)
class MatchingConfig:
    rolling: Rolling = field(default_factory=Rolling)
    shift: float = 1.5
    """Of the times at which scores are compared; as the teacher was sampled."""
    guidance: float = 1.5
    """Of the real score: v = v_null + guidance (v_given - v_null). The fake one is never guided."""
    legible: float = 2.0
    """Weight of the probe's metric beside the latents' own."""
    blocks: tuple[int, ...] = ()
    """Lengths of blocks in roll-outs; all that the model knows by default."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a roll-out is drawn from. given: to the student; heard: the same by the scores' own audio encoder. blocks:
    block index of each frame, int64 [F]. truth: motion latents [B, F, C, G, G] of the recorded clip with these
    conditions, which a roll-out need not equal.
    """

    given: Conditions
    heard: Conditions
    reference: Tensor
    blocks: Tensor
    truth: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.truth.shape

    @property
    def block_count(self) -> int:
        return int(self.blocks[-1]) + 1


class DistributionMatching(nn.Module):
    """`generator_loss` trains `student`, `critic_loss` trains `critic`: the fake score, and what methods add to it."""

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        audio: AudioEncoder,
        legible: LegibleError,
        latent_scale: float,
        config: MatchingConfig | None = None,
        drop: DropRates | None = None,
        teacher_audio: AudioEncoder | None = None,
    ) -> None:
        """legible: what the codec's probe reads, for the metric. teacher_audio: the teacher's ears, and its critic's,
        when the student has got better ones since.
        """
        super().__init__()
        self.student, self.critic = student, nn.ModuleDict({"score": copy.deepcopy(teacher).requires_grad_(True)})
        self.teacher, self.audio = teacher.requires_grad_(False), audio.requires_grad_(False)
        self.teacher_audio = None if teacher_audio is None else teacher_audio.requires_grad_(False)
        self.legible, self.latent_scale = legible, latent_scale
        self.config = config or MatchingConfig()
        self.drop = drop or DropRates(everything=0.0)

    @property
    def score(self) -> Denoiser:
        """Of what the student draws."""
        score: Denoiser = self.critic["score"]
        return score

    def scene(self, batch: Batch) -> Scene:
        """Conditions, as they are withheld at random, and blocks of a batch."""
        with torch.no_grad():
            own, partner = encode_voices(self.audio, batch)
            size, frames = own.shape[:2]
            withheld = draw_withheld(size, self.drop, own.device)
            given = heard = conditions(self.student, own, partner, batch, withheld)
            if self.teacher_audio is not None:
                heard = conditions(self.teacher, *encode_voices(self.teacher_audio, batch), batch, withheld)
        lengths = self.config.blocks or self.student.config.block_lengths
        blocks = random_blocks(frames, lengths).to(own.device)
        truth = (batch["latent"] - batch["reference"][:, None]) / self.latent_scale
        return Scene(given, heard, batch["reference"], blocks, truth)

    def generator_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        """A roll-out's distance from being real, a scalar with a gradient for the student alone."""
        drawn, exit_steps = self.draw(scene, gradient=True)
        gradient = self._metric(self.gradient(drawn.detach(), scene))
        loss = (self.weight(drawn.detach(), exit_steps, scene) * pull(drawn, gradient)).mean()
        return loss, {"matching": float(loss.detach()), "gradient": float(gradient.abs().mean())}

    def critic_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        """Flow matching of the fake score on a roll-out of its own."""
        with torch.no_grad():
            drawn, exit_steps = self.draw(scene)
            weight = self.critic_weight(drawn, exit_steps, scene)
        t, noise = self._times(scene), torch.randn_like(drawn)
        predicted = self.ask(self.score, add_noise(drawn, noise, t[..., None, None, None]), drawn, t, scene)
        error = (predicted - velocity(drawn, noise)).square().flatten(1).mean(1)
        loss = (weight * error).mean()
        return loss, {"critic": float(loss.detach())}

    def weight(self, drawn: Tensor, exit_steps: int, scene: Scene) -> Tensor:
        """How much each roll-out counts in the student's loss [B]; for methods that prefer some."""
        return torch.ones(len(drawn), device=drawn.device)

    def critic_weight(self, drawn: Tensor, exit_steps: int, scene: Scene) -> Tensor:
        """The same in the critic's loss."""
        return torch.ones(len(drawn), device=drawn.device)

    @torch.no_grad()
    def gradient(self, drawn: Tensor, scene: Scene) -> Tensor:
        """See training.objectives.score.matching_gradient; drawn [B, F, C, G, G]."""
        return matching_gradient(drawn, *self.estimates(drawn, scene))

    def estimates(self, drawn: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """Clean estimates of a noisy roll-out, real and fake."""
        t = self._times(scene)
        t5 = t[..., None, None, None]
        x_t = add_noise(drawn, torch.randn_like(drawn), t5)
        real, fake = self.guided(x_t, drawn, t, scene), self.ask(self.score, x_t, drawn, t, scene)
        return to_x0(x_t, real, t5), to_x0(x_t, fake, t5)

    def ask(
        self, network: nn.Module, x_t: Tensor, context: Tensor, t: Tensor, scene: Scene, given: Conditions | None = None
    ) -> Tensor:
        """The network's velocity [B, F, C, G, G] at x_t and t [B, F], every block given the context's frames before it.
        given: what it is told, the scene's `heard` by default.
        """
        told = given or scene.heard
        velocity: Tensor = network(x_t, context, t, told, scene.reference, scene.blocks, torch.zeros_like(t))
        return velocity

    def guided(self, x_t: Tensor, context: Tensor, t: Tensor, scene: Scene) -> Tensor:
        """The teacher's velocity with guidance."""
        real = self.ask(self.teacher, x_t, context, t, scene)
        if self.config.guidance == 1.0:
            return real
        null = self.ask(self.teacher, x_t, context, t, scene, without_voice(self.teacher, scene.heard))
        return null + self.config.guidance * (real - null)

    def _metric(self, gradient: Tensor) -> Tensor:
        """The gradient as seen by someone who reads faces; I + legible W'W is positive definite, so it descends."""
        if not self.config.legible:
            return gradient
        with torch.autocast(gradient.device.type, enabled=False):
            read = gradient.flatten(2) @ self.legible.weight.T
            return gradient + self.config.legible * (read @ self.legible.weight).view_as(gradient)

    def draw(self, scene: Scene, gradient: bool = False) -> tuple[Tensor, int]:
        """A roll-out [B, F, C, G, G], and after how many steps its blocks ended."""
        how = self.config.rolling
        noise = torch.randn(scene.shape, device=scene.reference.device)
        exit_steps = draw_exit(how.steps)
        drawn = roll_out(
            self.student, scene.given, scene.reference, scene.blocks, how, exit_steps, noise, gradient=gradient
        )
        return drawn, exit_steps

    def _times(self, scene: Scene) -> Tensor:
        """[B, F], one for each block."""
        shape = (scene.shape[0], scene.block_count)
        return per_block(score_times(shape, self.config.shift, scene.reference.device), scene.blocks)
