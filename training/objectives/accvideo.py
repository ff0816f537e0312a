"""AccVideo (arXiv 2503.19462): a student taught on its teacher's own trajectories, and judged at their key times.

Recorded clips with noise added do not lie on the teacher's paths; to learn from such points is partly wasted. So the
teacher draws clips first (training.taught), and the student regresses the mean velocity between two of their states
(equation 6); a judge with an answer for every key time compares the student's states there with the teacher's, which
says what a mean over possible ways cannot (equations 7 and 8).

Deviations: our steps are few, so that the student's states are drawn anew instead of kept in queues; the judge reads
two layers of the teacher at every key time; blocks are taught given the teacher's clean frames before them, noised a
little, as everywhere here; the error also counts by the codec's probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.diffusion.flow import to_time
from engine.model.audio import AudioEncoder
from engine.model.denoiser import Denoiser
from training.objectives.blocks import LegibleError, conditions, encode_voices
from training.objectives.dmd import Scene
from training.objectives.flow_matching import edge_weight, noisy_context
from training.objectives.judges import Judge
from training.objectives.trajectories import euler_times, pick, trajectories
from training.run import Batch


@dataclass(frozen=True, slots=True)
class TaughtConfig:
    """steps: of the student, between key times. adversarial: weight of the judge. context_noise: see flow_matching."""

    steps: int = 2
    shift: float = 1.5
    adversarial: float = 0.1
    legible: float = 2.0
    context_noise: float = 0.15
    edge: float = 2.0


@dataclass(frozen=True, slots=True)
class Lesson:
    """scene: conditions and blocks; its truth is what the teacher drew. states: the teacher's, [steps + 1, B, F, C, G,
    G], noise first.
    """

    scene: Scene
    states: Tensor


class TrajectoryTeaching(nn.Module):
    """`generator_loss` trains `student`, `critic_loss` trains `critic`, the judge."""

    def __init__(
        self, student: Denoiser, teacher: Denoiser, audio: AudioEncoder, legible: LegibleError,
        config: TaughtConfig | None = None, teacher_audio: AudioEncoder | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = config or TaughtConfig()
        self.student, self.teacher, self.audio = student, teacher.requires_grad_(False), audio.requires_grad_(False)
        self.teacher_audio = None if teacher_audio is None else teacher_audio.requires_grad_(False)
        self.critic: nn.Module = Judge(self.teacher, self.config.steps)
        self.legible = legible
        self.times = euler_times(self.config.steps, self.config.shift)

    @torch.no_grad()
    def scene(self, batch: Batch) -> Lesson:
        """batch: with `states` [B, steps + 1, F, C, G, G] and `blocks` [F], see training.taught."""
        given = heard = conditions(self.student, *encode_voices(self.audio, batch), batch, None)
        if self.teacher_audio is not None:
            heard = conditions(self.teacher, *encode_voices(self.teacher_audio, batch), batch, None)
        states = batch["states"].transpose(0, 1).float()
        return Lesson(Scene(given, heard, batch["reference"], batch["blocks"], states[-1]), states)

    def generator_loss(self, lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
        scene, c = lesson.scene, self.config
        index = torch.randint(c.steps, (len(scene.truth), scene.block_count), device=scene.reference.device)
        x, t, s = pick(lesson.states, self.times, index, scene.blocks)
        reached = pick(lesson.states[1:], self.times[1:] + [0.0], index, scene.blocks)[0]
        t5, s5 = t[..., None, None, None], s[..., None, None, None]
        context = noisy_context(scene.truth, c.context_noise)
        v = self.student(x, context, t, scene.given, scene.reference, scene.blocks, torch.zeros_like(t))
        error, weight = v - secant(x, reached, t5, s5), edge_weight(scene.blocks, c.edge)
        taught = (error.square().mean((2, 3, 4)) * weight).mean()
        legible = (self.legible(t5 * error) * weight).mean()
        x_s, key = self.own_state(lesson, gradient=True)
        adversarial = F.softplus(-self._judge(x_s, key, scene)).mean()
        loss = taught + c.legible * legible + c.adversarial * adversarial
        logs = {"taught": taught, "legible": legible, "adversarial": adversarial}
        return loss, {k: float(value.detach()) for k, value in logs.items()}

    def critic_loss(self, lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
        x_s, key = self.own_state(lesson)
        of_real = self._judge(lesson.states[key], key, lesson.scene)
        of_fake = self._judge(x_s, key, lesson.scene)
        loss = (F.softplus(-of_real) + F.softplus(of_fake)).mean()
        apart = float((of_real - of_fake).detach().mean())
        return loss, {"judge": float(loss.detach()), "judge_apart": apart}

    def own_state(self, lesson: Lesson, gradient: bool = False) -> tuple[Tensor, int]:
        """The student's own state at a key time drawn evenly, and which (1 to steps). gradient: of its last step."""
        scene, key = lesson.scene, int(torch.randint(self.config.steps, ())) + 1
        noise = torch.randn(scene.shape, device=scene.reference.device)
        states = trajectories(self.student, scene.given, scene.reference, scene.blocks, self.times, noise)
        t = torch.full(scene.shape[:2], self.times[key - 1], device=noise.device)
        with torch.set_grad_enabled(gradient):
            v = self.student(
                states[key - 1], states[-1], t, scene.given, scene.reference, scene.blocks, torch.zeros_like(t)
            )
            return to_time(states[key - 1], v, self.times[key - 1], self.times[key]), key

    def _judge(self, x: Tensor, key: int, scene: Scene) -> Tensor:
        t = torch.full(scene.shape[:2], self.times[key], device=x.device)
        answers: Tensor = self.critic(x, t, scene.heard, scene.reference)
        return answers[:, key - 1]


def secant(x: Tensor, reached: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The mean velocity of a path that is at x at t and reaches another state at s < t."""
    return (reached - x) / (s - t)
