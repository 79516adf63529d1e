"""The oracle of problems that fall apart into one for each hyperparameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..inner import Solution, Status
from ..inner.inverse_hessian import _Operator
from ..problems.base import ProblemSet
from .oracle import Oracle
from .steps import Ask, Evaluation
from .steps.base import NotFiniteError, unbounded

Vector = NDArray[np.float64]


class SeparateOracles(Oracle):
    """Several oracles, of one hyperparameter each, as one.

    The ``parts`` of its evaluations are those of the single oracles, each with its own accuracy,
    units and tolerance.

    Parameters
    ----------
    problems : ProblemSet
        All hyperparameters' problems.
    oracles : sequence of Oracle
        One for each hyperparameter.
    """

    def __init__(self, problems: ProblemSet, oracles: Sequence[Oracle]) -> None:
        super().__init__(problems)
        self.oracles = oracles
        self._parts: list[Evaluation | None] = [None] * len(oracles)
        self._n_problems = len(problems)

    @property
    def n_passes(self) -> float:
        return sum(oracle.n_passes for oracle in self.oracles)

    @property
    def n_bytes_read(self) -> int:
        return sum(oracle.n_bytes_read for oracle in self.oracles)

    @property
    def n_bytes_sent(self) -> int:
        return sum(oracle.n_bytes_sent for oracle in self.oracles)

    @property
    def theta(self) -> Vector:  # type: ignore[override]
        return np.concatenate([oracle.theta for oracle in self.oracles])

    @property
    def n_iter(self) -> int:  # type: ignore[override]
        return sum(oracle.n_iter for oracle in self.oracles)

    @property
    def n_hvp(self) -> int:  # type: ignore[override]
        return sum(oracle.n_hvp for oracle in self.oracles)

    @property
    def spent(self) -> bool:
        return all(oracle.spent for oracle in self.oracles)

    @property
    def late(self) -> bool:
        return self.oracles[0].late

    @property
    def fold_values(self) -> Vector:  # type: ignore[override]
        return np.asarray(np.sum([oracle.fold_values for oracle in self.oracles], axis=0))

    @property
    def solutions(self) -> list[Solution]:  # type: ignore[override]
        """The folds' solutions; the variables of each hyperparameter are a column."""
        return [
            _joined([oracle.solutions[k] for oracle in self.oracles])
            for k in range(self._n_problems)
        ]

    def restart(self, theta: Vector, ws: Sequence[Vector]) -> None:
        d = len(self.oracles)
        for j, oracle in enumerate(self.oracles):
            own = [np.ascontiguousarray(w.reshape(-1, d)[:, j]) for w in ws]
            oracle.restart(theta[j : j + 1], own)
            self._parts[j] = None

    def evaluate(self, ask: Ask, scheduled: float | None = None) -> Evaluation:
        asks = ask.parts or self._share(ask)
        parts = [self._part(j, own, scheduled) for j, own in enumerate(asks)]
        longest = max(parts, key=lambda s: s.n_steps)
        return Evaluation(
            theta=ask.theta,
            value=self._value(parts),
            grad=np.concatenate([s.grad for s in parts]),
            error=sum(s.error for s in parts),
            residual=max(s.residual for s in parts),
            final=all(s.final for s in parts),
            tolerance=max(s.tolerance for s in parts),
            grad_error=float(np.linalg.norm([s.grad_error for s in parts])),
            grad_bound=float(np.linalg.norm([s.grad_bound for s in parts])),
            grad_asked=ask.grad_accuracy,
            used=longest.used,
            n_steps=longest.n_steps,
            exhausted=any(s.exhausted for s in parts),
            floor=sum(s.floor for s in parts),
            exact=all(s.exact for s in parts),
            cheap=all(s.cheap for s in parts),
            passes=sum(s.passes for s in parts),
            parts=tuple(parts),
        )

    def _value(self, parts: Sequence[Evaluation]) -> float:
        """Return the criterion as the mean over the folds, summed up as every other oracle does."""
        finite = all(np.isfinite(s.value) for s in parts)
        return float(self.fold_values.mean()) if finite else np.inf

    def _share(self, ask: Ask) -> list[Ask]:
        """Return an ask for each oracle; its accuracy is in proportion to the criterion's size."""
        sizes = np.array([s.size if s else np.nan for s in self._parts])
        shares = sizes / sizes.sum() if np.isfinite(sizes).all() else np.ones(sizes.size)
        return [
            ask._replace(theta=ask.theta[j : j + 1], accuracy=ask.accuracy * share)
            for j, share in enumerate(shares)
        ]

    def _part(self, j: int, ask: Ask, scheduled: float | None) -> Evaluation:
        """Return an evaluation of one hyperparameter: the last one, if it is accurate enough."""
        last = self._parts[j]
        if last is not None and scheduled is None and np.array_equal(last.theta, ask.theta):
            accurate = last.error <= ask.allowed(last.size) and last.tolerance <= ask.tolerance
            if last.final or (accurate and not last.improvable(ask.grad_accuracy)):
                return last
        oracle = self.oracles[j]
        try:
            self._parts[j] = evaluation = oracle.evaluate(ask, scheduled)
        except NotFiniteError:
            if last is None:
                raise
            evaluation = unbounded(ask, last)
            oracle.restart(last.theta, [np.zeros_like(s.w) for s in oracle.solutions])
        return evaluation


def _joined(parts: Sequence[Solution]) -> Solution:
    worst = [s.status for s in parts if s.status is not Status.CONVERGED]
    return replace(
        parts[0],
        w=np.stack([s.w for s in parts], axis=1).ravel(),
        value=sum(s.value for s in parts),
        grad=np.stack([s.grad for s in parts], axis=1).ravel(),
        inverse_hessian=_Blocks([s.inverse_hessian for s in parts]),
        n_iter=max(s.n_iter for s in parts),
        n_passes=sum(s.n_passes for s in parts),
        status=worst[0] if worst else Status.CONVERGED,
    )


class _Blocks(_Operator):
    """The inverse Hessian of problems whose variables are the columns of one array."""

    def __init__(self, blocks: Sequence[Any]) -> None:
        n = sum(block.shape[0] for block in blocks)
        super().__init__(np.dtype(np.float64), (n, n))  # type: ignore[call-arg]
        self._blocks = blocks

    def _matvec(self, v: Vector) -> Vector:
        V = np.asarray(v, dtype=np.float64).reshape(-1, len(self._blocks))
        columns = [block @ V[:, j] for j, block in enumerate(self._blocks)]
        return np.stack(columns, axis=1).ravel()

    def _adjoint(self) -> Self:
        return self
