"""A store of pairs of vectors, for the recursion of L-BFGS, which is as fast as memory is read.

Pairs are of a step s and a gradient difference. That of the data term, ``y_data``, is what a step
has told; of the whole objective, with a quadratic penalty whose Hessian is diagonal, it is
``y = y_data + h * s``, which is kept, too, since every application reads it.

Long vectors are stored in half precision, in a *unit* of their own, a power of two; the products of
a pair are then in units. All sums are float64.
"""

from __future__ import annotations

import math
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from . import half
from .compiled import loop
from .costs import LONG_VECTOR_NUMBERS
from .kernels import SUMS
from .precision import SUM_ROUNDING

Vector = NDArray[np.float64]
Rows = NDArray[np.intp]


class PairStore:
    """Rows of pairs (s, y), each with ``y_data`` and what it takes to apply it.

    Parameters
    ----------
    n : int
        Number of variables.
    capacity : int
        Number of rows. Pages that are never written to take no memory.

    Attributes
    ----------
    rho : ndarray of shape (capacity,), float64
        One over s'y of each row, in units; 0 where that is not safely positive.
    nbytes : int
        Bytes of the vectors when all rows are written.
    """

    def __init__(self, n: int, capacity: int) -> None:
        dtype = np.float64 if n < LONG_VECTOR_NUMBERS else half.DTYPE
        self._vectors = np.empty((3, capacity, n), dtype)  # s, y, y_data
        self._units, self._norms = np.ones((2, 3, capacity))
        self.rho = np.zeros(capacity)

    @property
    def nbytes(self) -> int:
        return self._vectors.nbytes

    def s(self, rows: Rows) -> NDArray[np.float64]:
        """Return the steps of some rows, of shape (n_rows, n), as they are stored."""
        return self._read(0, rows)

    def y(self, rows: Rows) -> NDArray[np.float64]:
        """Return the gradient differences of some rows, likewise."""
        return self._read(1, rows)

    def write(self, row: int, s: Vector, y: Vector, h: Vector) -> None:
        """Store a pair of the whole objective, with the penalty's Hessian h."""
        self.rho[row] = _store(s, y, h, self._vectors, self._units, self._norms, row)

    def move(self, rows: Rows, h: Vector) -> None:
        """Have the pairs of some rows be those of another penalty."""
        _move(h, self._vectors, self._units, self._norms, rows, self.rho)

    def down(self, rows: Rows, v: Vector) -> Vector:
        """Run the first loop on ``v``, from the last of the rows to the first.

        Returns
        -------
        coefficient : ndarray of shape (n_rows,)
            To be passed to :meth:`up`.
        """
        coefficient = np.empty(rows.size)
        _two_loop_down(self._vectors[0], self._vectors[1], rows, self.rho, coefficient, v)
        return coefficient

    def up(self, rows: Rows, coefficient: Vector, v: Vector) -> None:
        """Run the second loop on ``v``, from the first of the rows to the last."""
        S, Y, ratio = self._vectors[0], self._vectors[1], self._units[0] / self._units[1]
        _two_loop_up(S, Y, rows, self.rho, ratio, coefficient, v)

    def length(self, row: int | np.integer[Any], scale: Vector) -> float:
        """Return s'y over ``(scale * y)'y``; infinity where that is not positive."""
        y = self._vectors[1, row]
        return self._over(row, _weighted_dot(scale, y, y))

    def length_by(self, row: int | np.integer[Any], product: Any) -> float:
        """Return s'y over y'By, given what multiplies by B."""
        y = self._in_units(self._vectors[1, row])
        return self._over(row, float(y @ product(y)))

    def copy(self) -> Self:
        twin = copy(self)
        for name in ("_vectors", "_units", "_norms", "rho"):
            setattr(twin, name, getattr(self, name).copy())
        return twin

    def _over(self, row: int | np.integer[Any], square: float) -> float:
        """Return s'y over a square of y in its unit."""
        size = float(self.rho[row] * square)
        return float(self._units[0, row] / self._units[1, row]) / size if size > 0.0 else np.inf

    def _read(self, k: int, rows: Rows) -> NDArray[np.float64]:
        return self._units[k, rows, None] * self._in_units(self._vectors[k, rows])

    @staticmethod
    def _in_units(stored: NDArray[Any]) -> NDArray[np.float64]:
        """Return vectors as float64, in their units; float64 ones as they are."""
        return np.asarray(half.widened(stored) if stored.dtype == half.DTYPE else stored)


@loop(fastmath=SUMS)
def _two_loop_down(S, Y, rows, rho, coefficient, v):
    """Run the first loop of the L-BFGS recursion, from the newest pair to the oldest, on ``v``.

    Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithm 7.4. One sweep over ``v``
    subtracts a multiple of y_i and makes the product with s_{i-1}.

    Parameters
    ----------
    S, Y : ndarray of shape (memory, n), float64 or int16
        Steps and gradient differences, those of half precision in their units.
    rows : ndarray of shape (m,), intp
        Rows of the pairs to use, the oldest first.
    rho : ndarray of shape (memory,), float64
        One over the product of each row's pair, in units.
    coefficient : ndarray of shape (m,), float64
        Written here, read by :func:`_two_loop_up`.
    v : ndarray of shape (n,), float64
        The vector, overwritten.
    """
    # alpha_i = rho_i s_i'v; v -= alpha_i y_i
    product = _dot(S[rows[-1]], v)
    for i in range(len(rows) - 1, -1, -1):
        row = rows[i]
        coefficient[i] = rho[row] * product
        product = _add_and_dot(-coefficient[i], Y[row], v, S[rows[max(i - 1, 0)]])


