r"""Fewer variables with the same solutions: columns that are multiples of each other.

In text, half of all columns may have a single entry, and names and signatures come together. Where
columns :math:`x_j = a_j u` with the same penalty are multiples of one u, the loss depends on their
coefficients by :math:`\sum_j a_j w_j` alone, and among those of one such sum the penalty prefers
the multiple of :math:`a`. So one column :math:`\|a\|\, u` does for all of them, its coefficient v
standing for :math:`w_j = v\, a_j / \|a\|`. The map is orthonormal: the penalty of v is that of w,
and every inner solution, held-out loss and hypergradient remains what it is. Penalised columns
without an entry have a coefficient of zero and are left out.

What is copied is ordered, too: columns with more entries come first. Products with X then find most
of what they need near together, in the core's own cache.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ...linalg import kernels
from ...linalg.design import unsigned
from ..groups import Groups

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]

# Merging copies X once: worth it where so large a share of many columns goes.
SHARE = 0.1
MANY = 2000
# Sums of a column's entries that differ by a smaller share are the same but for rounding.
ROUNDING = 1e-13
# The rarity of a column that is left out; that of others is less by the bits of their number of
# entries, and by one.
NEVER = 64


class MergedColumns:
    """X with fewer columns, and the way back to the coefficients of all.

    Parameters
    ----------
    X : CSR matrix of shape (n_samples, n_features)
    groups : Groups
        Of the columns of X.
    columns : ndarray of shape (n_used,), intp
        Those that are not left out: the columns that become one stand together.
    slot : ndarray of shape (n_used,), intp
        A number for each of them, the same for those that become one, ascending from zero.
    a : ndarray of shape (n_used,), float64
        The columns in units of what they have in common.
    n_entries : ndarray of shape (n_features,), intp

    Attributes
    ----------
    X : CSR matrix of shape (n_samples, n_merged)
    groups : Groups
        Of its columns.
    """

    def __init__(
        self, X: Any, groups: Groups, columns: Indices, slot: Indices, a: Vector, n_entries: Indices
    ) -> None:
        p, first = X.shape[1], np.flatnonzero(np.diff(slot, prepend=-1))
        # Of each slot a largest column remains; in units of it, all squares stay in the range.
        largest = np.maximum.reduceat(np.abs(a), first)
        kept = np.minimum.reduceat(np.where(np.abs(a) == largest[slot], columns, p), first)
        size = np.zeros(p)
        size[columns] = a
        a = a / size[kept][slot]
        share = a / np.sqrt(np.add.reduceat(a * a, first))[slot]
        # Columns with more entries come first, by powers of two.
        rarity = np.full(p, NEVER, dtype=np.uint8)
        rarity[kept] = NEVER - 1 - np.frexp(n_entries[kept])[1]
        order = np.argsort(rarity, kind="stable")[: kept.size]
        position = np.empty(p, dtype=X.indices.dtype)
        position[order] = np.arange(kept.size)
        self._slot, self._share = np.zeros(p, dtype=np.intp), np.zeros(p)
        self._slot[columns], self._share[columns] = position[kept][slot], share
        data, indices = (np.empty(n_entries[kept].sum(), a.dtype) for a in (X.data, X.indices))
        to, scale = (data, indices, np.zeros_like(X.indptr)), np.zeros(p)
        scale[kept] = 1.0 / self._share[kept]
        kernels.csr_take(*_entries(X), rarity, NEVER, position, scale, *to)
        self.X = sparse.csr_array(to, shape=(X.shape[0], kept.size))
        alike = len(groups.of_coefficient) == 1
        of_coefficient = groups.of_coefficient[slice(None) if alike else order]
        self.groups = replace(groups, of_coefficient=of_coefficient)

    @classmethod
    def of(cls, X: Any, groups: Groups) -> Self | None:
        """Return the merged columns, or None where there are too few to be worth it."""
        if not hasattr(X, "indptr") or X.shape[1] < MANY:
            return None
        p, rng = X.shape[1], np.random.default_rng(0)
        if len(groups.names) > (1.0 - SHARE) * p:
            return None  # a column of each penalty has to be left
        labels, alone = _labels(groups, p)
        # Random sums of a column's entries, in units of its first, tell it from others.
        marks = rng.random((len(groups.names) + p, 2))[labels]
        first, n_entries = np.zeros(p), np.zeros(p, dtype=np.intp)
        rows = rng.random((X.shape[0], 2))
        kernels.column_marks(*_entries(X), rows, first, n_entries, marks)
        columns = np.flatnonzero((n_entries > 0) | alone)
        columns = columns[np.argsort(marks[columns, 0])]
        marks = marks[columns]
        marks[~np.isfinite(marks)] = np.nan  # like no other
        alike = np.abs(np.diff(marks, axis=0)) <= ROUNDING * np.abs(marks[1:])
        slot = np.cumsum(np.append(True, ~alike.all(axis=1))) - 1
        if not columns.size or slot[-1] >= (1.0 - SHARE) * p:
            return None
        a = np.where(n_entries > 0, first, 1.0)[columns]
        merged = cls(X, groups, columns, slot, a, n_entries)
        # A penalty of columns without entries would have no variable left.
        left = np.unique(merged.groups.of_coefficient)
        return merged if (left >= 0).sum() == len(groups.names) else None

    def expand(self, w: Vector, n_outputs: int) -> Vector:
        """Return the variables of the problem with all columns."""
        W, n_merged = w.reshape(-1, n_outputs), self.X.shape[1]
        coefficients = W[self._slot] * self._share[:, None]
        return np.concatenate([coefficients, W[n_merged:]]).ravel()

    def restrict(self, w: Vector, n_outputs: int) -> Vector:
        """Return the variables of the problem with merged columns, the nearest to ``w``."""
        W, p = w.reshape(-1, n_outputs), self._slot.size
        merged = np.zeros((self.X.shape[1], n_outputs))
        np.add.at(merged, self._slot, W[:p] * self._share[:, None])
        return np.concatenate([merged, W[p:]]).ravel()


def _labels(groups: Groups, n_features: int) -> tuple[Indices, NDArray[np.bool_]]:
    """Return a number for each column, the same where the penalty is, and which are alone.

    Those are not penalised, or not by the same for all outputs.
    """
    own = groups.of_coefficient
    alone = np.any(own < 0, axis=1)
    if len(own) > 1:
        alone |= np.any(own != own[:, :1], axis=1)
    numbers = len(groups.names) + np.arange(n_features)
    return np.where(alone, numbers, own[:, 0]), np.broadcast_to(alone, n_features)


def _entries(X: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return X.data, unsigned(X.indices), unsigned(X.indptr)
