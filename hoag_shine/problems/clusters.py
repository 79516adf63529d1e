"""Linear problems whose rows are held by the workers of a cluster.

A worker has :class:`~hoag_shine.problems.linear.LinearProblems` of its own rows, without a penalty:
these compute what is summed over rows, as they do in memory. The driver adds up what comes from the
workers, in the order of their rows, and adds the penalty.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..linalg.clusters import ClusterMatrix, Held, n_bytes
from .groups import FIXED, UNPENALISED
from .held_out import HeldOut
from .linear import LinearProblems
from .losses import Loss
from .passes import Passes
from .penalties import GroupedPenalty
from .requests import Evaluate, HessianProduct

Vector = NDArray[np.float64]
Array = NDArray[np.float64]


class ClusterProblems(LinearProblems):
    """The folds of a penalised linear model, on rows that are held by workers.

    Parameters
    ----------
    X : ClusterMatrix
    *args, **options
        As those of :class:`LinearProblems`.
    """

    _passes: ClusterPasses

    def __init__(self, X: ClusterMatrix, *args: Any, **options: Any) -> None:
        super().__init__(X, *args, **options)
        given = self.y[:, 0], self.loss, self.penalty.groups, self.train_weight, self.held_out
        # It does not refer to this set, which would then refer to itself.
        self._held = Held(self._passes.key, _Rows, partial(_rows, *given, self.fit_intercept))
        X.hold(self._held)

    def _make_passes(self, free: NDArray[np.bool_] | None) -> Passes:
        return ClusterPasses(self._X, self.n_outputs, self.fit_intercept, free, len(self))

    @property
    def n_bytes_sent(self) -> int:
        return self._passes.n_bytes_sent

    def losses(self, requests: Mapping[int, Evaluate]) -> tuple[Array, Array]:
        values, grads = self._passes.sums("losses", requests)
        return values, grads

    def loss_products(self, requests: Mapping[int, HessianProduct]) -> tuple[Array]:
        (products,) = self._passes.sums("loss_products", requests)
        return (products,)

    def outer_losses(self, ws: Mapping[int, Vector]) -> tuple[Array, Array]:
        values, grads = self._passes.sums("outer_losses", ws)
        return values, grads

    def loss_diagonals(self, ws: Mapping[int, Vector]) -> tuple[Array]:
        (diagonals,) = self._passes.sums("loss_diagonals", ws)
        return (diagonals,)

    def weighted_squares(self) -> tuple[Array]:
        (squares,) = self._passes.sums("weighted_squares")
        return (squares,)


class ClusterPasses(Passes):
    """Passes that are made where the rows are.

    Attributes
    ----------
    key : str
        Of what the workers hold.
    n_bytes_sent : int
        Bytes that went to the workers or came from them.
    """

    def __init__(
        self, X: ClusterMatrix, n_outputs: int, fit_intercept: bool, free: Any, n_folds: int
    ) -> None:
        super().__init__(X, n_outputs, fit_intercept, free, n_folds)
        self.key = uuid4().hex
        self.n_bytes_sent = 0

    def sums(self, method: str, *args: Any) -> tuple[Array, ...]:
        """Return the sums of the arrays that a method of the problems returns on each worker."""
        sizes = [rows.stop - rows.start for rows in self._X.rows]
        found = self._call("sums", [(method, *args)] * len(sizes))
        answers, spent = zip(*found, strict=True)
        self.n_spent += float(np.dot(sizes, spent)) / sum(sizes)
        return tuple(map(_sum, zip(*answers, strict=True)))

    def predict(self, V: Array) -> Array:
        self.n_spent += 0.5
        return np.concatenate(self._call("predict", [(V,)] * len(self._X.rows)))

    def grams(self, U: Array) -> Array:
        self.n_spent += 0.5 * bool(U.shape[1])
        return _sum(self._call("grams", [(U[rows],) for rows in self._X.rows]))

    def _call(self, method: str, args: list[tuple[Any, ...]]) -> list[Any]:
        answers: list[Any] = self._X.call(self.key, method, args)
        self.n_bytes_sent += n_bytes(args) + n_bytes(answers)
        return answers


def _sum(arrays: Any) -> Array:
    """Return the sum of arrays, added up in their order."""
    first, *others = arrays
    total = np.array(first)  # those from workers cannot be written to
    for array in others:
        total += array
    return total


def _rows(
    y: Array,
    loss: Loss,
    groups: NDArray[np.intp],
    weight: Array,
    held_out: HeldOut,
    fit_intercept: bool,
    rows: slice,
) -> tuple[Any, ...]:
    """Return what a worker needs for some rows."""
    fixed = np.where(groups == FIXED, FIXED, UNPENALISED)
    return y[rows], loss, fixed, weight[rows], held_out.among(rows), fit_intercept


class _Rows:
    """The problems of a worker's rows, on the worker."""

    def __init__(
        self,
        X: Any,
        y: Array,
        loss: Loss,
        groups: NDArray[np.intp],
        weight: Array,
        held_out: HeldOut,
        fit_intercept: bool,
    ) -> None:
        penalty = GroupedPenalty(groups)
        self._problems = LinearProblems(
            X, y, loss, penalty, weight, held_out, fit_intercept=fit_intercept
        )

    def sums(self, method: str, *args: Any) -> tuple[tuple[Array, ...], float]:
        """Return the sums over these rows, and the passes that were made for them."""
        before = self._problems.n_passes
        return getattr(self._problems, method)(*args), self._problems.n_passes - before

    def predict(self, V: Array) -> Array:
        return self._problems.passes.predict(V)

    def grams(self, U: Array) -> Array:
        return self._problems.passes.grams(U)
