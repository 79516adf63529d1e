"""Vectors of one length, the long ones in half precision."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import half, kernels

Vector = NDArray[np.float64]

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
    norms : ndarray of shape (count,), float64
        Euclidean norms, in these units.
    """

    def __init__(self, count: int, n: int) -> None:
        self.rows: NDArray[Any] = np.empty((count, n), np.float64 if n < MANY else half.DTYPE)
        self.units = np.ones(count)
        self.norms = np.zeros(count)

    def write(self, row: int, v: Vector) -> bool:
        """Store a vector; False if it is not finite, and nothing to use was stored."""
        finite = self._measure(row, kernels.dot(v, v))
        if finite:
            kernels.store(1.0 / self.units[row], v, self.rows[row])
        return finite

    def write_sum(
        self, row: int, a: float, x: NDArray[Any], b: float, scale: Vector, v: NDArray[Any]
    ) -> bool:
        """Store ``a * x + b * scale * v``, likewise; x and v may be rows in units."""
        finite = self._measure(row, kernels.square_of_sum(a, x, b, scale, v))
        if finite:
            unit = self.units[row]
            kernels.store_sum(a / unit, x, b / unit, scale, v, self.rows[row])
        return finite

    def _measure(self, row: int, square: float) -> bool:
        """Note the unit and the norm of a vector; return whether that is finite."""
        norm = math.sqrt(square) if square >= 0.0 else np.nan
        if not math.isfinite(norm):
            return False
        if self.rows.dtype == half.DTYPE:
            self.units[row] = half.unit_for(norm)
        self.norms[row] = norm / self.units[row]
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
        for name in ("rows", "units", "norms"):
            setattr(twin, name, getattr(self, name).copy())
        return twin
