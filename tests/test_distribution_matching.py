"""Distribution matching on cases whose answers are known, and the roll-outs that it is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from safetensors import safe_open  # noqa: E402
from torch import nn  # noqa: E402

from engine.diffusion.flow import add_noise  # noqa: E402
from engine.diffusion.rollout import Manner  # noqa: E402
from engine.model.audio import AudioEncoder  # noqa: E402
from engine.model.avatar import AvatarModel, load_model, save_model  # noqa: E402
from engine.model.config import TINY  # noqa: E402
from engine.model.denoiser import Conditions, Denoiser  # noqa: E402
from training.codec import PROBE_OUTPUTS  # noqa: E402
from training.denoising import SEQUENCE_FRAMES  # noqa: E402
from training.distilling import ALL, CRITIC_FILE, EULER, train_matching  # noqa: E402
from training.duel import CriticConfig, Duel  # noqa: E402
from training.generate import SamplingConfig, generate, student_sampling  # noqa: E402
from training.latents import LatentClips  # noqa: E402
from training.objectives.blocks import LegibleError  # noqa: E402
from training.objectives.dmd import DistributionMatching, MatchingConfig, Scene  # noqa: E402
from training.objectives.reward_forcing import (  # noqa: E402
    RewardConfig,
    RewardForcing,
    effective_share,
    weights_of,
)
from training.objectives.score import matching_gradient, pull, score_times  # noqa: E402
from training.objectives.selfroll import Rolling, draw_exit, exits_seen, roll_out  # noqa: E402
from training.run import RunConfig  # noqa: E402

FRAMES = 8
ELEMENTS = 16
"""Of a sample. Its normaliser is its own mean, which says nothing when there is one element."""


def clean_estimate(x_t: torch.Tensor, t: torch.Tensor, mean: float, spread: float) -> torch.Tensor:
    """E[x_0 | x_t] when x_0 ~ N(mean, spread^2): regression of two jointly Gaussian numbers."""
    gain = (1 - t) * spread**2 / ((1 - t) ** 2 * spread**2 + t**2)
    return mean + gain * (x_t - (1 - t) * mean)


@pytest.mark.parametrize("start", [(-1.0, 1.5), (4.0, 0.1)])
def test_a_gaussian_student_comes_to_the_real_mean_and_spread(start: tuple[float, float]) -> None:
    torch.manual_seed(0)
    mean, spread = (nn.Parameter(torch.tensor(value)) for value in start)
    optimizer = torch.optim.Adam([mean, spread], lr=0.02)
    tail = []
    for step in range(1500):
        x = mean + spread * torch.randn(128, ELEMENTS)
        t = score_times((128, 1), 1.5, torch.device("cpu"))
        x_t = add_noise(x.detach(), torch.randn_like(x), t)
        real = clean_estimate(x_t, t, 2.0, 0.5)
        fake = clean_estimate(x_t, t, mean.item(), abs(spread.item()))
        optimizer.zero_grad()
        pull(x, matching_gradient(x, real, fake)).mean().backward()
        optimizer.step()
        if step >= 1000:
            tail.append((mean.item(), abs(spread.item())))
    got = torch.tensor(tail).mean(0)
    assert got[0] == pytest.approx(2.0, abs=0.03)
    assert got[1] == pytest.approx(0.5, abs=0.03)


def test_the_gradient_is_the_scores_difference() -> None:
    """With x0 = x_t / (1 - t) + t^2 s / (1 - t): s_real - s_fake = (1 - t) / t^2 (real - fake)."""
    t, x_t = torch.tensor([[0.4]]), torch.tensor([[0.7]])
    real, fake = clean_estimate(x_t, t, 2.0, 0.5), clean_estimate(x_t, t, -1.0, 1.5)

    def score(mean: float, spread: float) -> torch.Tensor:
        return -(x_t - (1 - t) * mean) / ((1 - t) ** 2 * spread**2 + t**2)

    x0 = torch.tensor([[0.3]])
    expected = -(score(2.0, 0.5) - score(-1.0, 1.5)) * t**2 / (1 - t) / (x0 - real).abs()
    assert matching_gradient(x0, real, fake).item() == pytest.approx(expected.item(), rel=1e-5)
    x0.requires_grad_()
    (slope,) = torch.autograd.grad(pull(x0, torch.tensor([[0.25]])).sum(), x0)
    assert slope.item() == pytest.approx(0.25)


def test_times_keep_from_the_ends_and_lean_to_noise() -> None:
    torch.manual_seed(0)
    t = score_times((100_000,), 3.0, torch.device("cpu"))
    assert float(t.min()) == pytest.approx(0.02) and float(t.max()) == pytest.approx(0.98)
    # P(t < 1/2) = P(u < 1/4) with t = 3 u / (1 + 2 u).
    assert float((t < 0.5).float().mean()) == pytest.approx(0.25, abs=0.01)


@pytest.fixture
def networks() -> tuple[Denoiser, Denoiser, AudioEncoder]:
    torch.manual_seed(1)
    student, teacher, audio = Denoiser(TINY), Denoiser(TINY), AudioEncoder(TINY)
    for module in (student, teacher):
        for parameter in module.parameters():
            # Nothing is zero any more, so that everything has an effect.
            nn.init.normal_(parameter, std=0.05) if parameter.ndim > 1 else None
    return student.eval(), teacher.eval(), audio.eval()


def batch(size: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    shape = (TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    return {
        "latent": torch.randn(size, FRAMES, *shape, generator=g),
        "reference": torch.randn(size, *shape, generator=g),
        "windows": torch.randn(size, FRAMES, TINY.audio_window, TINY.mel_bins, generator=g),
        "partner_windows": torch.randn(size, FRAMES, TINY.audio_window, TINY.mel_bins, generator=g),
        "state": torch.zeros(size, FRAMES, dtype=torch.int64),
        "expression": torch.zeros(size, FRAMES, TINY.expressions),
        "pose": torch.zeros(size, FRAMES, TINY.pose_axes),
    }


def matching(networks: tuple[Denoiser, Denoiser, AudioEncoder], **settings: float) -> DistributionMatching:
    probe = nn.Linear(TINY.latent_channels * TINY.latent_grid**2, 6)
    legible = LegibleError(probe, torch.tensor(1.0))
    return DistributionMatching(*networks, legible, 1.0, MatchingConfig(**settings))


def rolled(networks: tuple[Denoiser, Denoiser, AudioEncoder], **more: object) -> tuple[torch.Tensor, Scene]:
    method = matching(networks)
    torch.manual_seed(5)
    scene = method.scene(batch())
    noise = torch.randn(scene.shape)
    blocks = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2])
    how = Rolling(steps=2, manner=Manner(easing=0.3))
    return roll_out(method.student, scene.given, scene.reference, blocks, how, 2, noise, **more), scene  # type: ignore[arg-type]


def test_a_roll_out_is_what_the_engine_draws(networks: tuple[Denoiser, Denoiser, AudioEncoder]) -> None:
    student = networks[0]
    scene = matching(networks).scene(batch())
    blocks = torch.arange(FRAMES) // 4
    drawn = generate(
        student, scene.given, scene.reference,
        SamplingConfig("consistency", steps=2, guidance=1.0, block=4, noise_scale=0.9, easing=0.35), seed=9,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(9)
    shape = (2, 4, *scene.shape[2:])
    noise = torch.cat([torch.randn(shape, generator=generator) for _ in range(2)], 1)
    how = Rolling(steps=2, manner=Manner(noise_scale=0.9, easing=0.35))
    for gradient in (False, True):
        ours = roll_out(student, scene.given, scene.reference, blocks, how, 2, noise, gradient=gradient)
        assert (ours - drawn).abs().max() < 1e-5
        assert ours.requires_grad is gradient


def test_nothing_flows_from_a_block_into_those_before_it(networks: tuple[Denoiser, Denoiser, AudioEncoder]) -> None:
    drawn, scene = rolled(networks)
    assert not drawn.requires_grad
    student = networks[0]
    # A weight that only the cache of earlier blocks would carry: the reference's keys are made without a gradient.
    drawn, scene = rolled(networks, gradient=True)
    student.zero_grad()
    drawn[:, -2:].sum().backward()
    assert student.embed_reference.weight.grad is None
    assert student.embed.weight.grad is not None and student.embed.weight.grad.abs().sum() > 0


def test_only_the_last_step_has_a_gradient(networks: tuple[Denoiser, Denoiser, AudioEncoder]) -> None:
    """With two steps the first is a constant, so a one-step roll-out from where it ended has the same gradient."""
    student = networks[0]
    method = matching(networks)
    scene = method.scene(batch())
    noise = torch.randn(scene.shape)
    one_block = torch.zeros(FRAMES, dtype=torch.int64)
    calls: list[bool] = []
    stream = student.stream

    def counted(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(torch.is_grad_enabled())
        return stream(*inputs)  # type: ignore[arg-type]

    student.stream = counted  # type: ignore[method-assign,assignment]
    roll_out(student, scene.given, scene.reference, one_block, Rolling(steps=3), 3, noise, gradient=True)
    # Three steps and the pass for the cache.
    assert calls == [False, False, True, False]


def test_equal_scores_pull_nowhere(networks: tuple[Denoiser, Denoiser, AudioEncoder]) -> None:
    method = matching(networks, guidance=1.0)
    scene = method.scene(batch())
    assert method.gradient(torch.randn(scene.shape), scene).abs().max() == 0
    guided = matching(networks, guidance=2.0)
    assert guided.gradient(torch.randn(scene.shape), scene).abs().max() > 1e-3


def test_each_loss_reaches_its_own_network(networks: tuple[Denoiser, Denoiser, AudioEncoder]) -> None:
    method = matching(networks)
    scene = method.scene(batch())
    loss, logs = method.generator_loss(scene)
    loss.backward()
    assert logs["gradient"] > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None for part in (method.critic, method.teacher, method.audio) for p in part.parameters())
    method.student.zero_grad(set_to_none=True)
    loss, _ = method.critic_loss(scene)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.critic.parameters())
    assert all(p.grad is None for part in (method.student, method.teacher) for p in part.parameters())


def test_every_prefix_of_the_sampler_is_trained() -> None:
    torch.manual_seed(0)
    shares = exits_seen([draw_exit(4) for _ in range(4000)], 4)
    assert shares == pytest.approx([0.25] * 4, abs=0.03)
    assert sum(shares) == pytest.approx(1.0)


def test_conditions_are_those_of_the_blocks_frames(networks: tuple[Denoiser, Denoiser, AudioEncoder]) -> None:
    """What a later frame hears changes no earlier block."""
    student = networks[0]
    scene = matching(networks).scene(batch())
    noise, blocks = torch.randn(scene.shape), torch.arange(FRAMES) // 4
    other = Conditions(
        torch.cat((scene.given.audio[:, :4], scene.given.audio[:, 4:] + 1), 1), scene.given.listening,
        scene.given.state, scene.given.expression, scene.given.expression_given, scene.given.pose,
        scene.given.pose_given,
    )  # fmt: skip
    a, b = (roll_out(student, c, scene.reference, blocks, Rolling(), 2, noise) for c in (scene.given, other))
    assert torch.equal(a[:, :4], b[:, :4]) and not torch.equal(a[:, 4:], b[:, 4:])


class Gaussian(nn.Module):
    """N(mean, spread^2), as a sampler and as a network that sees clean numbers in noisy ones."""

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean))
        self.log_spread = nn.Parameter(torch.tensor(spread).log())

    def draw(self, size: int) -> torch.Tensor:
        return self.mean + self.log_spread.exp() * torch.randn(size, ELEMENTS)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        gain = (1 - t) * self.log_spread.exp() ** 2 / ((1 - t) ** 2 * self.log_spread.exp() ** 2 + t**2)
        return self.mean + gain * (x_t - (1 - t) * self.mean)


class Toy(nn.Module):
    """DMD2 on numbers: what is real is N(2, 0.5^2), and the critic has to find out what the student draws."""

    def __init__(self, prefer: float = 0.0, critic_side: bool = False) -> None:
        """prefer: the reward of a sample is its sum, times this."""
        super().__init__()
        self.student, self.critic, self.real = Gaussian(-1.0, 1.5), Gaussian(2.0, 0.5), Gaussian(2.0, 0.5)
        self.prefer, self.critic_side = prefer, critic_side

    def _weight(self, x: torch.Tensor, on_critic: bool) -> torch.Tensor:
        if on_critic != self.critic_side:
            return torch.ones(len(x))
        return weights_of((-1 if on_critic else 1) * self.prefer * x.detach().sum(1), 0.0, 1e9)

    def scene(self, batch: dict[str, torch.Tensor]) -> int:
        return len(batch["x"])

    def _noised(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        t = score_times((len(x), 1), 1.0, x.device)
        return add_noise(x.detach(), torch.randn_like(x), t), t

    def generator_loss(self, size: int) -> tuple[torch.Tensor, dict[str, float]]:
        x = self.student.draw(size)
        x_t, t = self._noised(x)
        each = pull(x, matching_gradient(x, self.real(x_t, t), self.critic(x_t, t)))
        return (self._weight(x, False) * each).mean(), {}

    def critic_loss(self, size: int) -> tuple[torch.Tensor, dict[str, float]]:
        x = self.student.draw(size).detach()
        x_t, t = self._noised(x)
        # Of the velocity: the clean estimate's error over t.
        loss = (self._weight(x, True) * ((self.critic(x_t, t) - x) / t).square().mean(1)).mean()
        return loss, {"critic": float(loss.detach())}


def play(duel: Duel[int], updates: int, lr: float = 0.02) -> None:
    optimizer = torch.optim.Adam(duel.method.student.parameters(), lr=lr)
    for _ in range(updates):
        loss, _ = duel({"x": torch.zeros(256)})
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None for p in duel.method.critic.parameters())
        optimizer.step()


def test_a_learned_critic_brings_the_student_to_what_is_real() -> None:
    torch.manual_seed(0)
    toy = Toy()
    duel = Duel(toy, CriticConfig(steps=5, warmup=200, lr=0.02, betas=(0.0, 0.9), weight_decay=0.0))
    play(duel, 500)
    play(duel, 100, lr=0.003)
    assert toy.student.mean.item() == pytest.approx(2.0, abs=0.1)
    assert toy.student.log_spread.exp().item() == pytest.approx(0.5, abs=0.1)
    assert toy.critic.mean.item() == pytest.approx(toy.student.mean.item(), abs=0.15)
    assert duel.critic_updates == 200 + 5 * 600


@pytest.mark.parametrize(("critic_side", "mean"), [(False, 2.0), (True, 2.15)])
def test_a_reward_tilts_what_is_drawn_only_through_the_critic(critic_side: bool, mean: float) -> None:
    """p exp(r) of N(2, 0.5^2) with r = 0.6 x is N(2.15, 0.5^2); weighting the student leaves the optimum as it is."""
    torch.manual_seed(0)
    toy = Toy(prefer=0.6, critic_side=critic_side)
    duel = Duel(toy, CriticConfig(steps=5, warmup=200, lr=0.02, betas=(0.0, 0.9), weight_decay=0.0))
    play(duel, 500)
    tail = []
    for _ in range(150):
        play(duel, 1, lr=0.003)
        tail.append(toy.student.mean.item())
    assert sum(tail) / len(tail) == pytest.approx(mean, abs=0.05)


def rewarded(networks: tuple[Denoiser, Denoiser, AudioEncoder], **settings: float) -> RewardForcing:
    probe = nn.Linear(TINY.latent_channels * TINY.latent_grid**2, 6)
    return RewardForcing(*networks, LegibleError(probe, torch.tensor(1.0)), 1.0, reward=RewardConfig(**settings))


def test_moving_as_much_as_the_clip_is_worth_most(networks: tuple[Denoiser, Denoiser, AudioEncoder]) -> None:
    method = rewarded(networks)
    scene = method.scene(batch(3))
    assert method.reward(scene.truth, scene).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    # Twice the motion is four times the energy, half of it a quarter.
    for factor in (2.0, 0.5):
        expected = [-torch.tensor(4.0).log().item()] * 3
        assert method.reward(factor * scene.truth, scene).tolist() == pytest.approx(expected, rel=1e-4)


def test_weights_prefer_within_their_bounds(networks: tuple[Denoiser, Denoiser, AudioEncoder]) -> None:
    method = rewarded(networks, most=2.0)
    scene = method.scene(batch(3))
    scale = torch.tensor([1.0, 1.5, 8.0])[:, None, None, None, None]
    weight = method.weight(scale * scene.truth, 2, scene)
    assert weight[0] > weight[1] > weight[2] >= 0.1 and weight.max() <= 2.0
    assert method.critic_weight(scene.truth, 2, scene).tolist() == [1, 1, 1]
    # The other number of steps has its own mean.
    assert not method.mean[1].isnan() and method.mean[0].isnan()
    assert effective_share(torch.ones(8)) == pytest.approx(1.0)
    assert effective_share(torch.tensor([1.0, 0, 0, 0])) == pytest.approx(0.25)


def test_the_sink_works_in_training(networks: tuple[Denoiser, Denoiser, AudioEncoder]) -> None:
    """A roll-out longer than the context evicts frames, which then are in the sink: with it something else is drawn,
    and only after frames have left.
    """
    student = networks[0]
    method = matching(networks)
    long = {k: torch.cat((v,) * 3, 1) if k != "reference" else v for k, v in batch().items()}
    scene = method.scene(long)
    assert scene.shape[1] > TINY.context_frames + 4
    noise, blocks = torch.randn(scene.shape), torch.arange(scene.shape[1]) // 4
    plain, sunk = (
        roll_out(student, scene.given, scene.reference, blocks, Rolling(manner=Manner(sink_decay=d)), 2, noise)
        for d in (1.0, 0.5)
    )
    same = TINY.context_frames + 4
    assert torch.equal(plain[:, :same], sunk[:, :same])
    assert (plain[:, same:] - sunk[:, same:]).abs().max() > 1e-5


def test_a_duel_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def fresh() -> Duel[int]:
        return Duel(Toy(), CriticConfig(steps=2, warmup=3))

    torch.manual_seed(0)
    one = fresh()
    play(one, 3)
    one.save(tmp_path / "critic.safetensors")
    again = fresh()
    again.load(tmp_path / "critic.safetensors")
    again.method.student.load_state_dict(one.method.student.state_dict())
    assert again.critic_updates == 3 + 2 * 3
    for duel in (one, again):
        torch.manual_seed(1)
        play(duel, 2)
    # Without another warm-up, and with the optimiser's own memory.
    assert one.critic_updates == again.critic_updates == 13
    assert one.method.critic.mean == again.method.critic.mean  # type: ignore[arg-type]


def random_clips(clips: int, frames: int) -> LatentClips:
    rng, count = np.random.default_rng(0), clips * frames

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32)

    latent = (TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    return LatentClips(
        start=np.arange(0, count + 1, frames), latent=noise(count, *latent), reference=noise(clips, *latent),
        mel=noise(4 * count, 80), partner_mel=noise(4 * count, 80), state=np.zeros(count, np.int64),
        expression=np.zeros((count, 8), np.float32), head=noise(count, 3), gaze=noise(count, 2),
        units=noise(count, 52), landmarks=noise(count, 28, 2), reference_landmarks=noise(clips, 28, 2),
        portrait=np.zeros((clips, TINY.encode_px, TINY.encode_px, 3), np.uint8),
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_method_trains_a_student_that_can_be_gone_on_with(name: str, tmp_path: Path) -> None:
    model = AvatarModel(TINY, PROBE_OUTPUTS)
    save_model(model, tmp_path / "teacher.safetensors", {"stage": "teacher"})
    clips = random_clips(4, SEQUENCE_FRAMES)

    def train(steps: int) -> tuple[dict[str, torch.Tensor], int]:
        config = RunConfig(out=tmp_path / name, steps=steps, minutes=5, batch=2, warmup=1, device="cpu", log_every=1)
        path = train_matching(
            clips, clips, config, tmp_path / "teacher.safetensors", name, MatchingConfig(),
            critic=CriticConfig(steps=2, warmup=1),
        )  # fmt: skip
        trained, meta = load_model(path)
        assert (meta["stage"], meta["method"]) == ("consistency", name)
        assert meta["step"] == (steps // 2 if name == "phased" else steps)
        assert student_sampling(meta).sampler == ("euler" if name in EULER else "consistency")
        with safe_open(path.parent / CRITIC_FILE, framework="pt") as critic:
            return trained.denoiser.state_dict(), int(critic.metadata()["updates"])

    # Two phases share the steps.
    each = 2 if name == "phased" else 1
    first, updates = train(2 * each)
    assert updates == 1 + 2 * 2
    start = model.denoiser.state_dict()
    assert any(
        not torch.equal(value, start[key.split(".", 2)[-1] if each > 1 else key]) for key, value in first.items()
    )
    second, updates = train(3 * each)
    assert updates == 1 + 2 * 3
    assert any(not torch.equal(first[key], value) for key, value in second.items())
    logs = sorted((tmp_path / name).rglob("log.jsonl"))
    assert len(logs) == each
    for log in logs:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["step"] for line in lines if {"critic", "judge"} & set(line)] == [1, 2, 3]
