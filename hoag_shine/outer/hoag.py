r"""The outer loop: tune hyperparameters by hypergradients of inexactly solved inner problems.

:func:`~hoag_shine.hoag` is a conversation of two sides that know little of each other:

* An *oracle* solves all inner problems at some theta to some tolerance and reports a
  :class:`~hoag_shine.outer.steps.Evaluation`: criterion, hypergradient, and what the inner error
  may be worth. Solutions, L-BFGS pairs and adjoints are carried from one theta to the next.
* A *step rule* decides which theta comes next and how accurate its evaluation must be. It is a
  generator that yields an :class:`~hoag_shine.outer.steps.Ask` and is sent the evaluation. What it
  returns says why it has ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning

from ..hypergradients import Method, MethodName, auto, resolve_method
from ..inner import MOST_PAIRS, InnerSolver, LazySolutions, Solution, lbfgs, resolve_inner_solver
from ..linalg.costs import LONG_VECTOR_NUMBERS
from ..linalg.threads import one_blas_thread
from ..problems.base import JoinedProblems, Problem, ProblemSet, double_precision_after
from ..problems.direct import DirectProblems
from ..problems.pool import shared_passes
from ..utils.interrupts import Deferred, Threads
from ..utils.validation import (
    check_count,
    check_function,
    check_n_jobs,
    check_option,
    check_positive,
    check_vector,
    shown,
)
from ..utils.warn import one_warning, warn
from .exact_oracle import ExactOracle
from .history import History
from .inexact_oracle import InexactOracle
from .oracle import Oracle
from .separate_oracles import SeparateOracles
from .steps import (
    Ask,
    Certificate,
    Evaluation,
    Outcome,
    RuleMaker,
    StepRule,
    certify,
    global_search,
    one_standard_error,
    resolve_step,
    separate,
    trust_region,
)
from .steps.base import NotFiniteError, ending, unbounded
from .tolerances import (
    SINGLE_GAIN_SHARE,
    Schedule,
    resolve_tolerance,
    result_accuracy,
    search_tolerance,
)

Vector = NDArray[np.float64]
# Most evaluations at one theta; a rule that wants more accuracy after them does not get it.
# Why: by judgement. An accuracy shrinks by a factor of three or so each time, so that thirty are
# more than double precision has; it only ends a rule that asks for what cannot be had.
MAX_EVALUATIONS_AT_THETA = 30
# Multiplications for a Newton step of all folds beyond which a user is warned.
# Why: at some 1e10 a second and about ten steps at each of a dozen thetas, a search takes minutes.
SLOW_STEP_MULTIPLICATIONS = 1e11
SELECTIONS = ("min", "one-se")
Callback = Callable[[dict[str, Any], Sequence[Solution]], Any]


@dataclass(frozen=True)
class HoagResult:
    """What :func:`hoag` found.

    Attributes
    ----------
    theta : ndarray of shape (n_hyperparameters,)
        Logarithms of the best hyperparameters seen, or of those that ``selection`` prefers.
    value : float
        Criterion there: the mean outer loss.
    solutions : sequence of Solution
        The inner solutions there, one for each problem.
    history : list of dict
        One record for each outer iteration, see :func:`hoag`.
    best_index : int
        The record that belongs to ``theta``.
    outcome : Outcome
        Why the search ended.
    certificate : Certificate
        What can still be gained, and how much of the range was looked at.
    """

    theta: Vector
    value: float
    solutions: Sequence[Solution]
    history: list[dict[str, Any]]
    best_index: int
    outcome: Outcome
    certificate: Certificate


# Numbers that overflow are not finite, and are looked for where it matters: the line search steps
# back from them, and an evaluation with such numbers is refused.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def hoag(
    problem: Problem | ProblemSet,
    theta: ArrayLike | None = None,
    *,
    hypergradient: MethodName | Method = "auto",
    step: Literal["auto", "global", "secant", "trust-region", "adaptive"] | RuleMaker = "auto",
    first_step: float | None = None,
    tolerance: Literal["adjoint", "quadratic", "cubic", "exponential", "exact"]
    | Schedule = "adjoint",
    bounds: tuple[ArrayLike, ArrayLike] = (-18.0, 18.0),
    tol: float = 1e-3,
    max_iter: int = 1000,
    inner_solver: str | InnerSolver = "lbfgs",
    memory: int = 30,
    max_inner_iter: int = 2000,
    shrinkage: float = 0.0,
    selection: Literal["min", "one-se"] = "min",
    max_time: float | None = None,
    start: Sequence[ArrayLike] | None = None,
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
    hypergradient : str or callable, default="auto"
        ``"auto"``, ``"shine"``, ``"shine-opa"``, ``"shine-refine"``, ``"cg"``, ``"cg-limited"``,
        ``"jacobian-free"`` or ``"exact"``; see :mod:`hoag_shine.hypergradients`.
    step : {"auto", "global", "secant", "trust-region", "adaptive"} or callable, default="auto"
        ``"global"`` searches one hyperparameter, looks at the rest of its range and is the default
        there; ``"secant"`` is its local search alone. ``"trust-region"`` is the default for several
        hyperparameters, of which each is searched by itself where their problems have nothing in
        common, as those of several targets. ``"adaptive"`` is HOAG's projected gradient step, and
        the default with one of HOAG's schedules or a callable as ``tolerance``. See
        :mod:`hoag_shine.outer.steps`.
    first_step : float, optional
        Length of the first step in theta; 2 by default, where nothing is known, and 1 for the
        adaptive step. Less is better where the best theta is known to be near.
    tolerance : str or callable, default="adjoint"
        ``"adjoint"``, ``"quadratic"``, ``"cubic"``, ``"exponential"`` or ``"exact"``: how
        accurately the inner problems are solved. ``"adjoint"`` solves until the inner error,
        estimated by :math:`q^\top \nabla g`, is small against the gain that the step rule expects;
        the others are HOAG's sequences, relative to the norm of the first inner gradient; a
        callable maps the outer iteration 1, 2, ... to such a number.
    bounds : pair of float or array-like, default=(-18.0, 18.0)
        Lower and upper bounds of theta.
    tol : float, default=1e-3
        What may be left to gain at the end is ``tol**2`` of the criterion. A local search stops
        when the next step changes theta by at most ``tol``, or should gain no more than that. The
        criterion is then solved until it is known to half of that, or to 3e-6 of itself where there
        are at most 10,000 inner variables. A search for one
        hyperparameter goes on to 1e-3 where a pass reads no more than a tenth of the data, because
        few rows stand for many.
    max_iter : int, default=1000
        Largest number of outer iterations.
    inner_solver : str or callable, default="lbfgs"
        What solves the inner problems, see :mod:`hoag_shine.inner`. Small problems are solved by
        factorised Hessians with ``hypergradient="auto"``, unless another solver is passed.
    memory : int, default=30
        Pairs that L-BFGS keeps.
    max_inner_iter : int, default=2000
        Largest number of inner iterations in one solve.
    shrinkage : float, default=0.0
        Pulls many hyperparameters together, so that they do not fit the noise of the held-out
        data: :math:`\frac{s}{2} \sum_i (\theta_i - \bar\theta)^2` is added to what is
        minimised. It is a Gaussian prior of variance :math:`1 / (n s)` for n held-out rows.
    selection : {"min", "one-se"}, default="min"
        ``"min"`` returns the hyperparameters of the lowest criterion. ``"one-se"`` goes on from
        there to the strongest penalties whose criterion is within one standard error of it (that
        of the mean over at least two problems, at the minimum): all hyperparameters are raised by
        a common factor, found by Newton's method on the criterion's derivative.
    max_time : float, optional
        Seconds after which the search ends with the best so far, as accurate as it is by then. At
        least one evaluation is taken.
    start : sequence of array-like, optional
        Inner variables to start from, for each problem an array of shape (n_params,); zero by
        default.
    n_jobs : int, optional
        Threads that share the passes over data in memory, and in which the solvers of a set's
        members advance between two passes, as joblib counts them. The result does not depend on it.
        Data so small that a pass takes less than some milliseconds are left to one thread.
    callback : callable, optional
        Called after each outer iteration as ``callback(record, solutions)`` with a copy of its
        record and the inner solutions, whose arrays cannot be written into. A true answer ends the
        search. What has been returned may be solved more accurately afterwards.

    Returns
    -------
    result : HoagResult
        Its ``history`` holds, for each outer iteration, a dict of ``iteration``, ``look`` (whether
        it only looked at another part of the range), ``theta``,
        ``criterion`` (corrected for the inner error where the adjoint allows it),
        ``fold_criteria`` (of each problem, likewise), ``error`` (the inner error's worth in the
        criterion), ``hypergradient``, ``hypergradient_norm``, ``hypergradient_error`` (its
        estimated error, in norm) and ``hypergradient_bound`` (what that error certainly does not
        exceed at the inner solutions that were reached), ``method`` (what ``"auto"`` did),
        ``residual`` (largest relative residual of :math:`Hq = \nabla f`, NaN where not known),
        ``inner_tolerance``,
        ``inner_iterations``, ``hessian_products``, ``data_passes``, ``bytes_read`` (from data that
        are not in memory), ``bytes_sent`` (to the workers of a cluster and from them) and
        ``seconds`` (of this iteration).

    Warns
    -----
    ConvergenceWarning
        When ``max_iter`` or ``max_time`` ends the search, when more may be gained than ``tol``
        allows, or when an inner problem at the result is not solved.

    Notes
    -----
    The best evaluation is returned, never one worse than the start. Before that, the inner problems
    are solved accurately there.

    Ctrl-C ends the search with the best so far, once the present data pass or callback has ended;
    before the first evaluation, it raises ``KeyboardInterrupt``. So does a second Ctrl-C, at once.
    All this holds in the main thread, where Python handles signals.

    References
    ----------
    .. [1] F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016.
    .. [2] Z. Ramzi et al., "SHINE: SHaring the INverse Estimate from the forward pass for bi-level
       optimization and implicit models", ICLR 2022.
    """
    limit = np.inf if max_time is None else check_positive("max_time", max_time, finite=False)
    deadline = time.perf_counter() + limit
    problems = _problems(problem)
    check_count("memory", memory, most=MOST_PAIRS)
    check_count("max_inner_iter", max_inner_iter)
    check_search_options(tol, shrinkage, max_iter, n_jobs, callback)
    _check_selection(selection, problems)
    tol = search_tolerance(tol, problems.pass_share, problems.n_hyperparameters)
    lower, upper = _bounds(bounds, problems.n_hyperparameters)
    origin = _start(theta, lower, upper)
    schedule = resolve_tolerance(tolerance)
    method, solver = resolve_method(hypergradient), resolve_inner_solver(inner_solver)
    accuracy = result_accuracy(tol, max(problem.n_params for problem in problems))
    separable = schedule is None and isinstance(step, str) and step == "auto" and shrinkage == 0.0
    single = problems.separate() if separable else None
    make_rule, looks = _rule(step, origin.size, scheduled=schedule is not None, single=single)
    # The papers' methods do not look at the rest of the range, so the methods named after them do
    # not either.
    options: dict[str, Any] = {"accuracy": accuracy, "looks": method is auto} if looks else {}
    if first_step is not None:
        options["first_step"] = check_positive("first_step", first_step)
    rule = make_rule(origin, lower, upper, tol, **options)
    ws = None if start is None else _variables(start, problems)
    every = [problems, *(single or ())]
    with (
        Deferred() as interrupts,
        Threads(n_jobs, problems.most_threads, interrupts) as threads,
        shared_passes(every, threads),
        double_precision_after(every),
    ):
        make = partial(
            _oracles,
            exactly=method is auto and schedule is None and solver is lbfgs,
            solver=solver,
            method=method,
            shrinkage=shrinkage,
            limits=(memory, max_inner_iter),
            single=method is auto and schedule is None and tol**2 >= SINGLE_GAIN_SHARE,
            threads=threads,
            deadline=deadline,
        )
        oracle, exact = (
            make(problems, origin) if single is None else _joined(problems, single, origin, make)
        )
        if ws is not None:
            oracle.restart(origin, ws)
        history = History(oracle, accuracy, exact)
        run = _Run(oracle, history, lower, upper, callback)
        try:
            # Small problems ask for one thread at each evaluation: once for all takes less time.
            with nullcontext() if exact is None else one_blas_thread():
                outcome = run.follow(rule, max_iter, schedule)
            if not oracle.late:
                history.polish()
                outcome = run.ended(outcome)
            if selection == "one-se" and outcome in _COMPLETE:
                outcome = run.strengthen(tol)
        except KeyboardInterrupt:
            if interrupts.forced or not history.records:
                raise
            outcome = Outcome.INTERRUPTED
        if interrupts.take():
            outcome = Outcome.INTERRUPTED
    history.keep_what_is_solved()
    with one_warning(ConvergenceWarning):
        _warn(outcome, history, lower, upper)
    return _result(history, outcome, lower, upper)


