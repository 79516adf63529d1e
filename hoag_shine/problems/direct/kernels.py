r"""The kernel of wide data, and the way back from it to the coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..groups import FIXED
from ..penalties import GroupedPenalty
from .newton import State

Array = NDArray[np.float64]
Vector = NDArray[np.float64]

# Most groups of columns whose kernels are kept, so that a change of penalties costs no product with
# X.
# Why: by judgement; each takes the memory of n_rows**2 numbers.
MAX_KEPT_KERNELS = 16


def separable(groups: NDArray[np.intp]) -> bool:
    """Whether the penalty of a column and an output is a product of one number of each.

    Then one kernel, times a factor, serves every output. An output must have all of the penalised
    columns or none of them.
    """
    penalised = groups[(groups >= 0).any(axis=1)]
    has = penalised >= 0
    own = penalised[:, has.any(axis=0)]
    full = bool((has.all(axis=0) | (penalised == FIXED).all(axis=0)).all())
    alike = bool((own == own[:, :1]).all() or (own == own[:1]).all())
    return full and alike


class Kernels:
    r""":math:`K = X \mathrm{diag}(1/h) X^\top` at any penalty, and its products.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_features)
    penalty : GroupedPenalty
        Over the columns of X and, where there is one more row, an intercept.
    groups : ndarray of shape (n_features or one more, n_outputs)
        Those of ``penalty``, :func:`separable`.

    Attributes
    ----------
    free_rows : ndarray of int
        Rows of coefficients without a penalty.
    free : ndarray of shape (n_rows, q)
        Their columns.
    rows : ndarray or CSR matrix of shape (n_rows, n_features or one more)
        X, with a column of ones for an intercept.
    """

    def __init__(self, X: Any, penalty: GroupedPenalty, groups: NDArray[np.intp]) -> None:
        self._penalty, self._groups = penalty, groups
        # A sparse array and not a matrix, for which * would be the product of matrices.
        own: Any = X if isinstance(X, np.ndarray) else sparse.csr_array(X)
        self.rows: Any = own.astype(np.float64, copy=False)
        if len(groups) > X.shape[1]:
            self.rows = _with_ones(self.rows)
        penalised = (groups >= 0).any(axis=1)
        self._rows = np.flatnonzero(penalised)
        self.free_rows = np.flatnonzero(~penalised)
        self.free = _dense(self.rows[:, self.free_rows])
        self._columns = self.rows if penalised.all() else self.rows[:, self._rows]
        self._outputs = np.flatnonzero(groups[self._rows[0]] >= 0)
        scale = np.broadcast_to(np.asarray(penalty.scale).ravel(), groups.size)
        self._constant = scale.reshape(groups.shape)[self._rows, self._outputs[0]]
        # By column, or the same for all columns of an output.
        self._own = groups[self._rows, self._outputs[0]]
        self._by_column = bool((self._own != self._own[0]).any())
        self._bases: list[Array] | None = None
        self._names, self._place = np.unique(self._own, return_inverse=True)
        if self._names.size <= MAX_KEPT_KERNELS:
            self._bases = [self._product(self._place == g) for g in range(self._names.size)]

    def at(self, theta: Vector) -> tuple[Array, Vector]:
        """Return K, and each output's factor of it."""
        strength = np.exp(theta)
        scale = np.zeros(self._groups.shape[1])
        # The penalties differ by output: K of strength 1 for all, and a factor for each output. Or
        # by column: one K, in which each group of columns has its own strength.
        if not self._by_column:
            groups = self._groups[self._rows[0], self._outputs]
            scale[self._outputs] = 1.0 / strength[groups]
            return self._total(np.ones(self._names.size)), scale
        scale[self._outputs] = 1.0
        return self._total(1.0 / strength[self._names]), scale

    def expand(self, state: State, theta: Vector) -> Array:
        """Return the coefficients diag(1/h) X'a and b, (n_folds, n_rows of W, n_outputs)."""
        a, b = state
        k, n, m = a.shape
        W = np.zeros((k, *self._groups.shape))
        h = self._penalty.strength(theta).reshape(self._groups.shape)
        product = _dense(self._columns.T @ a.swapaxes(0, 1).reshape(n, -1))
        product = product.reshape(-1, k, m).swapaxes(0, 1)
        places = self._rows[:, None], self._outputs
        W[:, *places] = product[:, :, self._outputs] / h[places]
        W[:, self.free_rows] = b
        return W

    def divide(self, v: Vector, theta: Vector) -> tuple[Vector, Array]:
        """Return a vector divided by the penalty, and its entries where there is no penalty."""
        V = v.reshape(self._groups.shape)
        h = self._penalty.strength(theta).reshape(V.shape)
        alone, places = np.zeros_like(V), (self._rows[:, None], self._outputs)
        alone[places] = V[places] / h[places]
        return alone.ravel(), V[self.free_rows]

    def predict(self, ws: Array) -> Array:
        """Return the linear predictors of coefficients, (row, fold, output)."""
        k, m = len(ws), self._groups.shape[1]
        W = ws.reshape(k, -1, m).swapaxes(0, 1).reshape(-1, k * m)
        return _dense(self.rows @ W).reshape(-1, k, m)

    def _total(self, weight: Vector) -> Array:
        """Return the sum of the groups' kernels, each with a weight."""
        if self._bases is None:
            return self._product(np.ones(self._own.size, dtype=bool), weight[self._place])
        if len(self._bases) == 1 and weight[0] == 1.0:
            return self._bases[0]
        return np.asarray(sum(w * K for w, K in zip(weight, self._bases, strict=True)))

    def _product(self, chosen: NDArray[np.bool_], weight: Vector | None = None) -> Array:
        """Return the kernel of some columns."""
        columns: Any = self._columns if chosen.all() else self._columns[:, chosen]
        squares = (1.0 if weight is None else weight[chosen]) / self._constant[chosen]
        if hasattr(columns, "toarray"):
            return _dense(columns.multiply(squares).tocsr() @ columns.T)
        root = columns * np.sqrt(squares)
        # numpy recognises a matrix times its own transpose and has BLAS make one triangle of it.
        return np.asarray(root @ root.T)


def _with_ones(X: Any) -> Any:
    ones = np.ones((X.shape[0], 1))
    if isinstance(X, np.ndarray):
        return np.hstack([X, ones])
    parts: list[Any] = [X, sparse.csr_array(ones)]
    return sparse.csr_array(sparse.hstack(parts))


def _dense(A: Any) -> Array:
    return np.asarray(A.toarray() if hasattr(A, "toarray") else A)
