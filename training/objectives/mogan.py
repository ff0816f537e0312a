"""MoGAN (arXiv 2511.21592): a judge of optical flow beside distribution matching, so that few steps keep the motion.

The judge sees the flow of a whole stretch of frames forwards and backwards at once, and gives one answer: real clips'
flow is that of their latents through the same decoder, so that it differs by motion alone. Distribution matching keeps
the looks.

Deviations, the paper's code being closed: the flow is the decoder's (objectives.optical_flow) and not RAFT's; the judge
is a small network of 3-D convolutions and not half a video model; relativistic losses with penalties by finite
differences; the weight by parity of directions at the sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.model.codec import PortraitDecoder
from training.objectives.dmd import DistributionMatching, Scene
from training.objectives.judges import JudgeConfig, adverse, at_parity, opposed
from training.objectives.optical_flow import flow_of, with_speed
from training.objectives.score import pull


class MotionJudge(nn.Module):
    """Judgements [B] of flow with speed [B, T, 3, h, w]."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv3d(inputs, outputs, 3, stride=(1, 2, 2), padding=1), nn.GroupNorm(4, outputs), nn.SiLU()
            )

        self.layers = nn.Sequential(layer(3, width), layer(width, 2 * width), layer(2 * width, 2 * width))
        self.out = nn.Linear(4 * width, 1)

    def forward(self, flow: Tensor) -> Tensor:
        h = self.layers(flow.transpose(1, 2))
        # Mean and spread: how much, and how unevenly in time and place.
        judged: Tensor = self.out(torch.cat((h.mean((2, 3, 4)), h.std((2, 3, 4))), 1))[:, 0]
        return judged


class MotionAdversary(DistributionMatching):
    """See the module."""

    def __init__(
        self, *parts: Any, decoder: PortraitDecoder, judging: JudgeConfig | None = None, frames: int = 12, **named: Any
    ) -> None:
        """parts, named: as of DistributionMatching. frames: that the judge sees of a roll-out."""
        super().__init__(*parts, **named)
        self.decoder = decoder.requires_grad_(False)
        self.judging, self.frames = judging or JudgeConfig(), frames
        self.critic["judge"] = MotionJudge()
        self.flow_scale: Tensor
        self.register_buffer("flow_scale", torch.tensor(float("nan")))

    def generator_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        drawn, exit_steps = self.draw(scene, gradient=True)
        gradient = self._metric(self.gradient(drawn.detach(), scene))
        part = self._stretch(scene)
        with torch.no_grad():
            real = self.judge(scene.truth[:, part], scene)
        slope = torch.zeros_like(drawn)
        slope[:, part] = adverse(lambda x: self.judge(x, scene), drawn.detach()[:, part], real)
        loss = pull(drawn, at_parity(gradient, slope, self.judging.share)).mean()
        return loss, {"matching": float(loss.detach()), "gradient": float(gradient.abs().mean())}

    def critic_loss(self, scene: Scene) -> tuple[Tensor, dict[str, float]]:
        loss, logs = super().critic_loss(scene)
        with torch.no_grad():
            drawn = self.draw(scene)[0]
            part = self._stretch(scene)
            fake, real = self.flow(drawn[:, part], scene), self.flow(scene.truth[:, part], scene)
        told, more = opposed(self.critic["judge"], real, fake, self.judging)
        return loss + told, logs | more

    def judge(self, motion: Tensor, scene: Scene) -> Tensor:
        """[B], of motion latents [B, F, C, G, G]."""
        judged: Tensor = self.critic["judge"](self.flow(motion, scene))
        return judged

    def flow(self, motion: Tensor, scene: Scene) -> Tensor:
        """With speed [B, F - 1, 3, 16, 16], in units of how far real faces move from one frame to the next."""
        absolute = motion * self.latent_scale + scene.reference[:, None]
        with torch.autocast(motion.device.type, enabled=False):
            flow = flow_of(self.decoder, absolute.float(), scene.reference.float())
        if torch.isnan(self.flow_scale):
            most = flow.detach().abs().flatten().sort().values
            self.flow_scale.copy_(most[-max(1, len(most) // 20)].clamp_min(1e-6))
        return with_speed(flow, float(self.flow_scale))

    def _stretch(self, scene: Scene) -> slice:
        frames = min(self.frames, scene.shape[1])
        first = int(torch.randint(scene.shape[1] - frames + 1, ()))
        return slice(first, first + frames)