def _rule(
    step: str | RuleMaker, d: int, *, scheduled: bool, single: Sequence[ProblemSet] | None
) -> tuple[RuleMaker, bool]:
    """Return the function that makes the step rule, and whether the rule looks at the range."""
    if single is not None:
        return separate, True
    if isinstance(step, str) and step == "auto" and scheduled:
        # A search asks for the accuracy that it needs. Under a schedule it cannot, so HOAG's own
        # step rule is used, which asks for none.
        step = "adaptive"
    make = resolve_step(step, d)
    return make, make in (global_search, trust_region)


def _result(history: History, outcome: Outcome, lower: Vector, upper: Vector) -> HoagResult:
    records = history.as_dicts()
    chosen = records[history.result_index]
    return HoagResult(
        theta=chosen["theta"],
        value=chosen["criterion"],
        solutions=history.solutions,
        history=records,
        best_index=history.result_index,
        outcome=outcome,
        certificate=certify(history.latest, history.best, lower, upper),
    )


@dataclass(frozen=True)
class _Run:
    """A search in progress: the oracle that answers, and the history of its answers."""

    oracle: Oracle
    history: History
    lower: Vector
    upper: Vector
    callback: Callback | None

    def follow(self, rule: StepRule, max_iter: int, schedule: Schedule | None = None) -> Outcome:
        """Let the rule ask and the oracle answer until one of them, or the caller, ends it."""
        ask = next(rule)
        again = 0
        while True:
            tolerance = None if schedule is None else schedule(len(self.history.records) + 1)
            evaluation = self._evaluate(ask, tolerance)
            self.history.add(evaluation, look=ask.look or not np.isfinite(evaluation.value))
            outcome, moves = self._exhausted(), False
            if outcome is None:
                try:
                    ask = rule.send(evaluation)
                    moves = not np.array_equal(ask.theta, evaluation.theta)
                    if not np.isfinite(ask.theta).all():  # the rule's numbers have overflowed
                        outcome = Outcome.UNCERTAIN
                except StopIteration as stop:
                    outcome = cast(Outcome, stop.value)
            again = 0 if moves else again + 1
            if again > MAX_EVALUATIONS_AT_THETA or (
                moves and len(self.history.records) >= max_iter
            ):
                outcome = outcome or Outcome.MAX_ITER
            # The caller hears of an iteration once, when no evaluation will refine it any more.
            if (moves or outcome is not None) and self._stopped_by_caller():
                return Outcome.CALLBACK
            if outcome is not None:
                return outcome
            if self.oracle.late:  # the time of the callback counts, too
                return Outcome.MAX_TIME

    def _exhausted(self) -> Outcome | None:
        if self.oracle.late:
            return Outcome.MAX_TIME
        return Outcome.MAX_INNER_ITER if self.oracle.spent else None

    def _evaluate(self, ask: Ask, scheduled: float | None) -> Evaluation:
        """Return an evaluation; one that is not finite only says to turn back."""
        try:
            return self.oracle.evaluate(ask, scheduled)
        except NotFiniteError:
            best = self.history.best_elsewhere(ask.theta)
            if best is None:
                raise
            self.oracle.restart(best.theta, [s.w for s in self.history.solutions])
            return unbounded(ask, best)

    def _stopped_by_caller(self) -> bool:
        if self.callback is None:
            return False
        last = len(self.history.records) - 1
        record = self.history.records[last].as_dict(last)
        return bool(self.callback(record, _Unwritable(self.oracle.solutions)))

    def ended(self, outcome: Outcome) -> Outcome:
        """Return the outcome of a complete search: whether its best evaluation is on a bound."""
        complete = outcome in _COMPLETE
        return ending(self.history.best, self.lower, self.upper) if complete else outcome

    def strengthen(self, tol: float) -> Outcome:
        """Go on to the strongest penalties within one standard error."""
        ask, error = self.history.final_ask, self.history.standard_error
        rule = one_standard_error(self.history.best, error, ask, self.lower, self.upper, tol)
        outcome = self.follow(rule, sys.maxsize)
        if outcome in _COMPLETE:
            self.history.choose_last()
        return outcome


