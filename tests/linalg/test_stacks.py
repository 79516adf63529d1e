"""The compiled loops over stacks of small matrices, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoag_shine.linalg import stacks

seeds = st.integers(0, 10_000)


@given(seeds, st.integers(1, 700), st.integers(1, 3), st.integers(0, 4))
def test_gram_matrices(seed, n, n_tiles, k):
    rng = np.random.default_rng(seed)
    d = n_tiles * stacks.TILE_ROWS
    rows, weight = rng.normal(size=(n, d)), rng.normal(size=(k, n))
    products = np.zeros((k, d, d))
    stacks.gram(rows, weight, np.empty((stacks.GRAM_BLOCK, d)), products)
    expected = [(rows.T * u) @ rows for u in weight]
    np.testing.assert_allclose(products, np.reshape(expected, products.shape), atol=1e-10)


@given(seeds, st.integers(1, 20), st.integers(1, 3), st.integers(0, 20))
def test_diagonals_are_scaled_to_one(seed, d, k, empty):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(k, d, d)) * 10.0 ** rng.integers(-9, 9, (k, d, 1))
    A[0, min(empty, d - 1)] = 0.0  # a variable without data or penalty
    H = A @ A.swapaxes(1, 2)
    root, S = np.empty((k, d)), np.empty_like(H)
    assert stacks.scale(H, root, S)
    diagonal = np.diagonal(H, axis1=1, axis2=2)
    np.testing.assert_array_equal(root > 0.0, diagonal > 0.0)
    np.testing.assert_allclose(root[root > 0.0] ** 2 * diagonal[root > 0.0], 1.0, rtol=1e-12)
    expected = H * root[:, :, None] * root[:, None, :]
    for b, i in zip(*np.nonzero(root == 0.0), strict=True):
        expected[b, i, i] = 1.0
    np.testing.assert_allclose(S, expected, rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (1, 0)])
def test_matrices_that_are_not_finite_are_told(value, place):
    H = np.eye(2)[None].copy()
    H[0][place] = value
    assert not stacks.scale(H, np.empty((1, 2)), np.empty_like(H))


@given(seeds, st.integers(1, 20), st.integers(1, 3), st.integers(1, 3))
def test_systems_are_solved(seed, d, k, n_sides):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(k, d, d))
    S = A @ A.swapaxes(1, 2) + 0.1 * np.eye(d)
    factor, smallest = np.empty_like(S), np.empty(k)
    stacks.factorise(S, factor, smallest)
    pivots = np.diagonal(np.linalg.cholesky(S), axis1=1, axis2=2) ** 2
    np.testing.assert_allclose(smallest, np.minimum(pivots.min(axis=1), 1.0), rtol=1e-9)
    rhs = rng.normal(size=(k, n_sides, d))
    x = np.empty_like(rhs)
    stacks.solve(S, factor, rhs, x, np.empty(d))
    expected = np.linalg.solve(S, rhs.swapaxes(1, 2)).swapaxes(1, 2)
    np.testing.assert_allclose(x, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("last", [0.0, -1.0, np.nan])
def test_matrices_that_are_not_positive_definite(last):
    S = np.stack([np.eye(3), np.diag([1.0, 1.0, last])])
    smallest = np.empty(2)
    stacks.factorise(S, np.empty_like(S), smallest)
    np.testing.assert_array_equal(smallest, [1.0, 0.0])
