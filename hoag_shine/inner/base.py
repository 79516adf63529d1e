"""What an inner solver is handed, and what it returns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from ..problems.requests import Evaluate, Solver
from .inverse_hessian import InverseHessian

Vector = NDArray[np.float64]
Probe = Callable[[int, Vector, InverseHessian], Iterable[Vector]]


class Status(Enum):
    """Why the inner solver stopped."""

    CONVERGED = "the gradient norm is within the tolerance"
    MAX_ITER = "the iteration limit was reached"
    STALLED = "no step decreases the objective beyond rounding"
    NON_FINITE = "the objective or its gradient is not finite"


@dataclass(frozen=True)
class Solution:
    """What an inner solver returns.

    Attributes
    ----------
    w : ndarray of shape (n,)
        The solution.
    value : float
        Inner objective at ``w``.
    grad : ndarray of shape (n,)
        Its gradient at ``w``.
    inverse_hessian : InverseHessian or LinearOperator of shape (n, n)
        The estimate built on the way. A further solve that is given this object extends it; keep
        a ``copy()`` where that matters. Where the problem was solved by factorised Hessians, it is
        the inverse itself.
    n_iter : int
        Iterations.
    n_passes : int
        Data passes: values with gradients, and Hessian products.
    status : Status
        Why the solver stopped.
    """

    w: Vector
    value: float
    grad: Vector
    inverse_hessian: Any
    n_iter: int
    n_passes: int
    status: Status

    @property
    def converged(self) -> bool:
        """Whether the gradient norm is within the tolerance."""
        return self.status is Status.CONVERGED


class LazySolutions(Sequence[Solution]):
    """Solutions that are made when they are asked for; a subclass says how many, and makes one."""

    @abstractmethod
    def _made(self, k: int) -> Solution:
        """Return the solution of problem k, counted from zero."""

    @overload
    def __getitem__(self, k: int) -> Solution: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[Solution]: ...
    def __getitem__(self, k: int | slice) -> Solution | Sequence[Solution]:
        places = range(len(self))[k]
        return self._made(places) if isinstance(places, int) else [self._made(i) for i in places]


class InnerSolver(Protocol):
    r"""What solves an inner problem: it goes on from the best solution so far to a better one.

    It is a generator of requests, see :mod:`hoag_shine.problems.requests`, so that the solvers of
    all folds share the passes over the data.
    """

    def __call__(
        self,
        start: Solution,
        *,
        tol: float,
        max_iter: int,
        step: Vector | None = None,
        probe: Probe | None = None,
    ) -> Solver[Solution]:
        """Go on from ``start``.

        Parameters
        ----------
        start : Solution
            Where to begin: w, value and gradient, and the estimate of the inverse Hessian, which
            may hold pairs of earlier solves. A solver that finds pairs appends them, in place.
        tol : float
            Stop when the gradient's Euclidean norm is at most this.
        max_iter : int
            Iterations to make at most.
        step : ndarray of shape (n,), optional
            The quasi-Newton step from there, where it is known already. May be ignored.
        probe : callable, optional
            Called as ``probe(n_iter, w, inverse_hessian)`` after each iteration. It returns
            directions v; for each, the solver appends the pair (v, Hv). May be ignored, but then
            ``hypergradient="shine-opa"`` does no more than ``"shine"``.

        Returns
        -------
        solution : Solution
        """


def begin(w: Vector, inverse_hessian: InverseHessian) -> Solver[Solution]:
    """Evaluate the objective at w; return what a solver can start from."""
    value, grad = yield Evaluate(w)
    return Solution(w, value, grad, inverse_hessian, 0, 1, Status.MAX_ITER)


def rest(solution: Solution) -> Solver[Solution]:
    """Return a solution as it is, as a solver that makes no iteration."""
    return replace(solution, n_iter=0, n_passes=0)
    yield  # makes this a generator
