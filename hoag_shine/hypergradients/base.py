"""What a hypergradient method is handed, and what it returns."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..inner import Solution
from ..problems.base import Problem
from ..problems.requests import Solver

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AdjointProblem:
    r"""The linear system :math:`Hq = \nabla f` at an inner solution, and how well to solve it.

    Attributes
    ----------
    problem : Problem
        Where H, the Hessian of its inner objective in w, comes from.
    theta : ndarray of shape (n_hyperparameters,)
        Logarithms of the hyperparameters.
    solution : Solution
        The inner solution that was reached, with the solver's estimate of the inverse of H.
    outer_grad : ndarray of shape (n_params,)
        Gradient of the outer loss at the solution.
    tol : float
        Residual to reach, relative to the norm of ``outer_grad``.
    accuracy : float
        Error of the hypergradient's norm that makes no difference to the outer loop; infinity if
        any error is allowed.
    start : object
        What the last answer for this problem left as its ``state``; None at first.
    """

    problem: Problem
    theta: Vector
    solution: Solution
    outer_grad: Vector
    tol: float = 1e-4
    accuracy: float = float("inf")
    start: Any = None


@dataclass(frozen=True)
class Hypergradient:
    r"""An answer to ``H q = outer_grad``.

    Attributes
    ----------
    q : ndarray of shape (n_params,)
        The adjoint vector.
    n_hvp : int
        Hessian-vector products spent.
    residual : float
        :math:`\|Hq - \nabla f\| / \|\nabla f\|` where the method knows it, else NaN.
    error : float
        Estimated error of the hypergradient, in norm, where the method has an estimate, else NaN.
    bound : float
        What that error certainly does not exceed; infinity where nothing is certain.
    used : str
        What was done, in a few words, where the method has a choice.
    n_steps : int
        Steps of an iterative method at this solution, in this call and those that it continues.
    state : object
        Handed back as ``start`` by the next call for the same problem; q itself if None.
    """

    q: Vector
    n_hvp: int = 0
    residual: float = float("nan")
    error: float = float("nan")
    bound: float = float("inf")
    used: str = ""
    n_steps: int = 0
    state: Any = None


class Method(Protocol):
    """A hypergradient method; it may also have a ``probe``, see :class:`ShineOPA`."""

    def __call__(self, adjoint: AdjointProblem, /) -> Hypergradient | Solver[Hypergradient]:
        """Answer at once, or be a generator of requests that returns the answer."""


def as_solvers(
    calls: Sequence[Hypergradient | Solver[Hypergradient]],
) -> list[Solver[Hypergradient]]:
    """Return a method's calls as generators, whether or not they were."""
    for call in calls:
        if not isinstance(call, (Hypergradient, Generator)):
            raise TypeError(
                "hypergradient must return a Hypergradient, or be a generator of requests that "
                f"does, but it returned {call!r}."
            )
    return [_finished(call) if isinstance(call, Hypergradient) else call for call in calls]


def _finished(answer: Hypergradient) -> Solver[Hypergradient]:
    return answer
    yield  # makes this a generator


def relative(residual: Vector | float, outer_grad: Vector) -> float:
    """Return the norm of a residual, or that norm, relative to that of the right-hand side."""
    scale = float(np.linalg.norm(outer_grad))
    return float(np.linalg.norm(residual)) / scale if scale > 0.0 else 0.0
