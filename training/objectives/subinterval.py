"""Scores of samples that are still noisy: distribution matching between a time s and 1 (Phased DMD, arXiv 2510.27684).

A student of several phases hands over x_s, not x_0, so its critic never sees a clean sample. Forward noise is Markov,
so x_t follows from x_s alone, and the score of p(x_t | x_s) may stand in for that of p(x_t) (equations 11 to 13,
written for flow matching). The simpler target noise - x_s is biased, since x_s holds noise of its own.
"""

from __future__ import annotations

from torch import Tensor

_FEWEST = 1e-6


def renoise(x_s: Tensor, noise: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t from x_s for t > s, and the spread of the noise that was added: x_t = a x_s + spread * noise."""
    share = (1 - t) / (1 - s)
    spread = (t.square() - share.square() * s.square()).clamp_min(_FEWEST).sqrt()
    return share * x_s + spread * noise, spread


def subinterval_velocity(x_s: Tensor, noise: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """What a velocity network learns from x_s: its conditional mean given x_t is the true velocity there. noise: what
    `renoise` added. At s = 0 it is noise - x_0.
    """
    share = (1 - t) / (1 - s)
    spread = (t.square() - share.square() * s.square()).clamp_min(_FEWEST).sqrt()
    return (t + (1 - t) * (s / (1 - s)).square()) / spread * noise - x_s / (1 - s)


def subinterval_weight(s: Tensor, t: Tensor, most: float = 10.0) -> Tensor:
    """Of the squared error of that, so that times near s, whose targets are large, do not drown the rest: the spread
    squared, times what the paper bounds, min(1 / spread^2, most).
    """
    share = (1 - t) / (1 - s)
    variance = (t.square() - share.square() * s.square()).clamp_min(_FEWEST)
    return variance * (1 / variance).clamp_max(most)


def subinterval_gradient(real: Tensor, fake: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """What is subtracted from x_s, from both networks' velocities at x_t (equation 10)."""
    return (1 - t).square() / (t * (1 - s)) * (real - fake)


__all__ = ["renoise", "subinterval_gradient", "subinterval_velocity", "subinterval_weight"]
