"""Compiled loops over stacks of small symmetric matrices, one for each fold.

BLAS and LAPACK are made for large matrices: with some tens of variables, their calls take longer
than the arithmetic.
"""

from __future__ import annotations

import numpy as np

from .compiled import loop
from .kernels import SUMS

# Rows of the tiles of matrices that are summed at a time, and their columns.
# Why: eight sums and what they are made of are as many vectors as most processors have registers
# for.
_TILE_ROWS, TILE_COLUMNS = 2, 4
# Samples whose weighted values are kept at a time.
# Why: with some tens of variables, they fit into the first-level cache, or nearly so.
GRAM_BLOCK = 256


@loop(fastmath=SUMS, error_model="numpy")
def gram(columns, weight, scaled, product):
    """Write X' diag(u) X for every row u of ``weight`` to ``product``.

    Parameters
    ----------
    columns : ndarray of shape (d, n)
        The columns of X; d is a multiple of ``TILE_COLUMNS``.
    weight : ndarray of shape (k, n)
    scaled : ndarray of shape (d, GRAM_BLOCK)
        Room for weighted values.
    product : ndarray of shape (k, d, d)
        Zero at first.
    """
    d, n = columns.shape
    for c in range(len(weight)):
        for first in range(0, n, GRAM_BLOCK):
            last = min(first + GRAM_BLOCK, n)
            for j in range(d):
                _multiply(weight[c, first:last], columns[j, first:last], scaled[j])
            for j in range(0, d, _TILE_ROWS):
                for l in range(0, j + _TILE_ROWS, TILE_COLUMNS):
                    _add_tile(scaled, columns, first, last, j, l, product[c])
        for j in range(d):
            for l in range(j):
                product[c, l, j] = product[c, j, l]


@loop(fastmath=SUMS)
def _multiply(u, x, product):
    for i in range(u.size):
        product[i] = u[i] * x[i]


@loop(fastmath=SUMS)
def _add_tile(left, right, first, last, j, l, product):
    """Add the products of rows j, j + 1 of ``left`` and rows l to l + 3 of a part of ``right``."""
    a, b = left[j, : last - first], left[j + 1, : last - first]
    p, q = right[l, first:last], right[l + 1, first:last]
    r, s = right[l + 2, first:last], right[l + 3, first:last]
    ap = aq = ar = as_ = bp = bq = br = bs = 0.0
    for i in range(p.size):
        ap += a[i] * p[i]
        aq += a[i] * q[i]
        ar += a[i] * r[i]
        as_ += a[i] * s[i]
        bp += b[i] * p[i]
        bq += b[i] * q[i]
        br += b[i] * r[i]
        bs += b[i] * s[i]
    above, below = product[j], product[j + 1]
    above[l] += ap
    above[l + 1] += aq
    above[l + 2] += ar
    above[l + 3] += as_
    below[l] += bp
    below[l + 1] += bq
    below[l + 2] += br
    below[l + 3] += bs


@loop(fastmath=SUMS, error_model="numpy")
def factorise(S, factor, smallest):
    """Write the Cholesky factors of matrices to the lower triangles of ``factor``.

    On the diagonal are the inverses of the pivots' roots. ``smallest`` gets each matrix's smallest
    pivot, of those up to one; zero where a pivot is not positive, which ends that factor.

    Parameters
    ----------
    S, factor : ndarray of shape (n_matrices, d, d)
    smallest : ndarray of shape (n_matrices,)
    """
    for b in range(len(S)):
        L = factor[b]
        smallest[b] = 1.0
        for i in range(len(L)):
            for j in range(i):
                L[i, j] = (S[b, i, j] - _dot(L[i, :j], L[j, :j])) * L[j, j]
            pivot = S[b, i, i] - _dot(L[i, :i], L[i, :i])
            if not pivot > 0.0:
                smallest[b] = 0.0
                break
            smallest[b] = min(smallest[b], pivot)
            L[i, i] = 1.0 / np.sqrt(pivot)


@loop(fastmath=SUMS, error_model="numpy")
def solve(S, factor, rhs, x, rest):
    """Write the solutions of systems to ``x``, with one step of iterative refinement.

    Refined solutions are as accurate as if the matrices had been factorised without error (Higham,
    Accuracy and Stability of Numerical Algorithms, chapter 12).

    Parameters
    ----------
    S : ndarray of shape (n_matrices, d, d)
    factor : ndarray of shape (n_matrices, d, d)
        As :func:`factorise` writes it.
    rhs, x : ndarray of shape (n_matrices, n_sides, d)
    rest : ndarray of shape (d,)
        Room for residuals.
    """
    for b in range(len(S)):
        for c in range(rhs.shape[1]):
            solution = x[b, c]
            solution[:] = rhs[b, c]
            _substitute(factor[b], solution)
            for i in range(rest.size):
                rest[i] = rhs[b, c, i] - _dot(S[b, i], solution)
            _substitute(factor[b], rest)
            for i in range(rest.size):
                solution[i] += rest[i]


@loop(fastmath=SUMS, error_model="numpy")
def _substitute(L, x):
    """Multiply x by the inverse of L L', whose diagonal is inverted already."""
    for i in range(x.size):
        x[i] = (x[i] - _dot(L[i, :i], x[:i])) * L[i, i]
    for i in range(x.size - 1, -1, -1):
        x[i] *= L[i, i]
        for j in range(i):
            x[j] -= L[i, j] * x[i]


@loop(fastmath=SUMS)
def _dot(x, y):
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total
