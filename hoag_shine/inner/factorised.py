"""Solutions of small problems, whose Hessians are factorised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..linalg.threads import one_blas_thread
from ..problems.direct import DirectProblems, DirectSolution
from ..problems.direct.newton import MAX_NEWTON_STEPS
from .base import LazySolutions, Solution, Status
from .inverse_hessian import _Operator

Vector = NDArray[np.float64]


def only_solution(
    part: DirectProblems, theta: Vector, start: Vector | None, max_iter: int
) -> Solution:
    """Return the solution of a single problem, from some variables on if they are given."""
    if start is not None:
        part.start([start])
    with one_blas_thread():
        solved = part.solve(theta, max_iter=min(max_iter, MAX_NEWTON_STEPS))
    return factorised_solution(part, solved, 0, theta)


class FactorisedSolutions(LazySolutions):
    """The Newton solutions of all problems, each made when it is asked for.

    Few are: of thousands of folds, one for each row that is left out, most searches ask for none.
    """

    def __init__(
        self, parts: Sequence[DirectProblems], solved: Sequence[DirectSolution], theta: Vector
    ) -> None:
        self._parts, self._solved, self._theta = parts, solved, theta

    def _made(self, k: int) -> Solution:
        i, own = 0, k
        while own >= self._parts[i].n_folds:
            own -= self._parts[i].n_folds
            i += 1
        return factorised_solution(self._parts[i], self._solved[i], own, self._theta)

    def __len__(self) -> int:
        return sum(part.n_folds for part in self._parts)


def factorised_solution(
    part: DirectProblems, solved: DirectSolution, k: int, theta: Vector
) -> Solution:
    """Return the Newton solution of problem k in the form that any inner solver returns."""
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
