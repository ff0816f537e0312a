"""Phased DMD (arXiv 2510.27684): experts that each match distributions over their own stretch of time.

Expert k takes samples from the time where the last one left them to s_k, and stops there: its samples are still noisy,
so the critic learns its score between s_k and 1 from them by the subinterval target (equations 11 to 13), and both
scores are compared at times in (s_k, 1), nested, not disjoint. Within a phase the last step is drawn among its steps
and jumps to s_k at once, the only one with a gradient.

Deviations: DMD2's normaliser in place of the weight of equation 10, as the authors' later code has it; the critic's
clamp as printed; experts are whole copies of the teacher and not low-rank; and as our denoiser is causal, each expert
has keys and values of its own for what was drawn before (engine.model.experts).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.diffusion.flow import shift_time, to_time, to_x0
from engine.errors import ArgumentError
from training.objectives.blocks import per_block
from training.objectives.dmd import DistributionMatching, Scene
from training.objectives.score import matching_gradient, pull
from training.objectives.subinterval import renoise, subinterval_velocity, subinterval_weight
from training.objectives.trajectories import euler_times, pick, trajectories

_APART, _MOST = 0.02, 0.98


def phase_edges(steps: int, phases: int, shift: float) -> tuple[float, ...]:
    """Where each phase but the last ends, of an Euler sampler whose steps the phases share alike."""
    if phases < 1 or steps % phases:
        raise ArgumentError(f"{phases} phases cannot share {steps} steps alike")
    return tuple(euler_times(steps, shift)[i * steps // phases] for i in range(1, phases))


class PhasedMatching(DistributionMatching):
    """One phase; the student's other experts stay as they are. See the module."""

    def __init__(self, *parts: Any, phase: int, phases: int, **named: Any) -> None:
        """parts, named: as of DistributionMatching, with Experts as the student. phase: from 0, of so many."""
        super().__init__(*parts, **named)
        self.times = euler_times(self.config.rolling.steps, self.config.rolling.shift)
        each = self.config.rolling.steps // phases
        self.first, self.last = phase * each, (phase + 1) * each

    def generator_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        x_s, x0, context = self.leave(scene, gradient=True)
        s, t = self._times_between(scene)
        with torch.no_grad():
            t5 = t[..., None, None, None]
            x_t = renoise(x_s.detach(), torch.randn_like(x_s), s, t5)[0]
            real, fake = self.guided(x_t, context, t, scene), self.ask(self.score, x_t, context, t, scene)
            gradient = self._metric(matching_gradient(x0, to_x0(x_t, real, t5), to_x0(x_t, fake, t5)))
        loss = pull(x_s, gradient).mean()
        return loss, {"matching": float(loss.detach()), "gradient": float(gradient.abs().mean())}

    def critic_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        x_s, _, context = self.leave(scene)
        s, t = self._times_between(scene)
        t5, noise = t[..., None, None, None], torch.randn_like(x_s)
        x_t, _ = renoise(x_s, noise, s, t5)
        error = self.ask(self.score, x_t, context, t, scene) - subinterval_velocity(x_s, noise, s, t5)
        loss = (subinterval_weight(s, t5) * error.square()).mean()
        return loss, {"critic": float(loss.detach())}

    def leave(self, scene: Scene, gradient: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """x_s as this phase leaves it, the clean estimate there, and what the experts drew in the end."""
        noise = torch.randn(scene.shape, device=scene.reference.device)
        states = trajectories(self.student, scene.given, scene.reference, scene.blocks, self.times, noise)
        shape = (len(noise), scene.block_count)
        index = torch.randint(self.first, self.last, shape, device=noise.device)
        x, begin, _ = pick(states, self.times, index, scene.blocks)
        with torch.set_grad_enabled(gradient):
            v = self.ask(self.student, x, states[-1], begin, scene, scene.given)
            b5 = begin[..., None, None, None]
            return to_time(x, v, b5, self.times[self.last]), to_x0(x, v, b5), states[-1]

    def _times_between(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """s, where the phase ends, and times [B, F] above it, one a block: even before the shift."""
        shift, s = self.config.rolling.shift, self.times[self.last]
        low = s / (shift - (shift - 1) * s)
        u = low + (1 - low) * torch.rand(scene.shape[0], scene.block_count, device=scene.reference.device)
        t: Tensor = shift_time(u, shift)
        return torch.tensor(s, device=t.device), per_block(t.clamp(s + _APART, _MOST), scene.blocks)
