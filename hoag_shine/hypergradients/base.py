"""What a hypergradient method returns, and what it may be."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..problems.requests import Solver

Vector = NDArray[np.float64]


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
    state : object
        Handed back as ``start`` by the next call for the same problem; q itself if None.
    """

    q: Vector
    n_hvp: int = 0
    residual: float = float("nan")
    error: float = float("nan")
    bound: float = float("inf")
    used: str = ""
    state: Any = None


Method = Callable[..., Hypergradient | Solver[Hypergradient]]


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
