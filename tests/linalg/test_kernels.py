"""The compiled loops that follow indices, against scipy and numpy.

A wrong index reads or writes what belongs to somebody else and raises nothing. So every array that
a loop writes to lies between numbers that must stay as they are.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from hoag_shine.linalg import kernels
from hoag_shine.linalg.design import unsigned

GUARD = 40
seeds, sizes, counts = st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 19)
dtypes = st.sampled_from([np.float32, np.float64])


def close(dtype):
    return {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}


@contextmanager
def guarded(content):
    """Give a copy of an array, and see to it that nothing beside it is written to."""
    whole = np.full(content.size + 2 * GUARD, -7, content.dtype)
    inner = whole[GUARD : GUARD + content.size].reshape(content.shape)
    inner[...] = content
    yield inner
    assert (whole[:GUARD] == -7).all()
    assert (whole[GUARD + content.size :] == -7).all()


def drawn_matrix(rng, n, p, dtype=np.float64):
    """Return a CSR matrix with empty rows and columns, and with zeros that are stored."""
    dense = np.where(rng.random((n, p)) < 0.4, rng.normal(size=(n, p)), 0.0)
    X = sparse.csr_array(dense.astype(dtype))
    X.data[rng.random(X.nnz) < 0.2] = 0.0
    return X


def entries(X):
    return X.data, unsigned(X.indices), unsigned(X.indptr)


def rows_of(X):
    """Return a matrix as loops over some rows take it."""
    data, indices, indptr = entries(X)
    return data, indices, indptr[:-1], indptr[1:]


def padded(k):
    """Return as many columns as fill vectors of any length, or the one that is no vector."""
    return 1 if k == 1 else -(-k // 16) * 16


@given(seeds, counts, sizes, counts, st.booleans(), dtypes, st.sampled_from([None, True]))
def test_csr_products(seed, n, p, k, ones, dtype, apart):
    rng = np.random.default_rng(seed)
    X = drawn_matrix(rng, n, p)
    W = rng.normal(size=(p + ones, padded(k))).astype(dtype)
    U = rng.normal(size=(n, k)).astype(dtype)
    full = np.hstack([X.toarray(), np.ones((n, int(ones)))])
    with guarded(np.zeros((n, k), dtype)) as Z:
        kernels.csr_matmul(*rows_of(X), W, p, Z)
        np.testing.assert_allclose(Z, full @ W[:, :k], **close(dtype))
    start = rng.normal(size=W.shape).astype(dtype)
    with guarded(start) as G:
        kernels.csr_rmatmul(*rows_of(X), U, G, p, apart)
        np.testing.assert_allclose(G[:, :k], start[:, :k] + full.T @ U, **close(dtype))
        np.testing.assert_array_equal(G[:, k:], start[:, k:])


@given(seeds, counts, sizes, counts, st.booleans(), dtypes, st.sampled_from("CF"))
def test_dense_products(seed, n, p, k, ones, dtype, order):
    rng = np.random.default_rng(seed)
    X = np.asarray(rng.normal(size=(n, p)), order=order)
    W = rng.normal(size=(p + ones, max(padded(k), 16))).astype(dtype)
    U = rng.normal(size=(n, k)).astype(dtype)
    full = np.hstack([X, np.ones((n, int(ones)))])
    with guarded(np.zeros((n, k), dtype)) as Z:
        kernels.dense_matmul(X, W, Z)
        np.testing.assert_allclose(Z, full @ W[:, :k], **close(dtype))
    start = rng.normal(size=W.shape).astype(dtype)
    with guarded(start) as G:
        kernels.dense_rmatmul(X, U, G)
        np.testing.assert_allclose(G[:, :k], start[:, :k] + full.T @ U, **close(dtype))


@given(seeds, counts, sizes, sizes, st.booleans())
def test_products_of_some_rows(seed, n, p, m, ones):
    rng = np.random.default_rng(seed)
    X = drawn_matrix(rng, n, p)
    rows = np.flatnonzero(rng.random(n) < 0.5)
    U, start = rng.normal(size=(len(rows), m)), rng.normal(size=(p + ones, m))
    expected = start + np.hstack([X.toarray(), np.ones((n, int(ones)))])[rows].T @ U
    with guarded(start) as G:
        data, indices, starts, ends = rows_of(X)
        kernels.csr_add_rows(data, indices, starts[rows], ends[rows], U, G, p)
        np.testing.assert_allclose(G, expected, rtol=1e-12, atol=1e-12)
    with guarded(start[:, 0]) as g:
        kernels.dense_add_rows(X.toarray(), unsigned(rows), U[:, 0], g)
        np.testing.assert_allclose(g, expected[:, 0], rtol=1e-12, atol=1e-12)


@given(seeds, counts, sizes)
def test_gram_matrices_have_their_lower_triangle(seed, n, p):
    rng = np.random.default_rng(seed)
    X, u = drawn_matrix(rng, n, p), rng.random(n)
    with guarded(np.zeros((p, p))) as G:
        kernels.csr_add_gram(*entries(X), u, G)
        expected = np.tril((X.toarray().T * u) @ X.toarray())
        np.testing.assert_allclose(G, expected, rtol=1e-12, atol=1e-12)


@given(seeds, counts, sizes)
def test_marks_of_columns(seed, n, p):
    rng = np.random.default_rng(seed)
    X, random = drawn_matrix(rng, n, p), rng.random((n, 2))
    dense = X.toarray()
    with (
        guarded(np.zeros(p)) as first,
        guarded(np.zeros(p, np.intp)) as n_entries,
        guarded(np.zeros((p, 2))) as marks,
    ):
        kernels.column_marks(*entries(X), random, first, n_entries, marks)
        np.testing.assert_array_equal(n_entries, (dense != 0.0).sum(axis=0))
        for c in np.flatnonzero(n_entries):
            column = dense[:, c]
            assert first[c] == column[np.flatnonzero(column)[0]]
            # Terms may cancel: rounding goes by their sizes.
            size = np.abs(column) @ random / abs(first[c])
            off = np.abs(marks[c] - column @ random / first[c])
            assert (off <= 1e-14 * n * size).all()


@given(seeds, counts, sizes, st.integers(1, 3))
def test_columns_are_taken_by_kind(seed, n, p, n_kinds):
    rng = np.random.default_rng(seed)
    X = drawn_matrix(rng, n, p)
    kind = rng.integers(0, n_kinds + 1, p).astype(np.uint8)  # the last is left out
    kept = np.flatnonzero(kind < n_kinds)
    order = kept[np.argsort(kind[kept], kind="stable")]
    position = np.zeros(p, X.indices.dtype)
    position[order] = np.arange(order.size)
    scale = rng.random(p) + 0.5
    size = np.count_nonzero(X.toarray()[:, kept])
    with (
        guarded(np.zeros(size)) as data,
        guarded(np.zeros(size, X.indices.dtype)) as indices,
        guarded(np.zeros_like(X.indptr)) as indptr,
    ):
        to = data, indices, indptr
        kernels.csr_take(*entries(X), kind, n_kinds, position, scale, *to)
        taken = sparse.csr_array(to, shape=(n, order.size))
        np.testing.assert_array_equal(taken.toarray(), (X.toarray() * scale)[:, order])
        for i in range(n):  # kinds ascend within a row
            own = kind[order[indices[indptr[i] : indptr[i + 1]]]]
            assert (np.diff(own.astype(int)) >= 0).all()


@given(seeds, st.integers(1, 100), st.integers(0, 100), sizes, sizes)
def test_packed_rows_come_back(seed, n, cut, k, m):
    V, cut = np.random.default_rng(seed).normal(size=(k, n * m)), min(cut, n)
    packed = V.reshape(k, n, m).swapaxes(0, 1).reshape(n, k * m)
    with guarded(np.zeros((n, k * m))) as W, guarded(np.zeros_like(V)) as back:
        kernels.pack(V, m, W, cut, n)
        np.testing.assert_array_equal(W[:cut], 0.0)
        np.testing.assert_array_equal(W[cut:], packed[cut:])
        kernels.pack(V, m, W, 0, cut)
        np.testing.assert_array_equal(W, packed)
        kernels.unpack(W, m, back, 0, cut)
        kernels.unpack(W, m, back, cut, n)
        np.testing.assert_array_equal(back, V)


@given(seeds, st.integers(0, 60), sizes, st.integers(0, 3))
def test_sums_of_groups(seed, n, n_groups, n_rows):
    rng = np.random.default_rng(seed)
    group = rng.integers(-2, n_groups, n)
    if seed % 2:
        group = np.sort(group)
    x, (y, z) = rng.normal(size=n), rng.normal(size=(2, n_rows, n))
    with guarded(np.zeros((n_rows, n_groups))) as sums:
        kernels.group_sums(group, x, y, z, sums)
        expected = [(x * y * z)[:, group == g].sum(axis=1) for g in range(n_groups)]
        np.testing.assert_allclose(sums.T, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("numbers", [[[0.0, 0.0]], [[-3.0, 0.0], [0.5, -1e-30]], [[np.inf, 1.0]]])
def test_sizes_of_columns(numbers, dtype):
    X = np.array(numbers, dtype)
    expected = np.abs(X.astype(np.float64)).max(axis=0)
    with guarded(np.zeros(2)) as sizes:
        kernels.dense_column_sizes(X, sizes)
        np.testing.assert_array_equal(sizes, expected)
    data, indices, _ = entries(sparse.csr_array(X))
    with guarded(np.zeros(2)) as sizes:
        kernels.csr_column_sizes(data, indices, sizes)
        np.testing.assert_array_equal(sizes, expected)
