"""The oracle that solves the inner problems iteratively, only as accurately as it is asked to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hypergradients import AdjointProblem, Hypergradient, Method, as_solvers
from ..inner import InnerSolver, InverseHessian, Solution, Status, begin, rest
from ..problems.base import ProblemSet
from ..problems.requests import run_together
from .inner_state import InnerState, Iterates, Map, mean_size, vouched
from .oracle import Oracle, prior
from .steps import Ask, Evaluation
from .steps.base import NotFiniteError
from .tolerances import (
    NULL_VALUE_SHARE,
    SINGLE_GRADIENT_SHARE,
    SINGLE_VALUE_SHARE,
    SMALLEST_TOLERANCE,
)

Vector = NDArray[np.float64]

# Inner iterations between two looks at what the inner error is worth in the criterion.
# Why: a look after every iteration saved nothing on the sets of the benchmarks, and one after every
# fourth leaves up to three iterations that are not needed.
ITERATIONS_BETWEEN_LOOKS = 2
# Inner iterations of a whole search, in units of ``max_inner_iter``.
# Why: by judgement. Searches that end well need less than one such unit; it bounds the time of
# those that would not end.
MAX_SOLVES_PER_SEARCH = 4
# Multiplications of a pass that costs so little that the whole range is looked at.
# Why: such a pass takes less than a millisecond, and a look needs some tens of them.
CHEAP_PASS_MULTIPLICATIONS = 1e6
# Relative residual to which methods other than ``"auto"`` solve the linear system of the
# hypergradient, unless there is a schedule.
# Why: by judgement; a hundredth of what a step rule takes for reliable, and of what a step needs.
LINEAR_SYSTEM_RESIDUAL = 1e-4
# Relative norm of an inner gradient that counts as much as an error of second order, relative to
# the criterion.
# Why: results ask for norms of ten times their accuracy, and L-BFGS takes errors of second order
# for up to ten times too small: a tenth of the accuracy is asked of these.
SECOND_ORDER_FACTOR = 100.0
# Fall of the criterion, as a share of it, that is reckoned with at least.
# Why: by judgement. Where features hardly tell anything, the inner objectives fall further than the
# criterion, but by little.
SMALLEST_FALL = 0.1


class InexactOracle(Oracle):
    """All inner problems, each solved until its error makes no difference to the outer loop.

    Kept from one theta to the next: the solutions, the pairs of L-BFGS, and the states of the
    hypergradient method. ``state`` holds all that belongs to the present theta and is replaced as a
    whole; ``_along`` is the last hypergradient; ``_scales`` and ``_first_values`` are the norms of
    the inner gradients and the inner objectives at the very start.
    """

    def __init__(
        self,
        problems: ProblemSet,
        solver: InnerSolver,
        method: Method,
        theta: Vector,
        memory: int,
        max_iter: int,
        shrinkage: float,
        map: Map,  # noqa: A002
        deadline: float = np.inf,
        *,
        single: bool = False,
    ) -> None:
        super().__init__(problems, deadline)
        self._single = single and problems.evaluate_in_single(True)
        self.solver = solver
        self.method = method
        self.max_iter = max_iter
        self.shrinkage = shrinkage
        self.map = map
        self.n_iter = 0
        self.n_hvp = 0
        self.fold_values = np.full(len(problems), np.nan)
        probe = getattr(method, "probe", None)
        self._probes = [probe and probe(problem) for problem in problems]
        self._along = np.ones_like(theta)  # the last hypergradient
        self._starts: list[Any] = [None] * len(problems)
        start = [np.zeros(problem.n_params) for problem in problems]
        self._smooth = all(problem.smooth for problem in problems)
        self._estimates = [InverseHessian(w.size, memory) for w in start]
        self.restart(theta, start)
        self._scales = [float(np.linalg.norm(s.grad)) for s in self.solutions]
        self._first_values = np.array([s.value for s in self.solutions])

    @property
    def theta(self) -> Vector:  # type: ignore[override]
        return self.state.theta

    @property
    def solutions(self) -> list[Solution]:  # type: ignore[override]
        return self.state.solutions

    @property
    def spent(self) -> bool:
        return self.n_iter >= MAX_SOLVES_PER_SEARCH * self.max_iter

    def restart(self, theta: Vector, ws: Sequence[Vector]) -> None:
        """Go to inner variables ``ws`` and ``theta``; the pairs stay."""
        begun = [begin(w, estimate) for w, estimate in zip(ws, self._estimates, strict=True)]
        self._arrive(theta, run_together(self.problems, theta, begun))

    def evaluate(self, ask: Ask, scheduled: float | None = None) -> Evaluation:
        if self._single and ask.tolerance < np.inf:
            self._go_on_in_double(ask.theta)
        self._move(ask.theta)
        if scheduled is not None:
            self._iterate(max(scheduled, SMALLEST_TOLERANCE), self.max_iter)
            accuracy = scheduled * float(np.linalg.norm(self._along))
            return self._evaluation(scheduled, accuracy)
        last = min(self.n_iter + self.max_iter, MAX_SOLVES_PER_SEARCH * self.max_iter)
        most = self.n_passes + ask.patience
        while True:
            while not self._accurate(ask) and self.n_iter < last and self.n_passes < most:
                # With an adjoint at hand, a look at the error is one product of vectors.
                step = ITERATIONS_BETWEEN_LOOKS if self.state.adjoints is None else 1
                self._iterate(SMALLEST_TOLERANCE, min(step, last - self.n_iter))
                if self._single and (self._final or self._euclid < SINGLE_GRADIENT_SHARE):
                    self._go_on_in_double(ask.theta)
                elif self._final or self.late:
                    break
            evaluation = self._evaluation(LINEAR_SYSTEM_RESIDUAL, ask.grad_accuracy, ask.tolerance)
            if self.n_iter >= last and not evaluation.final:
                return replace(evaluation, final=True, exhausted=True)
            allowed = ask.allowed(evaluation.size)
            ended = evaluation.final or self.late or self.n_passes >= most
            if evaluation.error <= allowed or ended:
                return evaluation
            if self._single and allowed < SINGLE_VALUE_SHARE * evaluation.size:
                self._go_on_in_double(ask.theta)
            # What was known before the evaluation may still look accurate enough.
            self._iterate(SMALLEST_TOLERANCE, 1)

    def _go_on_in_double(self, theta: Vector) -> None:
        """Solve in double precision from here on: single is enough to steer by, and for no more."""
        self._single = self.problems.evaluate_in_single(False)
        self.restart(theta, [s.w for s in self.solutions])

    def _move(self, theta: Vector) -> None:
        r"""Go to another theta with the same solutions.

        Where the penalty is quadratic, with the diagonal h, this takes no pass: gradients change by
        :math:`p = (h_\text{new} - h_\text{old}) \odot w`, and values by :math:`w^\top p / 2`.
        """
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
        self._arrive(theta, moved)

    def _arrive(self, theta: Vector, solutions: list[Solution]) -> None:
        """Begin at a theta, and move the estimates of the inverse Hessians there."""
        self.state = InnerState(theta, Iterates(self.problems, solutions, self.map))
        ws = [s.w for s in solutions]
        solvers = self.problems.preconditioners(ws, theta)
        # A diagonal takes half a pass. Where a factorised Hessian replaces it in L-BFGS, the first
        # one is kept.
        diagonals: Sequence[Vector | None] = [None] * len(ws)
        if any(solver is None for solver in solvers) or self.n_iter == 0:
            diagonals = self.problems.data_diagonals(ws)
        hessians = [problem.penalty_hessian(theta) for problem in self.problems]
        moves = self.map(InverseHessian.set_penalty, self._estimates, hessians, diagonals, solvers)
        list(moves)  # a map may be lazy

    def _iterate(self, tolerance: float, max_iter: int) -> None:
        """Bring the inner problems nearer to their solutions.

        One that has stalled at this theta would only stall again.
        """
        solvers = [
            rest(s)
            if s.status is Status.STALLED and not self.state.arrived
            else self.solver(
                s,
                tol=tolerance * scale,
                max_iter=max_iter,
                step=step,
                probe=probe and partial(probe, self.theta, self._along),
            )
            for s, scale, probe, step in zip(
                self.solutions,
                self._scales,
                self._probes,
                self.state.next_steps_if_known,
                strict=True,
            )
        ]
        solutions = run_together(self.problems, self.theta, solvers, map=self.map)
        self.state = self.state.iterated(solutions)
        made = max(s.n_iter for s in solutions)
        # A solver that makes no iteration and does not say that it is done is charged one, so that
        # the limit of iterations ends it.
        self.n_iter += made if made or self._final else 1

    @property
    def _final(self) -> bool:
        return all(s.status is not Status.MAX_ITER for s in self.solutions)

    def _tolerance(self, asked: float) -> float:
        """Return how far inner gradients are from zero: the largest norm, relative to the start.

        That is Euclid's norm, which depends on the units of the variables. What the gradients are
        worth in the criterion does not, and counts instead where Euclid's norm is larger than
        ``asked`` and larger than that.
        """
        euclid = self._euclid
        if euclid <= asked:
            return euclid
        # The last value that is known: that of the present iterates would take half a pass.
        value = float(np.mean(self.fold_values))
        size = self._size(value)
        # Nothing is small beside a criterion of zero.
        share = self._second_order(value) / size if size > 0.0 else np.inf
        return min(euclid, SECOND_ORDER_FACTOR * share)

    @property
    def _euclid(self) -> float:
        """The largest Euclidean norm of an inner gradient, relative to that at the start."""
        norms = [float(np.linalg.norm(s.grad)) for s in self.solutions]
        return max(n / (scale or 1.0) for n, scale in zip(norms, self._scales, strict=True))

    def _size(self, value: float) -> float:
        """Return what errors of a criterion of this value are relative to."""
        return max(abs(value), self._floor)

    def _second_order(self, value: float) -> float:
        r"""Return what the adjoints do not correct in a criterion; infinity if unknown.

        An inner objective is above its minimum by :math:`\nabla g^\top H^{-1} \nabla g / 2`, which
        is of second order in the error of w. As a share of all that it has fallen, that is about
        the share of the criterion's own fall that errors of second order are worth.
        """
        quadratic = all(p.penalty_hessian(self.theta) is not None for p in self.problems)
        if not (quadratic and all(map(vouched, self._answers))):
            # Values at the start may be those of another objective, or there is no correction.
            return np.inf
        steps = zip(self.solutions, self.state.next_steps, strict=True)
        left = np.array([-0.5 * (s.grad @ step) for s, step in steps])
        fallen = self._first_values - [s.value for s in self.solutions]
        if not ((left >= 0.0) & (fallen > 0.0)).all() or np.isnan(value):
            return np.inf
        fall = max(abs(self.problems.null_value - value), SMALLEST_FALL * self._size(value))
        return float((left / fallen).max()) * fall

    def _accurate(self, ask: Ask) -> bool:
        """Whether the solutions seem to be as accurate as asked for.

        Three tests of rising cost: the adjoint of some iterations ago (nothing), the change along
        the next step (half a pass), and, in :meth:`_evaluation`, a new adjoint.
        """
        state = self.state
        if state.arrived or self._tolerance(ask.tolerance) > ask.tolerance:
            return False
        # An adjoint from some iterations ago promises too small an error, since L-BFGS removes
        # first what its estimate knows. If even that is too large, it is too early for another
        # look.
        if state.adjoints is not None and mean_size(self._likely_changes) > ask.accuracy:
            return False
        if state.fresh or ask.accuracy == ask.relative == np.inf:
            return True
        value = float(np.mean(state.iterates.outer_values))
        return mean_size(state.promised_changes) <= ask.allowed(self._size(value))

    @property
    def _likely_changes(self) -> Vector:
        """What solving exactly would change of each outer loss, by the last adjoints."""
        state = self.state
        return state.largest_changes if self._kinked else state.weighted_residuals

    @property
    def _kinked(self) -> bool:
        """Whether second derivatives jump so much that adjoints tell only the size of errors.

        That of a squared hinge jumps where a row reaches the margin. When the criterion is nearly
        zero, few rows are inside of it, and each counts.
        """
        if self._smooth or self.state.adjoints is None:
            return False
        # The last values that are known: those of the present iterates would take half a pass.
        return float(np.mean(self.state.adjoints.iterates.outer_values)) < self._floor

    @property
    def _floor(self) -> float:
        return NULL_VALUE_SHARE * self.problems.null_value

    def _solve_adjoints(self, tol: float, accuracy: float) -> None:
        outer_grads = self.state.iterates.outer_grads
        calls = [
            self.method(
                AdjointProblem(
                    problem, self.theta, s, grad, tol=tol, accuracy=accuracy, start=start
                )
            )
            for problem, s, grad, start in zip(
                self.problems, self.solutions, outer_grads, self._starts, strict=True
            )
        ]
        answers = run_together(self.problems, self.theta, as_solvers(calls), map=self.map)
        for answer, grad in zip(answers, outer_grads, strict=True):
            if answer.q.shape != grad.shape:
                raise ValueError(
                    f"hypergradient must return a q of shape {grad.shape}, got {answer.q.shape}."
                )
        self._starts = [answer.q if answer.state is None else answer.state for answer in answers]
        self.n_hvp += max(answer.n_hvp for answer in answers)
        self.state = self.state.with_adjoints(answers)

    def _evaluation(self, tol: float, accuracy: float, tolerance: float = np.inf) -> Evaluation:
        """Return the evaluation of the state, with new adjoints unless the old ones are enough.

        The arguments are what is asked of the adjoints' residuals, of the hypergradient and of the
        inner gradients.
        """
        adjoints = self.state.adjoints
        # Where only the value has to be better, the hypergradient of some iterations ago is enough.
        enough = adjoints is not None and adjoints.known and accuracy == np.inf
        if enough and not self.state.fresh:
            changes, bound = self.state.promised_changes, np.inf  # the bound was for other iterates
        else:
            self._solve_adjoints(tol, accuracy)
            changes, bound = self.state.weighted_residuals, None
        answers = self._answers
        values, error = self._corrected(changes, answers)
        grad_error = float(np.mean([answer.error for answer in answers]))
        if self._kinked:
            error = max(error, mean_size(self.state.largest_changes))
            grad_error += error  # over a unit of log penalty, a wrong value makes a wrong slope
        grad = self._hypergradient(answers)
        solved = all(s.status is not Status.NON_FINITE for s in self.solutions)
        if not (solved and np.isfinite(values).all() and np.isfinite(grad @ grad)):
            raise NotFiniteError(self.theta)
        self.fold_values = values
        if grad.any():
            self._along = grad
        shrinkage, pull = prior(self.theta, self.shrinkage)
        longest = max(answers, key=lambda answer: answer.n_steps)
        return Evaluation(
            theta=self.theta,
            value=float(values.mean()) + shrinkage,
            grad=grad + pull,
            error=error,
            residual=max(answer.residual for answer in answers),
            prior=shrinkage,
            grad_error=grad_error,
            grad_bound=float(np.mean([a.bound for a in answers])) if bound is None else bound,
            grad_asked=accuracy,
            used=longest.used,
            n_steps=longest.n_steps,
            final=self._final and not self._single,
            tolerance=self._tolerance(tolerance),
            floor=self._floor,
            cheap=self.problems.work <= CHEAP_PASS_MULTIPLICATIONS,
            passes=self.n_passes,
        )

    @property
    def _answers(self) -> list[Hypergradient]:
        return [] if self.state.adjoints is None else self.state.adjoints.answers

    def _corrected(self, changes: Vector, answers: Sequence[Hypergradient]) -> tuple[Vector, float]:
        """Return the outer losses, corrected for their inner errors, and the error of their mean.

        ``changes`` are what solving exactly would change of each. They are added where the adjoint
        can be relied on, and their mean size is an error in any case: the correction may be wrong
        by as much, and changes that cancel say nothing of errors that need not. Where that is known
        to be more, the error is what changes of second order are worth.
        """
        values = self.state.iterates.outer_values
        corrected = values + changes
        possible = corrected >= [problem.outer_minimum for problem in self.problems]
        # A change to below the minimum of a loss is impossible: the adjoint is wrong there.
        believed = possible & np.array([vouched(answer) for answer in answers])
        values = np.where(believed, corrected, values)
        value = float(values.mean())
        second = self._second_order(value)
        rounding = SINGLE_VALUE_SHARE * self._size(value) if self._single else 0.0
        return values, max(mean_size(changes), second if second < np.inf else 0.0, rounding)

    def _hypergradient(self, answers: Sequence[Hypergradient]) -> Vector:
        """Return minus the mean over the problems of the cross derivative times q."""
        grad = np.zeros_like(self.theta)
        for problem, solution, answer in zip(self.problems, self.solutions, answers, strict=True):
            grad -= problem.cross_vjp(solution.w, self.theta, answer.q) / len(answers)
        return grad
