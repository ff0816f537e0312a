"""Samplers: pure functions from noise to latents, one signature, no state.

`velocity(x, t)` is the network at time t; arrays are numpy or torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.diffusion.arrays import namespace
from engine.diffusion.flow import add_noise, to_x0

Velocity = Callable[[Any, float], Any]
Sampler = Callable[[Velocity, Any, Sequence[float]], Any]


def euler(velocity: Velocity, noise: Any, times: Sequence[float]) -> Any:
    """Euler's method along the flow; the teacher's sampler."""
    x = noise
    for t, t_next in zip(times, [*times[1:], 0.0], strict=True):
        x = x + (t_next - t) * velocity(x, t)
    return x


def consistency(velocity: Velocity, noise: Any, times: Sequence[float]) -> Any:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1).

    Each step jumps to x_0 and goes back to the next time with other noise. That noise is the first one rolled by a
    cell per step: independent of it element by element, as the algorithm needs (the same noise again would widen the
    distribution), yet a function of it, so that a block is reproduced by its noise alone.
    """
    x0 = noise
    for i, t in enumerate(times):
        x = noise if i == 0 else add_noise(x0, namespace(noise).roll(noise, i, -1), t)
        x0 = to_x0(x, velocity(x, t), t)
    return x0


SAMPLERS: dict[str, Sampler] = {"euler": euler, "consistency": consistency}
