"""Distribution matching by two scores, as arithmetic on clean estimates: what every method of the DMD family shares.

A student's sample x is noised to x_t; the real network and the fake one, which knows what the student draws, each say
what clean sample they see in it. Along the path of flow matching the difference of their scores is
s_real - s_fake = (1 - t) / t^2 (x0_real - x0_fake), so moving x by x0_real - x0_fake lessens the reverse KL divergence
between what is drawn and what is real (DMD, arXiv 2311.18828, eq. 7; DMD2, arXiv 2405.14867).
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.diffusion.flow import shift_time


def score_times(
    shape: tuple[int, ...], shift: float, device: torch.device, low: float = 0.02, high: float = 0.98
) -> Tensor:
    """Times at which the scores are compared: uniform, shifted as the sampler's, and kept from both ends, where one of
    the two estimates says nothing.
    """
    u: Tensor = shift_time(torch.rand(shape, device=device), shift)
    return u.clamp(low, high)


def matching_gradient(x0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """What is subtracted from samples x0 [B, ...] to make them more real, from both networks' clean estimates.

    DMD2's normalisation: each sample's own mean |x0 - real|, so that times of much noise do not drown the others. In
    double precision, since near t = 0 it is a difference of nearly equal numbers.
    """
    x0, real, fake = x0.detach().double(), real.detach().double(), fake.detach().double()
    size = (x0 - real).abs().flatten(1).mean(1).view(-1, *(1,) * (x0.ndim - 1))
    return torch.nan_to_num((fake - real) / size, nan=0.0, posinf=0.0, neginf=0.0).float()


def pull(x0: Tensor, gradient: Tensor) -> Tensor:
    """A loss, per sample [B], whose gradient with respect to x0 is `gradient` divided by the elements of a sample."""
    return 0.5 * (x0 - (x0 - gradient).detach()).square().flatten(1).mean(1)
