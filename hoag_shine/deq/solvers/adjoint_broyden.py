"""The adjoint Broyden method, with outer-problem awareness."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..capabilities import declares
from ..low_rank import LowRank, choose
from ..state import FlatMap
from .base import Monitor, Solution, Stopping, check_memory, damped, make_monitor


@declares(estimates_inverse=True, takes_outer_grad=True)
def adjoint_broyden(
    f: FlatMap,
    z0: Tensor,
    stopping: Stopping,
    *,
    memory: int | None = None,
    opa_every: int | None = None,
) -> Solution:
    r"""Find the root of :math:`g(z) = z - f(z)`, learning the Jacobian from the left.

    Every step one product with the transposed Jacobian makes the estimate exact for a direction
    :math:`\sigma` at the present iterate: :math:`B^\top (J_g^\top \sigma) = \sigma`. Here
    :math:`\sigma = g(z)`, the residual, which is the choice that speeds up the root finding.

    Parameters
    ----------
    f : FlatMap
    z0 : Tensor of shape (batch, n)
    stopping : Stopping
    memory : int, optional
        Largest number of pairs held, by default as many as may be needed. When they are full,
        the estimate starts again from the identity.
    opa_every : int, optional
        Outer-problem awareness: steps between two further products in the direction
        :math:`\sigma = B^\top \nabla L(z)`, which is the SHINE estimate itself, so that it is right
        where the backward pass uses it. Needs ``outer_grad`` wherever gradients are recorded. By
        default, every fifth step if
        ``outer_grad`` is given, and never if not.

    Returns
    -------
    solution : Solution

    Raises
    ------
    ValueError
        If ``opa_every`` is given without ``outer_grad`` where gradients are recorded.

    Notes
    -----
    Where an update would make the estimate of the Jacobian nearly singular it is damped as in
    :func:`broyden`: a determinant never shrinks below a tenth.

    References
    ----------
    Schlenkrich, Griewank and Walther (2010), *On the local convergence of adjoint Broyden methods*.
    Ramzi et al. (2022), *SHINE*, sections 2.3 and 3.
    """
    opa_every = _check_opa(opa_every, f)
    most = stopping.max_iter + (stopping.max_iter // opa_every if opa_every else 0)
    pairs = _Pairs(z0, check_memory(memory, most))
    monitor = make_monitor(z0, stopping)
    z = z0.clone()
    while True:
        value, vjp = f.value_and_vjp(z)
        g = z - value
        monitor.update(z, g, value)
        alive = monitor.was_active & monitor.finite
        if monitor.step > 0:
            pairs.learn(g, vjp, alive, monitor)
        if opa_every and monitor.step and monitor.step % opa_every == 0:
            pairs.learn(pairs.operator().rmatvec(f.outer_grad(z)), vjp, alive, monitor)
        if monitor.step == stopping.max_iter or monitor.finished():
            return monitor.solution(pairs.at(monitor.best_step))
        z = monitor.moved(z, z - pairs.operator().matvec(g))


def _check_opa(opa_every: int | None, f: FlatMap) -> int | None:
    if opa_every is None:
        return 5 if f.has_outer_grad else None
    if opa_every < 1:
        raise ValueError(f"opa_every must be at least 1, got {opa_every!r}.")
    if not f.has_outer_grad:
        if not f.differentiated:
            return None  # as in evaluation: there is no backward pass to be aware of
        raise ValueError("opa_every needs outer_grad, the gradient of the loss, but got none.")
    return opa_every


class _Pairs:
    """Rank-one terms u v^T, with the step at which each was learnt."""

    def __init__(self, z0: Tensor, memory: int) -> None:
        batch, n = z0.shape
        self.left = z0.new_zeros(batch, memory, n)
        self.right = z0.new_zeros(batch, memory, n)
        self.born: list[int] = []
        self.earlier: LowRank | None = None
        self.restarted = 0

    def operator(self) -> LowRank:
        held = len(self.born)
        return LowRank(self.left[:, :held], self.right[:, :held])

    def learn(
        self, sigma: Tensor, vjp: Callable[[Tensor], Tensor], alive: Tensor, monitor: Monitor
    ) -> None:
        """Make the estimate B fulfil B^T w = sigma, where w is the transposed Jacobian of g."""
        if len(self.born) == self.left.shape[1]:
            self._restart(monitor)
        estimate = self.operator()
        w = sigma - vjp(sigma)
        right = sigma - estimate.rmatvec(w)
        left = estimate.matvec(sigma)
        square = sigma.square().sum(1)
        sound = alive & (square > torch.finfo(square.dtype).tiny)
        square = torch.where(sound, square, 1)
        theta, factor = damped((w * left).sum(1) / square - 1)
        scale = theta / (square * factor)
        sound = sound & torch.isfinite(scale)
        held = len(self.born)
        self.left[:, held] = torch.where(sound[:, None], left * scale[:, None], 0)
        self.right[:, held] = torch.where(sound[:, None], right, 0)
        self.born.append(monitor.step)

    def at(self, best_step: Tensor) -> LowRank:
        """Return the estimate as it was at each sample's step ``best_step``."""
        born = torch.tensor(self.born, device=best_step.device)
        now = self.operator().keep(born <= best_step[:, None])
        if self.earlier is None:
            return now
        return choose(best_step < self.restarted, self.earlier, now)

    def _restart(self, monitor: Monitor) -> None:
        self.earlier = self.at(monitor.best_step)
        self.left, self.right = torch.zeros_like(self.left), torch.zeros_like(self.right)
        self.born = []
        self.restarted = monitor.step