def _oracles(
    problems: ProblemSet,
    theta: Vector,
    *,
    exactly: bool,
    solver: InnerSolver,
    method: Method,
    shrinkage: float,
    limits: tuple[int, int],
    single: bool,
    threads: Threads,
    deadline: float,
) -> tuple[Oracle, Oracle | None]:
    """Return the oracle of a search, and the exact one if the problems are small enough."""
    parts, exact = _direct(problems), None
    if parts is not None:
        exact = ExactOracle(problems, parts, theta, shrinkage, threads.map, deadline)
        if exactly:
            return exact, exact
    longest = max(problem.n_params for problem in problems)
    each = threads.map if longest >= LONG_VECTOR_NUMBERS else threads.map_by_caller
    options = *limits, shrinkage, each, deadline
    return InexactOracle(problems, solver, method, theta, *options, single=single), exact


def _joined(
    problems: ProblemSet,
    single: Sequence[ProblemSet],
    theta: Vector,
    make: Callable[[ProblemSet, Vector], tuple[Oracle, Oracle | None]],
) -> tuple[Oracle, Oracle | None]:
    """Return the oracles of each hyperparameter's own problems, as one."""
    pairs = [make(own, theta[j : j + 1]) for j, own in enumerate(single)]
    asked, exact = zip(*pairs, strict=True)
    first = SeparateOracles(problems, asked)
    if any(oracle is None for oracle in exact):
        return first, None
    return first, first if asked == exact else SeparateOracles(problems, exact)


