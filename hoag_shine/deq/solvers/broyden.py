"""Broyden's (good) method, with its factors in a compact form."""

from __future__ import annotations

import torch
from torch import Tensor

from ..capabilities import declares
from ..execution import in_torch_func, select_rows
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
    r"""Find the root of :math:`g(z) = z - f(z)` by quasi-Newton steps :math:`s_k = -B_k g_k`.

    B estimates the inverse Jacobian of g. After each step the smallest change of its inverse, in
    the Frobenius norm, makes it fulfil the secant equation
    :math:`B_{k+1} (g_{k+1} - g_k) = s_k` (Broyden, 1965).

    Parameters
    ----------
    f : FlatMap
    z0 : Tensor of shape (batch, n)
    stopping : Stopping
    memory : int, optional
        Largest number of updates that are stored, by default ``stopping.max_iter``. When the store
        is full, the estimate restarts from :math:`\tau I`.
    damping : float, default=1
        :math:`\tau`, in (0, 1]: the estimate starts from :math:`\tau I`. If derivatives of f are
        large (a stiff layer, :math:`I - J` of norm 10 or 30), the first steps are far too long with
        1; two over that norm is about right.

    Returns
    -------
    solution : Solution
        Its inverse Jacobian fulfils the secant equation of the step that led to z.

    Notes
    -----
    Since :math:`s_k = -B_k g_k`, Broyden's update is
    :math:`B_{k+1} = (I + \beta_k s_{k+1} s_k^\top) B_k` with :math:`\beta_k = 1 / \|s_k\|^2`: the
    steps alone determine B (Kelley, 1995, *Iterative methods for linear and nonlinear equations*,
    section 7.3). The product is stored as :math:`B = I + S_+^\top M S`: the rows of S are steps,
    those of :math:`S_+` the same steps shifted by one, in one buffer, and M is a small lower
    triangular matrix that gets a row in each update. A step reads the buffer twice, and the memory
    is half of that of two factors.

    With damping, the method is applied to :math:`\tau g`, which has the same root.

    An update that would make the estimate of the Jacobian nearly singular is damped by Moré and
    Trangenstein's factor (Kelley, section 7.2), so that none reduces its determinant to less than a
    tenth.

    References
    ----------
    Broyden (1965), *A class of methods for solving nonlinear simultaneous equations*.
    """
    memory = check_memory(memory, stopping.max_iter)
    check_damping(damping)
    monitor = make_monitor(z0, stopping)
    z = z0
    steps = _Steps(z0, memory, damping)
    earlier: LowRank | None = None
    while True:
        value = f(z)
        g = steps.next_row()
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
            steps.next_row().copy_(g)
        steps.append(monitor.was_active & monitor.finite)
        if monitor.step == stopping.max_iter or monitor.finished():
            return monitor.solution(steps.operator(monitor.best_step, earlier))
        z = monitor.moved(z, z + steps.last)


class _Steps:
    """The steps since a restart, and the matrix M that they determine.

    Invariant: the first ``held`` rows are the steps s_0, ..., s_{held-1}, the last of which is the
    next to be taken. ``middle`` holds M for the ``held`` - 1 updates so far, and ``start`` is the
    number of steps before the restart.
    """

    def __init__(self, z0: Tensor, memory: int, damping: float, start: int = 0) -> None:
        batch, n = z0.shape
        # Each update needs two neighbouring steps, so that there is a step more than updates. One
        # more row holds the residual that comes when all of these are used.
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

    def next_row(self) -> Tensor:
        """Return the row, of shape (batch, n), to write g into before :meth:`append`."""
        return self.rows[:, self.held]

    def append(self, updated: Tensor) -> None:
        """Replace the residual in the next row by the next step, after the update for the last one.

        Parameters
        ----------
        updated : bool Tensor of shape (batch,)
            Samples that go on; the others get a step of zero.
        """
        k = self.held
        if k == 0:
            step = -self.rows[:, 0]  # s_0 = -g_0
        else:
            weights = self._update(k - 1, updated)
            step = torch.bmm(weights, self.rows[:, : k + 1]).squeeze(1)
        # Not a product with the mask: a step may be NaN.
        self.rows[:, k] = select_rows(updated, step, step.new_zeros(()))
        self.held += 1

    def _update(self, i: int, updated: Tensor) -> Tensor:
        """Add row i of M; return the weights of the rows in the next step, (batch, 1, i + 2).

        With s = s_i and the new residual g, let b = B_i g and gamma = s'b / s's. The update of the
        Jacobian's estimate, of which a share theta is taken, multiplies its determinant by
        1 + theta gamma, and s_{i+1} = -b / (1 + theta gamma) by the Sherman-Morrison formula. So B
        changes by s_{i+1} times beta s' B_i, with beta = theta / s's, which is row i of M:
        beta (s' S_+' M, 1).
        """
        rows, middle = self.rows[:, : i + 1], self.middle[:, :i, :i]
        # Products of all steps with s and with g, which lies in the row after s.
        products = torch.bmm(self.rows[:, i : i + 2], rows.mT)
        with_step, with_residual = products[:, 0], products[:, 1]
        # b = g + S_+' M S g; these are the coefficients of the rows of S_+.
        coefficients = torch.bmm(with_residual[:, None, :i], middle.mT).squeeze(1)
        square = with_step[:, i]
        moved = updated & (square > torch.finfo(square.dtype).tiny)
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
        """Return B as it was at each sample's ``best_step``, which may be before the restart."""
        rank = self.held - 1
        born = torch.arange(rank, device=self.rows.device) + self.start
        rows, middle = self.rows[:, : self.held], self.middle[:, :rank, :rank]
        now = LowRank(rows[:, 1:], rows[:, :-1], middle, self.damping)
        now = now.keep(born < best_step[:, None])
        return now if earlier is None else choose(best_step <= self.start, earlier, now)
