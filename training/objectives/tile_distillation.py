"""A student whose layers see tiles learns from its like that sees all: Efficient-vDiT's third stage (arXiv 2502.06155).

Teacher is the few-step student itself before its tiles were taken away. Both answer on the teacher's own few-step path,
where the student will be; their velocities and every layer's output are pulled together. The paper's loss is not public
beyond "layer-wise"; here each layer's error is a share of its output's energy, so that no layer drowns the others, and
the place where the step lands counts by the codec's probe, too, as in the other methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.diffusion.flow import timesteps, to_time
from engine.model.audio import AudioEncoder
from engine.model.denoiser import Denoiser
from training.attention.search import Layer, Question, recorded
from training.objectives.blocks import (
    DropRates,
    LegibleError,
    conditions,
    draw_withheld,
    encode_voices,
    random_blocks,
)
from training.objectives.flow_matching import edge_weight, noisy_context
from training.run import Batch


@dataclass(frozen=True, slots=True)
class TileConfig:
    """steps, shift: of the student's sampler, Euler's."""

    candidates: tuple[int, ...] = (1, 2, 3, 4, 5, 7, 9, 13)
    """Numbers of global frames that the search tries, of the 24 that a block of 8 has in its window."""
    damage: float = 0.03
    """What a mask may change of a layer's doing, as a share of its energy."""
    questions: int = 8
    """Batches that the search looks at."""
    dense_share: float = 0.6
    """Of the budget, for the student that sees all."""
    steps: int = 2
    shift: float = 1.5
    context_noise: float = 0.15
    layers: float = 1.0
    """Weight of the layers' mean error beside the velocity's."""
    legible: float = 2.0
    edge: float = 2.0
    """How much more the first frame of a block counts, as in the teacher."""


class TileDistillation(nn.Module):
    """Trains `student`; `dense` is frozen."""

    def __init__(
        self,
        student: Denoiser,
        dense: Denoiser,
        audio: AudioEncoder,
        legible: LegibleError,
        latent_scale: float,
        config: TileConfig | None = None,
        drop: DropRates | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.dense, self.audio = dense.requires_grad_(False), audio.requires_grad_(False)
        self.legible, self.latent_scale = legible, latent_scale
        self.config = config or TileConfig()
        # The student is never guided, so it never sees the unconditional branch.
        self.drop = drop or DropRates(everything=0.0)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        question, landing = self.question(batch)
        with torch.no_grad(), recorded(self.dense) as taught:
            wanted = self.dense(*question)
        with recorded(self.student) as learnt:
            velocity = self.student(*question)
        error, weight = velocity - wanted, edge_weight(question.block_of, self.config.edge)
        flow = (error.square().mean((2, 3, 4)) * weight).mean()
        t = question.t[..., None, None, None]
        legible = (self.legible(to_time(0.0, error, t, landing)) * weight).mean()
        layers = layers_error(learnt, taught)
        loss = flow + self.config.layers * layers + self.config.legible * legible
        return loss, {
            "flow": float(flow.detach()),
            "layers": float(layers.detach()),
            "legible": float(legible.detach()),
        }

    @torch.no_grad()
    def question(self, batch: Batch) -> tuple[Question, float]:
        """Where one of the dense student's steps begins, drawn evenly, on a clip's frames; and the time it lands at."""
        reference = batch["reference"]
        x0 = (batch["latent"] - reference[:, None]) / self.latent_scale
        size, frames = x0.shape[:2]
        blocks = random_blocks(frames, self.student.config.block_lengths).to(x0.device)
        withheld = draw_withheld(size, self.drop, x0.device)
        given = conditions(self.student, *encode_voices(self.audio, batch), batch, withheld)
        times = [*timesteps(self.config.steps, self.config.shift), 0.0]
        step = int(torch.randint(self.config.steps, ()))
        full = torch.ones(size, frames, device=x0.device)
        x, context = torch.randn_like(x0), noisy_context(x0, self.config.context_noise)
        for t, s in zip(times[:step], times[1:], strict=False):
            x = to_time(x, self.dense(x, context, t * full, given, reference, blocks, 0 * full), t, s)
        return Question(x, context, times[step] * full, given, reference, blocks, 0 * full), times[step + 1]


def layers_error(learnt: list[Layer], taught: list[Layer]) -> Tensor:
    """Mean over layers of the outputs' squared difference, as a share of the taught output's energy."""
    shares = [
        (a.out - b.out).float().square().mean() / b.out.float().square().mean()
        for a, b in zip(learnt, taught, strict=True)
    ]
    return torch.stack(shares).mean()