def _direct(problems: ProblemSet) -> list[DirectProblems] | None:
    """Return the solvers by factorised Hessians, or None unless all problems have one."""
    sets = problems.sets if isinstance(problems, JoinedProblems) else (problems,)
    parts = [members.direct for members in sets]
    if any(part is None for part in parts):
        return None
    if sum(part.work for part in parts) > SLOW_STEP_MULTIPLICATIONS:
        warn(
            f"Solving {len(problems)} folds will take minutes: use fewer folds, or max_time.",
            UserWarning,
        )
    return parts


def _problems(problem: Problem | ProblemSet) -> ProblemSet:
    if isinstance(problem, ProblemSet):
        return problem
    if isinstance(problem, Problem):
        return ProblemSet([problem])
    raise TypeError(
        f"problem must be a Problem or a ProblemSet, which holds several; got {shown(problem)}."
    )


def check_search_options(
    tol: Any, shrinkage: Any, max_iter: Any, n_jobs: Any, callback: Any
) -> None:
    """Raise for options that no search can be made with, whatever its problem."""
    check_positive("tol", tol)
    check_count("max_iter", max_iter)
    check_n_jobs(n_jobs)
    check_function("callback", callback)
    check_positive("shrinkage", shrinkage, zero=True)


def _check_selection(selection: Any, problems: ProblemSet) -> None:
    check_option("selection", selection, SELECTIONS)
    if selection == "one-se" and len(problems) < 2:
        raise ValueError(
            "selection='one-se' needs at least two problems or folds: one has no standard error."
        )


