"""One inner problem, solved by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..problems.base import Problem, ProblemSet
from ..problems.requests import Solver, run_together
from ..utils.validation import check_count, check_function, check_positive, check_vector, shown
from .base import Probe, Solution, Vector, begin
from .inverse_hessian import MOST_PAIRS, InverseHessian
from .lbfgs import lbfgs


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
        Asks for additional pairs; see :class:`hoag_shine.inner.InnerSolver`.

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

    def run() -> Solver[Solution]:
        origin = yield from begin(w, inverse_hessian)
        solution = yield from lbfgs(origin, tol=tol, max_iter=max_iter, probe=probe)
        return replace(solution, n_passes=origin.n_passes + solution.n_passes)

    return run_together(ProblemSet([problem]), theta, [run()])[0]
