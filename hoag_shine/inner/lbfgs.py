"""L-BFGS, which returns the solution together with its inverse-Hessian estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..problems.requests import Evaluate, HessianProduct, Solver, run_together
from ..utils.validation import check_count, check_function, check_positive, check_vector, shown
from .inverse_hessian import MOST_PAIRS, InverseHessian
from .line_search import Trial, strong_wolfe

if TYPE_CHECKING:
    from ..problems.base import Problem

Vector = NDArray[np.float64]
Probe = Callable[[int, Vector, InverseHessian], Iterable[Vector]]

# So many steps in a row that lower neither the value nor the gradient's norm are rounding.
PATIENCE = 20


class Status(Enum):
    """Why the inner solver stopped."""

    CONVERGED = "the gradient norm is within the tolerance"
    MAX_ITER = "the iteration limit was reached"
    STALLED = "no step decreases the objective beyond rounding"
    NON_FINITE = "the objective or its gradient is not finite"


@dataclass(frozen=True)
class Solution:
    """What an inner solver returns.

    Attributes
    ----------
    w : ndarray of shape (n,)
        The solution.
    value : float
        Inner objective at ``w``.
    grad : ndarray of shape (n,)
        Its gradient at ``w``.
    inverse_hessian : InverseHessian or LinearOperator of shape (n, n)
        The estimate built on the way. A further solve that is given this object extends it; keep
        a ``copy()`` where that matters. Of a problem that was solved by factorised Hessians, the
        inverse itself.
    n_iter : int
        Iterations.
    n_passes : int
        Data passes: values with gradients, and Hessian products.
    status : Status
        Why the solver stopped.
    """

    w: Vector
    value: float
    grad: Vector
    inverse_hessian: Any
    n_iter: int
    n_passes: int
    status: Status

    @property
    def converged(self) -> bool:
        """Whether the gradient norm is within the tolerance."""
        return self.status is Status.CONVERGED


def lbfgs(
    w: Vector,
    inverse_hessian: InverseHessian,
    *,
    tol: float,
    max_iter: int = 1000,
    start: tuple[float, Vector] | None = None,
    step: Vector | None = None,
    probe: Probe | None = None,
) -> Solver[Solution]:
    """Minimise by L-BFGS; a generator of requests, see :mod:`hoag_shine.problems.requests`.

    Parameters
    ----------
    w : ndarray of shape (n,)
        Starting point.
    inverse_hessian : InverseHessian
        Extended in place; may hold pairs from before.
    tol : float
        Stop when the gradient's Euclidean norm is at most this.
    max_iter : int, default=1000
    start : tuple of float and ndarray, optional
        Value and gradient at ``w``, where they are known already.
    step : ndarray of shape (n,), optional
        The quasi-Newton step from there, likewise.
    probe : callable, optional
        Called as ``probe(n_iter, w, inverse_hessian)`` after each iteration; returns directions
        along which the Hessian is to be sampled. Each costs a Hessian product and gives a pair.

    Returns
    -------
    solution : Solution
    """
    value, grad = start if start is not None else (yield Evaluate(w))
    n_passes = 0 if start is not None else 1
    n_iter = idle = 0
    norm = float(np.linalg.norm(grad))
    lowest = value, norm
    while (status := _stop(value, norm, n_iter, tol, max_iter)) is None:
        direction = _step(inverse_hessian, grad) if step is None else step
        step = None
        origin = Trial(0.0, value, float(grad @ direction), w, grad)
        if not origin.slope < 0.0:
            status = Status.STALLED
            break
        length = _first_length(inverse_hessian, norm)
        trial, n_evaluations = yield from strong_wolfe(origin, direction, length)
        n_passes += n_evaluations
        if trial is None:
            status = Status.STALLED
            break
        inverse_hessian.append(trial.w - w, trial.grad - grad)
        w, value, grad = trial.w, trial.value, trial.grad
        n_iter += 1
        for direction in probe(n_iter, w, inverse_hessian) if probe else ():
            product = yield HessianProduct(w, direction)
            inverse_hessian.append(direction, product)
            n_passes += 1
        norm = float(np.linalg.norm(grad))
        idle = 0 if value < lowest[0] or norm < lowest[1] else idle + 1
        if idle == PATIENCE:
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
    return min(1.0, 1.0 / norm)


def minimize_lbfgs(
    problem: Problem,
    theta: Vector,
    w: Vector | None = None,
    *,
    tol: float = 1e-6,
    max_iter: int = 1000,
    memory: int = 20,
    inverse_hessian: InverseHessian | None = None,
    initial: Callable[[Vector], Vector] | None = None,
    probe: Probe | None = None,
) -> Solution:
    """Solve one inner problem by L-BFGS.

    Parameters
    ----------
    problem : Problem
    theta : ndarray of shape (n_hyperparameters,), float64
        Logarithms of the hyperparameters.
    w : ndarray of shape (n_params,), float64, optional
        Starting point; zero by default.
    tol : float, default=1e-6
        Stop when the gradient's Euclidean norm is at most this.
    max_iter : int, default=1000
    memory : int, default=20
        Number of pairs kept; ignored when ``inverse_hessian`` is given.
    inverse_hessian : InverseHessian, optional
        Pairs from an earlier solve, at any penalty. Moved to ``theta`` and extended in place.
    initial : callable, optional
        Multiplies by an approximate inverse of the Hessian, such as the estimate of a similar
        problem, in place of the initial matrix. Not used where the problem has so few variables
        that it has a better one, or when ``inverse_hessian`` is given.
    probe : callable, optional
        Asks for additional pairs; see :func:`hoag_shine.inner.lbfgs.lbfgs`.

    Returns
    -------
    solution : Solution

    Raises
    ------
    ValueError, TypeError
        For bad arguments; the message names them.

    References
    ----------
    .. [1] J. Nocedal and S. J. Wright, *Numerical Optimization*, 2nd ed., algorithm 7.5.
    """
    from ..problems.base import Problem, ProblemSet

    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {shown(problem)}.")
    check_positive("tol", tol, zero=True, finite=False)
    check_count("max_iter", max_iter, least=0)
    check_count("memory", memory, most=MOST_PAIRS)
    check_function("initial", initial)
    check_function("probe", probe)
    theta = check_vector("theta", theta, problem.n_hyperparameters)
    w = np.zeros(problem.n_params) if w is None else check_vector("w", w, problem.n_params)
    if inverse_hessian is not None and not isinstance(inverse_hessian, InverseHessian):
        raise TypeError(f"inverse_hessian must be an InverseHessian, got {shown(inverse_hessian)}.")
    solver = None
    if inverse_hessian is None:
        solver = problem.preconditioner(w, theta) or initial
        inverse_hessian = InverseHessian(
            problem.n_params, memory, data_diagonal=problem.data_diagonal(w)
        )
    inverse_hessian.set_penalty(problem.penalty_hessian(theta), solver=solver)
    run = lbfgs(w, inverse_hessian, tol=tol, max_iter=max_iter, probe=probe)
    return run_together(ProblemSet([problem]), theta, [run])[0]
