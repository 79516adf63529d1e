"""Vectors of one length, the long ones in half precision."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import half, kernels

# From so many variables on, vectors are read from memory and not from a cache, and stored in half
# precision.
MANY = 10_000


class Vectors:
    """Vectors that are written one by one and read by compiled code.

    Parameters
    ----------
    count, n : int
        How many, and their length. Their memory is used as they are written.

    Attributes
    ----------
    rows : ndarray of shape (count, n), float64 or, from 10,000 variables on, int16
        The vectors in their units, see :mod:`hoag_shine.half`.
    units : ndarray of shape (count,), float64
        Powers of two; 1 where the rows are float64.
    """

    def __init__(self, count: int, n: int) -> None:
        self.rows: NDArray[Any] = np.empty((count, n), np.float64 if n < MANY else half.DTYPE)
        self.units = np.ones(count)

    def write(self, row: int, v: NDArray[np.float64]) -> bool:
        """Store a vector; in half precision only if it is finite, or return False."""
        if self.rows.dtype == half.DTYPE:
            norm = np.sqrt(kernels.dot(v, v))
            if not np.isfinite(norm):
                return False
            self.units[row] = half.unit_for(norm)
        kernels.store(v, 1.0 / self.units[row], self.rows[row])
        return True

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return some of them as they are stored."""
        return self.units[rows, None] * self.in_units(rows)

    def in_units(self, rows: Any) -> NDArray[np.float64]:
        """Return some of them, each in its unit."""
        stored = self.rows[rows]
        return np.asarray(half.widened(stored) if stored.dtype == half.DTYPE else stored)

    def copy(self) -> Self:
        """Return others that are the same."""
        twin = type(self)(0, self.rows.shape[1])
        twin.rows, twin.units = self.rows.copy(), self.units.copy()
        return twin
