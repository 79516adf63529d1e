"""The interface of forward solvers: when they stop, what they return, and what watches iterates.

Solvers compute steps. A :class:`Monitor` does all that they share: it measures the residual of each
iterate, stops samples that have converged or diverged, and keeps the best iterate of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from numbers import Real
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..execution import can_read_values, check_interval, reads_are_free, select_rows
from ..low_rank import LowRank
from ..state import FlatMap

# Most steps of a solver.
# Why: that of the published multiscale models on CIFAR-10.
DEFAULT_MAX_ITER = 18
# Tolerance of a solver.
# Why: by judgement: a thousand times the rounding of float32.
DEFAULT_TOL = 1e-4
# Growth of a sample's residual, over that at the start, at which it counts as diverged.
# Why: by judgement; the first steps of a solve that converges may raise it, too.
DEFAULT_DIVERGENCE = 1e3
# Smallest size of the factor by which an update may change the determinant of the estimate.
# Why: an estimate that is singular has no inverse; a tenth is by judgement.
SMALLEST_DETERMINANT = 0.1
# Growth of ||f(z)||, over that at the start, beyond which a relative residual is not trusted.
# Why: by judgement: a fixed point may well be twice as long as the start.
TRUSTED_GROWTH = 2


class Status(IntEnum):
    """How a sample's solve ended."""

    CONVERGED = 0
    BUDGET = 1  #: All ``max_iter`` steps were taken, or there was no tolerance
    DIVERGED = 2  #: The function was not finite, or the residual grew beyond ``divergence``


@dataclass(frozen=True)
class Stopping:
    r"""When a solver stops.

    Attributes
    ----------
    max_iter : int
        Largest number of steps; f is evaluated once more than that.
    tol : float
        A sample has converged when its residual is at most this. 0 means a fixed number of steps:
        no sample stops early, and the host never waits for the device.
    mode : {"relative", "absolute", "batch"}
        The residual that is compared with ``tol``: :math:`\|z - f(z)\| / \|f(z)\|`,
        :math:`\|z - f(z)\|`, or the norm of z - f(z) over the whole batch, so that all samples
        stop at the same step, as in published code. A batch with a sample that is not finite does
        not converge.

        Iterates that grow without bound must not count as converged: those of :math:`f(z) = z + 1`
        have a small relative residual once z is large, and for very large z the 1 is lost in
        rounding. So if :math:`\|f(z)\|` is more than twice
        :math:`F_0 = \max(\|z_0\|, \|f(z_0)\|)`, it is taken to be no more than
        :math:`F_0 \|z_0 - f(z_0)\| / \|z - f(z)\|`.
    divergence : float
        A sample has diverged when :math:`\|z - f(z)\|` exceeds this many times its first value.
    check_every : int, optional
        Steps between two checks whether all samples have stopped, each of which makes the host wait
        for the device. By default 1 on a CPU, where a check costs nothing, and 5 elsewhere. It does
        not change the result: samples that have stopped do not move.
    monitor : bool
        Whether residuals are computed. Without, all steps are taken, whatever ``tol`` is, and the
        last iterate is the result.
    indexing : tuple of int
        Steps after which iterates are kept.
    """

    max_iter: int = DEFAULT_MAX_ITER
    tol: float = DEFAULT_TOL
    mode: Literal["relative", "absolute", "batch"] = "relative"
    divergence: float = DEFAULT_DIVERGENCE
    check_every: int | None = None
    monitor: bool = True
    indexing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (isinstance(self.max_iter, int) and self.max_iter >= 1):
            raise ValueError(f"max_iter must be an integer of at least 1, got {self.max_iter!r}.")
        if not (isinstance(self.tol, Real) and self.tol >= 0):
            raise ValueError(f"tol must be a number of at least 0, got {self.tol!r}.")
        if self.mode not in ("relative", "absolute", "batch"):
            raise ValueError(f"stop must be 'relative', 'absolute' or 'batch', got {self.mode!r}.")
        if not self.divergence > 1:
            raise ValueError(f"divergence must be larger than 1, got {self.divergence!r}.")
        if self.check_every is not None and self.check_every < 1:
            raise ValueError(f"check_every must be at least 1, got {self.check_every!r}.")
        if any(not 0 <= step <= self.max_iter for step in self.indexing):
            raise ValueError(
                f"indexing must hold numbers of steps, from 0 to max_iter={self.max_iter}, got "
                f"{self.indexing!r}."
            )


