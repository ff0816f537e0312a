"""Consistency distillation with guidance baked in (LCM, arXiv 2310.04378; LLIA distils its avatar the same way).

With `segments` the path is cut there, and everything on a segment is mapped to the segment's own end instead of to x_0
(multistep consistency, arXiv 2403.06807; PCM, arXiv 2405.18407), in x's own space, f(x_t, t) = x_t + (e - t) v: then
the student is drawn by Euler's method, one step a segment, and by no other number of steps.

With flow matching the consistency function is f(x_t, t) = x_t - t v(x_t, t): the boundary f(x_0, 0) = x_0 holds by
construction. One guided teacher step from t to the next grid time r gives x_r; the student's f(x_t, t) is pulled to
the averaged student's f(x_r, r). Deviations from LCM: one guidance scale (no embedding of it), per-block times on
block-causal sequences, deterministic multistep sampling with the same noise, a probe-space term as in the teacher, and
an articulation term: what the voice alone decides, the mouth's speech units, is also pulled to the recorded clip, since
there a short student has nothing to choose and its teacher's errors need not be learned. Head, brows, lids and smile
stay the teacher's to vary.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.diffusion.flow import add_noise, shift_time, to_time, to_x0
from engine.errors import ArgumentError
from engine.model.audio import AudioEncoder
from engine.model.denoiser import Conditions, Denoiser
from engine.types import AvatarState
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
from training.objectives.flow_matching import edge_weight, noisy_context
from training.run import Batch


@dataclass(frozen=True, slots=True)
class ConsistencyConfig:
    grid: int = 32
    """Times between 1 and 0 at which trajectories are compared (the skipping step is 1 / grid of the path)."""
    segments: int = 1
    """Equal parts of the grid; what divides it."""
    shift: float = 1.5
    guidance: float = 1.5
    """v = v_null + guidance (v_given - v_null); 1 means none."""
    target_decay: float = 0.95
    huber: float = 1e-3
    context_noise: float = 0.15
    legible: float = 2.0
    articulation: float = 0.0
    """Weight of the speech units' squared distance to the clip itself, while it speaks: what a mouth does when it
    rests is the teacher's to vary."""
    steady: float = 0.0
    """Weight of their distance to what is said without any noise, where `articulation` counts as well. Chance in the
    mouth is error, not variety."""
    stress: float = 1.0
    """What the clip's speech units are multiplied by before they are aimed at: the mean of what a voice leaves open
    moves less than any single mouth."""
    first: float = 0.2
    """Share of blocks that are pure noise, besides the grid's even share: where every sampling of few steps begins."""
    edge: float = 2.0
    """How much more the first frame of a block counts, as in the teacher."""

    def __post_init__(self) -> None:
        if self.segments < 1 or self.grid % self.segments:
            raise ArgumentError(f"{self.segments} segments do not divide a grid of {self.grid} times")

    def segment_end(self, n: Tensor) -> Tensor:
        """Where on the grid the segment of point n [...] ends."""
        length = self.grid // self.segments
        return (n // length + 1) * length


class ConsistencyDistillation(nn.Module):
    """Student denoiser from a frozen teacher denoiser and audio encoder."""

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        audio: AudioEncoder,
        legible: LegibleError,
        latent_scale: float,
        config: ConsistencyConfig | None = None,
        drop: DropRates | None = None,
        articulation: LegibleError | None = None,
        teacher_audio: AudioEncoder | None = None,
    ) -> None:
        """legible: what the codec's probe reads, to be like the teacher; articulation: what speech moves, for the term
        of that name. teacher_audio: the teacher's ears, when the student has got better ones since.
        """
        super().__init__()
        self.student = student
        self.teacher, self.audio = teacher.requires_grad_(False), audio.requires_grad_(False)
        self.teacher_audio = None if teacher_audio is None else teacher_audio.requires_grad_(False)
        self.target = copy.deepcopy(student).requires_grad_(False)
        self.legible, self.articulation, self.latent_scale = legible, articulation, latent_scale
        self.config = config or ConsistencyConfig()
        # The student is never guided, so it never sees the unconditional branch.
        self.drop = drop or DropRates(everything=0.0)
        times = shift_time(torch.linspace(1, 0, self.config.grid + 1), self.config.shift)
        self.times: Tensor
        self.register_buffer("times", times)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        c, reference = self.config, batch["reference"]
        self._follow()
        x0 = (batch["latent"] - reference[:, None]) / self.latent_scale
        size, frames = x0.shape[:2]
        block_of = random_blocks(frames, self.student.config.block_lengths).to(x0.device)
        n = torch.randint(c.grid, (size, int(block_of[-1]) + 1), device=x0.device)
        n = n * (torch.rand(n.shape, device=n.device) >= c.first)
        t, r = per_block(self.times[n], block_of), per_block(self.times[n + 1], block_of)
        e = per_block(self.times[c.segment_end(n)], block_of)
        t5, r5, e5 = (time[..., None, None, None] for time in (t, r, e))
        context, zero = noisy_context(x0, c.context_noise), torch.zeros_like(t)
        with torch.no_grad():
            own, partner = encode_voices(self.audio, batch)
            withheld = draw_withheld(size, self.drop, x0.device)
            given = heard = conditions(self.student, own, partner, batch, withheld)
            if self.teacher_audio is not None:
                heard = conditions(self.teacher, *encode_voices(self.teacher_audio, batch), batch, withheld)
            quiet, seen = self._said(x0, context, given, reference, block_of)
            seen = torch.where(_speaking(batch["state"])[..., None, None, None] > 0, seen, x0)
            x_t = add_noise(seen, torch.randn_like(x0), t5)
            v_given = self.teacher(x_t, context, t, heard, reference, block_of, zero)
            v_null = self.teacher(x_t, context, t, without_voice(self.teacher, heard), reference, block_of, zero)
            x_r = x_t + (r5 - t5) * (v_null + c.guidance * (v_given - v_null))
            target = to_time(x_r, self.target(x_r, context, r, given, reference, block_of, zero), r5, e5)
        v = self.student(x_t, context, t, given, reference, block_of, zero)
        error = to_time(x_t, v, t5, e5) - target
        predicted = to_x0(x_t, v, t5)
        weight = edge_weight(block_of, c.edge)
        huber = ((torch.sqrt(error.square() + c.huber**2) - c.huber).mean((2, 3, 4)) * weight).mean()
        legible = (self.legible(error) * weight).mean()
        loss = huber + c.legible * legible
        logs = {"huber": float(huber.detach()), "legible": float(legible.detach())}
        speaking = _speaking(batch["state"])
        if self.articulation is not None and c.articulation:
            articulation = (self.articulation(predicted - c.stress * x0) * weight * speaking).mean()
            loss = loss + c.articulation * articulation
            logs["articulation"] = float(articulation.detach())
        if self.articulation is not None and c.steady:
            steady = (self.articulation(predicted - quiet) * weight * speaking).mean()
            loss = loss + c.steady * steady
            logs["steady"] = float(steady.detach())
        return loss, logs

    def _said(
        self, x0: Tensor, context: Tensor, given: Conditions, reference: Tensor, block_of: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the student says without noise, and the clip with that mouth: what a second step will find. With the
        clip's own mouth in its noise the student would learn to read lips that it never sees at run time.
        """
        if self.articulation is None or not self.config.steady:
            return x0, x0
        one = torch.ones(x0.shape[:2], device=x0.device)
        still = torch.zeros_like(x0)
        velocity = self.target(still, context, one, given, reference, block_of, torch.zeros_like(one))
        quiet = to_x0(still, velocity, one[..., None, None, None])
        return quiet, x0 + self.articulation.within(quiet - x0)

    @torch.no_grad()
    def _follow(self) -> None:
        for target, student in zip(self.target.parameters(), self.student.parameters(), strict=True):
            target.lerp_(student, 1 - self.config.target_decay)


def _speaking(state: Tensor) -> Tensor:
    """1 where a frame speaks, else 0, [B, F]."""
    return (state == AvatarState.SPEAKING).float()
