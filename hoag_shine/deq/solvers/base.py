"""What a forward solver is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from numbers import Real
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..execution import can_read_values, in_torch_func, reads_are_free, select_rows
from ..low_rank import LowRank
from ..state import FlatMap

# Smallest size of the factor by which an update may change the determinant of the estimate.
# Why: an estimate that is singular has no inverse; a tenth is by judgement.
SMALLEST_DETERMINANT = 0.1


class Status(IntEnum):
    """How a sample's solve ended."""

    CONVERGED = 0
    BUDGET = 1  #: All ``max_iter`` steps were taken, or there was no tolerance
    DIVERGED = 2  #: The function was not finite, or the residual grew beyond bounds


@dataclass(frozen=True)
class Stopping:
    r"""When a solver stops.

    Attributes
    ----------
    max_iter : int
        Largest number of steps; f is evaluated once more than that.
    tol : float
        A sample is done when its residual :math:`\|z - f(z)\|`, or that over a scale, is no larger.
        0 means a fixed budget: no sample stops early and the device is never waited for.
    mode : {"relative", "absolute", "batch"}
        Which residual. ``"batch"`` is the absolute one of all samples together, which then stop at
        one step, as in published code; one that is not finite keeps all from it. The scale of the
        relative one is :math:`\|f(z)\|`. Where that is more than twice what it was at the start,
        :math:`\max(\|z_0\|, \|f(z_0)\|)`, the growth counts only as far as the residual has
        fallen: of :math:`f(z) = z + 1` large z are no solutions, also where they are so large that
        the 1 is lost in rounding.
    divergence : float
        A sample is given up when its residual is that many times its first one.
    check_every : int, optional
        Steps between two checks whether all samples are done, each of which makes the host wait for
        the device. By default 1 on a CPU, where a check costs nothing, and 5 elsewhere. It does not
        change the result: samples that are done do not move.
    monitor : bool
        Whether residuals are looked at. Without, all steps are taken, whatever ``tol`` says, and
        the last iterate is the result.
    indexing : tuple of int
        Steps after which iterates are kept.
    """

    max_iter: int = 18
    tol: float = 1e-4
    mode: Literal["relative", "absolute", "batch"] = "relative"
    divergence: float = 1e3
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
        Number of steps after which z was found.
    status : int8 Tensor of shape (batch,)
        Values of :class:`Status`.
    trace : Tensor of shape (steps + 1, batch)
        The residual that is compared with the tolerance, at every iterate; without a monitor, at
        the last one.
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
    """Raise a ValueError unless a step can be damped by that."""
    if not 0 < damping <= 1:
        raise ValueError(f"damping must be in (0, 1], got {damping!r}.")


def check_memory(memory: int | None, most: int) -> int:
    """Return the number of vectors to hold, of which ``most`` could be used; None is all."""
    if memory is not None and memory < 1:
        raise ValueError(f"memory must be at least 1, got {memory!r}.")
    return min(memory or most, most)


