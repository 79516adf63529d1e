"""The adjoint Broyden method, with outer-problem awareness (OPA)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..capabilities import declares
from ..low_rank import LowRank, choose
from ..state import FlatMap
from .base import Monitor, Solution, Stopping, check_memory, damped, make_monitor

# Steps between two updates of outer-problem awareness.
# Why: on the small CIFAR-10 model, every fifth step raises the cosine of SHINE's adjoint with the
# exact one from 0.77 to 0.98; every step gives 1.00 for five times as many products.
OPA_INTERVAL = 5


@declares(estimates_inverse=True, takes_outer_grad=True)
def adjoint_broyden(
    f: FlatMap,
    z0: Tensor,
    stopping: Stopping,
    *,
    memory: int | None = None,
    opa_every: int | None = None,
) -> Solution:
    r"""Find the root of :math:`g(z) = z - f(z)` by quasi-Newton steps with adjoint updates.

    Steps are :math:`z_{k+1} = z_k - B_k g_k`. Each iterate costs one vector-Jacobian product
    :math:`w = J_g(z)^\top \sigma`, after which the estimate B of the inverse Jacobian fulfils the
    adjoint tangent condition :math:`B^\top w = \sigma`:

    .. math::

        B \leftarrow B + \frac{B \sigma\, (\sigma - B^\top w)^\top}{w^\top B \sigma}.

    The direction is the residual, :math:`\sigma = g(z)`.

    Parameters
    ----------
    f : FlatMap
    z0 : Tensor of shape (batch, n)
    stopping : Stopping
    memory : int, optional
        Largest number of updates that are stored, by default as many as ``max_iter`` steps need.
        When the store is full, the estimate restarts from the identity.
    opa_every : int, optional
        Outer-problem awareness: steps between two additional updates, whose direction
        :math:`\sigma = B^\top \nabla L(z)` is SHINE's estimate of the adjoint, so that B is exact
        where the backward pass uses it. It needs ``outer_grad`` if gradients are recorded. By
        default 5 with ``outer_grad``, and no such updates without.

    Returns
    -------
    solution : Solution

    Raises
    ------
    ValueError
        If ``opa_every`` is given without ``outer_grad`` while gradients are recorded.

    Notes
    -----
    An update that would make the estimate of the Jacobian nearly singular is damped as in
    :func:`broyden`, so that none reduces its determinant to less than a tenth.

    References
    ----------
    Schlenkrich, Griewank and Walther (2010), *On the local convergence of adjoint Broyden methods*.
    Ramzi et al. (2022), *SHINE*, sections 2.3 and 3.
    """
    opa_every = _check_opa(opa_every, f)
    most = stopping.max_iter + (stopping.max_iter // opa_every if opa_every else 0)
    estimate = _Estimate(z0, check_memory(memory, most))
    monitor = make_monitor(z0, stopping)
    z = z0
    while True:
        value, vjp = f.value_and_vjp(z)
        g = z - value
        monitor.update(z, g, value)
        updated = monitor.was_active & monitor.finite
        if monitor.step > 0:  # the first step is -g, without a product
            estimate.update(g, vjp, updated, monitor)
        if opa_every and monitor.step and monitor.step % opa_every == 0:
            adjoint = estimate.operator().rmatvec(f.outer_grad(z))
            estimate.update(adjoint, vjp, updated, monitor)
        if monitor.step == stopping.max_iter or monitor.finished():
            return monitor.solution(estimate.at(monitor.best_step))
        z = monitor.moved(z, z - estimate.operator().matvec(g))


def _check_opa(opa_every: int | None, f: FlatMap) -> int | None:
    if opa_every is None:
        return OPA_INTERVAL if f.has_outer_grad else None
    if opa_every < 1:
        raise ValueError(f"opa_every must be at least 1, got {opa_every!r}.")
    if not f.has_outer_grad:
        if not f.differentiated:
            return None  # as in evaluation: no backward pass follows
        raise ValueError("opa_every needs outer_grad, the gradient of the loss, but got none.")
    return opa_every


class _Estimate:
    """The estimate B of the inverse Jacobian of g, as the identity plus rank-one terms u v^T.

    Invariant: the first ``len(born)`` rows of ``left`` and ``right`` hold the terms since the last
    restart, in order, and ``born`` the steps at which they were added. ``earlier`` is the estimate
    at the last restart, as it was at each sample's best step until then.
    """

    def __init__(self, z0: Tensor, memory: int) -> None:
        batch, n = z0.shape
        self.left = z0.new_zeros(batch, memory, n)
        self.right = z0.new_zeros(batch, memory, n)
        self.born: list[int] = []
        self.earlier: LowRank | None = None
        self.restarted = 0

    def operator(self) -> LowRank:
        """Return the present estimate."""
        rank = len(self.born)
        return LowRank(self.left[:, :rank], self.right[:, :rank])

    def update(
        self, sigma: Tensor, vjp: Callable[[Tensor], Tensor], updated: Tensor, monitor: Monitor
    ) -> None:
        """Make B fulfil B^T w = sigma, with w = J_g^T sigma, for the samples of a mask.

        The update of the Jacobian's estimate A = B^{-1} is A + theta sigma (w - A^T sigma)^T /
        (sigma' sigma), with theta = 1 unless it is damped. It multiplies the determinant by
        1 + theta gamma, where gamma = w' B sigma / (sigma' sigma) - 1, and by the Sherman-Morrison
        formula changes B by theta B sigma (sigma - B^T w)^T / (sigma' sigma (1 + theta gamma)).
        """
        if len(self.born) == self.left.shape[1]:
            self._restart(monitor)
        B = self.operator()
        w = sigma - vjp(sigma)  # J_g = I - J
        right = sigma - B.rmatvec(w)
        left = B.matvec(sigma)
        square = sigma.square().sum(1)
        updated = updated & (square > torch.finfo(square.dtype).tiny)
        square = torch.where(updated, square, 1)
        theta, factor = damped((w * left).sum(1) / square - 1)
        scale = theta / (square * factor)
        updated = updated & torch.isfinite(scale)
        row = len(self.born)
        self.left[:, row] = torch.where(updated[:, None], left * scale[:, None], 0)
        self.right[:, row] = torch.where(updated[:, None], right, 0)
        self.born.append(monitor.step)

    def at(self, best_step: Tensor) -> LowRank:
        """Return the estimate as it was at each sample's ``best_step``."""
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
