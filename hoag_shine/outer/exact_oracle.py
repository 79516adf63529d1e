"""The oracle of small inner problems, which are solved by factorised Hessians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..inner import Solution, Status
from ..inner.inverse_hessian import _Operator
from ..problems.base import ProblemSet
from ..problems.direct import DirectProblems, DirectSolution
from ..problems.direct.newton import MAX_ITER
from .inner_state import Map
from .oracle import Oracle, prior
from .steps import Ask, Evaluation
from .steps.base import NotFiniteError
from .tolerances import FLOOR_SHARE

Vector = NDArray[np.float64]

# Newton steps that may be in vain: of these, what is left is shared out among the next solves; and
# those that each may take in any case.
MOST_VAIN, NEXT, FEWEST_STEPS = 400, 4, 20


class ExactOracle(Oracle):
    """All inner problems, solved by Newton's method to the accuracy of the arithmetic.

    It gives at once what the inexact oracle approaches: nobody has to ask for accuracy.
    """

    def __init__(
        self,
        problems: ProblemSet,
        parts: Sequence[DirectProblems],
        theta: Vector,
        shrinkage: float,
        map: Map,  # noqa: A002
        deadline: float = np.inf,
    ) -> None:
        super().__init__(problems, deadline)
        self.theta = theta
        self.n_iter = 0
        self.n_hvp = 0
        self._in_vain = 0
        self.solutions: list[Solution] = []
        self.fold_values = np.full(len(problems), np.nan)
        self._parts = parts
        self._shrinkage = shrinkage
        self._map = map
        self._last: Evaluation | None = None
        for part in parts:
            part.forget()  # a search begins alike, whatever has been solved before

    @property
    def _most_steps(self) -> int:
        """Newton steps that the next solve may take: fewer where many were in vain."""
        return max(FEWEST_STEPS, min(MAX_ITER, (MOST_VAIN - self._in_vain) // NEXT))

    def restart(self, theta: Vector, ws: Sequence[Vector]) -> None:
        self.theta, self._last = theta, None
        own = iter(ws)
        for part in self._parts:
            part.start([next(own) for _ in range(part.n_folds)])

    def evaluate(self, ask: Ask, scheduled: float | None = None) -> Evaluation:
        if self._last is None or not np.array_equal(ask.theta, self._last.theta):
            self.theta = ask.theta
            self._last = self._evaluate(ask.theta)
        return self._last

    def _evaluate(self, theta: Vector) -> Evaluation:
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
        shrinkage, pull = prior(theta, self._shrinkage)
        bound = float(np.concatenate([s.bounds for s in solved]).mean())
        return Evaluation(
            theta=theta,
            value=float(self.fold_values.mean()) + shrinkage,
            grad=grad + pull,
            error=float(np.concatenate([s.errors for s in solved]).mean()),
            residual=0.0,
            final=True,
            tolerance=0.0,
            prior=shrinkage,
            grad_error=bound,
            grad_bound=bound,
            grad_asked=0.0,  # no more accurate if asked again
            used="newton",
            floor=FLOOR_SHARE * self.problems.null_value,
            exact=True,
            cheap=True,
            passes=self.n_passes,
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
