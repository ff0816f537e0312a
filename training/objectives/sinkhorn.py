"""Entropic optimal transport between two small sets of points (Sinkhorn; Cuturi, arXiv 1306.0895), in the log domain.

The regulariser is a share of the median cost, so that it means the same for near and far sets. The direction of a
point is the envelope's, sum_j P_ij (a_i - b_j) with the plan held fixed: to differentiate through the iterations gives
another one (see docs/lab).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Transport:
    """plan [..., N, M] between uniform marginals, cost <plan, distance> [...], and the greatest error of a marginal,
    as a share of its value.
    """

    plan: Tensor
    cost: Tensor
    error: Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """a [..., N, D], b [..., M, D] to [..., N, M]."""
    return (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)


def transport(distance: Tensor, blur: float = 0.05, iterations: int = 100) -> Transport:
    """Of uniform marginals. distance [..., N, M]; blur: the regulariser as a share of the median distance."""
    n, m = distance.shape[-2:]
    epsilon = (blur * distance.flatten(-2).median(-1).values).clamp_min(1e-9)[..., None, None]
    log_kernel = -distance / epsilon
    row, column = -torch.log(torch.tensor(float(n))), -torch.log(torch.tensor(float(m)))
    g = torch.zeros_like(distance[..., 0, :])
    f = torch.zeros_like(distance[..., :, 0])
    for _ in range(iterations):
        f = row - torch.logsumexp(log_kernel + g[..., None, :], -1)
        g = column - torch.logsumexp(log_kernel + f[..., :, None], -2)
    plan = torch.exp(log_kernel + f[..., :, None] + g[..., None, :])
    error = (plan.sum(-1) * n - 1).abs().amax(-1)
    return Transport(plan, (plan * distance).sum((-2, -1)), error)


def direction(a: Tensor, b: Tensor, plan: Tensor) -> Tensor:
    """Gradient of half the transport's cost with respect to a [..., N, D], times N: of a_i from where its mass goes."""
    return (plan.sum(-1, keepdim=True) * a - plan @ b) * a.shape[-2]
