"""Adversarial self-distillation with first-frame enhancement (arXiv 2511.01419): one student for 1 to 4 steps.

Beside distribution matching, a judge compares what n steps draw with what n + 1 draw, which plays the part of the
real; it has an answer for every n. Neighbouring numbers of steps are near to each other, so the judge's task never is
trivial, as telling the fewest steps from real clips is. The first block of a roll-out takes all steps
(`Rolling.first_steps`), here in training, too, as Causal Forcing++ has it.

Deviations, where the paper is silent or has no code: judged with times shared by both (its reviewers' variant); the
trunk is the teacher's and not the moving critic's; regularised by finite differences; the weight beside distribution
matching by parity of their directions at the sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.diffusion.flow import add_noise
from training.objectives.dmd import DistributionMatching, Scene
from training.objectives.judges import Judge, JudgeConfig, adverse, at_parity, opposed
from training.objectives.score import pull, score_times
from training.objectives.selfroll import draw_exit, roll_out


class SelfDistillation(DistributionMatching):
    """See the module."""

    def __init__(self, *parts: Any, judging: JudgeConfig | None = None, **named: Any) -> None:
        """parts, named: as of DistributionMatching; config.rolling.steps is the most steps."""
        super().__init__(*parts, **named)
        self.judging = judging or JudgeConfig()
        self.critic["judge"] = Judge(self.teacher, max(1, self.config.rolling.steps - 1))

    def generator_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        most = self.config.rolling.steps
        steps = draw_exit(most)
        drawn = self._draw(scene, steps, gradient=True)
        gradient = self._metric(self.gradient(drawn.detach(), scene))
        if steps < most:
            t, noise = self._shared(scene)
            better = add_noise(self._draw(scene, steps + 1), noise, t[..., None, None, None])
            real = self._judge(better, t, steps, scene)
            t5, fresh = t[..., None, None, None], torch.randn_like(drawn)
            slope = adverse(lambda x: self._judge(add_noise(x, fresh, t5), t, steps, scene), drawn.detach(), real)
            gradient = at_parity(gradient, slope, self.judging.share)
        loss = pull(drawn, gradient).mean()
        return loss, {"matching": float(loss.detach()), "gradient": float(gradient.abs().mean())}

    def critic_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        loss, logs = super().critic_loss(scene)
        most = self.config.rolling.steps
        if most < 2:
            return loss, logs
        steps = draw_exit(most - 1)
        t, noise = self._shared(scene)
        t5 = t[..., None, None, None]
        fake = add_noise(self._draw(scene, steps), torch.randn_like(noise), t5)
        real = add_noise(self._draw(scene, steps + 1), noise, t5)

        told, more = opposed(lambda x: self._judge(x, t, steps, scene), real, fake, self.judging)
        return loss + told, logs | more

    def _draw(self, scene: Scene, steps: int, gradient: bool = False) -> Tensor:
        noise = torch.randn(scene.shape, device=scene.reference.device)
        with torch.set_grad_enabled(gradient):
            return roll_out(
                self.student, scene.given, scene.reference, scene.blocks, self.config.rolling, steps, noise, gradient
            )

    def _shared(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """A time for each clip [B, F], and noise."""
        t = score_times((scene.shape[0], 1), self.config.shift, scene.reference.device)
        return t.expand(-1, scene.shape[1]), torch.randn(scene.shape, device=scene.reference.device)

    def _judge(self, x: Tensor, t: Tensor, steps: int, scene: Scene) -> Tensor:
        answers: Tensor = self.critic["judge"](x, t, scene.heard, scene.reference)
        return answers[:, steps - 1]
