"""Anderson acceleration."""

from __future__ import annotations

import torch
from torch import Tensor

from ..capabilities import declares
from ..low_rank import LowRank
from ..state import FlatMap
from .base import Solution, Stopping, check_damping, check_memory, make_monitor


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
    monitor = make_monitor(z0, stopping)
    batch, n = z0.shape
    images = z0.new_zeros(batch, memory, n)  # what a step from each iterate alone would give
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
        image = value if damping == 1 else torch.add(z, g, alpha=damping)
        images[:, new] = image
        residuals[:, new] = g
        products = torch.bmm(g[:, None, :], residuals[:, :held].mT).squeeze(1)
        gram[:, new, :held] = products
        gram[:, :held, new] = products
        if held > 1:
            weights = _weights(gram[:, :held, :held], new, regularization)
            image = torch.bmm(weights[:, None, :], images[:, :held]).squeeze(1)
        z = monitor.moved(z, image)
    return monitor.solution(LowRank.identity(z0))


def _weights(gram: Tensor, new: int, regularization: float) -> Tensor:
    """Return weights of sum 1 that minimise the norm of the combined residual.

    The unknowns are the weights of the differences to the newest residual. Each is regularised in
    proportion to its own square: residuals shrink by orders of magnitude, and one absolute
    regularisation would drown the newest.
    """
    target = gram[:, new, new, None] - gram[:, new, :]
    system = gram - gram[:, new, None, :] + target[:, :, None]
    squares = system.diagonal(dim1=1, dim2=2)
    # The newest is no unknown: its difference to itself is zero, and so is its solution.
    squares.add_(torch.where(squares > 0, regularization * squares, 1))
    weights: Tensor
    weights, _ = torch.linalg.solve_ex(system, target)
    weights[:, new] = 1 - weights.sum(1)
    return weights