@loop(fastmath=SUMS)
def _two_loop_up(S, Y, rows, rho, ratio, coefficient, v):
    """Run the second loop, from the oldest pair to the newest; see :func:`_two_loop_down`.

    ``ratio``, of shape (memory,), is the unit of each row of S in that of Y's.
    """
    # beta = rho_i y_i'v; v += (alpha_i - beta) s_i
    product = _dot(Y[rows[0]], v)
    for i in range(len(rows)):
        row = rows[i]
        change = ratio[row] * coefficient[i] - rho[row] * product
        product = _add_and_dot(change, S[row], v, Y[rows[min(i + 1, len(rows) - 1)]])


@loop(fastmath=SUMS)
def _dot(x, v):
    """Return the product of two vectors, summed in float64 whatever they are stored in."""
    total = 0.0
    for j in range(v.size):
        total += half.widen(x[j]) * half.widen(v[j])
    return total


@loop(fastmath=SUMS)
def _weighted_dot(scale, x, v):
    """Return the sum of the products of three vectors, in float64."""
    total = 0.0
    for j in range(x.size):
        total += scale[j] * half.widen(x[j]) * half.widen(v[j])
    return total


@loop(fastmath=SUMS)
def _store(s, y, h, vectors, units, norms, row):
    """Store s, y and ``y - h * s``; return one over s'y in units, as :func:`_move` does.

    Parameters
    ----------
    s, y, h : ndarray of shape (n,), float64
    vectors : ndarray of shape (3, memory, n), float64 or int16
        The first vectors of all pairs, the second ones, and the second ones without h.
    units, norms : ndarray of shape (3, memory), float64
        Of these vectors; norms are in units.
    row : int
    """
    squares = _squares_of_pair(s, y, h)
    for k in range(3):
        if not _measured(squares[k], vectors, units, norms, k, row):
            return 0.0
    a, b, c = 1.0 / units[0, row], 1.0 / units[1, row], 1.0 / units[2, row]
    to_s, to_y, to_data = vectors[0, row], vectors[1, row], vectors[2, row]
    for j in range(s.size):
        to_s[j] = half.narrow(a * s[j], to_s)
        to_y[j] = half.narrow(b * y[j], to_y)
        to_data[j] = half.narrow(c * (y[j] - h[j] * s[j]), to_data)
    return _reciprocal(vectors, norms, row)


@loop(fastmath=SUMS)
def _move(h, vectors, units, norms, rows, rho):
    """Move pairs to another h: ``y = y_data + h * s``; see :func:`_store`.

    For each of the ``rows``, write one over s'y, in units, to ``rho``, or 0 where that is not
    safely positive.
    """
    for row in rows:
        s, data = vectors[0, row], vectors[2, row]
        a, b = units[2, row], units[0, row]
        rho[row] = 0.0
        if _measured(_square_of_sum(a, data, b, h, s), vectors, units, norms, 1, row):
            unit = units[1, row]
            _store_sum(a / unit, data, b / unit, h, s, vectors[1, row])
            rho[row] = _reciprocal(vectors, norms, row)


@loop(fastmath=SUMS)
def _squares_of_pair(s, y, h):
    """Return the squared norms of s, y and ``y - h * s``."""
    of_s = of_y = of_data = 0.0
    for j in range(s.size):
        data = y[j] - h[j] * s[j]
        of_s += s[j] * s[j]
        of_y += y[j] * y[j]
        of_data += data * data
    return of_s, of_y, of_data


@loop(fastmath=SUMS)
def _square_of_sum(a, x, b, scale, v):
    """Return the squared norm of ``a * x + b * scale * v``."""
    total = 0.0
    for j in range(v.size):
        y = a * half.widen(x[j]) + b * scale[j] * half.widen(v[j])
        total += y * y
    return total


@loop(fastmath=SUMS)
def _store_sum(a, x, b, scale, v, row):
    """Write ``a * x + b * scale * v`` to ``row``, in the type of that."""
    for j in range(v.size):
        row[j] = half.narrow(a * half.widen(x[j]) + b * scale[j] * half.widen(v[j]), row)


@loop()
def _measured(square, vectors, units, norms, k, row):
    """Store a vector's norm and its unit; return whether the norm is finite.

    In half precision the unit is the power of two that brings the norm just below the largest.
    """
    norm = np.sqrt(square)
    if not np.isfinite(norm):
        return False
    units[k, row] = 1.0
    if norm > 0.0 and vectors.itemsize == half.ITEMSIZE:
        units[k, row] = math.ldexp(1.0, math.frexp(norm)[1] - half.LARGEST_EXPONENT)
    norms[k, row] = norm / units[k, row]
    return True


@loop(error_model="numpy")
def _reciprocal(vectors, norms, row):
    """Return one over s'y in units, or 0 where s'y is rounding (the curvature condition)."""
    product = _dot(vectors[0, row], vectors[1, row])
    safe = product > SUM_ROUNDING * norms[0, row] * norms[1, row]
    return 1.0 / product if safe and 1.0 / product < np.inf else 0.0


@loop(fastmath=SUMS)
def _add_and_dot(a, x, v, following):
    """Add ``a * x`` to ``v``; return the product of the new ``v`` with ``following``."""
    total = 0.0
    for j in range(v.size):
        v[j] += a * half.widen(x[j])
        total += half.widen(following[j]) * v[j]
    return total
