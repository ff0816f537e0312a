"""Adversarial losses on numbers, and the judges that read networks."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from torch import nn  # noqa: E402

from engine.model.config import TINY  # noqa: E402
from engine.model.denoiser import Conditions, Denoiser  # noqa: E402
from training.objectives.judges import (  # noqa: E402
    Judge,
    JudgeConfig,
    adverse,
    at_parity,
    judge_loss,
    opposed,
    roughness,
    student_loss,
)
from training.objectives.mogan import MotionJudge  # noqa: E402

FRAMES = 6


def test_whoever_plays_the_real_decides_the_sign() -> None:
    real, fake = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 0.0])
    assert judge_loss(real, fake) < judge_loss(fake, real)
    assert judge_loss(real, fake) == pytest.approx(float(student_loss(fake, real).mean()))
    assert float(student_loss(real, real)[0]) == pytest.approx(0.6931, abs=1e-4)


def test_a_judge_and_a_student_of_numbers_settle_where_real_numbers_are() -> None:
    """Penalties damp what otherwise circles: the mean is found, and the judge ends without a slope."""
    torch.manual_seed(0)
    mean, slope = nn.Parameter(torch.tensor(-1.0)), nn.Parameter(torch.tensor(0.0))
    students, judges = torch.optim.SGD([mean], 0.05), torch.optim.SGD([slope], 0.05)
    how = JudgeConfig(smooth=1.0, sigma=0.1)
    for _ in range(1500):
        real, fake = 2 + 0.5 * torch.randn(256), mean + 0.5 * torch.randn(256)
        loss, _ = opposed(lambda x: slope * x, real, fake.detach(), how)
        judges.zero_grad()
        loss.backward()
        judges.step()
        students.zero_grad()
        student_loss((slope * real).detach(), slope.detach() * fake).mean().backward()
        students.step()
    assert mean.item() == pytest.approx(2.0, abs=0.1)
    assert slope.item() == pytest.approx(0.0, abs=0.1)


def test_roughness_is_the_squared_slope() -> None:
    torch.manual_seed(0)
    x = torch.randn(200_000)
    assert float(roughness(lambda x: 3 * x, x, 3 * x, 0.1)) == pytest.approx(9.0, rel=0.02)


def test_directions_of_other_scales_are_weighed_by_their_size() -> None:
    torch.manual_seed(0)
    base, other = torch.randn(2, 500), 1e-4 * torch.randn(2, 500)
    both = at_parity(base, other, 0.5)
    assert float((both - base).abs().mean() / base.abs().mean()) == pytest.approx(0.5, rel=1e-4)
    assert torch.equal(at_parity(base, torch.zeros_like(other), 0.5), base)


def test_going_against_the_adverse_direction_looks_more_real() -> None:
    def judging(x: torch.Tensor) -> torch.Tensor:
        return -(x - 2).square().sum(1)

    x = torch.randn(4, 3)
    moved = x - 0.01 * adverse(judging, x, torch.zeros(4))
    assert (judging(moved) > judging(x)).all()


@pytest.fixture
def trunk() -> Denoiser:
    torch.manual_seed(1)
    denoiser = Denoiser(TINY)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    return denoiser.eval().requires_grad_(False)


def clip(size: int = 2) -> tuple[torch.Tensor, torch.Tensor, Conditions, torch.Tensor]:
    shape = (TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    given = torch.ones(size, FRAMES)
    c = Conditions(
        torch.randn(size, FRAMES, TINY.audio_width), torch.randn(size, FRAMES, TINY.audio_width),
        torch.zeros(size, FRAMES, dtype=torch.int64), torch.zeros(size, FRAMES, TINY.expressions), given,
        torch.zeros(size, FRAMES, TINY.pose_axes), given,
    )  # fmt: skip
    return torch.randn(size, FRAMES, *shape), torch.full((size, FRAMES), 0.4), c, torch.randn(size, *shape)


def test_a_judge_sees_the_whole_clip_and_leaves_its_trunk_alone(trunk: Denoiser) -> None:
    judge = Judge(trunk, answers=3)
    x, t, c, reference = clip()
    x.requires_grad_()
    answers = judge(x, t, c, reference)
    assert answers.shape == (2, 3)
    (slope,) = torch.autograd.grad(answers[:, 0].sum(), x, retain_graph=True)
    # First frame and last alike, and each clip by itself.
    assert all(slope[:, frame].abs().sum() > 0 for frame in (0, FRAMES - 1))
    answers.sum().backward()
    assert all(p.grad is None for p in trunk.parameters())
    assert not any(name.startswith("_trunk") for name in judge.state_dict())
    alone = judge(x[:1], t[:1], c.slice(0, FRAMES) if len(c.state) == 1 else first_of(c), reference[:1])
    assert torch.allclose(alone, answers[:1], atol=1e-5)


def first_of(c: Conditions) -> Conditions:
    return Conditions(
        c.audio[:1], c.listening[:1], c.state[:1], c.expression[:1], c.expression_given[:1], c.pose[:1],
        c.pose_given[:1],
    )  # fmt: skip


def test_a_judge_of_motion_tells_moving_from_still() -> None:
    torch.manual_seed(0)
    judge = MotionJudge(8)
    optimizer = torch.optim.Adam(judge.parameters(), 3e-3)

    def flows(size: float) -> torch.Tensor:
        return size * torch.randn(8, 5, 3, 16, 16)

    for _ in range(40):
        loss = judge_loss(judge(flows(1.0)), judge(flows(0.1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert judge(flows(1.0)).min() > judge(flows(0.1)).max()
