r"""The contract between a bilevel problem and everything that solves it.

.. math::
    \min_\theta \; \frac{1}{K} \sum_k f_k(w_k^*(\theta)), \qquad
    w_k^*(\theta) = \arg\min_w g_k(w, \theta)

A :class:`Problem` is one pair :math:`(f_k, g_k)`; a :class:`ProblemSet` is the K of them that
share :math:`\theta`. Solvers, hypergradients and the outer loop see nothing else, so that a cluster
or a GPU is plugged in here and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from .pool import Pool
from .requests import Evaluate, HessianProduct, Request

Vector = NDArray[np.float64]


class Problem(ABC):
    r"""One inner problem :math:`g(w, \theta)` and the outer loss :math:`f(w)` of its solution.

    A subclass sets the attributes and answers the abstract methods. ``theta`` holds logarithms of
    hyperparameters. All arrays are float64.

    Attributes
    ----------
    n_params : int
        Number of inner variables.
    n_hyperparameters : int
        Length of ``theta``.
    convex : bool
        A promise that the Hessian of g in w is positive semidefinite, for every w and theta, and
        still is without ``penalty_hessian`` where there is one. Bounds on errors rest on it.
    smooth : bool
        Whether second derivatives are continuous. Estimates of errors take them for constant.
    n_summed : int
        Number of terms in the sum that is an entry of a Hessian product, such as samples; rounding
        grows with it.
    outer_minimum : float
        What the outer loss is never below.
    n_passes : float
        Data passes made so far: one for a value with its gradient or for a Hessian product, a half
        where only one of the two products with the data matrix is needed.
    """

    n_params: int
    n_hyperparameters: int
    convex: bool = False
    smooth: bool = True
    n_summed: int = 1
    outer_minimum: float = -np.inf
    n_passes: float = 0.0

    @property
    def most_threads(self) -> int:
        """Number of threads that may share a pass over the data."""
        return 1

    def share_passes(self, pool: Pool | None) -> None:
        """Have threads share the passes over the data from now on; None ends that."""
        return

    @abstractmethod
    def value_and_grad(self, w: Vector, theta: Vector) -> tuple[float, Vector]:
        r"""Return :math:`g(w, \theta)` and its gradient in w."""

    @abstractmethod
    def hessp(self, w: Vector, theta: Vector) -> Callable[[Vector], Vector]:
        """Return the function that multiplies by the Hessian of g in w."""

    @abstractmethod
    def cross_vjp(self, w: Vector, theta: Vector, q: Vector) -> Vector:
        r"""Return :math:`(\partial^2 g / \partial\theta \partial w)^\top q`."""

    def cross_jvp(self, w: Vector, theta: Vector, direction: Vector) -> Vector:
        r"""Return :math:`(\partial^2 g / \partial\theta \partial w)\, s`, s a direction in theta.

        Only ``hypergradient="shine-opa"`` asks for it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no cross_jvp, which hypergradient='shine-opa' needs."
        )

    @abstractmethod
    def outer_value_and_grad(self, w: Vector) -> tuple[float, Vector]:
        """Return :math:`f(w)` and its gradient."""

    def penalty_hessian(self, theta: Vector) -> Vector | None:
        r"""Return the diagonal h of the part of g that depends on theta, if there is such a form.

        A problem that overrides this promises
        :math:`g(w, \theta) = g_0(w) + \frac{1}{2} w^\top \mathrm{diag}(h(\theta)) w`. Gradients
        and L-BFGS pairs then carry over from one theta to the next without error. The default,
        None, makes no such promise.
        """
        return None

    def data_diagonal(self, w: Vector) -> Vector | None:
        """Return the diagonal of the Hessian at w without ``penalty_hessian``, if it is known.

        It scales the variables and must not be negative: a problem that is not convex returns
        absolute values.
        """
        return None

    def preconditioner(self, w: Vector, theta: Vector) -> Callable[[Vector], Vector] | None:
        """Return the product with an approximate inverse of the Hessian at w.

        None, the default, if there is none that is worth its cost.
        """
        return None


