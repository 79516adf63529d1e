"""The inner side of the outer loop where the inner problems are small: solved by factorisation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..inner.inverse_hessian import _Operator
from ..inner.lbfgs import Solution, Status
from ..problems.base import ProblemSet
from ..problems.direct import DirectProblems, DirectSolution
from ..problems.direct.newton import MAX_ITER
from .steps import Ask, Sample
from .steps.base import NotFiniteError
from .tolerances import FLOOR_SHARE

Vector = NDArray[np.float64]

# Newton steps that may be in vain: of these, what is left is shared out among the next solves; and
# those that each may take in any case.
MOST_VAIN, NEXT, FEWEST_STEPS = 400, 4, 20


class ExactOracle:
    """All inner problems, solved at one theta after the other to the accuracy of the arithmetic.

    It has the methods of :class:`~hoag_shine.outer.inexact_oracle.Sampler`, and gives at once what
    that one approaches: nobody has to ask for accuracy.
    """

    def __init__(
        self,
        problems: ProblemSet,
        parts: Sequence[DirectProblems],
        theta: Vector,
        shrinkage: float,
        map: Callable[..., Iterable[Any]],  # noqa: A002
    ) -> None:
        self.problems = problems
        self._before = problems.n_passes  # other searches have spent
        self.theta = theta
        self.deadline = np.inf
        self.n_iter = 0
        self.n_hvp = 0
        self._in_vain = 0
        self.solutions: list[Solution] = []
        self.fold_values = np.full(len(problems), np.nan)
        self._parts = parts
        self._shrinkage = shrinkage
        self._map = map
        self._last: Sample | None = None
        for part in parts:
            part.forget()  # a search begins alike, whatever has been solved before

    @property
    def spent(self) -> bool:
        """Whether a search has cost what it may: every solve is bounded."""
        return False

    @property
    def _most_steps(self) -> int:
        """Newton steps that the next solve may take: fewer where many were in vain."""
        return max(FEWEST_STEPS, min(MAX_ITER, (MOST_VAIN - self._in_vain) // NEXT))

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.perf_counter() >= self.deadline

    def restart(self, theta: Vector, ws: Sequence[Vector]) -> None:
        """Go to inner variables ``ws`` and ``theta``."""
        self.theta, self._last = theta, None
        own = iter(ws)
        for part in self._parts:
            part.start([next(own) for _ in range(part.n_folds)])

    def sample(self, ask: Ask, scheduled: float | None = None) -> Sample:
        """Solve at ``ask.theta``."""
        if self._last is None or not np.array_equal(ask.theta, self._last.theta):
            self.theta = ask.theta
            self._last = self._sample(ask.theta)
        return self._last

    def _sample(self, theta: Vector) -> Sample:
        try:
            most = self._most_steps
            solved = list(self._map(lambda part: part.solve(theta, most), self._parts))
        except FloatingPointError as error:
            raise NotFiniteError(theta) from error
        n_iter = max(s.n_iter for s in solved)
        self.n_iter += n_iter
        self._in_vain += n_iter * any(not np.isfinite(s.errors).all() for s in solved)
        self.solutions = [
            _solution(part, s, k, theta)
            for part, s in zip(self._parts, solved, strict=True)
            for k in range(part.n_folds)
        ]
        self.fold_values = np.concatenate([s.values for s in solved])
        grad = np.concatenate([s.hypergradients for s in solved]).mean(axis=0)
        if not (np.isfinite(self.fold_values).all() and np.isfinite(grad).all()):
            raise NotFiniteError(theta)
        spread = theta - theta.mean()
        prior = 0.5 * self._shrinkage * float(spread @ spread)
        bound = float(np.concatenate([s.bounds for s in solved]).mean())
        return Sample(
            theta=theta,
            value=float(self.fold_values.mean()) + prior,
            grad=grad + self._shrinkage * spread,
            error=float(np.concatenate([s.errors for s in solved]).mean()),
            residual=0.0,
            final=True,
            tolerance=0.0,
            prior=prior,
            grad_error=bound,
            grad_bound=bound,
            grad_asked=0.0,  # no more accurate if asked again
            used="newton",
            floor=FLOOR_SHARE * self.problems.null_value,
            exact=True,
            cheap=True,
            passes=self.problems.n_passes - self._before,
        )


def first_solution(part: DirectProblems, theta: Vector, max_iter: int) -> Solution:
    """Return the solution of the first of some problems."""
    return _solution(part, part.solve(theta, max_iter=min(max_iter, MAX_ITER)), 0, theta)


def _solution(part: DirectProblems, solved: DirectSolution, k: int, theta: Vector) -> Solution:
    w = solved.ws[k]
    return Solution(
        w,
        float(solved.inner_values[k]),
        solved.grads[k],
        FactorisedInverse(part, k, theta, w),
        solved.n_iter,
        solved.n_iter,
        Status.CONVERGED if solved.converged[k] else Status.MAX_ITER,
    )


class FactorisedInverse(_Operator):
    """The inverse Hessian of a solution, which is factorised when it is first applied."""

    def __init__(self, part: DirectProblems, k: int, theta: Vector, w: Vector) -> None:
        super().__init__(np.dtype(np.float64), (w.size, w.size))  # type: ignore[call-arg]
        self._place = part, k, theta, w

    @cached_property
    def _product(self) -> Callable[[Vector], Vector]:
        part, k, theta, w = self._place
        return part.inverse(k, theta, w)

    def _matvec(self, v: Vector) -> Vector:
        return self._product(np.asarray(v, dtype=np.float64).ravel())

    def _adjoint(self) -> Self:
        return self
