"""L-BFGS, which returns the solution together with its inverse-Hessian estimate."""

from __future__ import annotations

import numpy as np

from ..problems.requests import HessianProduct, Solver
from .base import Probe, Solution, Status, Vector
from .inverse_hessian import InverseHessian
from .line_search import Trial, strong_wolfe

# Steps in a row that lower neither the value nor the norm of the gradient before a solve is given
# up.
# Why: with five, solves on unscaled digits and breast_cancer ended at gradients of 1e-10 of that at
# the start where ten reached 1e-15; twenty are a margin.
MAX_IDLE_ITERATIONS = 20


def lbfgs(
    start: Solution,
    *,
    tol: float,
    max_iter: int,
    step: Vector | None = None,
    probe: Probe | None = None,
) -> Solver[Solution]:
    """Minimise by L-BFGS, as :class:`~hoag_shine.inner.InnerSolver` says.

    References
    ----------
    .. [1] J. Nocedal and S. J. Wright, *Numerical Optimization*, 2nd ed., algorithm 7.5.
    """
    w, value, grad = start.w, start.value, start.grad
    inverse_hessian = start.inverse_hessian
    n_passes = n_iter = idle = 0
    norm = float(np.linalg.norm(grad))
    lowest = value, norm  # what was reached so far; near the end either may rise by rounding
    while (status := _stop(value, norm, n_iter, tol, max_iter)) is None:
        # p_k = -B_k grad_k; B_k is positive definite, so that p_k descends.
        direction = _step(inverse_hessian, grad) if step is None else step
        step = None  # the one that was known before belongs to the first iteration
        origin = Trial(0.0, value, float(grad @ direction), w, grad)
        if not origin.slope < 0.0:
            status = Status.STALLED  # the slope is zero but for rounding
            break
        # w_{k+1} = w_k + t p_k with the strong Wolfe conditions, which make s_k' y_k positive.
        length = _first_length(inverse_hessian, norm)
        trial, n_evaluations = yield from strong_wolfe(origin, direction, length)
        n_passes += n_evaluations
        if trial is None:
            status = Status.STALLED
            break
        # The pair s_k = w_{k+1} - w_k, y_k = grad_{k+1} - grad_k; the oldest one goes if need be.
        inverse_hessian.append(trial.w - w, trial.grad - grad)
        w, value, grad = trial.w, trial.value, trial.grad
        n_iter += 1
        # Pairs (v, H v) in directions that the hypergradient asks for.
        for direction in probe(n_iter, w, inverse_hessian) if probe else ():
            product = yield HessianProduct(w, direction)
            inverse_hessian.append(direction, product)
            n_passes += 1
        norm = float(np.linalg.norm(grad))
        idle = 0 if value < lowest[0] or norm < lowest[1] else idle + 1
        if idle == MAX_IDLE_ITERATIONS:
            status = Status.STALLED
            break
        lowest = min(lowest[0], value), min(lowest[1], norm)
    return Solution(w, value, grad, inverse_hessian, n_iter, n_passes, status)


def _stop(value: float, norm: float, n_iter: int, tol: float, max_iter: int) -> Status | None:
    if not (np.isfinite(value) and np.isfinite(norm)):
        return Status.NON_FINITE
    if norm <= tol:
        return Status.CONVERGED
    return Status.MAX_ITER if n_iter >= max_iter else None


def quasi_newton_step(solution: Solution) -> Vector:
    """Return the step that :func:`lbfgs` tries next from a solution."""
    return _step(solution.inverse_hessian, solution.grad)


def _step(inverse_hessian: InverseHessian, grad: Vector) -> Vector:
    return inverse_hessian.applied(np.negative(grad))


def _first_length(inverse_hessian: InverseHessian, norm: float) -> float:
    """Return 1, the quasi-Newton step, unless nothing is known yet about the scale of w."""
    if inverse_hessian.knows_scale:
        return 1.0
    # The direction is the negative gradient then: a step of length 1 at most.
    return min(1.0, 1.0 / norm)
