"""Vectors of 64 bytes in compiled code."""

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from hoag_shine.linalg import simd

DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@njit
def add_multiple(a, x, Y, i, n):
    """Add ``a * x[0]`` to the first n entries of ``Y[i]``; x has rows of a vector's length."""
    zero = np.uint64(0)
    simd.prefetch(Y, i, zero)
    start = simd.load_first(Y, i, zero, n)
    simd.store_first(Y, i, zero, n, simd.multiply_add(a, simd.load(x, zero, zero), start))


@njit
def clear(A):
    simd.store(A, np.uint64(1), np.uint64(2), simd.zeros(A))


@njit
def fill(A, B):
    simd.store(A, np.uint64(0), np.uint64(0), simd.zeros(B))


@njit
def lanes(A):
    return simd.lanes(A)


@DTYPES
def test_what_lies_behind_the_first_entries_is_not_touched(dtype):
    size = simd.n_lanes(dtype)
    for n in range(size + 1):
        rng = np.random.default_rng(n)
        x = rng.normal(size=(1, size)).astype(dtype)
        memory = rng.normal(size=3 * n + size).astype(dtype)
        expected = memory.copy()
        expected[n : 2 * n] += 2.5 * x[0, :n]
        add_multiple(2.5, x, memory[: 3 * n].reshape(3, n), np.uint64(1), np.uint64(n))
        np.testing.assert_allclose(memory, expected, rtol=0, atol=8 * np.finfo(dtype).eps)


@DTYPES
def test_a_vector_is_stored_whole_where_it_belongs(dtype):
    size = simd.n_lanes(dtype)
    memory = np.ones((3, size + 4), dtype)
    assert lanes(memory) == size == 64 // memory.itemsize
    clear(memory)
    expected = np.ones((3, size + 4))
    expected[1, 2 : size + 2] = 0.0
    np.testing.assert_array_equal(memory, expected)


@pytest.mark.parametrize("A", [np.ones((2, 20))[:, ::2], np.ones((2, 10), int), np.ones(20)])
def test_other_arrays_do_not_compile(A):
    with pytest.raises(TypingError):
        clear(A)


def test_vectors_of_one_type_do_not_go_into_matrices_of_another():
    with pytest.raises(TypingError):
        fill(np.ones((1, 16)), np.ones((1, 16), np.float32))
