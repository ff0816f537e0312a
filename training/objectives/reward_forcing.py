"""Reward Forcing (arXiv 2512.04678): DMD whose roll-outs count by a reward, with an EMA-Sink in the roll-outs.

Re-DMD multiplies each roll-out's distribution-matching loss by exp(r / b). Where both scores agree the gradient is 0
whatever the weight, so this does not tilt what is drawn in the end; it spends the updates on what moves well. Weighting
the critic by exp(-r / b) instead does tilt it, to p_real exp(r / b), and is here as an ablation.

Deviations: the reward is no vision-language model's opinion but exact, since the recorded clip with the same conditions
is known: how near the energy of what the codec's probe reads comes to that clip's. It is normalised for each number of
steps, as fewer steps look worse by themselves; weights have mean 1 and bounds. And the sink (engine.diffusion.rollout.
Cache, `Rolling.manner.sink_decay`) works in training: roll-outs are longer than the context, so frames do leave it,
where the published trainer's never do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.objectives.dmd import DistributionMatching, Scene

_FEWEST = 1e-6


@dataclass(frozen=True, slots=True)
class RewardConfig:
    """temperature: b; smaller means choosier. critic_side: weigh the critic instead of the student. least, most: bounds
    of a weight; decay: of the running mean and spread of rewards.
    """

    temperature: float = 0.5
    critic_side: bool = False
    least: float = 0.1
    most: float = 5.0
    decay: float = 0.98


class RewardForcing(DistributionMatching):
    """See the module."""

    def __init__(self, *parts: Any, reward: RewardConfig | None = None, **named: Any) -> None:
        """parts, named: as of DistributionMatching."""
        super().__init__(*parts, **named)
        self.reward_config = reward or RewardConfig()
        steps = self.config.rolling.steps
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.full((steps,), float("nan")))
        self.register_buffer("variance", torch.ones(steps))

    def reward(self, drawn: Tensor, scene: Scene) -> Tensor:
        """[B]: 0 when a roll-out moves as much as the recorded clip, less by the logarithm of how much more or less."""
        return -(self._energy(drawn) / self._energy(scene.truth)).log().abs()

    def weight(self, drawn: Tensor, exit_steps: int, scene: Scene) -> Tensor:
        if self.reward_config.critic_side:
            return super().weight(drawn, exit_steps, scene)
        return self._weights(drawn, exit_steps, scene, 1.0)

    def critic_weight(self, drawn: Tensor, exit_steps: int, scene: Scene) -> Tensor:
        if not self.reward_config.critic_side:
            return super().critic_weight(drawn, exit_steps, scene)
        return self._weights(drawn, exit_steps, scene, -1.0)

    @torch.no_grad()
    def _weights(self, drawn: Tensor, exit_steps: int, scene: Scene, sign: float) -> Tensor:
        how, at = self.reward_config, exit_steps - 1
        reward = self.reward(drawn, scene)
        self._learn(reward, at)
        normal = (reward - self.mean[at]) / self.variance[at].sqrt()
        return weights_of(sign * normal / how.temperature, how.least, how.most)

    def _learn(self, reward: Tensor, at: int) -> None:
        mean, variance = reward.mean(), reward.var(correction=0).clamp_min(_FEWEST)
        if torch.isnan(self.mean[at]):
            self.mean[at], self.variance[at] = mean, variance
        else:
            self.mean[at].lerp_(mean, 1 - self.reward_config.decay)
            self.variance[at].lerp_(variance, 1 - self.reward_config.decay)

    def _energy(self, motion: Tensor) -> Tensor:
        """Mean square of what the probe's readings change from frame to frame, [B]."""
        with torch.autocast(motion.device.type, enabled=False):
            energy: Tensor = self.legible(motion[:, 1:].float() - motion[:, :-1].float())
        return energy.mean(1).clamp_min(_FEWEST)


def weights_of(exponent: Tensor, least: float, most: float) -> Tensor:
    """exp of [B], with mean 1 and then within bounds."""
    return torch.softmax(exponent, 0).mul(len(exponent)).clamp(least, most)


def effective_share(weight: Tensor) -> float:
    """How many of B samples would count alike, as a share of B: (sum w)^2 / (B sum w^2). Below 0.3 a few decide all."""
    return float(weight.sum().square() / (len(weight) * weight.square().sum()))
