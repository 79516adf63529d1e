"""Products with several vectors at once, against scipy's."""

from functools import cache

import numpy as np
import pytest
from scipy import sparse

from hoag_shine.linalg.design import as_design


@cache
def random_rows(p):
    """Return a CSR matrix of doubles; scipy takes its time to draw one that is wide."""
    return sparse.random(300, p, density=min(0.3, 40 / p), format="csr", random_state=0)


@pytest.mark.parametrize("k", [1, 5, 8, 11, 16, 21])
@pytest.mark.parametrize("p", [7, 40_000])  # rows that fit into the cache, and that do not
@pytest.mark.parametrize("ones", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_those_of_scipy(k, p, ones, dtype):
    rng = np.random.default_rng(k)
    X = random_rows(p).astype(dtype)
    design = as_design(X)
    W, G = design.zeros(p + ones, k), design.zeros(p + ones, k)
    W[:, :k] = rng.normal(size=(p + ones, k))
    U = rng.normal(size=(300, k))
    Z = np.concatenate([design.matmul(block, W, k) for block in design.blocks])
    for block in design.blocks:
        design.add_rmatmul(block, U[block], G)
        design.add_rmatmul(block, U[block], G, squared=True)
    exact = sparse.hstack([X.astype(np.float64), np.ones((300, ones))]).tocsr()
    np.testing.assert_allclose(Z, exact @ W[:, :k], rtol=1e-12, atol=1e-13)
    expected = exact.T @ U + exact.power(2).T @ U
    np.testing.assert_allclose(G[:, :k], expected, rtol=1e-12, atol=1e-13)


def as_every_second(X):
    """Return a view with gaps between both rows and columns."""
    wide = np.zeros((2 * X.shape[0], 2 * X.shape[1]), dtype=X.dtype)
    wide[::2, ::2] = X
    return wide[::2, ::2]


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, as_every_second])
@pytest.mark.parametrize("stored", [np.float32, np.float64])
@pytest.mark.parametrize("computed", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 2, 5, 8, 15, 21, 40])
@pytest.mark.parametrize("ones", [0, 1])
def test_dense_products_are_those_of_numpy(layout, stored, computed, k, ones):
    rng = np.random.default_rng(k)
    for n in (1, 4, 11, 90_001):  # a few rows are left of those that go together, or none
        X = layout(rng.normal(size=(n, 3)).astype(stored))
        design = as_design(X)
        W, G = (design.zeros(3 + ones, k, computed) for _ in range(2))
        W[:, :k] = rng.normal(size=(3 + ones, k))
        U = rng.normal(size=(n, k)).astype(computed)
        Z = np.concatenate([design.matmul(block, W, k) for block in design.blocks])
        for block in design.blocks:
            design.add_rmatmul(block, U[block], G)
            design.add_rmatmul(block, U[block], G, squared=True)
        exact = np.hstack([X.astype(np.float64), np.ones((n, ones))])
        assert Z.dtype == computed
        rounding = np.finfo(computed).eps
        np.testing.assert_allclose(Z, exact @ W[:, :k], rtol=0, atol=20 * rounding)
        expected = exact.T @ U + (exact**2).T @ U
        np.testing.assert_allclose(G[:, :k], expected, rtol=0, atol=20 * n * rounding)


@pytest.mark.parametrize("kind", [np.array, np.asfortranarray, sparse.csr_array])
def test_single_precision_is_for_columns_of_moderate_size(kind):
    # An entry that is small beside another one of its column makes no difference.
    for X in ([[0.0, 1.0], [-3.0, 1e5]], [[0.0, 1e-9], [-3.0, 1e5]], [[0.0, 0.0], [2.0, 0.0]]):
        assert as_design(kind(X)).single == np.float32
    for extreme in (1e9, -1e9, 1e-9):
        assert as_design(kind([[0.0, 1.0], [extreme, 2.0]])).single == np.float64


def test_a_matrix_without_entries_is_no_trouble():
    design = as_design(sparse.csr_array((10, 40_000)))
    W, G = design.zeros(40_000, 9), design.zeros(40_000, 9)
    assert not design.matmul(slice(0, 10), W, 9).any()
    design.add_rmatmul(slice(0, 10), np.ones((10, 9)), G)
    assert not G.any()
