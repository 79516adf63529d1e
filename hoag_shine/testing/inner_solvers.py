"""Checks of an inner solver."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..inner import InnerSolver, Solution, begin, resolve_inner_solver
from ..inner.inverse_hessian import InverseHessian
from ..problems.base import Problem, ProblemSet
from ..problems.requests import run_together
from ..utils.validation import check_count, check_positive
from .comparisons import (
    Array,
    given_name,
    nowhere,
    problem_at,
    require,
    require_array,
    require_equal,
    require_untouched,
)


def check_inner_solver(
    solver: str | InnerSolver,
    problem: Problem,
    *,
    theta: ArrayLike | None = None,
    tol: float = 1e-6,
    max_iter: int = 10_000,
) -> None:
    """Check that an inner solver is what :class:`~hoag_shine.inner.InnerSolver` asks for.

    Type, shape and finiteness of the answer; value and gradient against those of the problem; the
    gradient's norm against ``tol``; ``max_iter`` kept; an objective that does not rise; a solve
    that continues from a solution, and one that has nothing to do; arguments left as they were.

    Parameters
    ----------
    solver : str or callable
    problem : Problem
        On which to check.
    theta : array-like of shape (n_hyperparameters,), optional
        Where to check; 0 if not given.
    tol : float, default=1e-6
        Norm of the gradient to reach, relative to that at zero.
    max_iter : int, default=10_000

    Raises
    ------
    AssertionError
        If something is wrong.
    ValueError, TypeError
        For bad arguments; the message names them.
    """
    function = resolve_inner_solver(solver, "solver")
    problem, theta_ = problem_at(problem, theta)
    check_positive("tol", tol)
    check_count("max_iter", max_iter)
    what = given_name(solver)
    estimate = InverseHessian(problem.n_params, 10)
    estimate.set_penalty(problem.penalty_hessian(theta_))
    members = ProblemSet([problem])

    def run(call: Any) -> Any:
        return run_together(members, theta_, [call])[0]

    def solve(start: Solution, share: float, most: int) -> Solution:
        before = start.w.copy(), start.grad.copy()
        answer: Solution = run(function(start, tol=share * scale, max_iter=most))
        _check_answer(what, problem, theta_, start, answer, most)
        require_untouched(what, w=(start.w, before[0]), grad=(start.grad, before[1]))
        return answer

    origin = run(begin(np.zeros(problem.n_params), estimate))
    scale = float(np.linalg.norm(origin.grad))
    short = solve(origin, 0.0, 1)
    solved = solve(short, tol, max_iter)
    norm = float(np.linalg.norm(solved.grad))
    require(
        norm <= tol * scale and solved.converged,
        f"{what} ends with a gradient of norm {norm:.3g}, where {tol * scale:.3g} was asked, and "
        f"says: {solved.status.value}.",
    )
    idle = solve(solved, 2.0 * tol, max_iter)
    require(idle.n_iter == 0, f"{what} makes {idle.n_iter} iterations from a solution.")


def _check_answer(
    what: str, problem: Problem, theta: Array, start: Solution, answer: Any, most: int
) -> None:
    require(isinstance(answer, Solution), f"{what} returns {answer!r}, no Solution.")
    require_array(f"w of {what}", answer.w, {start.w.shape}, nowhere)
    value, grad = problem.value_and_grad(answer.w, theta)
    scale = abs(start.value) + abs(value)
    require_equal(f"value of {what}", answer.value, value, 1e-9, nowhere, scale)
    scale = float(np.abs(start.grad).max())
    require_equal(f"grad of {what}", answer.grad, grad, 1e-9, nowhere, scale)
    require(answer.n_iter <= most, f"{what} makes {answer.n_iter} iterations, {most} were allowed.")
    rise = answer.value - start.value
    allowed = 1e-12 * (scale + abs(start.value))
    require(rise <= allowed, f"{what} raises the objective by {rise:g}.")
    shape = (start.w.size, start.w.size)
    found = getattr(answer.inverse_hessian, "shape", None)
    require(found == shape, f"inverse_hessian of {what} has shape {found}, it must be {shape}.")
