"""VDOT (arXiv 2512.06802): entropic optimal transport between the two scores' clean estimates, beside distribution
matching, and a judge that knows recorded clips.

Where supports hardly meet, the scores' difference says little; transport still says where to go. Clean estimates of one
noisy roll-out, fake and real, are sets of cells, frame by frame; each of the fake ones is moved towards where the plan
sends it. Generator updates alternate between matching with transport, and the judge.

Deviations. The published code adds a mean and a sum, so that transport outweighs matching some 10^4 times whatever the
weights say; here both directions have the same mean size before the weight (`share`). The plan's regulariser is a share
of the median distance and not 0.1 whatever the units; the direction is the envelope's and not that through the
iterations; cells have coordinates, since transport between sets is blind to where things are; and the push fades where
the two estimates are equal, where a unit norm would blow up rounding errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.diffusion.flow import add_noise
from training.objectives.dmd import DistributionMatching, Scene
from training.objectives.judges import Judge, JudgeConfig, adverse, at_parity, opposed
from training.objectives.score import pull, score_times
from training.objectives.sinkhorn import direction, squared_distances, transport


@dataclass(frozen=True, slots=True)
class TransportConfig:
    """share: of transport's direction beside matching's. place: weight of a cell's coordinates, in units of the cells'
    own spread. blur, iterations: see objectives.sinkhorn.
    """

    share: float = 0.5
    place: float = 1.0
    blur: float = 0.05
    iterations: int = 60


class OptimalTransport(DistributionMatching):
    """See the module."""

    def __init__(
        self, *parts: Any, moving: TransportConfig | None = None, judging: JudgeConfig | None = None, **named: Any
    ) -> None:
        """parts, named: as of DistributionMatching."""
        super().__init__(*parts, **named)
        self.moving, self.judging = moving or TransportConfig(), judging or JudgeConfig()
        self.critic["judge"] = Judge(self.teacher)
        self.turn: Tensor
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))

    def generator_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        drawn, _ = self.draw(scene, gradient=True)
        still = drawn.detach()
        if int(self.turn) % 2 == 0:
            gradient = self._metric(self.gradient(still, scene))
            gradient = at_parity(gradient, self.transport_gradient(still, scene), self.moving.share)
        else:
            t, noise = self._shared(scene)
            real = self._judge(add_noise(scene.truth, noise, t[..., None, None, None]), t, scene)
            fresh, t5 = torch.randn_like(still), t[..., None, None, None]
            slope = adverse(lambda x: self._judge(add_noise(x, fresh, t5), t, scene), still, real)
            # As large as matching's direction: mean absolute value about one, by DMD2's normaliser.
            gradient = self.judging.share * slope / slope.abs().mean().clamp_min(1e-12)
        self.turn += 1
        loss = pull(drawn, gradient).mean()
        return loss, {"matching": float(loss.detach()), "gradient": float(gradient.abs().mean())}

    def critic_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        loss, logs = super().critic_loss(scene)
        with torch.no_grad():
            drawn = self.draw(scene)[0]
        t, noise = self._shared(scene)
        t5 = t[..., None, None, None]
        real, fake = add_noise(scene.truth, noise, t5), add_noise(drawn, noise, t5)

        told, more = opposed(lambda x: self._judge(x, t, scene), real, fake, self.judging)
        return loss + told, logs | more

    @torch.no_grad()
    def transport_gradient(self, drawn: Tensor, scene: Scene) -> Tensor:
        """What is subtracted from a roll-out [B, F, C, G, G], by a noisy draw of its own."""
        real, fake = self.estimates(drawn, scene)
        return cell_transport(fake, real, self.moving)

    def _shared(self, scene: Scene) -> tuple[Tensor, Tensor]:
        t = score_times((scene.shape[0], 1), self.config.shift, scene.reference.device)
        return t.expand(-1, scene.shape[1]), torch.randn(scene.shape, device=scene.reference.device)

    def _judge(self, x: Tensor, t: Tensor, scene: Scene) -> Tensor:
        answers: Tensor = self.critic["judge"](x, t, scene.heard, scene.reference)
        return answers[:, 0]


def cell_transport(fake: Tensor, real: Tensor, how: TransportConfig) -> Tensor:
    """The direction in which each cell of `fake` leaves for where transport sends it in `real`; both and the result
    [B, F, C, G, G]. In double precision: near equality it is a difference of nearly equal numbers.
    """
    a, b = (x.double().flatten(3).transpose(2, 3) for x in (fake, real))
    spread = b.std().clamp_min(1e-9)
    side = fake.shape[-1]
    line = torch.linspace(-1, 1, side, dtype=a.dtype, device=a.device)
    place = how.place * spread * torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
    # Squared distance over channels grows with their number; the coordinates keep pace.
    place = place * a.shape[-1] ** 0.5
    told_a, told_b = (torch.cat((x, place.expand(*x.shape[:2], -1, -1)), -1) for x in (a, b))
    plan = transport(squared_distances(told_a, told_b), how.blur, how.iterations).plan
    moved = direction(a, b, plan).transpose(2, 3).unflatten(3, (side, side))
    return moved.float()
