"""The exact gradient by the implicit function theorem: the adjoint system solved to a tolerance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..capabilities import declares
from ..execution import reads_are_free
from ..low_rank import LowRank
from ..solvers import SOLVERS, Stopping
from ..state import FlatMap, Layout
from .base import ADJOINT_MAX_ITER, ADJOINT_TOL, Adjoint, Linearisation, checked_adjoint, norm_ratio
from .gmres import gmres


@declares(makes_products=True, takes_tol=True)
def implicit(
    linearisation: Linearisation,
    inverse_jacobian: LowRank,
    grad: Tensor,
    *,
    solver: Literal["gmres", "broyden", "anderson", "picard"] = "gmres",
    max_iter: int = ADJOINT_MAX_ITER,
    tol: float = ADJOINT_TOL,
) -> Adjoint:
    r"""Solve :math:`(I - J^\top) u = \nabla L`, with one vector-Jacobian product an iteration.

    One more product measures the residual of the solution, unless the solver has computed it.

    Parameters
    ----------
    linearisation : Linearisation
    inverse_jacobian : LowRank
        Not used.
    grad : Tensor of shape (batch, n)
    solver : {"gmres", "broyden", "anderson", "picard"}, default="gmres"
        Of these, GMRES has the smallest residual after any number of products.
    max_iter : int, default=30
        Largest number of iterations.
    tol : float, default=1e-6
        Of the residual, relative to :math:`\|\nabla L\|` for GMRES and to the norm of
        :math:`\nabla L + J^\top u` for other solvers. With 0 all iterations are made.

    Returns
    -------
    adjoint : Adjoint
        With the residual relative to :math:`\|\nabla L\|`.

    References
    ----------
    Bai, Kolter and Koltun (2019), *Deep equilibrium models*, theorem 1.
    """
    if solver == "gmres":
        return _by_gmres(linearisation, grad, max_iter, tol)
    if solver not in ("broyden", "anderson", "picard"):
        raise ValueError(
            "the solver of the implicit backward must be gmres, broyden, anderson or picard, got "
            f"{solver!r}."
        )
    # The adjoint is the fixed point of u -> grad + J^T u, so that a forward solver finds it.
    affine = FlatMap(lambda u: grad + linearisation.vjp(u), Layout.of(grad))
    solution = SOLVERS[solver](affine, grad, Stopping(max_iter=max_iter, tol=tol))
    same_step = solution.n_steps == solution.n_steps[:1]
    if reads_are_free(same_step) and bool(same_step.all()):
        # All samples ended at the same step, so that their residuals are those of one evaluation
        # of the affine map. They are true even if J couples the samples.
        return checked_adjoint(
            solution.z, norm_ratio(solution.residual, torch.linalg.vector_norm(grad, dim=1))
        )
    return linearisation.measured(solution.z, grad)


def refine(linearisation: Linearisation, grad: Tensor, start: Tensor, steps: int) -> Adjoint:
    """Improve an estimate by GMRES on its residual, which never grows, for ``steps + 2`` products.

    The correction d minimises ||(grad - A u) - A d|| over the Krylov space of the residual.
    """
    residual = linearisation.residual(start, grad)
    correction = gmres(linearisation.times, residual, max_iter=steps, tol=None)
    return linearisation.measured(start + correction, grad)


def _by_gmres(linearisation: Linearisation, grad: Tensor, max_iter: int, tol: float) -> Adjoint:
    norm = torch.linalg.vector_norm(grad, dim=1)
    u = gmres(
        linearisation.times,
        grad,
        max_iter=max_iter,
        tol=tol * norm if tol > 0 else None,
    )
    return linearisation.measured(u, grad)
