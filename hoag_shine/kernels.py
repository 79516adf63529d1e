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
# A sum over scattered entries would be vectorised by gathering them, which is slower.
_CONTRACT = {"contract"}

# A signed and an unsigned integer make a float in numba.
_0, _1, _2, _3, _4, _5 = (np.uint64(i) for i in range(6))


@njit(cache=True, nogil=True, fastmath=_CONTRACT)
def csr_matmul(data, indices, indptr, W, Z):
    """Write ``X @ W`` to ``Z``, of shape (n_rows, k).

    Five columns at a time, the number of folds that most searches have, and the rest one by one.
    """
    k = np.uint64(W.shape[1])
    in_fives = k - k % _5
    for i in range(np.uint64(len(Z))):
        first, last, z = indptr[i], indptr[i + _1], Z[i]
        for c in range(_0, in_fives, _5):
            z0 = z1 = z2 = z3 = z4 = 0.0
            for j in range(first, last):
                x, w = data[j], W[indices[j]]
                z0 += x * w[c]
                z1 += x * w[c + _1]
                z2 += x * w[c + _2]
                z3 += x * w[c + _3]
                z4 += x * w[c + _4]
            z[c], z[c + _1], z[c + _2], z[c + _3], z[c + _4] = z0, z1, z2, z3, z4
        for c in range(in_fives, k):
            total = 0.0
            for j in range(first, last):
                total += data[j] * W[indices[j], c]
            z[c] = total


@njit(cache=True, nogil=True, fastmath=_CONTRACT)
def csr_rmatmul(data, indices, indptr, U, G, squared):
    """Add ``X.T @ U`` to ``G``, of shape (n_features, k), in fives as :func:`csr_matmul`.

    With ``squared``, the entries of X are squared first.
    """
    k = np.uint64(U.shape[1])
    in_fives = k - k % _5
    for i in range(np.uint64(len(U))):
        first, last, u = indptr[i], indptr[i + _1], U[i]
        for c in range(_0, in_fives, _5):
            u0, u1, u2, u3, u4 = u[c], u[c + _1], u[c + _2], u[c + _3], u[c + _4]
            for j in range(first, last):
                x, g = np.float64(data[j]), G[indices[j]]
                if squared:
                    x *= x
                g[c] += x * u0
                g[c + _1] += x * u1
                g[c + _2] += x * u2
                g[c + _3] += x * u3
                g[c + _4] += x * u4
        for c in range(in_fives, k):
            total = u[c]
            if total != 0.0:
                for j in range(first, last):
                    x = np.float64(data[j])
                    if squared:
                        x *= x
                    G[indices[j], c] += x * total


@njit(cache=True, nogil=True, fastmath=_CONTRACT)
def csr_add_gram(data, indices, indptr, u, G):
    """Add the lower triangle of ``X.T @ diag(u) @ X`` to ``G``.

    The column indices of a row ascend.
    """
    for i in range(np.uint64(len(u))):
        first, last = indptr[i], indptr[i + _1]
        for j in range(first, last):
            x, row = u[i] * data[j], G[indices[j]]
            for k in range(first, j + _1):
                row[indices[k]] += x * data[k]


@njit(cache=True, nogil=True, fastmath=_SUMS)
def two_loop_down(S, Y, rows, rho, coefficient, v):
    """Run the first loop of the L-BFGS recursion, from the newest pair to the oldest, on ``v``.

    Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithm 7.4. What a pair subtracts and
    the next one's product are taken in one sweep over ``v``.

    Parameters
    ----------
    S, Y : ndarray of shape (memory, n), float64
        Steps and gradient differences.
    rows : ndarray of shape (m,), intp
        Rows of the pairs to use, the oldest first.
    rho : ndarray of shape (memory,), float64
        One over the curvature of each row's pair.
    coefficient : ndarray of shape (m,), float64
        Written here, read by :func:`two_loop_up`.
    v : ndarray of shape (n,), float64
        The vector, overwritten.
    """
    product = _dot(S[rows[-1]], v)
    for i in range(len(rows) - 1, -1, -1):
        row = rows[i]
        coefficient[i] = rho[row] * product
        product = _add_and_dot(-coefficient[i], Y[row], v, S[rows[max(i - 1, 0)]])


@njit(cache=True, nogil=True, fastmath=_SUMS)
def two_loop_up(S, Y, rows, rho, coefficient, v):
    """Run the second loop, from the oldest pair to the newest; see :func:`two_loop_down`."""
    product = _dot(Y[rows[0]], v)
    for i in range(len(rows)):
        row = rows[i]
        change = coefficient[i] - rho[row] * product
        product = _add_and_dot(change, S[row], v, Y[rows[min(i + 1, len(rows) - 1)]])


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _dot(x, v):
    total = 0.0
    for j in range(v.size):
        total += x[j] * v[j]
    return total


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _add_and_dot(a, x, v, following):
    """Add ``a * x`` to ``v``; return the product of what it has become with ``following``."""
    total = 0.0
    for j in range(v.size):
        v[j] += a * x[j]
        total += following[j] * v[j]
    return total


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
