"""Values of all samples, fold by fold, each with the variables that they were computed at."""

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
    """An array (sample, fold, output), with the w of each fold that its values belong to.

    Invariant: ``_ws[k]`` is None unless the values of fold k are those at that w. Memory is taken
    when it is first needed, and written to again and again.
    """

    def __init__(self, n_rows: int, n_folds: int) -> None:
        self._ws: list[Vector | None] = [None] * n_folds
        self._values = np.empty((n_rows, n_folds, 0))

    def unknown(self, ws: Mapping[int, Vector]) -> list[int]:
        """Return the folds whose values are not those at their w."""
        return [k for k, w in ws.items() if not self.knows(k, w)]

    def knows(self, k: int, w: Vector) -> bool:
        """Whether a fold's values are those at w."""
        known = self._ws[k]
        # Two vectors that differ nearly always do so at the beginning.
        return (
            known is not None
            and np.array_equal(known[:COMPARED_FIRST], w[:COMPARED_FIRST])
            and np.array_equal(known, w)
        )

    def reserve(self, folds: Sequence[int], n_outputs: int) -> Array:
        """Return the memory of all folds; the caller writes the values of some and marks them."""
        if self._values.shape[2] != n_outputs:
            self._values = np.empty((*self._values.shape[:2], n_outputs))
            folds = range(len(self._ws))  # new memory holds nothing that was known
        for k in folds:
            self._ws[k] = None
        return self._values

    def forget(self) -> None:
        """Note that nothing is known."""
        self._ws = [None] * len(self._ws)

    def mark(self, folds: Sequence[int], ws: Sequence[Vector] | Array) -> None:
        """Note at which w some folds' values were computed; these arrays must not change later."""
        for k, w in zip(folds, ws, strict=True):
            self._ws[k] = w

    def copy_from(self, other: ByFold, folds: Sequence[int]) -> None:
        """Copy the values of some folds, and what they belong to, from another array."""
        places, n_outputs = columns(folds), other._values.shape[2]
        self.reserve(folds, n_outputs)[:, places] = other._values[:, places]
        for k in folds:
            self._ws[k] = other._ws[k]

    def lend_to(self, other: ByFold) -> None:
        """Give the memory to another array if that has none; nothing is known here then."""
        if not other._values.size:
            other._values, self._values = self._values, other._values
            self.forget()

    def of(self, folds: Sequence[int], rows: slice = slice(None)) -> Array:
        """Return the values of some folds, which are known, and some samples."""
        return self._values[rows, columns(folds)]


def columns(folds: Sequence[int]) -> Any:
    """Return an index of some folds: a slice if possible, which makes no copy."""
    following = range(folds[0], folds[0] + len(folds)) if folds else range(0)
    neighbours = list(folds) == list(following)
    return slice(following.start, following.stop) if neighbours else list(folds)
