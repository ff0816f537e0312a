"""Rectified flow: x_t = (1 - t) x_0 + t eps, v = eps - x_0, t = 1 is noise (flow matching, arXiv 2210.02747).

Pure arithmetic, so numpy and torch share it.
"""

from __future__ import annotations

from typing import Any


def add_noise(x0: Any, noise: Any, t: Any) -> Any:
    """The sample at time t on the straight path from x0 to noise."""
    return (1 - t) * x0 + t * noise


def velocity(x0: Any, noise: Any) -> Any:
    return noise - x0


def to_x0(x_t: Any, v: Any, t: Any) -> Any:
    """The clean sample that velocity v implies."""
    return x_t - t * v


def to_time(x_t: Any, v: Any, t: Any, s: Any) -> Any:
    """Where the straight path with velocity v that is at x_t at time t is at time s."""
    return x_t + (s - t) * v


def to_noise(x_t: Any, v: Any, t: Any) -> Any:
    return x_t + (1 - t) * v


def shift_time(u: Any, shift: float) -> Any:
    """Time shift of SD3 (arXiv 2403.03206, eq. 23): more of the steps at high noise when shift > 1."""
    return shift * u / (1 + (shift - 1) * u)


def timesteps(steps: int, shift: float = 1.0) -> list[float]:
    """The times a sampler of so many steps visits, from 1 down; the final 0 is not listed."""
    if steps < 1:
        raise ValueError(f"a sampler needs at least one step, not {steps}")
    return [float(shift_time(1 - i / steps, shift)) for i in range(steps)]
