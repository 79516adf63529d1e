"""Anderson acceleration."""

from __future__ import annotations

import torch
from torch import Tensor

from ..capabilities import declares
from ..low_rank import LowRank
from ..state import FlatMap
from .base import Solution, Stopping, check_damping, check_memory, make_monitor

# Iterates that are combined.
# Why: by judgement; each costs one more vector to store and a product with the residual per step.
ANDERSON_MEMORY = 5
# What is added to the squares on the diagonal of the normal equations, as a share of each.
# Why: by judgement: above the rounding of float32, and far below what changes a step.
ANDERSON_REGULARIZATION = 1e-6


@declares(estimates_inverse=False, takes_outer_grad=False)
def anderson(
    f: FlatMap,
    z0: Tensor,
    stopping: Stopping,
    *,
    memory: int = ANDERSON_MEMORY,
    damping: float = 1.0,
    regularization: float = ANDERSON_REGULARIZATION,
) -> Solution:
    r"""Combine the last iterates with the weights that give the smallest combined residual.

    With :math:`g_i = f(z_i) - z_i` over the last m iterates,

    .. math::

        z_{k+1} = \sum_i \alpha_i (z_i + \tau g_i), \qquad
        \alpha = \arg\min \left\|\sum_i \alpha_i g_i\right\| \text{ with } \sum_i \alpha_i = 1.

    Parameters
    ----------
    f : FlatMap
    z0 : Tensor of shape (batch, n)
    stopping : Stopping
    memory : int, default=5
        m, the number of iterates that are combined.
    damping : float, default=1
        :math:`\tau`, in (0, 1].
    regularization : float, default=1e-6
        Added to the diagonal of the normal equations, as a share of each diagonal entry.

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
    # Ring buffers over the last iterates: z_i + tau g_i, g_i, and the products g_i' g_j.
    images = z0.new_empty(batch, memory, n)
    residuals = z0.new_empty(batch, memory, n)
    gram = z0.new_empty(batch, memory, memory)
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

    With d_i = g_i - g_new, the sum is g_new plus that of alpha_i d_i over all others, so that the
    alpha_i solve the normal equations D'D alpha = -D' g_new without a constraint. Each diagonal
    entry of D'D is regularised by a share of itself: residuals shrink by orders of magnitude from
    iterate to iterate, and an absolute term would swamp the newest.
    """
    # -d_i' g_new, and d_i' d_j by the products of the residuals.
    target = gram[:, new, new, None] - gram[:, new, :]
    system = gram - gram[:, new, None, :] + target[:, :, None]
    squares = system.diagonal(dim1=1, dim2=2)
    # Row and column of the newest are zero: with 1 on the diagonal, its solution is zero.
    squares.add_(torch.where(squares > 0, regularization * squares, 1))
    weights: Tensor
    weights, _ = torch.linalg.solve_ex(system, target)
    weights[:, new] = 1 - weights.sum(1)
    return weights
