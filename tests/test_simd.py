"""Vectors of eight numbers in compiled code."""

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from hoag_shine import simd


@njit
def add_multiple(a, x, Y, i, n):
    """Add ``a * x[0]`` to the first n entries of ``Y[i]``; x has rows of eight numbers."""
    zero = np.uint64(0)
    simd.prefetch(Y, i, zero)
    start = simd.load_first(Y, i, zero, n)
    simd.store_first(Y, i, zero, n, simd.multiply_add(a, simd.load(x, zero, zero), start))


@njit
def clear(A):
    simd.store(A, np.uint64(1), np.uint64(2), simd.zeros())


@pytest.mark.parametrize("n", range(9))
def test_what_lies_behind_the_first_entries_is_not_touched(n):
    rng = np.random.default_rng(n)
    x, memory = rng.normal(size=(1, 8)), rng.normal(size=3 * n + 8)
    expected = memory.copy()
    expected[n : 2 * n] += 2.5 * x[0, :n]
    add_multiple(2.5, x, memory[: 3 * n].reshape(3, n), np.uint64(1), np.uint64(n))
    np.testing.assert_allclose(memory, expected, rtol=1e-15)


def test_a_vector_is_stored_whole_where_it_belongs():
    memory = np.ones((3, 12))
    clear(memory)
    expected = np.ones((3, 12))
    expected[1, 2:10] = 0.0
    np.testing.assert_array_equal(memory, expected)


@pytest.mark.parametrize(
    "A", [np.ones((2, 20))[:, ::2], np.ones((2, 10), dtype=np.float32), np.ones(20)]
)
def test_other_arrays_do_not_compile(A):
    with pytest.raises(TypingError):
        clear(A)
