"""The inner side of the outer loop: solves all inner problems and takes samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hypergradients import Hypergradient, Method, as_solvers
from ..inner.inverse_hessian import InverseHessian
from ..inner.lbfgs import Solution, Status, lbfgs, quasi_newton_step
from ..problems.base import ProblemSet
from ..problems.requests import Evaluate, run_together
from .steps import RELIABLE_RESIDUAL, Ask, Sample
from .steps.base import NotFiniteError
from .tolerances import FLOOR, FLOOR_SHARE

Vector = NDArray[np.float64]

# Inner iterations between two looks at what the inner error is worth.
CHUNK = 2

# Inner iterations of a whole search, in units of the largest number in one solve: what needs more
# is not going to end.
MOST_SOLVES = 4

# Multiplications of a pass that is cheap enough to look at the whole range: below a millisecond.
CHEAP_WORK = 1e6

# Relative residual that is enough for linear systems of the hypergradient, unless scheduled.
LINEAR_TOLERANCE = 1e-4


class Sampler:
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
        self._before = problems.n_passes  # other searches have spent
        self.method = method
        self.theta = theta
        self.max_iter = max_iter
        self.shrinkage = shrinkage
        self.map = map
        self.n_iter = 0
        self.n_hvp = 0
        self.deadline = np.inf
        self.fold_values = np.full(len(problems), np.nan)
        probe = getattr(method, "probe", None)
        self._probes = [probe and probe(problem) for problem in problems]
        self._along = np.ones_like(theta)
        self._starts: list[Any] = [None] * len(problems)
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
        self._forget()

    def sample(self, ask: Ask, scheduled: float | None = None) -> Sample:
        """Solve at ``ask.theta`` as scheduled, or else until as accurate as asked for."""
        self._move(ask.theta)
        if scheduled is not None:
            self._iterate(max(scheduled, FLOOR), self.max_iter)
            accuracy = scheduled * float(np.linalg.norm(self._along))
            return self._sample(scheduled, accuracy)
        last = min(self.n_iter + self.max_iter, MOST_SOLVES * self.max_iter)
        while True:
            while not self._accurate(ask) and self.n_iter < last:
                # With an adjoint at hand, a look costs nothing.
                step = CHUNK if self._prices is None else 1
                self._iterate(FLOOR, min(step, last - self.n_iter))
                if self._final or self.late:
                    break
            sample = self._sample(LINEAR_TOLERANCE, ask.grad_accuracy)
            if self.n_iter >= last and not sample.final:
                return replace(sample, final=True, exhausted=True)
            done = sample.error <= ask.accuracy or sample.final
            if done or self.late:
                return sample

    @property
    def spent(self) -> bool:
        """Whether the inner solvers have made as many iterations as a search may cost."""
        return self.n_iter >= MOST_SOLVES * self.max_iter

    @property
    def late(self) -> bool:
        """Whether the time is over: a sample is then as accurate as it has become."""
        return time.perf_counter() >= self.deadline

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
        self._forget()

    def _forget(self) -> None:
        """Drop what was known at another theta, and set the estimates to the present one."""
        self._moved, self._fresh = True, False
        self._outer: list[tuple[float, Vector]] | None = None
        self._prices: list[Vector] | None = None
        self._steps: list[Vector] | None = None
        self._answers: list[Hypergradient] | None = None
        ws = [s.w for s in self.solutions]
        solvers = self.problems.preconditioners(ws, self.theta)
        diagonals: Sequence[Vector | None] = [None] * len(ws)
        if any(solver is None for solver in solvers) or self.n_iter == 0:
            diagonals = self.problems.data_diagonals(ws)
        for problem, estimate, diagonal, solver in zip(
            self.problems, self._estimates, diagonals, solvers, strict=True
        ):
            estimate.set_penalty(problem.penalty_hessian(self.theta), diagonal, solver)

    def _iterate(self, tolerance: float, max_iter: int) -> None:
        """Bring the inner problems nearer to their solutions."""
        steps: Sequence[Vector | None] = self._steps or [None] * len(self.solutions)
        solvers = [
            lbfgs(
                s.w,
                s.inverse_hessian,
                tol=tolerance * scale,
                max_iter=max_iter,
                start=(s.value, s.grad),
                step=step,
                probe=probe and partial(probe, self.theta, self._along),
            )
            for s, scale, probe, step in zip(
                self.solutions, self._scales, self._probes, steps, strict=True
            )
        ]
        self.solutions = run_together(self.problems, self.theta, solvers, map=self.map)
        self.n_iter += max(s.n_iter for s in self.solutions)
        self._moved = self._fresh = False
        self._outer = self._steps = None

    def _outer_losses(self) -> list[tuple[float, Vector]]:
        """Return the outer loss and its gradient of each problem, computed when first asked for."""
        if self._outer is None:
            ws = [s.w for s in self.solutions]
            self._outer = self.problems.outer_values_and_grads(ws)
        return self._outer

    def _accurate(self, ask: Ask) -> bool:
        """Whether the solutions here seem to be as accurate as asked for."""
        if self._moved or self.tolerance > ask.tolerance:
            return False
        # An adjoint from some iterations ago says too little, but says it for nothing.
        if self._prices is not None and _size(self._priced()) > ask.accuracy:
            return False
        if self._fresh or ask.accuracy == ask.relative == np.inf:
            return True
        value = abs(float(np.mean([value for value, _ in self._outer_losses()])))
        value = max(value, FLOOR_SHARE * self.problems.null_value)
        return _size(self._promised()) <= min(ask.accuracy, ask.relative * value)

    def _priced(self) -> Vector:
        """Return what the inner gradients will change of the outer losses, by the last adjoints."""
        pairs = zip(self._prices or (), self.solutions, strict=True)
        return -np.array([q @ s.grad for q, s in pairs])

    def _promised(self) -> Vector:
        """Return what the next steps of the inner solvers promise to change of the outer losses."""
        if self._steps is None:
            self._steps = list(self.map(quasi_newton_step, self.solutions))
        pairs = zip(self._outer_losses(), self._steps, strict=True)
        return np.array([grad @ step for (_, grad), step in pairs])

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

    def _hypergradients(self, tol: float, accuracy: float) -> list[Hypergradient]:
        outer_grads = [grad for _, grad in self._outer_losses()]
        calls = [
            self.method(problem, self.theta, s, grad, tol=tol, accuracy=accuracy, start=start)
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
        # A q that nobody vouches for prices nothing; the solver's own estimate still does.
        self._prices = [
            answer.q if _vouched(answer) else s.inverse_hessian @ grad
            for answer, s, grad in zip(answers, self.solutions, outer_grads, strict=True)
        ]
        # Where a method does not know its error, it is asked again for each sample.
        known = all(np.isfinite(answer.error) for answer in answers)
        self._answers = answers if known else None
        self._fresh, self._steps = True, None
        self.n_hvp += max(answer.n_hvp for answer in answers)
        return answers

    def _sample(self, tol: float, accuracy: float) -> Sample:
        if self._answers is not None and not self._fresh and accuracy == np.inf:
            # Nobody needs the hypergradient better than it was some iterations ago.
            answers, changes = self._answers, self._promised()
            bound = np.inf  # it held at the solutions of some iterations ago
        else:
            answers, changes = self._hypergradients(tol, accuracy), self._priced()
            bound = float(np.mean([answer.bound for answer in answers]))
        n = len(answers)
        grad = np.zeros_like(self.theta)
        for problem, solution, answer in zip(self.problems, self.solutions, answers, strict=True):
            grad -= problem.cross_vjp(solution.w, self.theta, answer.q) / n
        values = np.array([value for value, _ in self._outer_losses()])
        corrected = values + changes
        error = abs(float(changes.mean()))
        possible = corrected >= [problem.outer_minimum for problem in self.problems]
        if not possible.all():
            # Who promises the impossible knows nothing of the error but that it is as large.
            error = _size(changes)
        believed = possible & all(map(_vouched, answers))
        self.fold_values = np.where(believed, corrected, values)
        solved = all(s.status is not Status.NON_FINITE for s in self.solutions)
        if not (solved and np.isfinite(self.fold_values).all() and np.isfinite(grad @ grad)):
            raise NotFiniteError(self.theta)
        if grad.any():
            self._along = grad
        spread = self.theta - self.theta.mean()
        prior = 0.5 * self.shrinkage * float(spread @ spread)
        return Sample(
            theta=self.theta,
            value=float(self.fold_values.mean()) + prior,
            grad=grad + self.shrinkage * spread,
            error=error,
            residual=max(answer.residual for answer in answers),
            prior=prior,
            grad_error=float(np.mean([answer.error for answer in answers])),
            grad_bound=bound,
            grad_asked=accuracy,
            used=max((answer.used for answer in answers), key=len),
            final=self._final,
            tolerance=self.tolerance,
            floor=FLOOR_SHARE * self.problems.null_value,
            cheap=self.problems.work <= CHEAP_WORK,
            passes=self.problems.n_passes - self._before,
        )


def _size(changes: Vector) -> float:
    """Return how much the outer losses change, whatever the signs."""
    return float(np.mean(np.abs(changes)))


def _vouched(answer: Hypergradient) -> bool:
    """Whether a method stands up for its q, be it by the residual or by an error that it knows."""
    return answer.residual <= RELIABLE_RESIDUAL or np.isfinite(answer.error)
