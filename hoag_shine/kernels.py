"""Loops that numpy and BLAS cannot do well: compiled functions on plain arrays, nothing else.

Every function is defined at module level and compiled with ``cache=True``, so that a process loads
machine code instead of compiling it again. None of them takes a function as an argument (that
would compile anew in every process), and none allocates more than a few numbers.

Conventions: a CSR matrix comes as ``data, indices, indptr`` with *unsigned* ``indices`` and
``indptr`` (numba then skips the wraparound of negative indices, which halves the time of these
loops). Several right-hand sides stand side by side in the last axis, which is contiguous.

``fastmath`` is limited to reassociation and contraction: sums may be vectorised, while NaN and
infinity keep their meaning.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_SUMS = {"reassoc", "contract"}


@njit(cache=True, nogil=True, fastmath=_SUMS)
def csr_matmul(data, indices, indptr, start, stop, W, Z):
    """Rows ``start:stop`` of ``X @ W`` into ``Z`` of shape (stop - start, k)."""
    k = W.shape[1]
    if k == 1:
        w = W.ravel()
        for i in range(stop - start):
            total = 0.0
            for j in range(indptr[start + i], indptr[start + i + 1]):
                total += data[j] * w[indices[j]]
            Z[i, 0] = total
        return
    for i in range(stop - start):
        Z[i] = 0.0
        for j in range(indptr[start + i], indptr[start + i + 1]):
            x = data[j]
            column = indices[j]
            for c in range(k):
                Z[i, c] += x * W[column, c]


@njit(cache=True, nogil=True, fastmath=_SUMS)
def csr_rmatmul(data, indices, indptr, start, stop, U, G, squared):
    """Add ``X[start:stop].T @ U`` to ``G`` of shape (n_features, k); rows of zeros cost nothing.

    With ``squared``, the entries of X are squared first.
    """
    k = U.shape[1]
    if k == 1:
        g = G.ravel()
        for i in range(stop - start):
            u = U[i, 0]
            if u != 0.0:
                for j in range(indptr[start + i], indptr[start + i + 1]):
                    x = np.float64(data[j])
                    if squared:
                        x *= x
                    g[indices[j]] += x * u
        return
    for i in range(stop - start):
        for j in range(indptr[start + i], indptr[start + i + 1]):
            x = np.float64(data[j])
            if squared:
                x *= x
            column = indices[j]
            for c in range(k):
                G[column, c] += x * U[i, c]


@njit(cache=True, nogil=True, fastmath=_SUMS)
def csr_add_gram(data, indices, indptr, start, stop, u, G):
    """Add the lower triangle of ``X[start:stop].T @ diag(u) @ X[start:stop]`` to ``G``.

    The column indices of a row ascend.
    """
    for i in range(stop - start):
        for j in range(indptr[start + i], indptr[start + i + 1]):
            x = u[i] * data[j]
            row = G[indices[j]]
            for k in range(indptr[start + i], j + 1):
                row[indices[k]] += x * data[k]


@njit(cache=True, nogil=True, fastmath=_SUMS)
def two_loop_down(S, Y, first, count, rho, shift, coefficient, v):
    """Run the first loop of the L-BFGS recursion, from the newest pair to the oldest, on ``v``.

    Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithm 7.4, with two changes. Pair
    ``i`` of ``count``, oldest first, stands in row ``(first + i) % len(S)``. Its gradient
    difference is ``Y[row] + shift * S[row]``: the data part, which is stored, and the penalty's
    part, which changes with the penalty. A pair with ``rho == 0`` is passed over.

    Parameters
    ----------
    S, Y : ndarray of shape (memory, n), float64
        Steps, and differences of the data term's gradient.
    first, count : int
        Row of the oldest pair and number of pairs.
    rho : ndarray of shape (memory,), float64
        One over the curvature of each row's pair, or 0.
    shift : ndarray of shape (n,), float64
        Diagonal of the penalty's Hessian.
    coefficient : ndarray of shape (memory,), float64
        Written here, read by :func:`two_loop_up`.
    v : ndarray of shape (n,), float64
        The vector, overwritten.
    """
    memory, n = S.shape
    for i in range(count - 1, -1, -1):
        row = (first + i) % memory
        if rho[row] == 0.0:
            continue
        s, y = S[row], Y[row]
        dot = 0.0
        for j in range(n):
            dot += s[j] * v[j]
        a = rho[row] * dot
        coefficient[row] = a
        for j in range(n):
            v[j] -= a * (y[j] + shift[j] * s[j])


@njit(cache=True, nogil=True, fastmath=_SUMS)
def two_loop_up(S, Y, first, count, rho, shift, coefficient, v):
    """Run the second loop, from the oldest pair to the newest; see :func:`two_loop_down`."""
    memory, n = S.shape
    for i in range(count):
        row = (first + i) % memory
        if rho[row] == 0.0:
            continue
        s, y = S[row], Y[row]
        dot = 0.0
        for j in range(n):
            dot += (y[j] + shift[j] * s[j]) * v[j]
        a = coefficient[row] - rho[row] * dot
        for j in range(n):
            v[j] += a * s[j]


@njit(cache=True, nogil=True, fastmath=_SUMS)
def logistic(y, z, value, gradient):
    """Turn log(1 + e) and e, with e = exp(-abs(z)), into the logistic loss and its derivative.

    ``z``, ``value`` (log(1 + e) on entry) and ``gradient`` (e on entry) are of shape (n, k * m),
    ``y`` of shape (n, m).
    """
    n, m = y.shape
    for i in range(n):
        target = y[i, 0]
        for c in range(z.shape[1]):
            if m > 1:
                target = y[i, c % m]
            t = z[i, c]
            e = gradient[i, c]
            value[i, c] += max(t, 0.0) - target * t
            # Not probability minus target, which would cancel where both are near one.
            above = 1.0 if t >= 0.0 else e
            below = e if t >= 0.0 else 1.0
            gradient[i, c] = ((1.0 - target) * above - target * below) / (1.0 + e)


@njit(cache=True, nogil=True)
def multinomial(y, z, value, gradient):
    """Softmax loss and its derivative in ``z``, sharing the exponentials.

    ``z`` and ``gradient`` are of shape (n, k * m), ``y`` of shape (n, m) with rows that sum to
    one, ``value`` of shape (n, k).
    """
    n, m = y.shape
    for i in range(n):
        for p in range(value.shape[1]):
            row, slope = z[i, p * m : (p + 1) * m], gradient[i, p * m : (p + 1) * m]
            top = row.max()
            total = 0.0
            fit = 0.0
            for c in range(m):
                slope[c] = np.exp(row[c] - top)
                total += slope[c]
                # Measured from the top, so that a class of probability one costs exactly nothing.
                fit += y[i, c] * (row[c] - top)
            value[i, p] = np.log(total) - fit
            for c in range(m):
                slope[c] = slope[c] / total - y[i, c]
