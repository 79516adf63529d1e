r"""Fewer variables with the same solutions: columns that occur in one row only.

In text, half of all columns may have a single entry. Where several of them, all with the same
penalty, have it in the same row, with the values :math:`x_J`, the loss depends on their
coefficients by :math:`x_J^\top w_J` alone, and among the :math:`w_J` of one product the penalty
prefers the multiple of :math:`x_J`. So one column with the value :math:`\|x_J\|` does for all of
them, its coefficient v standing for :math:`w_J = v\, x_J / \|x_J\|`. The map is orthonormal: the
penalty of v is that of :math:`w_J`, and every inner solution, held-out loss and hypergradient
remains what it is. Penalised columns without an entry have a coefficient of zero and are left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..groups import Groups

Vector = NDArray[np.float64]

# Merging copies X once: worth it where so large a share of many columns goes.
SHARE = 0.1
MANY = 2000


class MergedColumns:
    """X with fewer columns, and the way back to the coefficients of all.

    Parameters
    ----------
    X : CSR matrix of shape (n_samples, n_features)
    groups : Groups
        Of the columns of X.
    single : ndarray of shape (n_features,), bool
        The columns to merge: penalised, and with at most one entry.

    Attributes
    ----------
    X : CSR matrix of shape (n_samples, n_merged)
    groups : Groups
        Of its columns.
    """

    def __init__(self, X: Any, groups: Groups, single: NDArray[np.bool_]) -> None:
        self._n_features = X.shape[1]
        self._kept = np.flatnonzero(~single)
        alone = single[X.indices]
        entries = np.flatnonzero(alone & (X.data != 0))
        rows = np.searchsorted(X.indptr, entries, side="right") - 1
        self._columns = X.indices[entries]
        values = X.data[entries].astype(np.float64)
        label = _labels(groups)[self._columns] if len(groups.of_coefficient) > 1 else 0
        keys = rows * len(groups.names) + label
        _, first, self._slot = np.unique(keys, return_index=True, return_inverse=True)
        largest = np.zeros(first.size)
        np.maximum.at(largest, self._slot, np.abs(values))
        scaled = values / largest[self._slot]
        length = np.sqrt(np.bincount(self._slot, scaled * scaled, first.size))
        self._share = scaled / length[self._slot]
        self.X = self._merge(X, ~alone, rows[first], largest * length)
        self.groups = self._merge_groups(groups, self._columns[first])

    @classmethod
    def of(cls, X: Any, groups: Groups) -> Self | None:
        """Return the merged columns, or None where there are too few to be worth it."""
        if not hasattr(X, "indptr") or X.shape[1] < MANY:
            return None
        penalised = np.all(groups.of_coefficient >= 0, axis=1)
        same = np.all(groups.of_coefficient == groups.of_coefficient[:, :1], axis=1)
        if len(penalised) > 1:
            penalised &= same  # that of each output is then known by that of the first
        single = (np.bincount(X.indices, minlength=X.shape[1]) <= 1) & penalised
        if single.sum() < SHARE * X.shape[1]:
            return None
        merged = cls(X, groups, single)
        if merged.X.shape[1] > (1.0 - SHARE) * X.shape[1]:
            return None
        # A penalty of columns without entries would have no variable left.
        left = np.unique(merged.groups.of_coefficient)
        return merged if (left >= 0).sum() == len(groups.names) else None

    def expand(self, w: Vector, n_outputs: int) -> Vector:
        """Return the variables of the problem with all columns."""
        W = w.reshape(-1, n_outputs)
        n_kept, n_merged = self._kept.size, self.X.shape[1]
        full = np.zeros((self._n_features + len(W) - n_merged, n_outputs))
        full[self._kept] = W[:n_kept]
        full[self._columns] = W[n_kept:n_merged][self._slot] * self._share[:, None]
        full[self._n_features :] = W[n_merged:]
        return full.ravel()

    def restrict(self, w: Vector, n_outputs: int) -> Vector:
        """Return the variables of the problem with merged columns, the nearest to ``w``."""
        W = w.reshape(-1, n_outputs)
        merged = np.zeros((self.X.shape[1] - self._kept.size, n_outputs))
        np.add.at(merged, self._slot, W[self._columns] * self._share[:, None])
        return np.concatenate([W[self._kept], merged, W[self._n_features :]]).ravel()

    def _merge(
        self, X: Any, stays: NDArray[np.bool_], rows: NDArray[np.intp], values: Vector
    ) -> Any:
        """Return X with a new column for each of ``rows``, at the end of the row."""
        n_kept = self._kept.size
        position = np.zeros(self._n_features, dtype=X.indices.dtype)
        position[self._kept] = np.arange(n_kept)
        ends = np.concatenate([[0], np.cumsum(stays)])[X.indptr]
        indices = np.insert(
            position[X.indices[stays]], ends[rows + 1], n_kept + np.arange(rows.size)
        )
        data = np.insert(X.data[stays], ends[rows + 1], values)
        ends[1:] += np.cumsum(np.bincount(rows, minlength=X.shape[0]))
        shape = X.shape[0], n_kept + rows.size
        return sparse.csr_array((data, indices, ends.astype(X.indptr.dtype)), shape=shape)

    def _merge_groups(self, groups: Groups, columns: NDArray[np.intp]) -> Groups:
        of_coefficient = groups.of_coefficient
        if len(of_coefficient) == 1:
            return groups
        order = np.concatenate([self._kept, columns])
        return replace(groups, of_coefficient=of_coefficient[order])


def _labels(groups: Groups) -> NDArray[np.intp]:
    """Return a number for each column that tells which have the same penalty."""
    return groups.of_coefficient[:, 0]
