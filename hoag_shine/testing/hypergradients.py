"""Checks of a hypergradient method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..hypergradients import AdjointProblem, Hypergradient, Method, as_solvers, resolve_method
from ..inner import Solution, minimize_lbfgs
from ..problems.base import Problem, ProblemSet
from ..problems.requests import run_together
from ..utils.validation import check_flag, check_positive
from .comparisons import (
    Array,
    at_point,
    difference,
    given_name,
    name_of,
    nowhere,
    problem_at,
    require,
    require_array,
    require_close,
    require_untouched,
)

# Norm of an inner gradient, relative to that at 0, at which the problem counts as solved.
# Why: by judgement; far below what differences of the outer loss need for the default rtol, 1e-5.
SOLVED_GRADIENT = 1e-9


def check_hypergradient(
    method: str | Method,
    problem: Problem,
    *,
    theta: ArrayLike | None = None,
    exact: bool = False,
    tol: float = 1e-10,
    rtol: float = 1e-5,
) -> None:
    """Check that a hypergradient method is what :mod:`hoag_shine.hypergradients` asks for.

    Type, shape and finiteness of the answer, with and without a ``start``; ``n_hvp`` against the
    Hessian products that were asked for; ``residual``, where it is known, against its definition;
    arguments left as they were. For an exact method also the hypergradient itself, against
    differences of the outer loss at tightly solved inner problems.

    Parameters
    ----------
    method : str or callable
        A function or a generator function; its name, if it is one of the library's.
    problem : Problem
        On which to check; the inner problem must be solvable to 1e-9 of its gradient at 0.
    theta : array-like of shape (n_hyperparameters,), optional
        Where to check; 0 if not given.
    exact : bool, default=False
        Whether the method claims to solve ``H q = outer_grad`` to ``tol``.
    tol : float, default=1e-10
        Handed to the method.
    rtol : float, default=1e-5
        Relative error that is allowed in the hypergradient's norm, if ``exact``.

    Raises
    ------
    AssertionError
        If something is wrong.
    ValueError, TypeError
        For bad arguments; the message names them.
    """
    function = resolve_method(method, "method")
    problem, theta_ = problem_at(problem, theta)
    check_flag("exact", exact)
    check_positive("tol", tol, zero=True)
    check_positive("rtol", rtol)
    what = given_name(method)
    solution = _solve(problem, theta_)
    outer_grad = problem.outer_value_and_grad(solution.w)[1]
    first = _ask(what, function, problem, theta_, solution, outer_grad, tol, None)
    again = _ask(what, function, problem, theta_, solution, outer_grad, tol, 0.9 * first.q)
    if not exact:
        return

    def criterion(e: Array, t: float) -> float:
        w = _solve(problem, theta_ + t * e, solution.w).w
        return float(problem.outer_value_and_grad(w)[0])

    expected = [difference(partial(criterion, e), 1e-2) for e in np.eye(theta_.size)]
    values = np.array([float(value) for value, _ in expected])
    doubts = np.array([float(doubt) for _, doubt in expected])
    for answer, case in ((first, "without a start"), (again, "with a start")):
        found = -problem.cross_vjp(solution.w, theta_, answer.q)
        require_close(
            f"the hypergradient by {what}, {case},",
            found,
            (values, doubts),
            rtol,
            at_point(theta=theta_),
            scale=float(np.linalg.norm(values)),
        )


class _Counted:
    """A problem that counts its Hessian products."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.n_hvp = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    def hessp(self, w: Array, theta: Array) -> Callable[[Array], Array]:
        product = self._problem.hessp(w, theta)

        def counted(v: Array) -> Array:
            self.n_hvp += 1
            return product(v)

        return counted


def _solve(problem: Problem, theta: Array, w: Array | None = None) -> Solution:
    start = problem.value_and_grad(np.zeros(problem.n_params), theta)[1]
    scale = float(np.linalg.norm(start))
    solution = minimize_lbfgs(problem, theta, w, tol=1e-13 * scale, max_iter=20_000)
    norm = float(np.linalg.norm(solution.grad))
    require(
        norm <= SOLVED_GRADIENT * scale,
        f"{name_of(problem)} cannot be solved at theta={theta}: {solution.status.value}, with a "
        f"gradient of norm {norm:.1g}. Check with another problem, or theta.",
    )
    return solution


def _ask(
    what: str,
    method: Method,
    problem: Problem,
    theta: Array,
    solution: Solution,
    outer_grad: Array,
    tol: float,
    start: Array | None,
) -> Hypergradient:
    """Return a method's answer after checking all but its accuracy."""
    counted: Any = _Counted(problem)
    arguments = {"theta": theta, "solution.w": solution.w, "outer_grad": outer_grad}
    arguments |= {} if start is None else {"start": start}
    before = {name: a.copy() for name, a in arguments.items()}
    adjoint = AdjointProblem(counted, theta, solution, outer_grad, tol, accuracy=0.0, start=start)
    call = method(adjoint)
    answer = run_together(ProblemSet([counted]), theta, as_solvers([call]))[0]
    require(isinstance(answer, Hypergradient), f"{what} returns {answer!r}, no Hypergradient.")
    require_array(f"q of {what}", answer.q, {outer_grad.shape}, nowhere)
    require(
        answer.n_hvp == counted.n_hvp,
        f"{what} reports n_hvp={answer.n_hvp}, but took {counted.n_hvp} Hessian products.",
    )
    require_untouched(what, **{name: (arguments[name], before[name]) for name in arguments})
    if not np.isnan(answer.residual):
        error = problem.hessp(solution.w, theta)(answer.q) - outer_grad
        residual = float(np.linalg.norm(error) / np.linalg.norm(outer_grad))
        # Recurrences lose what rounding takes from them.
        require(
            abs(answer.residual - residual) <= 1e-6 * residual + 1e-8,
            f"{what} reports residual={answer.residual:.6g}, but it is {residual:.6g}.",
        )
    return answer
