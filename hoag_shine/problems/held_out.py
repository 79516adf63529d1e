"""The rows that the folds hold out, as a list: most rows are held out by one fold of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[Any]


@dataclass(frozen=True)
class HeldOut:
    """Rows that folds hold out, in the order of the rows.

    Attributes
    ----------
    rows, folds : ndarray of shape (n,), int
        Row ``rows[i]`` is held out by fold ``folds[i]``. A row may occur several times. The integer
        types are the smallest that hold the numbers.
    weight : ndarray of shape (n, 1) or (n, n_outputs)
        The row's weights in the fold's outer loss.
    """

    rows: Indices
    folds: Indices
    weight: Array

    @classmethod
    def of(cls, test_weight: Array) -> Self:
        """List the weights that are not zero, given all, (n_rows, n_folds[, n_outputs])."""
        n, n_folds = test_weight.shape[:2]
        weight = test_weight.reshape(n * n_folds, -1)
        # By one index into the flat array: numpy takes much longer to find two.
        places = np.flatnonzero(weight.any(axis=1) if weight.shape[1] > 1 else weight != 0.0)
        rows, folds = np.divmod(places, n_folds)
        rows, folds = rows.astype(np.min_scalar_type(n)), folds.astype(np.min_scalar_type(n_folds))
        return cls(rows, folds, weight[places])

    @classmethod
    def listed(cls, rows: Indices, folds: Indices, weight: Array) -> Self:
        """Sort a list of rows, folds and weights, all of shape (n,); no pair occurs twice."""
        order = np.lexsort((folds, rows))  # by rows, and by folds within a row
        rows, folds = (
            a[order].astype(np.min_scalar_type(int(a.max(initial=0)) + 1)) for a in (rows, folds)
        )
        return cls(rows, folds, weight[order, None])

    def dense(self, n_rows: int, n_folds: int) -> Array:
        """Return the weights as an array of shape (n_rows, n_folds), for rows of one weight."""
        weight = np.zeros((n_rows, n_folds))
        weight[self.rows, self.folds] = self.weight[:, 0]
        return weight

    def by(self, folds: Sequence[int], n_folds: int) -> Self:
        """Return the part of some folds, which are then numbered by their places here."""
        if list(folds) == list(range(n_folds)):
            return self
        place = np.full(n_folds, -1)
        place[folds] = np.arange(len(folds))
        kept = place[self.folds] >= 0
        return self._taken(kept, place[self.folds[kept]])

    def among(self, rows: slice) -> Self:
        """Return the part of consecutive rows, which are then numbered from zero."""
        part = slice(*np.searchsorted(self.rows, [rows.start, rows.stop]))
        own = (self.rows[part] - self.rows.dtype.type(rows.start)).astype(self.rows.dtype)
        return type(self)(own, self.folds[part], self.weight[part])

    def pieces(self, size: int, among: slice) -> list[Self]:
        """Return portions of consecutive rows, each from at most ``size`` of the rows ``among``."""
        # Rows ascend, so that a piece is a slice of the list.
        last = min(int(self.rows.max(initial=0)) + 1, among.stop)
        edges = np.append(np.arange(among.start, last, size), last)
        ends = np.searchsorted(self.rows, edges)
        parts = [slice(i, j) for i, j in pairwise(ends) if i < j]
        return [self._taken(part, self.folds[part]) for part in parts]

    def _taken(self, part: Any, folds: Indices) -> Self:
        rows, folds = (a.astype(np.intp, copy=False) for a in (self.rows[part], folds))
        return type(self)(rows, folds, self.weight[part])
