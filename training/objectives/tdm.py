"""TDM: trajectory distribution matching, aware of the number of steps (arXiv 2503.06674).

The student is an Euler sampler; where each of its steps ends, at a time s, its states are matched with the teacher's
distribution at times between s and the step's beginning. Segments do not overlap, so one critic tells steps apart by
time alone; the plan (how many steps in all) it is told, since the same time lies on different steps of different plans.

Deviations: the student is told the plan by its times only, which differ between plans but for the first; samples are
moved along the gradient of DMD2 instead of a Huber distance, which has the same direction; every block of a roll-out is
at a step of its own. `unbiased` gives the critic Phased DMD's target: TDM's own, the clean estimate of the step, is no
mean of anything that the state's density defines (research: its velocity is biased; tests/test_trajectory_matching.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.diffusion.flow import to_time, to_x0
from engine.model.denoiser import STATES, Conditions, Denoiser
from training.objectives.blocks import per_block
from training.objectives.dmd import DistributionMatching, Scene
from training.objectives.score import matching_gradient, pull
from training.objectives.subinterval import renoise, subinterval_velocity, subinterval_weight
from training.objectives.trajectories import euler_times, pick, trajectories

_LEAST, _APART = 0.02, 0.01


@dataclass(frozen=True, slots=True)
class TrajectoryConfig:
    """plans: numbers of steps that one student learns, each as often. most_snr: cap of the critic's weight."""

    plans: tuple[int, ...] = (1, 2, 4)
    unbiased: bool = False
    most_snr: float = 5.0


@dataclass(frozen=True, slots=True)
class Ending:
    """Where steps of a plan end: the state x_s there, the step's clean estimate x0, both [B, F, C, G, G], what was
    drawn in the end (the context), and the times s and the step's beginning [B, F].
    """

    plan: int
    x_s: Tensor
    x0: Tensor
    context: Tensor
    s: Tensor
    begin: Tensor


class TrajectoryMatching(DistributionMatching):
    """See the module."""

    def __init__(self, *parts: Any, trajectory: TrajectoryConfig | None = None, **named: Any) -> None:
        """parts, named: as of DistributionMatching."""
        super().__init__(*parts, **named)
        self.trajectory = trajectory or TrajectoryConfig()
        tell_plans(self.score, len(self.trajectory.plans))

    def generator_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        ending = self.ending(scene, gradient=True)
        with torch.no_grad():
            x_t, _, tau = self._between(ending, scene)
            real = self.guided(x_t, ending.context, tau, scene)
            fake = self._fake(x_t, tau, ending, scene)
            t5 = tau[..., None, None, None]
            gradient = self._metric(matching_gradient(ending.x0, to_x0(x_t, real, t5), to_x0(x_t, fake, t5)))
        loss = pull(ending.x0, gradient).mean()
        return loss, {"matching": float(loss.detach()), "gradient": float(gradient.abs().mean())}

    def critic_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        ending = self.ending(scene)
        x_t, noise, tau = self._between(ending, scene)
        predicted = self._fake(x_t, tau, ending, scene)
        s, t = ending.s[..., None, None, None], tau[..., None, None, None]
        if self.trajectory.unbiased:
            error = subinterval_weight(s, t) * (predicted - subinterval_velocity(ending.x_s, noise, s, t)).square()
        else:
            # The squared error of the clean estimate, times min(SNR, most): in velocities, whose error is t times less.
            weight = torch.minimum((1 - t).square(), self.trajectory.most_snr * t.square())
            error = importance(x_t, ending.x0, noise, t) * weight * (to_x0(x_t, predicted, t) - ending.x0).square()
            error = error / t.square()
        loss = error.mean()
        return loss, {"critic": float(loss.detach())}

    def ending(self, scene: Scene, gradient: bool = False) -> Ending:
        """Where one step of every block ends. gradient: through that step."""
        plans = self.trajectory.plans
        plan = int(torch.randint(len(plans), ()))
        times = euler_times(plans[plan], self.config.rolling.shift)
        noise = torch.randn(scene.shape, device=scene.reference.device)
        states = trajectories(self.student, scene.given, scene.reference, scene.blocks, times, noise)
        index = torch.randint(plans[plan], (len(noise), scene.block_count), device=noise.device)
        x, begin, s = pick(states, times, index, scene.blocks)
        context = states[-1]
        with torch.set_grad_enabled(gradient):
            v = self.ask(self.student, x, context, begin, scene, scene.given)
            b5, s5 = begin[..., None, None, None], s[..., None, None, None]
            return Ending(plan, to_time(x, v, b5, s5), to_x0(x, v, b5), context, s, begin)

    def _between(self, e: Ending, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, the noise added to e.x_s for it, and the times t [B, F], one a block, between the step's two."""
        low = e.s.clamp_min(_LEAST)
        share = per_block(torch.rand(len(e.s), scene.block_count, device=e.s.device), scene.blocks)
        tau = low + share * (e.begin - _APART - low).clamp_min(0)
        tau = torch.maximum(tau, e.s + _APART)
        noise = torch.randn_like(e.x_s)
        t5, s5 = tau[..., None, None, None], e.s[..., None, None, None]
        return renoise(e.x_s.detach(), noise, s5, t5)[0], noise, tau

    def _fake(self, x_t: Tensor, t: Tensor, e: Ending, scene: Scene) -> Tensor:
        return self.ask(self.score, x_t, e.context, t, scene, of_plan(scene.heard, e.plan))


def importance(x_t: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The paper's weight of a sample whose clean estimate and state do not have independent noise: likelihoods of the
    noise that leads from one to the other over that of the noise drawn, means over elements in the exponents; [B,
    1, 1, 1, 1].
    """
    mixed = (x_t - (1 - t) * x0) / t
    exponent = 0.5 * (noise.square() - mixed.square()).flatten(1).mean(1)
    return exponent.exp()[:, None, None, None, None]


def tell_plans(critic: Denoiser, plans: int) -> None:
    """Make room for the plan in what a critic is told: its state's embedding, once for every plan."""
    old = critic.conditioner.state
    new = nn.Embedding(plans * STATES, old.embedding_dim)
    with torch.no_grad():
        new.weight.copy_(old.weight.repeat(plans, 1))
    critic.conditioner.state = new.to(old.weight.device)


def of_plan(c: Conditions, plan: int) -> Conditions:
    """Conditions that also name the plan, for a critic after `tell_plans`."""
    return Conditions(
        c.audio, c.listening, c.state + plan * STATES, c.expression, c.expression_given, c.pose, c.pose_given
    )
