"""The rows that the folds hold out, as a list: most rows are held out by one fold of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[Any]


@dataclass(frozen=True)
class HeldOut:
    """Rows that folds hold out, fold by fold, those of a fold in their order.

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
        weight = np.moveaxis(test_weight, 1, 0).reshape(n_folds * n, -1)
        # By one index into the flat array: numpy takes much longer to find two.
        places = np.flatnonzero(weight.any(axis=1) if weight.shape[1] > 1 else weight != 0.0)
        return cls.listed(places % n, places // n, weight[places])

    @classmethod
    def listed(cls, rows: Indices, folds: Indices, weight: Array) -> Self:
        """Return the list with indices of the smallest types; it is in that order already."""
        return cls(_smallest(rows), _smallest(folds), weight)

    def dense(self, n_rows: int, n_folds: int) -> Array:
        """Return the weights as an array of shape (n_rows, n_folds), for rows of one weight."""
        weight = np.zeros((n_rows, n_folds))
        weight[self.rows, self.folds] = self.weight[:, 0]
        return weight

    def by(self, folds: Sequence[int], n_folds: int) -> Self:
        """Return the part of some folds, which are then numbered by their places here."""
        if list(folds) == list(range(n_folds)):
            return self
        every = self._slices(n_folds)
        return self._joined([every[k] for k in folds])

    def by_fold(self, n_folds: int) -> list[Self]:
        """Return the part of each fold."""
        return [self._part(own) for own in self._slices(n_folds)]

    def among(self, rows: slice) -> Self:
        """Return the part of consecutive rows, which are then numbered from zero."""
        if rows.start == 0 and rows.stop > self.rows.max(initial=0):
            return self
        parts = []
        for own in self._slices(int(self.folds.max(initial=0)) + 1):
            first, last = np.searchsorted(self.rows[own], [rows.start, rows.stop])
            parts.append(slice(own.start + first, own.start + last))
        part = self._joined(parts)
        # The smallest type of these rows need not hold the number of the first one of all.
        return replace(part, rows=_smallest(part.rows.astype(np.intp) - rows.start))

    def pieces(self, size: int) -> list[Self]:
        """Return portions of at most ``size`` listed rows, with indices of one type."""
        ends = [*range(0, self.rows.size, size), self.rows.size]
        parts = [self._part(slice(i, j)) for i, j in pairwise(ends)]
        return [replace(part, rows=part.rows.astype(np.intp, copy=False)) for part in parts]

    def _slices(self, n_folds: int) -> list[slice]:
        """Return where each fold's rows are listed."""
        ends = np.searchsorted(self.folds, np.arange(n_folds + 1))
        return [slice(i, j) for i, j in pairwise(ends)]

    def _part(self, own: slice) -> Self:
        return type(self)(self.rows[own], self.folds[own], self.weight[own])

    def _joined(self, parts: Sequence[slice]) -> Self:
        """Return some parts of the list, each of one fold, numbered by their places here."""
        chosen = np.concatenate([np.arange(p.start, p.stop) for p in parts] or [np.empty(0, int)])
        places = np.repeat(np.arange(len(parts)), [p.stop - p.start for p in parts])
        folds = places.astype(np.min_scalar_type(len(parts)))
        return type(self)(self.rows[chosen], folds, self.weight[chosen])


def _smallest(a: Indices) -> Indices:
    return a.astype(np.min_scalar_type(int(a.max(initial=0)) + 1))
