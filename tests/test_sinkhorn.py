"""Optimal transport against an exact solver, and the direction that it gives."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
optimize = pytest.importorskip("scipy.optimize", reason="needs the train extra")

from training.objectives.sinkhorn import direction, squared_distances, transport  # noqa: E402
from training.objectives.vdot import TransportConfig, cell_transport  # noqa: E402


def sets(seed: int, points: int = 12, width: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(points, width, generator=g, dtype=torch.float64),
        torch.randn(points, width, generator=g, dtype=torch.float64) + 1,
    )


@pytest.mark.parametrize("seed", range(4))
def test_little_blur_finds_the_exact_assignment(seed: int) -> None:
    a, b = sets(seed)
    distance = squared_distances(a, b)
    rows, columns = optimize.linear_sum_assignment(distance.numpy())
    exact = float(distance[rows, columns].mean())
    found = transport(distance, blur=0.004, iterations=4000)
    assert float(found.cost) == pytest.approx(exact, rel=0.02)


def test_marginals_are_kept_and_batches_are_apart() -> None:
    (a, b), (c, d) = sets(0), sets(1)
    distance = torch.stack((squared_distances(a, b), 100 * squared_distances(c, d)))
    found = transport(distance, iterations=500)
    assert float(found.error.max()) < 1e-3
    assert torch.allclose(found.plan.sum(-2), torch.full((2, 12), 1 / 12, dtype=torch.float64), atol=1e-6)
    # The blur is a share of the distances, so their unit does not matter.
    assert torch.allclose(transport(distance[1] / 100, iterations=500).plan, found.plan[1], atol=1e-9)


def test_the_direction_is_the_cost_s_slope() -> None:
    """Envelope theorem: with what the regulariser is worth in the objective, the plan's own change does not count."""
    a, b = sets(3)
    epsilon = 0.5

    def objective(a: torch.Tensor) -> torch.Tensor:
        distance = 0.5 * squared_distances(a, b)
        found = transport(distance, blur=float(epsilon / distance.median()), iterations=3000)
        plan = found.plan
        return (plan * distance).sum() + epsilon * (plan * plan.log()).sum()

    distance = 0.5 * squared_distances(a, b)
    plan = transport(distance, blur=float(epsilon / distance.median()), iterations=3000).plan
    told = direction(a, b, plan) / len(a)
    for point, axis in ((0, 0), (5, 2)):
        step = torch.zeros_like(a)
        step[point, axis] = 1e-3
        slope = (objective(a + step) - objective(a - step)) / 2e-3
        assert float(told[point, axis]) == pytest.approx(float(slope), rel=2e-2, abs=1e-4)


def test_cells_go_where_they_belong_and_stay_when_they_are_there() -> None:
    torch.manual_seed(0)
    real = torch.randn(1, 2, 6, 4, 4)
    how = TransportConfig(blur=0.01, iterations=300)
    near = real + 0.05 * torch.randn_like(real)
    moved = cell_transport(near, real, how)
    assert torch.nn.functional.cosine_similarity(moved.flatten(), (near - real).flatten(), dim=0) > 0.99
    assert cell_transport(real, real, how).abs().max() < 0.05 * moved.abs().max() + 1e-6


def test_without_coordinates_transport_is_blind_to_place() -> None:
    """The trap that `place` is for: the same cells elsewhere cost nothing."""
    torch.manual_seed(0)
    real = torch.randn(1, 1, 6, 4, 4)
    shifted = real.roll(1, -1)
    blind = cell_transport(shifted, real, TransportConfig(place=0.0, blur=0.01, iterations=300))
    seeing = cell_transport(shifted, real, TransportConfig(place=4.0, blur=0.01, iterations=300))
    assert blind.abs().mean() < 0.02 * seeing.abs().mean()