def _variables(start: Sequence[ArrayLike], problems: ProblemSet) -> list[Vector]:
    wanted = [(problem.n_params,) for problem in problems]
    try:
        ws = [np.array(w, dtype=np.float64) for w in start]
        found = str([w.shape for w in ws])
    except (TypeError, ValueError, OverflowError):
        ws, found = [], shown(start)
    if [w.shape for w in ws] != wanted or not all(np.isfinite(w).all() for w in ws):
        raise ValueError(
            f"start must hold finite arrays of shapes {wanted}, one for each problem; got {found}."
        )
    return ws


def _bounds(bounds: tuple[ArrayLike, ArrayLike], d: int) -> tuple[Vector, Vector]:
    try:
        lower, upper = (np.broadcast_to(np.asarray(b, dtype=np.float64), d).copy() for b in bounds)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"bounds must be a pair, each a number or {d} numbers, got {shown(bounds)}."
        ) from error
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower < upper).all()):
        raise ValueError(
            f"bounds must be finite and increasing, one pair or one for each of the {d} "
            f"hyperparameters, got {bounds!r}."
        )
    return lower, upper


def _start(theta: ArrayLike | None, lower: Vector, upper: Vector) -> Vector:
    start = np.zeros(lower.size) if theta is None else check_vector("theta", theta, lower.size)
    return np.clip(start, lower, upper)