class ProblemSet(Sequence[Problem]):
    """Problems that share theta; their mean outer loss is the criterion.

    This base class serves its members one after the other. A subclass that can answer many
    requests in one pass over common data overrides :meth:`answer` and ``n_passes``.

    Parameters
    ----------
    problems : sequence of Problem
        At least one, all with the same number of hyperparameters.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        if not problems:
            raise ValueError("problems is empty: at least one Problem is needed.")
        counts = {problem.n_hyperparameters for problem in problems}
        if len(counts) > 1:
            raise ValueError(
                f"problems must share theta, but they have {sorted(counts)} hyperparameters."
            )
        self._problems = tuple(problems)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        return self._problems[index]

    def __len__(self) -> int:
        return len(self._problems)

    @property
    def n_hyperparameters(self) -> int:
        """Length of theta."""
        return self._problems[0].n_hyperparameters

    @property
    def n_passes(self) -> float:
        """Data passes spent so far by all members."""
        return sum(problem.n_passes for problem in self._problems)

    @property
    def n_bytes_read(self) -> int:
        """Bytes read so far from data that are not in memory."""
        return 0

    @property
    def n_bytes_sent(self) -> int:
        """Bytes that have gone so far to the workers of a cluster, or come from them."""
        return 0

    @property
    def most_threads(self) -> int:
        """Number of calls that can be made side by side."""
        return len(self)

    def share_passes(self, pool: Pool | None) -> None:
        """Have threads share the passes over the data from now on; None ends that."""

    def evaluate_in_single(self, single: bool) -> bool:
        """Evaluate inner objectives in single precision from now on, or no longer.

        Return whether they are: only where that is faster.
        """
        return False

    @property
    def pass_share(self) -> float:
        """The share of the data that a pass reads: less than 1 where few rows stand for many."""
        return 1.0

    @property
    def null_value(self) -> float:
        """The criterion at inner variables zero, which tolerances refer to; 0 if unknown."""
        return 0.0

    @property
    def work(self) -> float:
        """Multiplications of a pass for all members; infinite if unknown."""
        return float("inf")

    @property
    def direct(self) -> Any:
        """What solves all members by factorised Hessians; None where that is not cheap."""
        return None

    def separate(self) -> list[ProblemSet] | None:
        """Return the problems of each hyperparameter, if these have nothing in common.

        The criterion is then the sum of theirs, and the inner variables of the problems are the
        columns of an array of shape (n_params / d, d). None, the default, if there are no such
        problems.
        """
        return None

    def answer(self, requests: Mapping[int, Request], theta: Vector) -> dict[int, Any]:
        """Answer one request for each of some members, keyed by their index."""
        return {k: _answer(self[k], request, theta) for k, request in requests.items()}

    def outer_values_and_grads(self, ws: Sequence[Vector]) -> list[tuple[float, Vector]]:
        """Return every member's outer value and gradient at its own w."""
        return [problem.outer_value_and_grad(w) for problem, w in zip(self, ws, strict=True)]

    def preconditioners(
        self, ws: Sequence[Vector], theta: Vector
    ) -> list[Callable[[Vector], Vector] | None]:
        """Return every member's ``preconditioner`` at its own w; one may serve several."""
        return [problem.preconditioner(w, theta) for problem, w in zip(self, ws, strict=True)]

    def data_diagonals(self, ws: Sequence[Vector]) -> list[Vector | None]:
        """Return every member's ``data_diagonal`` at its own w."""
        return [problem.data_diagonal(w) for problem, w in zip(self, ws, strict=True)]


class JoinedProblems(ProblemSet):
    """Several sets as one, for members that share theta but do not all have the same data.

    Each set still answers its own members together.

    Parameters
    ----------
    sets : sequence of ProblemSet
        At least one.

    Attributes
    ----------
    n_passes : float
        Mean over the members of the passes over their own data.
    """

    def __init__(self, sets: Sequence[ProblemSet]) -> None:
        super().__init__([problem for members in sets for problem in members])
        self.sets = tuple(sets)
        self._places = [(i, k) for i, members in enumerate(sets) for k in range(len(members))]

    @property
    def n_passes(self) -> float:
        return sum(len(members) * members.n_passes for members in self.sets) / len(self)

    @property
    def n_bytes_read(self) -> int:
        return sum(members.n_bytes_read for members in self.sets)

    @property
    def n_bytes_sent(self) -> int:
        return sum(members.n_bytes_sent for members in self.sets)

    @property
    def most_threads(self) -> int:
        return max(len(self), *(members.most_threads for members in self.sets))

    def share_passes(self, pool: Pool | None) -> None:
        for members in self.sets:
            members.share_passes(pool)

    def evaluate_in_single(self, single: bool) -> bool:
        each = [members.evaluate_in_single(single) for members in self.sets]  # all of them
        return any(each)

    @property
    def pass_share(self) -> float:
        return max(members.pass_share for members in self.sets)

    @property
    def null_value(self) -> float:
        return sum(len(members) * members.null_value for members in self.sets) / len(self)

    @property
    def work(self) -> float:
        return sum(members.work for members in self.sets)

    def separate(self) -> list[ProblemSet] | None:
        each = [members.separate() for members in self.sets]
        if any(own is None for own in each):
            return None
        return [JoinedProblems(own) for own in zip(*each, strict=True)]

    def answer(self, requests: Mapping[int, Request], theta: Vector) -> dict[int, Any]:
        shares: dict[int, dict[int, Request]] = {}
        for k, request in requests.items():
            i, local = self._places[k]
            shares.setdefault(i, {})[local] = request
        answers = {i: self.sets[i].answer(share, theta) for i, share in shares.items()}
        return {k: answers[i][local] for k in requests for i, local in [self._places[k]]}

    def outer_values_and_grads(self, ws: Sequence[Vector]) -> list[tuple[float, Vector]]:
        return self._from_each("outer_values_and_grads", ws)

    def preconditioners(
        self, ws: Sequence[Vector], theta: Vector
    ) -> list[Callable[[Vector], Vector] | None]:
        return self._from_each("preconditioners", ws, theta)

    def data_diagonals(self, ws: Sequence[Vector]) -> list[Vector | None]:
        return self._from_each("data_diagonals", ws)

    def _from_each(self, method: str, ws: Sequence[Vector], *arguments: Any) -> list[Any]:
        """Ask every set about its own members' w, and list the answers."""
        own = iter(ws)
        return [
            answer
            for members in self.sets
            for answer in getattr(members, method)([next(own) for _ in members], *arguments)
        ]


@contextmanager
def double_precision_after(sets: Sequence[ProblemSet]) -> Iterator[None]:
    """Have inner objectives be evaluated in double precision again when this ends."""
    try:
        yield
    finally:
        for problems in sets:
            problems.evaluate_in_single(False)


def _answer(problem: Problem, request: Request, theta: Vector) -> Any:
    match request:
        case Evaluate(w, _):
            return problem.value_and_grad(w, theta)
        case HessianProduct(w, v, _):
            product = problem.hessp(w, theta)
            return product(v) if v.ndim == 1 else np.stack([product(row) for row in v])
    raise TypeError(f"a solver asked for {request!r}, which is not a known request.")
