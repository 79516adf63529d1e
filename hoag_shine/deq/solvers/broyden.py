"""Broyden's good method."""

from __future__ import annotations

import torch
from torch import Tensor

from ..capabilities import declares
from ..execution import in_torch_func
from ..low_rank import LowRank, choose
from ..state import FlatMap
from .base import Solution, Stopping, check_damping, check_memory, damped, make_monitor


@declares(estimates_inverse=True, takes_outer_grad=False)
def broyden(
    f: FlatMap,
    z0: Tensor,
    stopping: Stopping,
    *,
    memory: int | None = None,
    damping: float = 1.0,
) -> Solution:
    r"""Find the root of :math:`g(z) = z - f(z)` by quasi-Newton steps.

    Parameters
    ----------
    f : FlatMap
    z0 : Tensor of shape (batch, n)
    stopping : Stopping
    memory : int, optional
        Largest number of pairs held, by default ``stopping.max_iter``. When they are full, the
        estimate starts again from the identity.
    damping : float, default=1
        :math:`\tau`, in (0, 1]: the estimate starts from :math:`\tau I`. Where derivatives of f are
        large (a stiff layer, :math:`I - J` of norm 10 or 30), the first steps go far too far with
        1, and about two over that norm is a good value.

    Returns
    -------
    solution : Solution
        Its inverse Jacobian fulfils the secant equation of the last step before z.

    Notes
    -----
    Steps are full, :math:`s_k = -B_k g_k`. Hence Broyden's update is
    :math:`B_{k+1} = (I + \beta_k s_{k+1} s_k^\top) B_k` with :math:`\beta_k = 1 / \|s_k\|^2`, and
    the steps alone determine B (Kelley, 1995, *Iterative methods for linear and nonlinear
    equations*, section 7.3). Here the product is expanded to :math:`B = I + S_+^\top M S`, where
    the rows of S are the steps, those of :math:`S_+` the steps one later in the same buffer, and M
    is a small lower triangular matrix that grows by a row at a time. An iteration reads the buffer
    twice, and the memory is half of that of separate factors.

    With damping, all this is done for :math:`\tau g`, which has the same root.

    Where the update would make B nearly singular it is damped by Moré and Trangenstein's
    factor (same reference, section 7.2), so that a determinant never shrinks below a tenth.
    """
    memory = check_memory(memory, stopping.max_iter)
    check_damping(damping)
    monitor = make_monitor(z0, stopping)
    z = z0.clone()
    steps = _Steps(z0, memory, damping)
    earlier: LowRank | None = None
    while True:
        value = f(z)
        g = steps.room_for_residual()
        if in_torch_func():  # vmap has no operations into a given place
            g.copy_(z - value)
        else:
            torch.sub(z, value, out=g)
        monitor.update(z, g, value)
        if damping != 1:
            g.mul_(damping)
        if steps.full:
            earlier = steps.operator(monitor.best_step, earlier)
            steps = _Steps(z0, memory, damping, monitor.step)
            steps.room_for_residual().copy_(g)
        steps.append(monitor.was_active & monitor.finite)
        if monitor.step == stopping.max_iter or monitor.finished():
            return monitor.solution(steps.operator(monitor.best_step, earlier))
        monitor.move(z, steps.last)


class _Steps:
    """The steps since a start, and the matrix M that they determine."""

    def __init__(self, z0: Tensor, memory: int, damping: float, start: int = 0) -> None:
        batch, n = z0.shape
        # A pair takes two rows; the last is room for the residual that finds the memory full.
        self.rows = z0.new_empty(batch, memory + 2, n)
        self.middle = z0.new_zeros(batch, memory, memory)
        self.damping = damping
        self.start = start
        self.held = 0  # rows in use

    @property
    def full(self) -> bool:
        return self.held == self.rows.shape[1] - 1

    @property
    def last(self) -> Tensor:
        """The step to take next, of shape (batch, n)."""
        return self.rows[:, self.held - 1]

    def room_for_residual(self) -> Tensor:
        """Return the row that :meth:`append` expects to hold g, of shape (batch, n)."""
        return self.rows[:, self.held]

    def append(self, alive: Tensor) -> None:
        """Turn the residual in the next row into the next step, by a pair of the last two.

        Parameters
        ----------
        alive : bool Tensor of shape (batch,)
            Samples to go on with; the others get a step of zero.
        """
        k = self.held
        first = -torch.ones_like(self.middle[:, :1, :1])
        weights = self._pair(k - 1, alive) if k else first
        step = torch.bmm(weights, self.rows[:, : k + 1]).squeeze(1)
        zero = step.new_zeros(())  # not a product with the mask: a step may be NaN
        if in_torch_func():
            self.rows[:, k] = torch.where(alive[:, None], step, zero)
        else:
            torch.where(alive[:, None], step, zero, out=self.rows[:, k])
        self.held += 1

    def _pair(self, i: int, alive: Tensor) -> Tensor:
        """Add row i of M; return what combines the rows into the next step, (batch, 1, i + 2)."""
        rows, middle = self.rows[:, : i + 1], self.middle[:, :i, :i]
        # Products with the step and with the residual, which lies in the row after it.
        products = torch.bmm(self.rows[:, i : i + 2], rows.mT)
        with_step, with_residual = products[:, 0], products[:, 1]
        coefficients = torch.bmm(middle, with_residual[:, :i, None]).squeeze(2)
        square = with_step[:, i]
        moved = alive & (square > torch.finfo(square.dtype).tiny)
        square = torch.where(moved, square, 1)
        gamma = (with_residual[:, i] + (coefficients * with_step[:, 1:]).sum(1)) / square
        theta, determinant = damped(gamma)
        beta = torch.where(moved, theta / square, 0)[:, None]
        row = torch.bmm(with_step[:, None, 1:], middle).squeeze(1)
        self.middle[:, i, :i] = beta * row
        self.middle[:, i, i] = beta[:, 0]
        one = torch.ones_like(beta)
        weights = torch.cat([torch.zeros_like(beta), coefficients, one], dim=1)
        return (-weights / determinant[:, None])[:, None, :]

    def operator(self, best_step: Tensor, earlier: LowRank | None) -> LowRank:
        """Return B as it was at each sample's step ``best_step``, be it before the start."""
        pairs = self.held - 1
        ages = torch.arange(pairs, device=self.rows.device) + self.start
        rows, middle = self.rows[:, : self.held], self.middle[:, :pairs, :pairs]
        now = LowRank(rows[:, 1:], rows[:, :-1], middle, self.damping)
        now = now.keep(ages < best_step[:, None])
        return now if earlier is None else choose(best_step <= self.start, earlier, now)
