"""Products with several vectors at once, against scipy's."""

import numpy as np
import pytest
from scipy import sparse

from hoag_shine.problems.design import as_design


@pytest.mark.parametrize("k", [1, 5, 8, 11, 16, 21])
@pytest.mark.parametrize("p", [7, 40_000])  # rows that fit into the cache, and that do not
@pytest.mark.parametrize("ones", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_those_of_scipy(k, p, ones, dtype):
    rng = np.random.default_rng(k)
    X = sparse.random(300, p, density=min(0.3, 40 / p), format="csr", random_state=k, dtype=dtype)
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


def test_a_matrix_without_entries_is_no_trouble():
    design = as_design(sparse.csr_array((10, 40_000)))
    W, G = design.zeros(40_000, 9), design.zeros(40_000, 9)
    assert not design.matmul(slice(0, 10), W, 9).any()
    design.add_rmatmul(slice(0, 10), np.ones((10, 9)), G)
    assert not G.any()
