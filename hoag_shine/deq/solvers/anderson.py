"""Anderson acceleration."""

from __future__ import annotations

import torch
from torch import Tensor

from ..abilities import declares
from ..low_rank import LowRank
from ..state import FlatMap
from .base import Solution, Stopping, check_damping, check_memory, watched


@declares(estimates_inverse=False, takes_outer_grad=False)
def anderson(
    f: FlatMap,
    z0: Tensor,
    stopping: Stopping,
    *,
    memory: int = 5,
    damping: float = 1.0,
    regularization: float = 1e-6,
) -> Solution:
    r"""Combine the last iterates so that the residual of the combination is smallest.

    Parameters
    ----------
    f : FlatMap
    z0 : Tensor of shape (batch, n)
    stopping : Stopping
    memory : int, default=5
        Number of iterates combined.
    damping : float, default=1
        Share of the combined residual that is added, in (0, 1].
    regularization : float, default=1e-6
        Added to the diagonal of the normal equations, whose diagonal is scaled to 1.

    Returns
    -------
    solution : Solution
        Its inverse Jacobian is the identity.

    References
    ----------
    Walker and Ni (2011), *Anderson acceleration for fixed-point iterations*, equation 2.2.
    """
    memory = check_memory(memory, stopping.max_iter)
    check_damping(damping)
    monitor = watched(z0, stopping)
    batch, n = z0.shape
    iterates = z0.new_zeros(batch, memory, n)
    residuals = z0.new_zeros(batch, memory, n)
    gram = z0.new_zeros(batch, memory, memory)
    z = z0
    for step in range(stopping.max_iter + 1):
        value = f(z)
        g = value - z
        monitor.update(z, g, value)
        if step == stopping.max_iter or monitor.finished():
            break
        new, held = step % memory, min(step + 1, memory)
        iterates[:, new] = z
        residuals[:, new] = g
        products = torch.bmm(g[:, None, :], residuals[:, :held].mT).squeeze(1)
        gram[:, new, :held] = products
        gram[:, :held, new] = products
        weights = _weights(gram[:, :held, :held], new, regularization)[:, None, :]
        mixed = torch.bmm(weights, iterates[:, :held])
        mixed = torch.baddbmm(mixed, weights, residuals[:, :held], alpha=damping)
        z = monitor.moved(z, mixed.squeeze(1))
    return monitor.solution(LowRank.identity(z0))


def _weights(gram: Tensor, new: int, regularization: float) -> Tensor:
    """Return weights of sum 1 that minimise the norm of the combined residual.

    The unknowns are the weights of the differences to the newest residual. Each is measured in
    units of its own norm: residuals shrink by orders of magnitude, and one absolute regularisation
    would drown the newest.
    """
    corner = gram[:, new, new]
    row = gram[:, new, :]
    differences = gram - row[:, None, :] - row[:, :, None] + corner[:, None, None]
    norms = differences.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    norms = torch.where(norms > 0, norms, 1)  # the newest, whose difference to itself is zero
    system = differences / (norms[:, :, None] * norms[:, None, :])
    system = system + regularization * torch.eye(
        system.shape[1], dtype=system.dtype, device=system.device
    )
    system[:, new, new] = 1
    solution, _ = torch.linalg.solve_ex(system, (corner[:, None] - row) / norms)
    weights: Tensor = solution / norms
    weights[:, new] = 1 - (weights.sum(1) - weights[:, new])
    return weights
