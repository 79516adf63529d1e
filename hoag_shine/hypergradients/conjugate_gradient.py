"""Conjugate gradient on ``H q = outer_grad``: HOAG's method and its relatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..problems.requests import HessianProduct, Solver
from .base import AdjointProblem, Hypergradient, relative

# Growth of the residual, over the smallest so far, after which conjugate gradient is given up.
# Why: half of the digits of float64. The norm of the residual may rise on the way, but what has
# risen by so much is rounding and does not fall again.
DIVERGED_GROWTH = 1e8


def cg(adjoint: AdjointProblem, *, max_iter: int = 1000) -> Solver[Hypergradient]:
    r"""Solve :math:`Hq = \nabla f` by conjugate gradient, to the outer iteration's tolerance.

    Preconditioned by the initial matrix of the inverse-Hessian estimate, which is a multiple of
    the identity where the diagonal of H is not known, and started from the last iteration's q.

    Parameters
    ----------
    adjoint : AdjointProblem
        Its ``start`` is the first guess of q. The end is where
        :math:`\|Hq - \nabla f\| \le` ``tol`` :math:`\|\nabla f\|`.
    max_iter : int, default=1000
        Largest number of Hessian products. The residual is reported in any case.

    Notes
    -----
    Where the matrix is too badly conditioned for the arithmetic, residuals grow without
    bound in the end: the q with the smallest residual is returned.

    References
    ----------
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016,
       algorithm 1, step 2.
    """
    solution, outer_grad, start = adjoint.solution, adjoint.outer_grad, adjoint.start
    target = adjoint.tol * float(np.linalg.norm(outer_grad))
    preconditioner = solution.inverse_hessian.diagonal
    q = np.zeros_like(outer_grad)
    residual = outer_grad.copy()
    n_hvp = 0
    if start is not None and start.any():
        q = start.copy()
        residual -= yield HessianProduct(solution.w, q)
        n_hvp = 1
    # Preconditioned conjugate gradient, Nocedal and Wright, algorithm 5.3; ``energy`` is r'M^-1 r.
    direction = np.zeros_like(q)
    last = np.inf
    best, smallest = q, np.inf
    while True:
        norm = float(np.linalg.norm(residual))
        if norm < smallest:
            best, smallest = q.copy(), norm
        if norm <= target or n_hvp >= max_iter or not norm <= DIVERGED_GROWTH * smallest:
            break
        scaled = preconditioner * residual
        energy = float(residual @ scaled)
        if not energy > 0.0:  # of a residual whose square underflows
            break
        direction = scaled + (energy / last) * direction
        product = yield HessianProduct(solution.w, direction)
        n_hvp += 1
        curvature = float(direction @ product)
        if not curvature > 0.0:  # H is not positive definite, as far as the arithmetic can tell
            break
        step = energy / curvature
        q += step * direction
        residual -= step * product
        last = energy
    return Hypergradient(best, n_hvp, relative(smallest, outer_grad))


def cg_limited(adjoint: AdjointProblem, *, max_iter: int = 20) -> Solver[Hypergradient]:
    """Run :func:`cg` for at most ``max_iter`` Hessian products, 20 by default.

    HOAG with a limited backward pass, a baseline of the SHINE paper.

    References
    ----------
    .. [1] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022, section 3.1.
    """
    return cg(adjoint, max_iter=max_iter)


def shine_refine(adjoint: AdjointProblem, *, max_iter: int | None = None) -> Solver[Hypergradient]:
    r"""Start :func:`cg` from the SHINE estimate :math:`B \nabla f` and take a few steps.

    Parameters
    ----------
    max_iter : int, optional
        Largest number of Hessian products. By default five for each decimal digit of ``tol``,
        so that the share of the refinement grows as the outer iterations become exact.

    References
    ----------
    .. [1] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022, section 2.2, "refine".
    """
    if max_iter is None:
        max_iter = max(5, int(np.ceil(-5.0 * np.log10(adjoint.tol))))
    estimate = adjoint.solution.inverse_hessian @ adjoint.outer_grad
    return cg(replace(adjoint, start=estimate), max_iter=max_iter)
