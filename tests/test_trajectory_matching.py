"""Trajectories of samplers, and methods that match or teach between their steps."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from test_distribution_matching import batch, clean_estimate  # noqa: E402
from torch import nn  # noqa: E402

from engine.diffusion.flow import add_noise, to_time, to_x0  # noqa: E402
from engine.errors import ArgumentError  # noqa: E402
from engine.model.audio import AudioEncoder  # noqa: E402
from engine.model.config import TINY  # noqa: E402
from engine.model.denoiser import STATES, Denoiser  # noqa: E402
from engine.model.experts import Experts  # noqa: E402
from training.distilling import with_experts  # noqa: E402
from training.generate import SamplingConfig, generate  # noqa: E402
from training.objectives.accvideo import Lesson, TaughtConfig, TrajectoryTeaching, secant  # noqa: E402
from training.objectives.blocks import LegibleError  # noqa: E402
from training.objectives.dmd import MatchingConfig, Scene  # noqa: E402
from training.objectives.phased import PhasedMatching, phase_edges  # noqa: E402
from training.objectives.score import matching_gradient, pull  # noqa: E402
from training.objectives.selfroll import Rolling  # noqa: E402
from training.objectives.subinterval import renoise, subinterval_velocity  # noqa: E402
from training.objectives.tdm import TrajectoryConfig, TrajectoryMatching, importance, of_plan, tell_plans  # noqa: E402
from training.objectives.trajectories import euler_times, pick, trajectories  # noqa: E402

FRAMES = 8
BLOCKS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
Networks = tuple[Denoiser, Denoiser, AudioEncoder]


@pytest.fixture
def networks() -> Networks:
    torch.manual_seed(1)
    student, teacher, audio = Denoiser(TINY), Denoiser(TINY), AudioEncoder(TINY)
    for module in (student, teacher):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.05) if parameter.ndim > 1 else None
    return student.eval(), teacher.eval(), audio.eval()


def legible() -> LegibleError:
    return LegibleError(nn.Linear(TINY.latent_channels * TINY.latent_grid**2, 6), torch.tensor(1.0))


def matching(networks: Networks, steps: int = 2, **more: object) -> TrajectoryMatching:
    # Guided, since a critic that starts as its teacher sees no difference to it otherwise.
    how = MatchingConfig(rolling=Rolling(steps=steps), guidance=1.7)
    return TrajectoryMatching(*networks, legible(), 1.0, how, **more)  # type: ignore[arg-type]


def scene_of(method: TrajectoryMatching | PhasedMatching) -> Scene:
    torch.manual_seed(5)
    scene = method.scene(batch())
    return Scene(scene.given, scene.heard, scene.reference, BLOCKS, scene.truth)


def test_a_trajectory_ends_where_the_engine_s_sampler_does(networks: Networks) -> None:
    scene = scene_of(matching(networks))
    how = SamplingConfig("euler", steps=3, guidance=1.7, block=4)
    drawn = generate(networks[0], scene.given, scene.reference, how, seed=9)
    generator = torch.Generator().manual_seed(9)
    noise = torch.cat([torch.randn(2, 4, *scene.shape[2:], generator=generator) for _ in range(2)], 1)
    times = euler_times(3, how.shift)
    states = trajectories(networks[0], scene.given, scene.reference, BLOCKS, times, noise, guidance=1.7)
    assert states.shape[0] == len(times) == 4
    assert torch.equal(states[0], noise)
    assert (states[-1] - drawn).abs().max() < 1e-5


def test_a_step_taken_again_ends_where_it_did(networks: Networks) -> None:
    """All blocks at once, each given the clean ones before it, is what streaming does."""
    method = matching(networks)
    scene = scene_of(method)
    times, noise = euler_times(2, 1.5), torch.randn(scene.shape)
    states = trajectories(method.student, scene.given, scene.reference, BLOCKS, times, noise)
    index = torch.tensor([[0, 1], [1, 0]])
    x, t, s = pick(states, times, index, BLOCKS)
    v = method.ask(method.student, x, states[-1], t, scene, scene.given)
    again = to_time(x, v, t[..., None, None, None], s[..., None, None, None])
    wanted = pick(states[1:], [*times[1:], 0.0], index, BLOCKS)[0]
    assert (again - wanted).abs().max() < 1e-5
    assert t[0].tolist() == pytest.approx([1.0] * 4 + [times[1]] * 4)


def test_the_critic_is_told_the_plan(networks: Networks) -> None:
    critic = networks[1]
    scene = scene_of(matching(networks))
    told = Denoiser(TINY)
    told.load_state_dict(critic.state_dict())
    tell_plans(told, 3)

    def ask(denoiser: Denoiser, c: object) -> torch.Tensor:
        t = torch.full((2, FRAMES), 0.5)
        return denoiser(scene.truth, scene.truth, t, c, scene.reference, BLOCKS, torch.zeros_like(t))

    # Every plan begins as what the critic was, and becomes its own.
    for plan in range(3):
        assert (ask(told, of_plan(scene.heard, plan)) - ask(critic, scene.heard)).abs().max() < 1e-6
    with torch.no_grad():
        told.conditioner.state.weight[STATES : 2 * STATES] += 1
    assert (ask(told, of_plan(scene.heard, 1)) - ask(critic, scene.heard)).abs().max() > 1e-4
    assert (ask(told, of_plan(scene.heard, 2)) - ask(critic, scene.heard)).abs().max() < 1e-6


def test_times_lie_within_the_step(networks: Networks) -> None:
    method = matching(networks, trajectory=TrajectoryConfig(plans=(1, 2, 4)))
    scene = scene_of(method)
    for _ in range(12):
        ending = method.ending(scene)
        _, _, tau = method._between(ending, scene)
        assert (tau > ending.s).all() and (tau <= ending.begin).all()
        assert (tau[:, :4] == tau[:, :1]).all()


@pytest.mark.parametrize("unbiased", [False, True])
def test_each_loss_reaches_its_own_network(networks: Networks, unbiased: bool) -> None:
    method = matching(networks, trajectory=TrajectoryConfig(unbiased=unbiased))
    scene = scene_of(method)
    method.generator_loss(scene)[0].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.student.parameters())
    assert all(p.grad is None for part in (method.critic, method.teacher) for p in part.parameters())
    method.student.zero_grad(set_to_none=True)
    method.critic_loss(scene)[0].backward()
    assert all(p.grad is None for part in (method.student, method.teacher) for p in part.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.critic.parameters())


PLACES = torch.tensor([-1.0, 0.0, 1.0, 2.0])


def test_the_paper_s_target_is_biased_and_the_other_is_not() -> None:
    """A state x_s whose noise belongs to its clean estimate, seen through x_t: the mean that defines the velocity of
    x_t's density is found by the subinterval target, weighted or not it is missed by the clean estimate.
    """
    torch.manual_seed(0)
    s, t = torch.tensor(0.5), torch.tensor(0.7)
    count = 2_000_000
    # The estimate determines the noise, as in a deterministic sampler: x_s has four values.
    x0 = PLACES[torch.randint(4, (count,))]
    own_noise = x0 / 2
    x_s, noise = add_noise(x0, own_noise, s), torch.randn(count)
    x_t, spread = renoise(x_s, noise, s, t)
    values = add_noise(PLACES, PLACES / 2, s)
    errors: dict[str, list[float]] = {"subinterval": [], "plain": [], "weighted": []}
    weight = importance(x_t.view(-1, 1, 1, 1, 1), x0.view(-1, 1, 1, 1, 1), noise.view(-1, 1, 1, 1, 1), t).flatten()
    velocity = subinterval_velocity(x_s, noise, s, t)
    for low in (-0.5, 0.0, 0.5):
        here = (x_t > low) & (x_t < low + 0.05)
        at = x_t[here].mean()
        chance = torch.softmax(-0.5 * ((at - (1 - t) / (1 - s) * values) / spread).square(), 0)
        # Tweedie's formula, x_0 = (x_t + t^2 score) / (1 - t), with the score of the mixture.
        score = (chance * ((1 - t) / (1 - s) * values - at)).sum() / spread**2
        truth = (at + t**2 * score) / (1 - t)
        errors["subinterval"].append(abs(float(to_x0(at, velocity[here].mean(), t) - truth)))
        errors["plain"].append(abs(float(x0[here].mean() - truth)))
        errors["weighted"].append(abs(float((weight * x0)[here].sum() / weight[here].sum() - truth)))
    assert max(errors["subinterval"]) < 0.02
    assert min(errors["plain"]) > 0.15 and min(errors["weighted"]) > 0.06


def test_phases_end_on_the_sampler_s_times() -> None:
    times = euler_times(4, 1.5)
    assert phase_edges(4, 2, 1.5) == (times[2],)
    assert phase_edges(4, 4, 1.5) == tuple(times[1:4])
    with pytest.raises(ArgumentError, match="alike"):
        phase_edges(3, 2, 1.5)


def test_a_phase_leaves_samples_as_noisy_as_the_real_ones_are() -> None:
    """A Gaussian's samples at s, matched at times above it only, come to the mean and spread of real samples there."""
    torch.manual_seed(0)
    s = torch.tensor(0.6)
    mean, spread = nn.Parameter(torch.tensor(-1.0)), nn.Parameter(torch.tensor(1.5))
    optimizer = torch.optim.Adam([mean, spread], lr=0.02)
    tail = []
    for step in range(1500):
        x_s = mean + spread * torch.randn(128, 16)
        t = (0.62 + 0.36 * torch.rand(128, 1)).expand(-1, 16)
        x_t, added = renoise(x_s.detach(), torch.randn_like(x_s), s, t)
        real = clean_estimate(x_t, t, 2.0, 0.5)
        # What the subinterval target teaches a critic: Tweedie's mean, here of a Gaussian known by heart.
        share = (1 - t) / (1 - s)
        centre, variance = share * mean.item(), share.square() * spread.item() ** 2 + added.square()
        fake = (x_t + t.square() * (centre - x_t) / variance) / (1 - t)
        loss = pull(x_s, matching_gradient((x_s / (1 - s)).detach(), real, fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 1000:
            tail.append((mean.item(), abs(spread.item())))
    got = torch.tensor(tail).mean(0)
    assert got[0] == pytest.approx(0.4 * 2.0, abs=0.03)
    assert got[1] == pytest.approx((0.16 * 0.25 + 0.36) ** 0.5, abs=0.03)


def test_only_the_phase_s_expert_learns(networks: Networks) -> None:
    from engine.model.avatar import AvatarModel

    model = AvatarModel(TINY)
    model.denoiser.load_state_dict(networks[1].state_dict())
    wide = with_experts(model, phase_edges(2, 2, 1.5)).denoiser
    assert isinstance(wide, Experts)
    for phase in (0, 1):
        how = MatchingConfig(rolling=Rolling(steps=2), guidance=1.7)
        method = PhasedMatching(wide, *networks[1:], legible(), 1.0, how, phase=phase, phases=2)
        wide.requires_grad_(True)
        method.generator_loss(scene_of(method))[0].backward()
        learnt = [any(p.grad is not None for p in expert.parameters()) for expert in wide.experts]
        assert learnt == [phase == 0, phase == 1]
        wide.zero_grad(set_to_none=True)
        loss, _ = method.critic_loss(scene_of(method))
        loss.backward()
        assert all(p.grad is None for p in wide.parameters()) and loss > 0


def test_equal_experts_are_the_one_they_come_from(networks: Networks) -> None:
    """Streamed and all at once; and once they differ, each decides its own stretch of time."""
    from engine.model.avatar import AvatarModel

    model = AvatarModel(TINY)
    model.denoiser.load_state_dict(networks[0].state_dict())
    wide = with_experts(model, (0.6,)).denoiser
    scene = scene_of(matching(networks))
    times, noise = euler_times(4, 1.5), torch.randn(scene.shape)
    inputs = (scene.given, scene.reference, BLOCKS, times, noise)
    one, many = trajectories(networks[0], *inputs), trajectories(wide, *inputs)
    assert (one - many).abs().max() < 1e-5
    with torch.no_grad():
        wide.experts[1].final.bias += 1
    changed = trajectories(wide, *inputs)
    # 1 and 0.82 are the first one's; what it draws of the first block is the same, all that follows is not.
    assert torch.equal(changed[:3, :, :4], many[:3, :, :4])
    assert (changed[3:, :, :4] - many[3:, :, :4]).abs().max() > 0.05
    t = torch.tensor([[1.0, 0.61, 0.6, 0.0]])
    assert wide.expert_of(t).tolist() == [[0, 0, 1, 1]]


def test_experts_are_exported_as_one_graph(networks: Networks, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="exporting needs onnxscript")
    from engine.backends.base import Sampling
    from engine.backends.registry import open_backend
    from engine.backends.torch import TorchBackend
    from engine.model.avatar import AvatarModel, save_model
    from export.bundle import Choices, export_bundle
    from export.parity import compare
    from export.scenes import make_scenes

    model = AvatarModel(TINY)
    model.denoiser.load_state_dict(networks[0].state_dict())
    wide = with_experts(model, (0.6,))
    wide.denoiser.experts[1].load_state_dict(networks[1].state_dict())
    how = Sampling("euler", 2, first_steps=2, time_shift=1.5)
    save_model(wide, tmp_path / "model.safetensors", {"stage": "consistency"})
    bundle = export_bundle(tmp_path / "model.safetensors", tmp_path / "bundle", Choices("two", how, half=False)).bundle
    scene = make_scenes([], None, (4, 8, 8), 128)[0]
    parity = compare(TorchBackend(wide, how), open_backend("onnxruntime", bundle, 1), scene)
    assert max(parity.latent_error) < 1e-4 and parity.latent_spread > 0.1


def test_a_secant_leads_to_the_state_it_was_drawn_from() -> None:
    x, reached = torch.randn(3), torch.randn(3)
    v = secant(x, reached, torch.tensor(0.8), torch.tensor(0.3))
    assert torch.allclose(to_time(x, v, 0.8, 0.3), reached, atol=1e-6)


def test_a_student_taught_on_trajectories_learns_their_ends() -> None:
    """Data N(2, 0.5^2): the exact flow from noise e at 1 ends at 2 + 0.5 e. One step taught by secants finds it; the
    velocity at time 1, all that a clip with noise tells there, is another map."""
    torch.manual_seed(0)
    e = torch.randn(4096)
    end = 2 + 0.5 * e
    design = torch.stack((torch.ones_like(e), e), 1)
    fitted = torch.linalg.lstsq(design, secant(e, end, torch.tensor(1.0), torch.tensor(0.0))[:, None]).solution[:, 0]
    assert to_x0(e, design @ fitted, 1.0) == pytest.approx(end.numpy(), abs=1e-4)
    # E[e - x0 | x_1 = e] = e - 2: its jump to 0 always is the mean.
    assert to_x0(e, e - 2, 1.0).std() < 1e-5


def test_a_judge_of_key_times_teaches_beside_the_trajectories(networks: Networks) -> None:
    method = TrajectoryTeaching(*networks, legible(), TaughtConfig(steps=2))
    times = euler_times(2, 1.5)
    scene = scene_of(matching(networks))
    noise = torch.randn(scene.shape)
    states = trajectories(networks[1], scene.given, scene.reference, BLOCKS, times, noise)
    b = batch() | {"states": states.transpose(0, 1), "blocks": BLOCKS}
    lesson = method.scene(b)
    assert isinstance(lesson, Lesson) and torch.equal(lesson.scene.truth, states[-1])
    loss, logs = method.generator_loss(lesson)
    loss.backward()
    assert logs["adversarial"] > 0 and logs["taught"] > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.student.parameters())
    method.critic.zero_grad(set_to_none=True)
    method.student.zero_grad(set_to_none=True)
    method.critic_loss(lesson)[0].backward()
    assert all(p.grad is None for p in method.student.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.critic.parameters())
