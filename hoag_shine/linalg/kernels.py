"""Compiled loops over plain arrays, for what numpy and BLAS do not do well.

Every loop is defined at module level, and its machine code is kept in a file, so that a process
loads it instead of compiling it again. None of them takes a function as an argument (it would be
compiled again in every process), and none allocates more than a few numbers.

Conventions: a CSR matrix comes as ``data, indices, indptr``, some of its rows as ``data, indices,
starts, ends``, with *unsigned* integers (numba then skips the wraparound of negative indices, which
halves the time of these loops). Several right-hand sides stand side by side in the last axis, which
is contiguous.

``fastmath`` is limited to reassociation and contraction: sums may be vectorised, while NaN and
infinity keep their meaning.
"""

from __future__ import annotations

import gc
from functools import cache

import numpy as np

from . import simd
from .compiled import loop, unsigned
from .costs import CORE_CACHE_NUMBERS
from .exponentials import LARGEST_DECAY, exp_of_negative, log1p_of_share

SUMS = {"reassoc", "contract"}
# Without reassociation: a sum over scattered entries would be vectorised by gathering them, which
# is slower.
_CONTRACT = {"contract"}

# A signed and an unsigned integer make a float in numba.
_0, _1, _2, _3, _4 = (unsigned(i) for i in range(5))
_8, _16 = unsigned(8), unsigned(16)

# Entries of X by which the rows of G are fetched ahead, where G does not fit into a core's own
# cache. The columns of X say which rows, so that no processor can guess them. Rows of W are only
# read, and processors fetch these early enough by themselves: asking for them cost a fifth on
# 20news.
# Why: by judgement; about as many lines of the cache as a core can wait for at a time.
_ENTRIES_AHEAD = unsigned(32)
# Rows of columns that are turned into vectors at a time.
# Why: 32 rows of 8 numbers are 2 KiB, so that both sides stay in the first-level cache.
_TILE_ROWS = unsigned(32)