def damped(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much of a rank-one update of the Jacobian to take, so that it stays invertible.

    Parameters
    ----------
    gamma : Tensor of shape (batch,)
        The whole update multiplies the determinant by ``1 + gamma``.

    Returns
    -------
    theta : Tensor of shape (batch,)
        Share of the update, by Moré and Trangenstein's rule (Kelley, 1995, *Iterative methods for
        linear and nonlinear equations*, section 7.2): 1 where that can be.
    factor : Tensor of shape (batch,)
        What the determinant is multiplied by then, at least a tenth in size.
    """
    determinant = 1 + gamma
    small = determinant.abs() < SMALLEST_DETERMINANT
    least = torch.where(determinant < 0, -SMALLEST_DETERMINANT, SMALLEST_DETERMINANT)
    theta = torch.where(small, (least - 1) / gamma, 1)
    return theta, torch.where(small, least, determinant)


class Monitor:
    """Keeps each sample's best iterate, and says which samples go on.

    Nothing here makes the host wait for the device, except :meth:`finished`.

    Attributes
    ----------
    active, was_active : bool Tensor of shape (batch,)
        Samples that go on after the last iterate, and those that did before it.
    step : int
        Number of steps before the last iterate.
    """

    def __init__(self, z0: Tensor, stopping: Stopping) -> None:
        self.step = -1
        self._kept: dict[int, Tensor] = {}
        self.stopping = stopping
        on_cpu = z0.device.type == "cpu"
        self.check_every = stopping.check_every or (1 if on_cpu else 5)
        self.active = torch.ones(z0.shape[0], dtype=torch.bool, device=z0.device)
        self.was_active = self.active
        self._best = z0.clone()
        self._least = z0.new_full((z0.shape[0],), torch.inf)
        # What each step costs is felt where f is small: what can be told at the end is only kept.
        self._trace: list[Tensor] = []
        self._norms: list[tuple[Tensor, Tensor]] = []
        self._were_active: list[Tensor] = []
        self._sound: list[Tensor] = []

    def update(self, z: Tensor, g: Tensor, f: Tensor) -> None:
        """Take note of an iterate ``z`` with ``g = z - f``, up to sign, and ``f = f(z)``."""
        self._keep(z)
        residual = torch.linalg.vector_norm(g, dim=1)
        # A residual of nothing is small, also relative to nothing.
        scale = torch.linalg.vector_norm(f, dim=1).clamp_min(torch.finfo(f.dtype).tiny)
        relative = residual / scale
        if not self._trace:
            self._first = residual
            self._largest = self.stopping.divergence * residual
            self._start = torch.maximum(scale, torch.linalg.vector_norm(z, dim=1))
        judged = self._judged(residual, relative, scale)
        if self.stopping.mode == "batch":
            judged = torch.linalg.vector_norm(judged).expand_as(judged)
        better = self.active & (judged < self._least)
        self._least = torch.where(better, judged, self._least)
        best = select_rows(better, z, self._best)
        self._best = best.clone() if best is z else best  # solvers may go on in place
        # From a warm start at the solution, rounding alone may grow that much. What is not finite
        # fulfils neither.
        sound = (residual < self._largest) | (relative <= torch.finfo(f.dtype).eps ** 0.5)
        self._trace.append(judged)
        self._norms.append((residual, relative))
        self._were_active.append(self.active)
        self._sound.append(sound)
        self.was_active = self.active
        self.active = self.active & sound
        if self.stopping.tol > 0:
            self.active = self.active & ~(judged <= self.stopping.tol)

    @property
    def finite(self) -> Tensor:
        """Samples of which the last residual is finite."""
        return torch.isfinite(self._norms[-1][0])

    @property
    def best_step(self) -> Tensor:
        """Number of steps before each sample's result."""
        judged, active = torch.stack(self._trace), torch.stack(self._were_active)
        return torch.where(active & ~torch.isnan(judged), judged, torch.inf).argmin(0)

    def moved(self, z: Tensor, to: Tensor) -> Tensor:
        """Return the next iterate: samples that are done stay where they are."""
        return select_rows(self.active, to, z)

    def move(self, z: Tensor, step: Tensor) -> None:
        """Add a step to an iterate, in place, for the samples that go on."""
        moving = self.active[:, None].to(z.dtype)
        if in_torch_func():  # vmap has no such operation
            z.add_(step * moving)
        else:
            z.addcmul_(step, moving)

    def finished(self) -> bool:
        """Whether no sample is left; looks only every ``check_every`` steps."""
        if self.stopping.tol == 0 or self.step % self.check_every:
            return False
        return can_read_values(self.active) and not bool(self.active.any())

    def solution(self, inverse_jacobian: LowRank) -> Solution:
        """Return the best iterates with the estimate that belongs to them."""
        best = self.best_step
        failed = (torch.stack(self._were_active) & ~torch.stack(self._sound)).any(0)
        status = torch.full_like(best, Status.BUDGET, dtype=torch.int8)
        status = status.masked_fill(failed, Status.DIVERGED)
        status = status.masked_fill(self._least <= self._tol, Status.CONVERGED)
        norms = (
            torch.stack(each).gather(0, best[None])[0] for each in zip(*self._norms, strict=True)
        )
        residual, relative = (torch.where(torch.isfinite(norm), norm, torch.inf) for norm in norms)
        return Solution(
            z=self._best,
            residual=residual,
            relative_residual=relative,
            n_steps=best,
            status=status,
            trace=torch.stack(self._trace),
            inverse_jacobian=inverse_jacobian,
            iterates=self._iterates(),
        )

    def _keep(self, z: Tensor) -> None:
        self.step += 1
        if self.stopping.indexing:
            self._last = z
        if self.step in self.stopping.indexing:
            self._kept[self.step] = z.clone()  # solvers may go on in place

    def _iterates(self) -> tuple[Tensor, ...]:
        """Return what was asked for; after the end no sample moves."""
        return tuple(self._kept.get(step, self._last) for step in self.stopping.indexing)

    @property
    def _tol(self) -> float:
        return self.stopping.tol if self.stopping.tol > 0 else -1.0

    def _judged(self, residual: Tensor, relative: Tensor, scale: Tensor) -> Tensor:
        """Return what is compared with the tolerance; see :class:`Stopping`."""
        absolute = self.stopping.mode != "relative"
        eps = torch.finfo(scale.dtype).eps
        limit = self._start * eps**-0.5 if absolute else 2 * self._start
        grown = scale > limit
        if reads_are_free(grown) and not bool(grown.any()):
            return residual if absolute else relative
        # What is less than that may be nothing but rounding.
        resolved = torch.add(residual, scale, alpha=eps)
        if absolute:
            return torch.where(grown, resolved, residual)
        allowed = self._start * (self._first / resolved)
        return torch.where(grown, torch.maximum(relative, resolved / allowed), relative)