class _Unwritable(LazySolutions):
    """Solutions with arrays that a callback cannot write into."""

    def __init__(self, solutions: Sequence[Solution]) -> None:
        self._solutions = solutions

    def _made(self, k: int) -> Solution:
        solution = self._solutions[k]
        return replace(solution, w=_read_only(solution.w), grad=_read_only(solution.grad))

    def __len__(self) -> int:
        return len(self._solutions)


def _read_only(vector: Vector) -> Vector:
    view = vector.view()
    view.flags.writeable = False
    return view


# Outcomes of a search that has found its minimum.
_COMPLETE = (Outcome.CONVERGED, Outcome.BOUND)

_ADVICE = {
    Outcome.UNCERTAIN: "the certificate says how much, and where; decrease tol",
    Outcome.MAX_ITER: "increase max_iter, or tol if the result is accurate enough",
    Outcome.MAX_INNER_ITER: "scale the features, or raise the lower bound of the penalty",
    Outcome.MAX_TIME: "the best hyperparameters seen until then are kept; increase max_time",
    Outcome.BOUND: "widen bounds to search further",
    Outcome.INTERRUPTED: "the best hyperparameters seen until then are kept",
}


def interrupted(result: HoagResult) -> HoagResult:
    """Return the result of a search that was interrupted after its last evaluation, and say so."""
    if result.outcome is not Outcome.INTERRUPTED:
        _warn_of_end(Outcome.INTERRUPTED)
    return replace(result, outcome=Outcome.INTERRUPTED)


def _warn(outcome: Outcome, history: History, lower: Vector, upper: Vector) -> None:
    """Say what the caller should know about the result."""
    # Of many penalties, it is no surprise that some end on a bound: columns of noise want the
    # largest penalty there is.
    theta = history.records[history.result_index].evaluation.theta
    expected = outcome is Outcome.BOUND and bool(((lower < theta) & (theta < upper)).any())
    if outcome in _ADVICE and not expected:
        _warn_of_end(outcome)
    if history.unsolved:
        _convergence_warning(
            "The inner problems are not solved at the best hyperparameters, where the criterion is "
            f"known to {history.best.error:.1g} only: scale the features, or raise the lower bound "
            "of the penalty."
        )


def _warn_of_end(outcome: Outcome) -> None:
    _convergence_warning(f"The outer search ended because {outcome.value}: {_ADVICE[outcome]}.")


def _convergence_warning(message: str) -> None:
    warn(message, ConvergenceWarning)