@cache
def get_ready() -> None:
    """Have numba load what it needs for a first call, with Python's garbage collector paused.

    Numba creates many objects then, all of which stay. The collector would search the whole process
    for garbage again and again, which takes longer than tuning on small data does.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        weighted_dot(*np.zeros((3, 1)))
    finally:
        if collecting:
            gc.enable()


@loop(fastmath=_CONTRACT)
def csr_matmul(data, indices, starts, ends, W, p, Z):
    """Write ``X @ W`` to ``Z``, of shape (n_rows, k), where X has p columns.

    W and Z are both float64 or both float32, and so is the arithmetic. ``W`` has one column, or as
    many as fill vectors: those beyond k are not used. If it has p + 1 rows, the last is that of a
    column of ones.
    """
    k, p, ones, lanes = unsigned(Z.shape[1]), unsigned(p), len(W) > p, simd.lanes(W)
    for i in range(unsigned(len(Z))):
        first, last = starts[i], ends[i]
        if k == _1:  # a single column is no vector
            total = np.float64(W[p, _0]) if ones else 0.0
            for j in range(first, last):
                total += data[j] * W[indices[j], _0]
            Z[i, _0] = total
            continue
        # Two vectors of columns at a time: each entry of X is read once for both. W is padded to
        # whole vectors, Z is not, so that the last store is cut off.
        c = _0
        while c + lanes < k:
            low = simd.load(W, p, c) if ones else simd.zeros(W)
            high = simd.load(W, p, c + lanes) if ones else simd.zeros(W)
            for j in range(first, last):
                low = simd.multiply_add(data[j], simd.load(W, indices[j], c), low)
                high = simd.multiply_add(data[j], simd.load(W, indices[j], c + lanes), high)
            simd.store_first(Z, i, c, lanes, low)
            simd.store_first(Z, i, c + lanes, k - c - lanes, high)
            c += lanes + lanes
        if c < k:
            low = simd.load(W, p, c) if ones else simd.zeros(W)
            for j in range(first, last):
                low = simd.multiply_add(data[j], simd.load(W, indices[j], c), low)
            simd.store_first(Z, i, c, k - c, low)


@loop(fastmath=_CONTRACT)
def csr_rmatmul(data, indices, starts, ends, U, G, p, apart):
    """Add ``X.T @ U`` to ``G``; U is of shape (n_rows, k), and G as W in :func:`csr_matmul`.

    ``apart`` is None where rows follow each other in memory, and True where they do not, as in
    strips of columns: numba compiles a loop for each of the two, and leaves branches on None out.
    """
    k, p, ones, far = unsigned(U.shape[1]), unsigned(p), len(G) > p, G.size > CORE_CACHE_NUMBERS
    n, final, lanes = unsigned(len(U)), unsigned(len(indices)) - _1, simd.lanes(G)
    for i in range(n):
        first, last = starts[i], ends[i]
        if apart is not None:
            final = last - _1  # other threads write to other columns
            following = min(i + _1, n - _1)
            _prefetch_entries(data, indices, starts[following], ends[following])
        if k == _1:
            u = U[i, _0]
            if u != 0.0:
                for j in range(first, last):
                    G[indices[j], _0] += data[j] * u
                if ones:
                    G[p, _0] += u
            continue
        # As in csr_matmul, with G in the place of W; U is the one that is not padded.
        c = _0
        while c + lanes < k:
            low = simd.load_first(U, i, c, lanes)
            high = simd.load_first(U, i, c + lanes, k - c - lanes)
            for j in range(first, last):
                if far:
                    ahead = indices[min(j + _ENTRIES_AHEAD, final)]
                    simd.prefetch(G, ahead, c)
                    simd.prefetch(G, ahead, c + lanes)
                _add(data[j], low, G, indices[j], c)
                _add(data[j], high, G, indices[j], c + lanes)
            if ones:
                _add(1.0, low, G, p, c)
                _add(1.0, high, G, p, c + lanes)
            c += lanes + lanes
        if c < k:
            low = simd.load_first(U, i, c, k - c)
            for j in range(first, last):
                if far:
                    simd.prefetch(G, indices[min(j + _ENTRIES_AHEAD, final)], c)
                _add(data[j], low, G, indices[j], c)
            if ones:
                _add(1.0, low, G, p, c)
        if apart is not None:
            _prefetch_rows(G, indices, starts[following], ends[following], k, far)


@loop()
def _prefetch_entries(data, indices, first, last):
    """Have entries that no processor foresees read from memory."""
    for j in range(first, last, _8):
        simd.prefetch_entry(data, j)
    for j in range(first, last, _16):
        simd.prefetch_entry(indices, j)


@loop()
def _prefetch_rows(G, indices, first, last, k, far):
    """Have the rows of G of the first entries read from memory, if they are ``far``."""
    last = min(first + _ENTRIES_AHEAD, last) if far else first
    for j in range(first, last):
        for c in range(_0, k, simd.lanes(G)):
            simd.prefetch(G, indices[j], c)


@loop()
def csr_ends(indices, indptr, columns, ends):
    """Write where the entries of row i before ``columns[c]`` end to ``ends[c, i]``.

    The columns, and the indices of each row, ascend.
    """
    for i in range(unsigned(ends.shape[1])):
        j, last = indptr[i], indptr[i + _1]
        for c in range(unsigned(len(columns))):
            while j < last and indices[j] < columns[c]:
                j += _1
            ends[c, i] = j


@loop(fastmath=_CONTRACT)
def csr_add_rows(data, indices, starts, ends, U, G, p):
    """Add ``X.T @ U`` to ``G`` for the rows of X that begin and end at some entries.

    U is of shape (n_rows, m), G of shape (p, m), or (p + 1, m) for a column of ones.
    """
    p, m, ones = unsigned(p), unsigned(U.shape[1]), len(G) > p
    for i in range(unsigned(len(U))):
        if m == _1:  # a loop over a single number takes twice as long
            u = U[i, _0]
            for j in range(starts[i], ends[i]):
                G[indices[j], _0] += data[j] * u
        else:
            for j in range(starts[i], ends[i]):
                for o in range(m):
                    G[indices[j], o] += data[j] * U[i, o]
        if ones:
            for o in range(m):
                G[p, o] += U[i, o]


@loop(fastmath=_CONTRACT)
def dense_add_rows(X, rows, u, g):
    """Add ``X[rows].T @ u`` to ``g``, of shape (p,), or (p + 1,) for a column of ones."""
    n, p, ones = unsigned(len(rows)), unsigned(X.shape[1]), len(g) > X.shape[1]
    for i in range(_0, n, _4):
        # After the last row, that row again, without a weight.
        a, b = min(i + _1, n - _1), min(i + _2, n - _1)
        c = min(i + _3, n - _1)
        at_i, at_a = u[i], u[a] if i + _1 < n else 0.0
        at_b, at_c = u[b] if i + _2 < n else 0.0, u[c] if i + _3 < n else 0.0
        x_i, x_a, x_b, x_c = X[rows[i]], X[rows[a]], X[rows[b]], X[rows[c]]
        for j in range(p):
            g[j] += x_i[j] * at_i + x_a[j] * at_a + (x_b[j] * at_b + x_c[j] * at_c)
        if ones:
            g[p] += at_i + at_a + (at_b + at_c)


@loop(fastmath=_CONTRACT)
def _add(x, vector, A, i, c):
    """Add x times a vector to that which begins at ``A[i, c]``."""
    simd.store(A, i, c, simd.multiply_add(x, vector, simd.load(A, i, c)))


@loop(fastmath={"nnan", "nsz"})
def dense_column_sizes(X, sizes):
    """Raise ``sizes``, of shape (p,), to the largest magnitude in each column of a dense X."""
    for i in range(unsigned(len(X))):
        for j in range(unsigned(X.shape[1])):
            sizes[j] = max(sizes[j], np.float64(abs(X[i, j])))


@loop(fastmath={"nnan", "nsz"})
def csr_column_sizes(data, indices, sizes):
    """Do the same for a CSR matrix."""
    for j in range(unsigned(len(data))):
        sizes[indices[j]] = max(sizes[indices[j]], np.float64(abs(data[j])))


@loop(fastmath=_CONTRACT)
def dense_matmul(X, W, Z):
    """Write ``X @ W`` to ``Z`` for a dense X; W is as in :func:`csr_matmul`.

    X is of shape (n_rows, p), of any layout. Each vector of W that is read serves four rows of X.
    """
    n, p, k, lanes = unsigned(len(X)), unsigned(X.shape[1]), unsigned(Z.shape[1]), simd.lanes(W)
    ones = len(W) > p
    for r in range(_0, n, _4):
        # After the last row, that row again: it is written several times, with the same numbers.
        s, t, u = min(r + _1, n - _1), min(r + _2, n - _1), min(r + _3, n - _1)
        for c in range(_0, k, lanes):
            at_r = simd.load(W, p, c) if ones else simd.zeros(W)
            at_s, at_t, at_u = at_r, at_r, at_r
            for j in range(p):
                w = simd.load(W, j, c)
                at_r = simd.multiply_add(X[r, j], w, at_r)
                at_s = simd.multiply_add(X[s, j], w, at_s)
                at_t = simd.multiply_add(X[t, j], w, at_t)
                at_u = simd.multiply_add(X[u, j], w, at_u)
            simd.store_first(Z, r, c, k - c, at_r)
            simd.store_first(Z, s, c, k - c, at_s)
            simd.store_first(Z, t, c, k - c, at_t)
            simd.store_first(Z, u, c, k - c, at_u)


@loop(fastmath=_CONTRACT)
def dense_rmatmul(X, U, G):
    """Add ``X.T @ U`` to ``G`` for a dense X; G is as W in :func:`csr_matmul`."""
    n, p, k, lanes = unsigned(len(X)), unsigned(X.shape[1]), unsigned(U.shape[1]), simd.lanes(G)
    ones = len(G) > p
    for r in range(_0, n, _4):
        # After the last row, that row again, with zeros for its part of U.
        s, t, u = min(r + _1, n - _1), min(r + _2, n - _1), min(r + _3, n - _1)
        for c in range(_0, k, lanes):
            of_r = simd.load_first(U, r, c, k - c)
            of_s = simd.load_first(U, s, c, k - c if r + _1 < n else _0)
            of_t = simd.load_first(U, t, c, k - c if r + _2 < n else _0)
            of_u = simd.load_first(U, u, c, k - c if r + _3 < n else _0)
            for j in range(p):
                g = simd.multiply_add(X[r, j], of_r, simd.load(G, j, c))
                g = simd.multiply_add(X[s, j], of_s, g)
                g = simd.multiply_add(X[t, j], of_t, g)
                simd.store(G, j, c, simd.multiply_add(X[u, j], of_u, g))
            if ones:
                _add(1.0, of_r, G, p, c)
                _add(1.0, of_s, G, p, c)
                _add(1.0, of_t, G, p, c)
                _add(1.0, of_u, G, p, c)


@loop()
def pack(V, m, W, start, stop):
    """Write row c of ``V``, a matrix of m columns in C order, to the c-th m columns of W.

    Only the rows of these matrices from ``start`` to ``stop`` are written.
    """
    m, stop = unsigned(m), unsigned(stop)
    for first in range(unsigned(start), stop, _TILE_ROWS):
        rows = range(first, min(first + _TILE_ROWS, stop))
        for c in range(unsigned(len(V))):
            v = V[c]
            for o in range(m):
                for i in rows:
                    W[i, c * m + o] = v[i * m + o]


@loop()
def unpack(W, m, V, start, stop):
    """Write columns of W to rows of V, the inverse of :func:`pack`."""
    m, stop = unsigned(m), unsigned(stop)
    for first in range(unsigned(start), stop, _TILE_ROWS):
        rows = range(first, min(first + _TILE_ROWS, stop))
        for c in range(unsigned(len(V))):
            v = V[c]
            for o in range(m):
                for i in rows:
                    v[i * m + o] = W[i, c * m + o]


@loop(fastmath=_CONTRACT)
def csr_add_gram(data, indices, indptr, u, G):
    """Add the lower triangle of ``X.T @ diag(u) @ X`` to ``G``.

    The column indices of a row ascend.
    """
    for i in range(unsigned(len(u))):
        first, last = indptr[i], indptr[i + _1]
        for j in range(first, last):
            x, row = u[i] * data[j], G[indices[j]]
            for k in range(first, j + _1):
                row[indices[k]] += x * data[k]


@loop(error_model="numpy")
def column_marks(data, indices, indptr, random, first, n_entries, marks):
    """Find the first entry of each column, count its entries, and mark the column.

    ``marks``, of shape (n_columns, k), gets the products of the columns, divided by their first
    entries, with ``random``, of shape (n_rows, k): columns that are multiples of each other have
    the same marks. Zeros that are stored do not count.
    """
    for i in range(unsigned(len(random))):
        for j in range(indptr[i], indptr[i + _1]):
            c, x = indices[j], np.float64(data[j])
            if x == 0.0:
                continue
            if n_entries[c] == 0:
                first[c] = x
            n_entries[c] += 1
            x /= first[c]
            for k in range(unsigned(random.shape[1])):
                marks[c, k] += x * random[i, k]


@loop()
def csr_take(data, indices, indptr, kind, n_kinds, position, scale, to_data, to_indices, to_indptr):
    """Copy the columns of some kinds, times ``scale``, to new positions, without stored zeros.

    Within a row, columns of kind 0 come first, then those of kind 1; those of one kind keep their
    order. It is a counting sort of each row: ``place`` counts the kinds, then says where each goes.
    """
    place = np.empty(n_kinds + 1, np.uint64)
    total = _0
    for i in range(unsigned(len(indptr)) - _1):
        place[:] = _0
        for j in range(indptr[i], indptr[i + _1]):
            place[kind[indices[j]]] += unsigned(data[j] != 0.0)
        for k in range(n_kinds):
            count = place[k]
            place[k] = total
            total += count
        for j in range(indptr[i], indptr[i + _1]):
            c = indices[j]
            k = kind[c]
            if k < n_kinds and data[j] != 0.0:
                to_data[place[k]] = data[j] * scale[c]
                to_indices[place[k]] = position[c]
                place[k] += _1
        to_indptr[i + _1] = total


@loop(fastmath=SUMS)
def weighted_dot(scale, x, v):
    """Return the sum of the products of three vectors."""
    total = 0.0
    for j in range(x.size):
        total += scale[j] * x[j] * v[j]
    return total


@loop(fastmath=SUMS)
def add_scaled(scale, v, product):
    """Add ``scale * v`` to ``product``; return the product of what is added with ``v``."""
    total = 0.0
    for j in range(v.size):
        x = scale[j] * v[j]
        product[j] += x
        total += x * v[j]
    return total


@loop(fastmath=SUMS)
def group_sums(group, x, y, z, sums):
    """Add the products of three vectors to ``sums``, those of entry j to that of its group.

    For each row of ``y``, ``z`` and ``sums``, with one ``x``. Entries of a negative group are left
    out.
    """
    first = 0
    while first < group.size:
        # Neighbours often belong to one group, and are summed faster together.
        last = first + 1
        while last < group.size and group[last] == group[first]:
            last += 1
        if group[first] >= 0:
            for i in range(len(y)):
                own = y[i, first:last], z[i, first:last]
                sums[i, group[first]] += weighted_dot(x[first:last], *own)
        first = last


@loop(fastmath=_CONTRACT, error_model="numpy")
def logistic(z, value, gradient):
    """Logistic loss and its derivative in ``z``, sharing the exponentials; all of shape (n,).

    ``gradient`` holds the targets when this begins.
    """
    for i in range(z.size):
        target, t = gradient[i], z[i]
        positive = t >= 0.0
        e = exp_of_negative(-abs(t))
        value[i] = (t if positive else 0.0) - target * t + log1p_of_share(e)
        # p - y = ((1 - y) p - y (1 - p)), with p = above / (1 + e) and 1 - p = below / (1 + e): the
        # difference itself would cancel where both are near one.
        above = 1.0 if positive else e
        below = e if positive else 1.0
        gradient[i] = ((1.0 - target) * above - target * below) / (1.0 + e)


@loop(fastmath=_CONTRACT, error_model="numpy")
def sigmoid_slope(z, slope):
    """Write the derivative of the sigmoid at z, which does not cancel; both of shape (n,)."""
    for i in range(z.size):
        # p (1 - p) would lose 1 - p where p is near one.
        e = exp_of_negative(-abs(z[i]))
        below = e / ((1.0 + e) * (1.0 + e))
        slope[i] = 0.0 if abs(z[i]) > LARGEST_DECAY else below


@loop(fastmath=SUMS, error_model="numpy")
def multinomial(y, z, value, gradient):
    """Softmax loss and its derivative in ``z``, sharing the exponentials.

    ``z`` and ``gradient`` are of shape (n, k * m), ``y`` of shape (n, m) with rows that sum to
    one, ``value`` of shape (n, k).
    """
    n, m = y.shape
    # log(sum exp z) = top + log(sum exp(z - top)), without overflow.
    for i in range(n):
        for p in range(value.shape[1]):
            first = p * m
            top = z[i, first]
            for c in range(1, m):
                top = max(top, z[i, first + c])
            fit = 0.0
            for c in range(m):
                below = z[i, first + c] - top
                gradient[i, first + c] = below
                # Measured from the top, so that a class of probability one costs exactly nothing.
                fit += y[i, c] * below
            value[i, p] = -fit
    # All in one loop: rows are too short to be vectorised one by one.
    every = gradient.reshape(-1)
    for j in range(every.size):
        every[j] = exp_of_negative(every[j])
    for i in range(n):
        for p in range(value.shape[1]):
            first = p * m
            total = 0.0
            for c in range(m):
                total += gradient[i, first + c]
            value[i, p] += np.log(total)
            for c in range(m):
                gradient[i, first + c] = gradient[i, first + c] / total - y[i, c]


@loop(fastmath=SUMS)
def multinomial_product(p, v, product):
    """Softmax loss's second derivative, diag(p) - p p', times several v.

    ``p`` is of shape (n, m), ``v`` and ``product`` of shape (n, k, m).
    """
    n, k, m = v.shape
    for i in range(n):
        for j in range(k):
            mean = 0.0
            for c in range(m):
                mean += p[i, c] * v[i, j, c]
            for c in range(m):
                product[i, j, c] = p[i, c] * (v[i, j, c] - mean)