@dataclass(frozen=True)
class Solution:
    """What a solver found: for every sample the iterate with the smallest residual.

    Attributes
    ----------
    z : Tensor of shape (batch, n)
    residual, relative_residual : Tensor of shape (batch,)
        Norms at z.
    n_steps : int64 Tensor of shape (batch,)
        Number of steps after which z was reached.
    status : int8 Tensor of shape (batch,)
        Values of :class:`Status`.
    trace : Tensor of shape (steps + 1, batch)
        At every iterate, the residual that is compared with the tolerance; without a monitor, that
        of the last iterate only.
    inverse_jacobian : LowRank
        Estimate of the inverse of I - J, the Jacobian of z - f(z), as it was at z.
    iterates : tuple of Tensor of shape (batch, n)
        Those that ``stopping.indexing`` names.
    """

    z: Tensor
    residual: Tensor
    relative_residual: Tensor
    n_steps: Tensor
    status: Tensor
    trace: Tensor
    inverse_jacobian: LowRank
    iterates: tuple[Tensor, ...] = ()


Solver: TypeAlias = Callable[[FlatMap, Tensor, Stopping], Solution]
"""``solver(f, z0, stopping)``, where z0 has shape (batch, n); called without gradients."""


def check_damping(damping: float) -> None:
    """Raise a ValueError unless ``damping`` is in (0, 1]."""
    if not 0 < damping <= 1:
        raise ValueError(f"damping must be in (0, 1], got {damping!r}.")


def check_memory(memory: int | None, most: int) -> int:
    """Return the number of vectors to store: at most ``most``, which is what None stands for."""
    if memory is not None and memory < 1:
        raise ValueError(f"memory must be at least 1, got {memory!r}.")
    return min(memory or most, most)


