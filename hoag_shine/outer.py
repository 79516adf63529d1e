r"""The outer loop: tune hyperparameters by hypergradients of inexactly solved inner problems.

:func:`hoag` alternates between an inner and an outer side that know little of each other:

* The inner side (:class:`_Inner`) solves all inner problems at some theta to some tolerance and
  reports a :class:`Sample`: criterion, hypergradient, and what the inner error may be worth.
  Solutions, L-BFGS pairs and adjoints are carried from one theta to the next.
* A *step rule* decides which theta comes next and how accurate its sample must be. It is a
  generator that yields an :class:`Ask` and is sent the :class:`Sample`; it ends by returning why.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning

from .hypergradients import Hypergradient, Method, as_solvers, resolve_method
from .inner.inverse_hessian import InverseHessian
from .inner.lbfgs import Solution, Status, lbfgs
from .inner.requests import Evaluate, run_together
from .problems.base import Problem, ProblemSet
from .steps import RELIABLE_RESIDUAL, Ask, Outcome, Sample, StepRule, resolve_step
from .tolerances import FLOOR, Schedule, resolve_tolerance

Vector = NDArray[np.float64]
Callback = Callable[[dict[str, Any], list[Solution]], Any]


@dataclass(frozen=True)
class HoagResult:
    """What :func:`hoag` found.

    Attributes
    ----------
    theta : ndarray of shape (n_hyperparameters,)
        Logarithms of the best hyperparameters seen.
    value : float
        Criterion there: the mean outer loss.
    solutions : list of Solution
        The inner solutions there, one for each problem.
    history : list of dict
        One record for each outer iteration, see :func:`hoag`.
    best_index : int
        The record that belongs to ``theta``.
    outcome : Outcome
        Why the search ended.
    """

    theta: Vector
    value: float
    solutions: list[Solution]
    history: list[dict[str, Any]]
    best_index: int
    outcome: Outcome


# Relative inner tolerance to begin with, where accuracy is asked for and not scheduled.
COARSEST = 1e-2

# Relative residual that is enough for linear systems of the hypergradient, unless scheduled.
LINEAR_TOLERANCE = 1e-4
# Relative accuracy of the criterion at the hyperparameters that are returned.
FINAL_ACCURACY = 1e-6


def hoag(
    problem: Problem | ProblemSet,
    theta: ArrayLike | None = None,
    *,
    hypergradient: str | Method = "shine",
    step: str = "auto",
    tolerance: str | Schedule = "adjoint",
    bounds: tuple[ArrayLike, ArrayLike] = (-18.0, 18.0),
    tol: float = 1e-3,
    max_iter: int = 50,
    memory: int = 30,
    max_inner_iter: int = 2000,
    n_jobs: int | None = None,
    callback: Callback | None = None,
) -> HoagResult:
    r"""Minimise the outer loss of a bilevel problem over its hyperparameters.

    Parameters
    ----------
    problem : Problem or ProblemSet
        The criterion of a set is the mean of its members' outer losses.
    theta : array-like of shape (n_hyperparameters,), optional
        Where to start, as logarithms; zero by default.
    hypergradient : {"shine", "cg", "jacobian-free", "exact"} or callable, default="shine"
        See :mod:`hoag_shine.hypergradients`.
    step : {"auto", "secant", "adaptive"}, default="auto"
        ``"secant"`` searches one hyperparameter and is the default there; ``"adaptive"`` is
        HOAG's projected gradient step. See :mod:`hoag_shine.steps`.
    tolerance : {"adjoint", "quadratic", "cubic", "exponential", "exact"} or callable, \
            default="adjoint"
        How accurately the inner problems are solved. ``"adjoint"`` solves until the inner error,
        priced by :math:`q^\top \nabla g`, is small against the gain that the step rule expects;
        the others are HOAG's sequences, relative to the norm of the first inner gradient; a
        callable maps the outer iteration 1, 2, ... to such a number.
    bounds : pair of float or array-like, default=(-18.0, 18.0)
        Lower and upper bounds of theta.
    tol : float, default=1e-3
        Stop when the next step changes theta by at most this much.
    max_iter : int, default=50
        Largest number of outer iterations.
    memory : int, default=30
        Pairs that L-BFGS keeps.
    max_inner_iter : int, default=2000
        Largest number of inner iterations in one solve.
    n_jobs : int, optional
        Threads in which the solvers of a set's members advance between two data passes, as joblib
        counts them. The result does not depend on it. Pays where the members are many and large.
    callback : callable, optional
        Called after each sample as ``callback(record, solutions)`` with the record of the outer
        iteration, which a later sample at the same theta updates, and the inner solutions. A true
        answer ends the search.

    Returns
    -------
    result : HoagResult
        Its ``history`` holds, for each outer iteration, a dict of ``iteration``, ``theta``,
        ``criterion`` (corrected for the inner error where the adjoint allows it),
        ``fold_criteria`` (of each problem, uncorrected), ``error`` (the inner error's worth in the
        criterion), ``hypergradient``, ``hypergradient_norm``, ``residual`` (largest relative
        residual of :math:`Hq = \nabla f`, NaN where not known), ``inner_tolerance``,
        ``inner_iterations``, ``hessian_products``, ``data_passes`` and ``seconds`` (of this
        iteration).

    Warns
    -----
    ConvergenceWarning
        When ``max_iter`` ends the search, or an inner problem at the result is not solved.

    Notes
    -----
    The best sample is returned, never one worse than the start, and the inner problems are solved
    accurately there before it is. A ``KeyboardInterrupt`` ends the search with the best so far.

    References
    ----------
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.
    .. [2] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022.
    """
    problems = ProblemSet([problem]) if isinstance(problem, Problem) else problem
    lower, upper = _bounds(bounds, problems.n_hyperparameters)
    start = _start(theta, lower, upper)
    rule = resolve_step(step, start.size)(start, lower, upper, tol)
    schedule = resolve_tolerance(tolerance)
    method = resolve_method(hypergradient)
    with ThreadPoolExecutor(min(effective_n_jobs(n_jobs), len(problems))) as pool:
        parallel = pool.map if effective_n_jobs(n_jobs) > 1 else map
        inner = _Inner(problems, method, start, memory, max_inner_iter, parallel)
        trace = _Trace(inner)
        try:
            outcome = _search(rule, inner, trace, schedule, max_iter, callback)
            trace.polish()
        except KeyboardInterrupt:
            if not trace.history:
                raise
            outcome = Outcome.INTERRUPTED
    _warn(outcome, trace)
    return HoagResult(
        theta=trace.best.theta,
        value=trace.history[trace.best_index]["criterion"],
        solutions=trace.solutions,
        history=trace.history,
        best_index=trace.best_index,
        outcome=outcome,
    )


def _search(
    rule: StepRule,
    inner: _Inner,
    trace: _Trace,
    schedule: Schedule | None,
    max_iter: int,
    callback: Callback | None,
) -> Outcome:
    """Let the rule ask and the inner side answer until one of them, or the caller, has enough."""
    ask = next(rule)
    while True:
        scheduled = None if schedule is None else schedule(len(trace.history) + 1)
        sample = inner.sample(ask, scheduled)
        record = trace.add(sample)
        if callback is not None and callback(record, inner.solutions):
            return Outcome.CALLBACK
        try:
            ask = rule.send(sample)
        except StopIteration as stop:
            return cast(Outcome, stop.value)
        if len(trace.history) >= max_iter and not np.array_equal(ask.theta, sample.theta):
            return Outcome.MAX_ITER


class _Inner:
    """All inner problems, at one theta after the other, with what each solve leaves to the next."""

    def __init__(
        self,
        problems: ProblemSet,
        method: Method,
        theta: Vector,
        memory: int,
        max_iter: int,
        map: Callable[..., Iterable[Any]],  # noqa: A002
    ) -> None:
        self.problems = problems
        self.method = method
        self.theta = theta
        self.max_iter = max_iter
        self.map = map
        self.tolerance = COARSEST
        self.n_iter = 0
        self.n_hvp = 0
        self.fold_values = np.full(len(problems), np.nan)
        self._adjoints: list[Vector | None] = [None] * len(problems)
        start = [np.zeros(problem.n_params) for problem in problems]
        self._estimates = [InverseHessian(w.size, memory) for w in start]
        self.restart(theta, start)
        self._scales = [float(np.linalg.norm(s.grad)) for s in self.solutions]

    def restart(self, theta: Vector, ws: Sequence[Vector]) -> None:
        """Go to inner variables ``ws`` and ``theta``; the pairs stay."""
        self.theta = theta
        answers = self.problems.answer({k: Evaluate(w) for k, w in enumerate(ws)}, theta)
        self.solutions = [
            Solution(w, answers[k][0], answers[k][1], estimate, 0, 1, Status.MAX_ITER)
            for k, (w, estimate) in enumerate(zip(ws, self._estimates, strict=True))
        ]
        self._set_penalties()

    def sample(self, ask: Ask, scheduled: float | None = None) -> Sample:
        """Solve at ``ask.theta`` as scheduled, or else until as accurate as asked for."""
        self._move(ask.theta)
        if scheduled is not None:
            self.tolerance = max(scheduled, FLOOR)
            return self._solve(self.tolerance)
        while True:
            sample = self._solve(max(self.tolerance, LINEAR_TOLERANCE))
            if sample.error <= ask.accuracy or sample.final:
                return sample
            # The error is of first order in the inner gradient.
            shrink = min(max(0.5 * ask.accuracy / sample.error, 0.05), 0.5)
            self.tolerance = max(self.tolerance * shrink, FLOOR)

    def _move(self, theta: Vector) -> None:
        """Change the penalty under the solutions; value and gradient follow without a pass."""
        if np.array_equal(theta, self.theta):
            return
        old = [problem.penalty_hessian(self.theta) for problem in self.problems]
        new = [problem.penalty_hessian(theta) for problem in self.problems]
        moved = []
        for solution, before, after in zip(self.solutions, old, new, strict=True):
            if before is None or after is None:
                self.restart(theta, [s.w for s in self.solutions])
                return
            push = (after - before) * solution.w
            value = solution.value + 0.5 * float(solution.w @ push)
            moved.append(replace(solution, value=value, grad=solution.grad + push))
        self.solutions = moved
        self.theta = theta
        self._set_penalties()

    def _set_penalties(self) -> None:
        diagonals = self.problems.data_diagonals([s.w for s in self.solutions])
        for problem, estimate, diagonal in zip(
            self.problems, self._estimates, diagonals, strict=True
        ):
            estimate.set_penalty(problem.penalty_hessian(self.theta), diagonal)

    def _solve(self, linear_tolerance: float) -> Sample:
        """Bring the inner problems to the present tolerance and take a sample there."""
        solvers = [
            lbfgs(
                s.w,
                s.inverse_hessian,
                tol=self.tolerance * scale,
                max_iter=self.max_iter,
                start=(s.value, s.grad),
            )
            for s, scale in zip(self.solutions, self._scales, strict=True)
        ]
        self.solutions = run_together(self.problems, self.theta, solvers, map=self.map)
        self.n_iter += max(s.n_iter for s in self.solutions)
        outer = self.problems.outer_values_and_grads([s.w for s in self.solutions])
        self.fold_values = np.array([value for value, _ in outer])
        answers = self._hypergradients([grad for _, grad in outer], linear_tolerance)
        return self._sample(answers)

    def _hypergradients(self, outer_grads: Sequence[Vector], tol: float) -> list[Hypergradient]:
        calls = [
            self.method(problem, self.theta, s, grad, tol=tol, start=adjoint)
            for problem, s, grad, adjoint in zip(
                self.problems, self.solutions, outer_grads, self._adjoints, strict=True
            )
        ]
        answers = run_together(self.problems, self.theta, as_solvers(calls), map=self.map)
        self._adjoints = [answer.q for answer in answers]
        self.n_hvp += max(answer.n_hvp for answer in answers)
        return answers

    def _sample(self, answers: Sequence[Hypergradient]) -> Sample:
        n = len(answers)
        grad = np.zeros_like(self.theta)
        change = 0.0
        for problem, solution, answer in zip(self.problems, self.solutions, answers, strict=True):
            grad -= problem.cross_vjp(solution.w, self.theta, answer.q) / n
            change -= float(answer.q @ solution.grad) / n
        residual = max(answer.residual for answer in answers)
        reliable = residual <= RELIABLE_RESIDUAL
        return Sample(
            theta=self.theta,
            value=float(self.fold_values.mean()) + (change if reliable else 0.0),
            grad=grad,
            error=abs(change),
            residual=residual,
            final=self.tolerance <= FLOOR
            or all(s.status in (Status.STALLED, Status.MAX_ITER) for s in self.solutions),
            tolerance=self.tolerance,
        )


class _Trace:
    """The record of the search, and the best of it."""

    def __init__(self, inner: _Inner) -> None:
        self.history: list[dict[str, Any]] = []
        self.best_index = 0
        self.best: Sample
        self.solutions: list[Solution] = []
        self._inner = inner
        self._spent = self._counters()

    def add(self, sample: Sample) -> dict[str, Any]:
        """Record a sample; one at the theta of the last record takes its place."""
        again = bool(self.history) and np.array_equal(self.history[-1]["theta"], sample.theta)
        if not again:
            self.history.append({"iteration": len(self.history)})
        index = len(self.history) - 1
        self.history[index].update(self._facts(sample), **self._costs(index))
        better = not index or sample.value + sample.error < self.best.value + self.best.error
        if better or (again and self.best_index == index):
            self._keep(sample, index)
        return self.history[index]

    def polish(self) -> None:
        """Solve accurately at the best theta, so that its criterion can be taken at its word."""
        if not np.array_equal(self.best.theta, self._inner.theta):
            self._inner.restart(self.best.theta, [s.w for s in self.solutions])
        ask = Ask(self.best.theta, FINAL_ACCURACY * abs(self.best.value))
        self._keep(self._inner.sample(ask), self.best_index)
        self.history[self.best_index].update(self._facts(self.best), **self._costs(self.best_index))

    def _keep(self, sample: Sample, index: int) -> None:
        self.best, self.best_index = sample, index
        self.solutions = self._inner.solutions

    def _facts(self, sample: Sample) -> dict[str, Any]:
        return {
            "theta": sample.theta.copy(),
            "criterion": sample.value,
            "fold_criteria": self._inner.fold_values.copy(),
            "error": sample.error,
            "hypergradient": sample.grad,
            "hypergradient_norm": float(np.linalg.norm(sample.grad)),
            "residual": sample.residual,
            "inner_tolerance": sample.tolerance,
        }

    def _costs(self, index: int) -> dict[str, float]:
        """Add what was spent since the last record to what record ``index`` had cost before."""
        spent, self._spent = self._spent, self._counters()
        record = self.history[index]
        return {name: record.get(name, 0) + self._spent[name] - spent[name] for name in spent}

    def _counters(self) -> dict[str, float]:
        return {
            "inner_iterations": self._inner.n_iter,
            "hessian_products": self._inner.n_hvp,
            "data_passes": self._inner.problems.n_passes,
            "seconds": time.perf_counter(),
        }


def _bounds(bounds: tuple[ArrayLike, ArrayLike], d: int) -> tuple[Vector, Vector]:
    lower, upper = (np.broadcast_to(np.asarray(b, dtype=np.float64), d).copy() for b in bounds)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower < upper).all()):
        raise ValueError(
            f"bounds must be finite and increasing, one pair or one for each of the {d} "
            f"hyperparameters, got {bounds!r}."
        )
    return lower, upper


def _start(theta: ArrayLike | None, lower: Vector, upper: Vector) -> Vector:
    start = np.zeros(lower.size) if theta is None else np.array(theta, dtype=np.float64, ndmin=1)
    if start.shape != lower.shape or not np.isfinite(start).all():
        raise ValueError(
            f"theta must hold {lower.size} finite logarithms of hyperparameters, got {theta!r}."
        )
    return np.clip(start, lower, upper)


_ADVICE = {
    Outcome.MAX_ITER: "increase max_iter, or tol if the result is accurate enough",
    Outcome.BOUND: "widen bounds if a better value beyond them would be of use",
    Outcome.INTERRUPTED: "the best hyperparameters seen until then are kept",
}


def _warn(outcome: Outcome, trace: _Trace) -> None:
    """Say what the caller should know about the result."""
    if outcome in _ADVICE:
        _convergence_warning(f"The outer search ended because {outcome.value}: {_ADVICE[outcome]}.")
    stuck = {s.status for s in trace.solutions} & {Status.MAX_ITER, Status.NON_FINITE}
    if stuck and outcome is not Outcome.INTERRUPTED:
        _convergence_warning(
            "An inner problem is not solved at the best hyperparameters, because "
            f"{' and '.join(s.value for s in stuck)}: scale the features, raise the lower bound "
            "of the penalty, or increase max_inner_iter."
        )


def _convergence_warning(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=4)
