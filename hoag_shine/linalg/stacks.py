"""Compiled loops over stacks of small symmetric matrices, one for each fold.

BLAS and LAPACK are made for large matrices: with some tens of variables, their calls take longer
than the arithmetic.
"""

from __future__ import annotations

import numpy as np

from . import simd
from .compiled import loop, unsigned
from .kernels import SUMS

# Rows of the tiles of matrices that are summed at a time; a tile has one vector of columns.
# Why: so many sums of products are under way at a time that none waits for the one before.
TILE_ROWS = 8
# Samples whose weighted values are kept at a time.
# Why: with some tens of variables, they fit into the first-level cache, beside the samples.
GRAM_BLOCK = 64

_0, _1, _block, _tile = unsigned(0), unsigned(1), unsigned(GRAM_BLOCK), unsigned(TILE_ROWS)
_2, _3, _4, _5, _6, _7 = (unsigned(i) for i in range(2, 8))


@loop()
def gram(rows, weight, scaled, product):
    """Write X' diag(u) X for every row u of ``weight`` to ``product``.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        X, with columns of zeros up to a multiple of ``TILE_ROWS``, which is one of a vector.
    weight : ndarray of shape (k, n)
    scaled : ndarray of shape (GRAM_BLOCK, d)
        Room for weighted values.
    product : ndarray of shape (k, d, d)
        Zero at first.
    """
    n, d, lanes = unsigned(len(rows)), unsigned(rows.shape[1]), simd.lanes(rows)
    for c in range(unsigned(len(weight))):
        G = product[c]
        for first in range(_0, n, _block):
            size = min(_block, n - first)
            for i in range(size):
                for j in range(d):
                    scaled[i, j] = weight[c, first + i] * rows[first + i, j]
            for l in range(_0, d, lanes):
                for j in range(l - l % _tile, d, _tile):
                    _add_tile(scaled, rows, first, size, j, l, G)
        for j in range(d):
            for l in range(j):
                G[l, j] = G[j, l]


@loop()
def _add_tile(scaled, rows, first, size, j, l, G):
    """Add the products of columns j to j + 7 of ``scaled`` and a vector of columns of a block."""
    s, t = simd.load(G, j, l), simd.load(G, j + _1, l)
    u, v = simd.load(G, j + _2, l), simd.load(G, j + _3, l)
    w, x = simd.load(G, j + _4, l), simd.load(G, j + _5, l)
    y, z = simd.load(G, j + _6, l), simd.load(G, j + _7, l)
    for i in range(size):
        own = simd.load(rows, first + i, l)
        s = simd.multiply_add(scaled[i, j], own, s)
        t = simd.multiply_add(scaled[i, j + _1], own, t)
        u = simd.multiply_add(scaled[i, j + _2], own, u)
        v = simd.multiply_add(scaled[i, j + _3], own, v)
        w = simd.multiply_add(scaled[i, j + _4], own, w)
        x = simd.multiply_add(scaled[i, j + _5], own, x)
        y = simd.multiply_add(scaled[i, j + _6], own, y)
        z = simd.multiply_add(scaled[i, j + _7], own, z)
    simd.store(G, j, l, s)
    simd.store(G, j + _1, l, t)
    simd.store(G, j + _2, l, u)
    simd.store(G, j + _3, l, v)
    simd.store(G, j + _4, l, w)
    simd.store(G, j + _5, l, x)
    simd.store(G, j + _6, l, y)
    simd.store(G, j + _7, l, z)


@loop()
def scale(H, root, S):
    """Write matrices with their diagonals scaled to one to ``S``; return whether all is finite.

    Parameters
    ----------
    H, S : ndarray of shape (n_matrices, d, d)
    root : ndarray of shape (n_matrices, d)
        Gets one over the root of each diagonal element; zero where that is not positive.
    """
    check = 0.0
    for b in range(len(H)):
        d = len(H[b])
        for i in range(d):
            pivot = H[b, i, i]
            root[b, i] = 1.0 / np.sqrt(pivot) if pivot > 0.0 else 0.0
        for i in range(d):
            for j in range(d):
                check += 0.0 * H[b, i, j]  # NaN if that is not finite
                S[b, i, j] = H[b, i, j] * root[b, i] * root[b, j]
            if root[b, i] == 0.0:
                S[b, i, i] = 1.0
    return check == 0.0


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