def damped(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of a rank-one update of the Jacobian that keeps it well invertible.

    The determinant changes by the factor 1 + theta gamma. The share is theta = 1, unless this would
    make the factor smaller than a tenth in size: then theta makes it a tenth, of the same sign.

    Parameters
    ----------
    gamma : Tensor of shape (batch,)
        The whole update multiplies the determinant by ``1 + gamma``.

    Returns
    -------
    theta : Tensor of shape (batch,)
        The share.
    factor : Tensor of shape (batch,)
        1 + theta gamma, at least a tenth in size.

    References
    ----------
    Kelley (1995), *Iterative methods for linear and nonlinear equations*, section 7.2, where the
    rule is ascribed to Moré and Trangenstein.
    """
    determinant = 1 + gamma
    small = determinant.abs() < SMALLEST_DETERMINANT
    least = torch.where(determinant < 0, -SMALLEST_DETERMINANT, SMALLEST_DETERMINANT)
    theta = torch.where(small, (least - 1) / gamma, 1)
    return theta, torch.where(small, least, determinant)


class Monitor:
    """Measures iterates, keeps the best one of each sample, and says which samples go on.

    Only :meth:`finished` makes the host wait for the device.

    Invariants: of the iterates at which a sample was active, ``_best`` is the one with the smallest
    residual, ``_smallest``. A sample that is not active never becomes active again.

    Attributes
    ----------
    active, was_active : bool Tensor of shape (batch,)
        Samples that go on after the last iterate, and those that had gone on before it.
    step : int
        Number of steps before the last iterate.
    """

    def __init__(self, z0: Tensor, stopping: Stopping) -> None:
        self.step = -1
        self._indexed: dict[int, Tensor] = {}
        self.stopping = stopping
        self.check_every = stopping.check_every or check_interval(z0)
        self.active = torch.ones(z0.shape[0], dtype=torch.bool, device=z0.device)
        self.was_active = self.active
        self._best = z0
        self._smallest = z0.new_full((z0.shape[0],), torch.inf)
        # One entry for each iterate. If f is small, these operations take a large share of the
        # time, so that whatever can wait is computed at the end.
        self._trace: list[Tensor] = []
        self._norms: list[tuple[Tensor, Tensor]] = []
        self._active_at: list[Tensor] = []
        self._bounded: list[Tensor] = []

    def update(self, z: Tensor, g: Tensor, f: Tensor) -> None:
        """Take an iterate ``z``, with ``g = z - f(z)``, up to its sign, and ``f = f(z)``.

        The solver must not change z in place afterwards.
        """
        self._count(z)
        residual = torch.linalg.vector_norm(g, dim=1)
        # At f(z) = 0 a residual of 0 is relatively small, too.
        scale = torch.linalg.vector_norm(f, dim=1).clamp_min(torch.finfo(f.dtype).tiny)
        relative = residual / scale
        if not self._trace:
            self._first_residual = residual
            self._divergence_bound = self.stopping.divergence * residual
            self._first_scale = torch.maximum(scale, torch.linalg.vector_norm(z, dim=1))
        criterion = self._criterion(residual, relative, scale)
        if self.stopping.mode == "batch":
            criterion = torch.linalg.vector_norm(criterion).expand_as(criterion)
        better = self.active & (criterion < self._smallest)
        self._smallest = torch.where(better, criterion, self._smallest)
        self._best = select_rows(better, z, self._best)
        # After a warm start at the solution, the first residual is rounding, and may grow by any
        # factor. Numbers that are not finite fulfil neither condition.
        rounding = relative <= torch.finfo(f.dtype).eps ** 0.5
        bounded = (residual < self._divergence_bound) | rounding
        self._trace.append(criterion)
        self._norms.append((residual, relative))
        self._active_at.append(self.active)
        self._bounded.append(bounded)
        self.was_active = self.active
        self.active = self.active & bounded
        if self.stopping.tol > 0:
            self.active = self.active & ~(criterion <= self.stopping.tol)

    @property
    def finite(self) -> Tensor:
        """Samples whose last residual is finite."""
        return self._norms[-1][0] < torch.inf

    @property
    def best_step(self) -> Tensor:
        """Number of steps before each sample's result."""
        trace, active = torch.stack(self._trace), torch.stack(self._active_at)
        return torch.where(active & ~torch.isnan(trace), trace, torch.inf).argmin(0)

    def moved(self, z: Tensor, to: Tensor) -> Tensor:
        """Return the next iterate, in which samples that have stopped stay where they are."""
        return select_rows(self.active, to, z)

    def finished(self) -> bool:
        """Whether all samples have stopped, which is checked every ``check_every`` steps."""
        if self.stopping.tol == 0 or self.step % self.check_every:
            return False
        return can_read_values(self.active) and not bool(self.active.any())

    def solution(self, inverse_jacobian: LowRank) -> Solution:
        """Return the best iterates, given the estimate of the inverse Jacobian at them."""
        best = self.best_step
        failed = (torch.stack(self._active_at) & ~torch.stack(self._bounded)).any(0)
        status = torch.full_like(best, Status.BUDGET, dtype=torch.int8)
        status = status.masked_fill(failed, Status.DIVERGED)
        status = status.masked_fill(self._smallest <= self._tol, Status.CONVERGED)
        norms = (
            torch.stack(each).gather(0, best[None])[0] for each in zip(*self._norms, strict=True)
        )
        residual, relative = (torch.where(torch.isfinite(norm), norm, torch.inf) for norm in norms)
        return Solution(
            z=self._best.clone(),  # f may return its inputs, or the first iterate be the best
            residual=residual,
            relative_residual=relative,
            n_steps=best,
            status=status,
            trace=torch.stack(self._trace),
            inverse_jacobian=inverse_jacobian,
            iterates=self._iterates(),
        )

    def _count(self, z: Tensor) -> None:
        """Count an iterate, and keep it if ``indexing`` asks for it."""
        self.step += 1
        if self.stopping.indexing:
            self._last = z
        if self.step in self.stopping.indexing:
            self._indexed[self.step] = z.clone()

    def _iterates(self) -> tuple[Tensor, ...]:
        """Return the iterates of ``indexing``; after the last step no sample moves."""
        return tuple(self._indexed.get(step, self._last) for step in self.stopping.indexing)

    @property
    def _tol(self) -> float:
        """The tolerance; negative if it is 0, which no residual is then within."""
        return self.stopping.tol if self.stopping.tol > 0 else -1.0

    def _criterion(self, residual: Tensor, relative: Tensor, scale: Tensor) -> Tensor:
        """Return the residual that is compared with the tolerance; see :class:`Stopping`.

        Let f = ||f(z)|| and r = ||z - f(z)||, with index 0 at the start, where f_0 is the larger
        of ||z_0|| and ||f(z_0)||. If f > 2 f_0, the relative residual is the larger of r / f and
        r' / (f_0 r_0 / r'), where r' = r + eps f, since f(z) has a rounding of eps f. The absolute
        residual becomes r', too, but only if f has grown by 1 / sqrt(eps).
        """
        absolute = self.stopping.mode != "relative"
        eps = torch.finfo(scale.dtype).eps
        growth = eps**-0.5 if absolute else TRUSTED_GROWTH
        grown = scale > growth * self._first_scale
        if reads_are_free(grown) and not bool(grown.any()):
            return residual if absolute else relative
        raised = torch.add(residual, scale, alpha=eps)
        if absolute:
            return torch.where(grown, raised, residual)
        trusted_scale = self._first_scale * (self._first_residual / raised)
        return torch.where(grown, torch.maximum(relative, raised / trusted_scale), relative)


class LastIterateMonitor(Monitor):
    """A monitor for ``monitor=False``: all steps, and only the last iterate is measured."""

    def __init__(self, z0: Tensor, stopping: Stopping) -> None:
        self.stopping = stopping
        self.step = -1
        self._indexed = {}
        self.active = self.was_active = z0.new_ones(z0.shape[0], dtype=torch.bool)

    def update(self, z: Tensor, g: Tensor, f: Tensor) -> None:
        """Count an iterate, and measure it if it is the last."""
        self._count(z)
        if self.step == self.stopping.max_iter:
            self._best = z
            self._residual = torch.linalg.vector_norm(g, dim=1)
            scale = torch.linalg.vector_norm(f, dim=1).clamp_min(torch.finfo(f.dtype).tiny)
            self._relative = self._residual / scale

    @property
    def finite(self) -> Tensor:
        """All samples, since nothing is measured."""
        return self.active

    @property
    def best_step(self) -> Tensor:
        """The last step, for all samples."""
        return torch.full_like(self.active, self.step, dtype=torch.int64)

    def moved(self, z: Tensor, to: Tensor) -> Tensor:
        """Return the next iterate."""
        return to

    def finished(self) -> bool:
        """Return False: all steps are taken."""
        return False

    def solution(self, inverse_jacobian: LowRank) -> Solution:
        """Return the last iterates."""
        status = torch.full_like(self.active, Status.BUDGET, dtype=torch.int8)
        relative = self.stopping.mode == "relative"
        return Solution(
            z=self._best.clone(),  # f may return its inputs, or the first iterate be the best
            residual=self._residual,
            relative_residual=self._relative,
            n_steps=self.best_step,
            status=status.masked_fill(~torch.isfinite(self._residual), Status.DIVERGED),
            trace=(self._relative if relative else self._residual)[None],
            inverse_jacobian=inverse_jacobian,
            iterates=self._iterates(),
        )


def make_monitor(z0: Tensor, stopping: Stopping) -> Monitor:
    """Return the monitor that the stopping rule asks for."""
    return Monitor(z0, stopping) if stopping.monitor else LastIterateMonitor(z0, stopping)