class LastIterateMonitor(Monitor):
    """Takes all steps and returns the last iterate, of which alone it knows the residual."""

    def __init__(self, z0: Tensor, stopping: Stopping) -> None:
        self.stopping = stopping
        self.step = -1
        self._kept = {}
        self.active = self.was_active = z0.new_ones(z0.shape[0], dtype=torch.bool)

    def update(self, z: Tensor, g: Tensor, f: Tensor) -> None:
        """Count an iterate, and measure the last."""
        self._keep(z)
        if self.step == self.stopping.max_iter:
            self._best = z
            self._residual = torch.linalg.vector_norm(g, dim=1)
            scale = torch.linalg.vector_norm(f, dim=1).clamp_min(torch.finfo(f.dtype).tiny)
            self._relative = self._residual / scale

    @property
    def finite(self) -> Tensor:
        """All samples: nothing is looked at."""
        return self.active

    @property
    def best_step(self) -> Tensor:
        """The last step, for all samples."""
        return torch.full_like(self.active, self.step, dtype=torch.int64)

    def moved(self, z: Tensor, to: Tensor) -> Tensor:
        """Return the next iterate."""
        return to

    def move(self, z: Tensor, step: Tensor) -> None:
        """Add a step to an iterate, in place."""
        z.add_(step)

    def finished(self) -> bool:
        """Return False: the budget is the end."""
        return False

    def solution(self, inverse_jacobian: LowRank) -> Solution:
        """Return the last iterates."""
        status = torch.full_like(self.active, Status.BUDGET, dtype=torch.int8)
        relative = self.stopping.mode == "relative"
        return Solution(
            z=self._best,
            residual=self._residual,
            relative_residual=self._relative,
            n_steps=self.best_step,
            status=status.masked_fill(~torch.isfinite(self._residual), Status.DIVERGED),
            trace=(self._relative if relative else self._residual)[None],
            inverse_jacobian=inverse_jacobian,
            iterates=self._iterates(),
        )


def make_monitor(z0: Tensor, stopping: Stopping) -> Monitor:
    """Return what looks after the iterates of a solver."""
    return Monitor(z0, stopping) if stopping.monitor else LastIterateMonitor(z0, stopping)
