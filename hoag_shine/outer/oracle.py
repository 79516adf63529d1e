"""The oracle of the outer loop: it answers with the criterion and its hypergradient at a theta."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..inner import Solution
from ..problems.base import ProblemSet
from .steps import Ask, Evaluation

Vector = NDArray[np.float64]


class Oracle(ABC):
    """Solves all inner problems at a theta and evaluates the criterion there.

    It keeps what one solve has found (solutions, pairs, adjoints) as the start of the next.

    Parameters
    ----------
    problems : ProblemSet
    deadline : float, default=inf
        Time, by ``time.perf_counter``, after which evaluations are returned as accurate as they are
        by then.

    Attributes
    ----------
    theta : ndarray of shape (n_hyperparameters,)
        At which the inner problems are solved at present.
    solutions : sequence of Solution
        Of the inner problems there.
    fold_values : ndarray of shape (n_problems,)
        Each problem's part of the criterion at the last evaluation.
    n_iter, n_hvp : int
        Iterations of the inner solvers and Hessian products of the hypergradients so far.
    """

    theta: Vector
    solutions: Sequence[Solution]
    fold_values: Vector
    n_iter: int
    n_hvp: int

    def __init__(self, problems: ProblemSet, deadline: float = np.inf) -> None:
        self.problems = problems
        self._deadline = deadline
        # Other searches have spent these.
        self._before = problems.n_passes, problems.n_bytes_read, problems.n_bytes_sent

    @abstractmethod
    def restart(self, theta: Vector, ws: Sequence[Vector]) -> None:
        """Go to inner variables ``ws`` and ``theta``."""

    @abstractmethod
    def evaluate(self, ask: Ask, scheduled: float | None = None) -> Evaluation:
        """Return the criterion at ``ask.theta`` as accurately as asked.

        Where ``scheduled`` is given, the inner gradients' norms fall to that share of those at the
        start instead.

        Raises
        ------
        NotFiniteError
            Where the criterion or the hypergradient is not finite.
        """

    @property
    def n_passes(self) -> float:
        """Data passes since this oracle was made."""
        return self.problems.n_passes - self._before[0]

    @property
    def n_bytes_read(self) -> int:
        """Bytes read since then from data that are not in memory."""
        return self.problems.n_bytes_read - self._before[1]

    @property
    def n_bytes_sent(self) -> int:
        """Bytes that went to the workers of a cluster since then, or came from them."""
        return self.problems.n_bytes_sent - self._before[2]

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.perf_counter() >= self._deadline

    @property
    def spent(self) -> bool:
        """Whether the inner solvers have made all the iterations that a search may take."""
        return False


def prior(theta: Vector, shrinkage: float) -> tuple[float, Vector]:
    r"""Return :math:`\frac{s}{2} \sum_i (\theta_i - \bar\theta)^2` and its gradient."""
    spread = theta - theta.mean()
    return 0.5 * shrinkage * float(spread @ spread), shrinkage * spread
