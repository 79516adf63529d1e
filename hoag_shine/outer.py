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
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
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


# Inner iterations between two looks at what the inner error is worth.
CHUNK = 4

# Relative residual that is enough for linear systems of the hypergradient, unless scheduled.
LINEAR_TOLERANCE = 1e-4
# Relative accuracy of the criterion at the hyperparameters that are returned, and the relative
# inner gradient that guards it where the adjoint is poor.
FINAL_ACCURACY = 1e-6
FINAL_TOLERANCE = 1e-5


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
    shrinkage: float = 0.0,
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
    hypergradient : str or callable, default="shine"
        ``"shine"``, ``"shine-opa"``, ``"shine-refine"``, ``"cg"``, ``"cg-limited"``,
        ``"jacobian-free"`` or ``"exact"``; see :mod:`hoag_shine.hypergradients`.
    step : {"auto", "secant", "trust-region", "adaptive"}, default="auto"
        ``"secant"`` searches one hyperparameter and is the default there, ``"trust-region"`` is
        the default for several; ``"adaptive"`` is HOAG's projected gradient step. See
        :mod:`hoag_shine.steps`.
    tolerance : str or callable, default="adjoint"
        ``"adjoint"``, ``"quadratic"``, ``"cubic"``, ``"exponential"`` or ``"exact"``: how
        accurately the inner problems are solved. ``"adjoint"`` solves until the inner error,
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
    shrinkage : float, default=0.0
        Pulls many hyperparameters together, so that they do not fit the noise of the held-out
        data: :math:`\frac{s}{2} \sum_i (\theta_i - \bar\theta)^2` is added to what is
        minimised. It is a Gaussian prior of variance :math:`1 / (n s)` for n held-out samples.
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
        inner = _Inner(problems, method, start, memory, max_inner_iter, shrinkage, parallel)
        trace = _Trace(inner)
        try:
            outcome = _search(rule, inner, trace, schedule, max_iter, callback)
            trace.polish()
        except KeyboardInterrupt:
            if not trace.history:
                raise
            outcome = Outcome.INTERRUPTED
    _warn(outcome, trace, lower, upper)
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
        shrinkage: float,
        map: Callable[..., Iterable[Any]],  # noqa: A002
    ) -> None:
        self.problems = problems
        self.method = method
        self.theta = theta
        self.max_iter = max_iter
        self.shrinkage = shrinkage
        self.map = map
        self.n_iter = 0
        self.n_hvp = 0
        self.fold_values = np.full(len(problems), np.nan)
        probe = getattr(method, "probe", None)
        self._probes = [probe and probe(problem) for problem in problems]
        self._along = np.ones_like(theta)
        self._adjoints: list[Vector | None] = [None] * len(problems)
        self._prices: list[Vector] | None = None
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
            outer = self._iterate(max(scheduled, FLOOR), self.max_iter)
            return self._sample(self._hypergradients(outer, scheduled))
        sample = None
        for done in range(0, self.max_iter, CHUNK):
            outer = self._iterate(FLOOR, min(CHUNK, self.max_iter - done))
            settled = self._error(outer) <= ask.accuracy and self.tolerance <= ask.tolerance
            if settled or self._final:
                sample = self._sample(self._hypergradients(outer, LINEAR_TOLERANCE))
                if sample.error <= ask.accuracy or sample.final:
                    return sample
        return sample or self._sample(self._hypergradients(outer, LINEAR_TOLERANCE))

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
        self._prices = None
        self._set_penalties()

    def _set_penalties(self) -> None:
        diagonals = self.problems.data_diagonals([s.w for s in self.solutions])
        for problem, estimate, diagonal in zip(
            self.problems, self._estimates, diagonals, strict=True
        ):
            estimate.set_penalty(problem.penalty_hessian(self.theta), diagonal)

    def _iterate(self, tolerance: float, max_iter: int) -> list[Vector]:
        """Bring the inner problems nearer to their solutions; return the outer gradients there."""
        solvers = [
            lbfgs(
                s.w,
                s.inverse_hessian,
                tol=tolerance * scale,
                max_iter=max_iter,
                start=(s.value, s.grad),
                probe=probe and partial(probe, self.theta, self._along),
            )
            for s, scale, probe in zip(self.solutions, self._scales, self._probes, strict=True)
        ]
        self.solutions = run_together(self.problems, self.theta, solvers, map=self.map)
        self.n_iter += max(s.n_iter for s in self.solutions)
        outer = self.problems.outer_values_and_grads([s.w for s in self.solutions])
        self.fold_values = np.array([value for value, _ in outer])
        return [grad for _, grad in outer]

    def _error(self, outer_grads: Sequence[Vector]) -> float:
        """Price the inner error with the last adjoint here, or else with the one that is free."""
        if self._prices is not None:
            changes = [q @ s.grad for q, s in zip(self._prices, self.solutions, strict=True)]
        else:
            changes = [
                grad @ (s.inverse_hessian @ s.grad)
                for grad, s in zip(outer_grads, self.solutions, strict=True)
            ]
        return float(np.mean(np.abs(changes)))

    @property
    def _final(self) -> bool:
        return all(s.status is not Status.MAX_ITER for s in self.solutions)

    @property
    def tolerance(self) -> float:
        """The largest inner gradient norm, relative to that at the start."""
        return max(
            float(np.linalg.norm(s.grad)) / (scale or 1.0)
            for s, scale in zip(self.solutions, self._scales, strict=True)
        )

    def _hypergradients(self, outer_grads: Sequence[Vector], tol: float) -> list[Hypergradient]:
        calls = [
            self.method(problem, self.theta, s, grad, tol=tol, start=adjoint)
            for problem, s, grad, adjoint in zip(
                self.problems, self.solutions, outer_grads, self._adjoints, strict=True
            )
        ]
        answers = run_together(self.problems, self.theta, as_solvers(calls), map=self.map)
        self._adjoints = [answer.q for answer in answers]
        # A q that nobody vouches for prices nothing; the solver's own estimate still does.
        self._prices = [
            answer.q if answer.residual <= RELIABLE_RESIDUAL else s.inverse_hessian @ grad
            for answer, s, grad in zip(answers, self.solutions, outer_grads, strict=True)
        ]
        self.n_hvp += max(answer.n_hvp for answer in answers)
        return answers

    def _sample(self, answers: Sequence[Hypergradient]) -> Sample:
        n = len(answers)
        grad = np.zeros_like(self.theta)
        change = 0.0
        for problem, solution, answer, price in zip(
            self.problems, self.solutions, answers, self._prices or (), strict=True
        ):
            grad -= problem.cross_vjp(solution.w, self.theta, answer.q) / n
            change -= float(price @ solution.grad) / n
        solved = all(s.status is not Status.NON_FINITE for s in self.solutions)
        if not (solved and np.isfinite(self.fold_values).all() and np.isfinite(grad).all()):
            raise ValueError(
                f"The criterion or its hypergradient is not finite at theta={self.theta}: scale "
                "the features, or narrow the bounds."
            )
        if grad.any():
            self._along = grad
        residual = max(answer.residual for answer in answers)
        reliable = residual <= RELIABLE_RESIDUAL
        spread = self.theta - self.theta.mean()
        prior = 0.5 * self.shrinkage * float(spread @ spread)
        return Sample(
            theta=self.theta,
            value=float(self.fold_values.mean()) + (change if reliable else 0.0) + prior,
            grad=grad + self.shrinkage * spread,
            error=abs(change),
            residual=residual,
            prior=prior,
            final=self._final,
            tolerance=self.tolerance,
        )


