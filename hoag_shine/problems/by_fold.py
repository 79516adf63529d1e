"""What has been computed of the samples, fold by fold, and at which variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Array = NDArray[np.float64]

# Variables that are compared before all are.
# Why: two vectors that differ do so at their beginnings, and 64 numbers take no time.
COMPARED_FIRST = 64


class ByFold:
    """Values of some (sample, fold, output), each fold's with the w that it was computed at.

    Memory is taken when it is first needed, and written to again and again.
    """

    def __init__(self, n_rows: int, n_folds: int) -> None:
        self._ws: list[Vector | None] = [None] * n_folds
        self._values = np.empty((n_rows, n_folds, 0))

    def unknown(self, ws: Mapping[int, Vector]) -> list[int]:
        """Return the folds whose w is another one."""
        return [k for k, w in ws.items() if not self.knows(k, w)]

    def knows(self, k: int, w: Vector) -> bool:
        """Whether a fold's values are those at w."""
        known = self._ws[k]
        # Two that are not the same differ at the beginning already.
        return (
            known is not None
            and np.array_equal(known[:COMPARED_FIRST], w[:COMPARED_FIRST])
            and np.array_equal(known, w)
        )

    def reserve(self, folds: Sequence[int], n_outputs: int) -> Array:
        """Return the memory of all folds, to write values of some that are then to be marked."""
        if self._values.shape[2] != n_outputs:
            self._values = np.empty((*self._values.shape[:2], n_outputs))
            folds = range(len(self._ws))  # new memory holds nothing that was known
        for k in folds:
            self._ws[k] = None
        return self._values

    def mark(self, folds: Sequence[int], ws: Sequence[Vector] | Array) -> None:
        """Say at which w some folds' values were computed; nobody changes these arrays."""
        for k, w in zip(folds, ws, strict=True):
            self._ws[k] = w

    def copy_from(self, other: ByFold, folds: Sequence[int]) -> None:
        """Copy what is known of some folds elsewhere."""
        places, n_outputs = columns(folds), other._values.shape[2]
        self.reserve(folds, n_outputs)[:, places] = other._values[:, places]
        for k in folds:
            self._ws[k] = other._ws[k]

    def lend_to(self, other: ByFold) -> None:
        """Leave the memory to another that has none; nothing is known here any more."""
        if not other._values.size:
            other._values, self._values = self._values, other._values
            self._ws = [None] * len(self._ws)

    def of(self, folds: Sequence[int], rows: slice = slice(None)) -> Array:
        """Return the values of some folds, which are known, and some samples."""
        return self._values[rows, columns(folds)]


def columns(folds: Sequence[int]) -> Any:
    """Return what takes some folds out of an array: a slice if it can, which is much faster."""
    following = range(folds[0], folds[0] + len(folds)) if folds else range(0)
    neighbours = list(folds) == list(following)
    return slice(following.start, following.stop) if neighbours else list(folds)
