r"""Fewer variables with the same solutions: columns that are multiples of each other.

In text, half of all columns may have a single entry, and names and signatures occur together. Let
columns :math:`x_j = a_j u` with the same penalty be multiples of one u. The loss depends on their
coefficients through :math:`\sum_j a_j w_j` alone, and of all coefficients with the same sum, those
in proportion to :math:`a` have the smallest penalty. So one column :math:`\|a\|\, u` stands for all
of them, and its coefficient v for :math:`w_j = v\, a_j / \|a\|`. The map is orthonormal: the
penalty of v is that of w, and inner solutions, held-out losses and hypergradients do not change.
Penalised columns without an entry have a coefficient of zero and are left out. Linear programming
knows the reduction as that of duplicate columns (Andersen and Andersen, 1995, see
:mod:`~hoag_shine.problems.presolve`).

The copy is also sorted: columns with more entries come first. The numbers that products with X need
most often then lie together, in the core's own cache.
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
from . import WORTHWHILE_SHARE

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]

# Fewest columns that are looked at.
# Why: by judgement; with fewer, vectors are short, and a search spends its time elsewhere.
MIN_COLUMNS = 2000
# Relative difference of two columns' marks, sums of their entries in units of the first, up to
# which the columns count as multiples of each other.
# Why: a thousand roundings of float64. Two columns that are not multiples have marks as near as
# this with a probability of about 1e-26, since each has two random marks.
MARK_ROUNDING = 1e-13
# Rarity of a column that is left out; that of others is 63 less the bits of their number of
# entries.
# Why: no number of entries has more than 63 bits.
LEFT_OUT_RARITY = 64


class MergedColumns:
    """X with fewer columns, and the way back to the coefficients of all columns.

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
        # Of each slot the largest column remains: in units of it, no square overflows or vanishes.
        largest = np.maximum.reduceat(np.abs(a), first)
        kept = np.minimum.reduceat(np.where(np.abs(a) == largest[slot], columns, p), first)
        size = np.zeros(p)
        size[columns] = a
        a = a / size[kept][slot]
        share = a / np.sqrt(np.add.reduceat(a * a, first))[slot]
        # Columns with more entries come first: a stable sort by the powers of two of their numbers,
        # within which the order of X is kept.
        rarity = np.full(p, LEFT_OUT_RARITY, dtype=np.uint8)
        rarity[kept] = LEFT_OUT_RARITY - 1 - np.frexp(n_entries[kept])[1]
        order = np.argsort(rarity, kind="stable")[: kept.size]
        position = np.empty(p, dtype=X.indices.dtype)
        position[order] = np.arange(kept.size)
        self._slot, self._share = np.zeros(p, dtype=np.intp), np.zeros(p)
        self._slot[columns], self._share[columns] = position[kept][slot], share
        data, indices = (np.empty(n_entries[kept].sum(), a.dtype) for a in (X.data, X.indices))
        to, scale = (data, indices, np.zeros_like(X.indptr)), np.zeros(p)
        scale[kept] = 1.0 / self._share[kept]
        kernels.csr_take(*_entries(X), rarity, LEFT_OUT_RARITY, position, scale, *to)
        self.X = sparse.csr_array(to, shape=(X.shape[0], kept.size))
        alike = len(groups.of_coefficient) == 1
        of_coefficient = groups.of_coefficient[slice(None) if alike else order]
        self.groups = replace(groups, of_coefficient=of_coefficient)

    @classmethod
    def of(cls, X: Any, groups: Groups) -> Self | None:
        """Return the merged columns, or None where there are too few to be worth it."""
        if not hasattr(X, "indptr") or X.shape[1] < MIN_COLUMNS:
            return None
        p, rng = X.shape[1], np.random.default_rng(0)
        if len(groups.names) > (1.0 - WORTHWHILE_SHARE) * p:
            return None  # each penalty keeps at least one column
        labels, alone = _labels(groups, p)
        # Random sums of a column's entries, in units of its first, are the same for its multiples
        # and for no other column. A number for the penalty is added, so that penalties are told
        # apart.
        marks = rng.random((len(groups.names) + p, 2))[labels]
        first, n_entries = np.zeros(p), np.zeros(p, dtype=np.intp)
        rows = rng.random((X.shape[0], 2))
        kernels.column_marks(*_entries(X), rows, first, n_entries, marks)
        columns = np.flatnonzero((n_entries > 0) | alone)
        columns = columns[np.argsort(marks[columns, 0])]  # multiples of each other are neighbours
        marks = marks[columns]
        marks[~np.isfinite(marks)] = np.nan  # equal to no other
        alike = np.abs(np.diff(marks, axis=0)) <= MARK_ROUNDING * np.abs(marks[1:])
        slot = np.cumsum(np.append(True, ~alike.all(axis=1))) - 1
        if not columns.size or slot[-1] >= (1.0 - WORTHWHILE_SHARE) * p:
            return None
        a = np.where(n_entries > 0, first, 1.0)[columns]
        merged = cls(X, groups, columns, slot, a, n_entries)
        # A penalty all of whose columns are empty would have no variable left.
        left = np.unique(merged.groups.of_coefficient)
        return merged if (left >= 0).sum() == len(groups.names) else None

    def expand(self, w: Vector, n_outputs: int) -> Vector:
        """Return the variables of the problem with all columns."""
        W, n_merged = w.reshape(-1, n_outputs), self.X.shape[1]
        coefficients = W[self._slot] * self._share[:, None]
        return np.concatenate([coefficients, W[n_merged:]]).ravel()

    def restrict(self, w: Vector, n_outputs: int) -> Vector:
        """Return the variables of the merged problem that are nearest to ``w``: its projection."""
        W, p = w.reshape(-1, n_outputs), self._slot.size
        merged = np.zeros((self.X.shape[1], n_outputs))
        np.add.at(merged, self._slot, W[:p] * self._share[:, None])
        return np.concatenate([merged, W[p:]]).ravel()


def _labels(groups: Groups, n_features: int) -> tuple[Indices, NDArray[np.bool_]]:
    """Return a number for each column, the same for the same penalty, and which stay alone.

    These have no penalty, or different ones for different outputs.
    """
    own = groups.of_coefficient
    alone = np.any(own < 0, axis=1)
    if len(own) > 1:
        alone |= np.any(own != own[:, :1], axis=1)
    numbers = len(groups.names) + np.arange(n_features)
    return np.where(alone, numbers, own[:, 0]), np.broadcast_to(alone, n_features)


def _entries(X: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return X.data, unsigned(X.indices), unsigned(X.indptr)