class _Trace:
    """The record of the search, and the best of it."""

    def __init__(self, inner: _Inner) -> None:
        self.history: list[dict[str, Any]] = []
        self.solutions: list[Solution] = []
        self.unsolved = False
        self._samples: list[Sample] = []
        self._inner = inner
        self._spent = self._counters()

    def add(self, sample: Sample) -> dict[str, Any]:
        """Record a sample; one at the theta of the last record takes its place."""
        if not (self._samples and np.array_equal(self._samples[-1].theta, sample.theta)):
            self.history.append({"iteration": len(self.history)})
            self._samples.append(sample)
        self._samples[-1] = sample
        record = self.history[-1]
        record.update(self._facts(sample), **self._costs(record))
        if self.best_index == len(self.history) - 1:
            self.solutions = self._inner.solutions
        return record

    @property
    def best_index(self) -> int:
        """The record that is lowest even if its error is against it; what is newer replaces."""
        newest = {sample.theta.tobytes(): i for i, sample in enumerate(self._samples)}
        return min(newest.values(), key=lambda i: self._samples[i].value + self._samples[i].error)

    @property
    def best(self) -> Sample:
        return self._samples[self.best_index]

    def polish(self) -> None:
        """Solve accurately at the best theta, so that its criterion can be taken at its word.

        What looked best may no longer do so then; the next best is tried in its place, and so is
        the start where its error leaves open which is lower.
        """
        solved: dict[int, list[Solution]] = {}
        while (index := self._doubtful(solved)) is not None:
            ask = self._accurately(index)
            if not np.array_equal(ask.theta, self._inner.theta):
                self._inner.restart(ask.theta, [s.w for s in self.solutions])
            self._samples[index] = self._inner.sample(ask)
            self.solutions = solved[index] = self._inner.solutions
            record = self.history[index]
            record.update(self._facts(self._samples[index]), **self._costs(record))
        self.solutions = solved[self.best_index]
        ask = self._accurately(self.best_index)
        short = self.best.error > ask.accuracy or self.best.tolerance > ask.tolerance
        self.unsolved = short and not self.best.final

    def _accurately(self, index: int) -> Ask:
        sample = self._samples[index]
        return Ask(sample.theta, FINAL_ACCURACY * abs(sample.value), FINAL_TOLERANCE)

    def _doubtful(self, solved: Container[int]) -> int | None:
        """Return the record that is to be solved accurately next."""
        best, start = self.best, self._samples[0]
        if self.best_index not in solved:
            return self.best_index
        open_question = start.value - start.error <= best.value + best.error
        return 0 if open_question and 0 not in solved else None

    def _facts(self, sample: Sample) -> dict[str, Any]:
        return {
            "theta": sample.theta.copy(),
            "criterion": sample.value - sample.prior,
            "fold_criteria": self._inner.fold_values.copy(),
            "error": sample.error,
            "hypergradient": sample.grad,
            "hypergradient_norm": float(np.linalg.norm(sample.grad)),
            "residual": sample.residual,
            "inner_tolerance": sample.tolerance,
        }

    def _costs(self, record: dict[str, Any]) -> dict[str, float]:
        """Add what was spent since the last record to what this one had cost before."""
        spent, self._spent = self._spent, self._counters()
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


def _warn(outcome: Outcome, trace: _Trace, lower: Vector, upper: Vector) -> None:
    """Say what the caller should know about the result."""
    # Among many penalties, some on a bound are no surprise: columns of noise want the largest.
    theta = trace.best.theta
    expected = outcome is Outcome.BOUND and bool(((lower < theta) & (theta < upper)).any())
    if outcome in _ADVICE and not expected:
        _convergence_warning(f"The outer search ended because {outcome.value}: {_ADVICE[outcome]}.")
    if trace.unsolved:
        _convergence_warning(
            "The inner problems are not solved at the best hyperparameters, where the criterion is "
            f"known to {trace.best.error:.1g} only: scale the features, raise the lower bound of "
            "the penalty, or increase max_inner_iter."
        )


def _convergence_warning(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=4)
