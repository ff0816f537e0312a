"""Scores between a time and 1, on numbers whose true velocity is known."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from engine.diffusion.flow import add_noise  # noqa: E402
from training.objectives.subinterval import (  # noqa: E402
    renoise,
    subinterval_gradient,
    subinterval_velocity,
    subinterval_weight,
)

PLACES = torch.tensor([-1.0, 0.0, 1.0, 2.0])
S, T = torch.tensor(0.5), torch.tensor(0.7)


def drawn(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_s of points at four places, the noise that is added, and x_t."""
    x0 = PLACES[torch.randint(4, (count,))]
    x_s, noise = add_noise(x0, torch.randn(count), S), torch.randn(count)
    return x_s, noise, renoise(x_s, noise, S, T)[0]


def true_velocity(x_t: torch.Tensor) -> torch.Tensor:
    """E[noise - x_0 | x_t], by Bayes' rule over the four places."""
    noise = (x_t[:, None] - (1 - T) * PLACES) / T
    chance = torch.softmax(-0.5 * noise.square(), 1)
    return (chance * (noise - PLACES)).sum(1)


def test_renoising_gives_what_noising_at_once_does() -> None:
    torch.manual_seed(0)
    _, _, x_t = drawn(400_000)
    at_once = add_noise(PLACES[torch.randint(4, (400_000,))], torch.randn(400_000), T)
    for share in (0.1, 0.5, 0.9):
        assert float(x_t.quantile(share)) == pytest.approx(float(at_once.quantile(share)), abs=0.02)


def test_the_target_is_unbiased_and_the_simple_one_is_not() -> None:
    torch.manual_seed(0)
    x_s, noise, x_t = drawn(2_000_000)
    target, simple = subinterval_velocity(x_s, noise, S, T), noise - x_s
    truth = true_velocity(x_t)
    errors, simple_errors = [], []
    for low in (-1.0, -0.5, 0.0, 0.5, 1.0):
        here = (x_t > low) & (x_t < low + 0.1)
        assert int(here.sum()) > 10_000
        errors.append(abs(float((target[here] - truth[here]).mean())))
        simple_errors.append(abs(float((simple[here] - truth[here]).mean())))
    assert max(errors) < 0.03
    assert min(simple_errors) > 0.1


def test_from_clean_samples_it_is_flow_matching() -> None:
    x0, noise, zero = torch.randn(64), torch.randn(64), torch.tensor(0.0)
    assert torch.allclose(subinterval_velocity(x0, noise, zero, T), noise - x0, atol=1e-6)
    assert torch.allclose(renoise(x0, noise, zero, T)[0], add_noise(x0, noise, T), atol=1e-6)
    assert float(subinterval_weight(zero, T)) == pytest.approx(1.0)


def test_it_is_the_score_of_what_was_added_as_a_velocity() -> None:
    """v = (t noise / spread - x_t) / (1 - t): the score -noise / spread in the place of -(x_t + (1 - t) v) / t."""
    x_s, noise = torch.randn(64), torch.randn(64)
    x_t, spread = renoise(x_s, noise, S, T)
    assert torch.allclose(subinterval_velocity(x_s, noise, S, T), (T * noise / spread - x_t) / (1 - T), atol=1e-5)


def test_equal_networks_pull_nowhere_and_others_by_equation_10() -> None:
    real, fake = torch.tensor([1.0]), torch.tensor([0.25])
    assert subinterval_gradient(real, real, S, T).item() == 0
    a, b = 1 - T, T
    a_ts = a / (1 - S)
    expected = a * a_ts / (a * b + b**2) * (1.0 - 0.25)
    assert subinterval_gradient(real, fake, S, T).item() == pytest.approx(expected.item())
