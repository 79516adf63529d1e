"""Vectors of eight numbers in compiled code."""

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from hoag_shine import simd


@njit
def add_multiple(a, x, y, n):
    """Add ``a * x`` to the first n entries of y; x has eight numbers."""
    zero = np.uint64(0)
    start = simd.load_first(y, zero, n)
    simd.store_first(y, zero, n, simd.multiply_add(a, simd.load(x, zero), start))


@njit
def clear(y):
    simd.store(y, np.uint64(0), simd.zeros())


@pytest.mark.parametrize("n", range(9))
def test_what_lies_behind_the_first_entries_is_not_touched(n):
    rng = np.random.default_rng(n)
    x, memory = rng.normal(size=8), rng.normal(size=n + 8)
    expected = memory.copy()
    expected[:n] += 2.5 * x[:n]
    add_multiple(2.5, x, memory[:n], np.uint64(n))
    np.testing.assert_allclose(memory, expected, rtol=1e-15)


def test_a_vector_is_stored_whole():
    memory = np.ones(10)
    clear(memory)
    np.testing.assert_array_equal(memory, [0.0] * 8 + [1.0] * 2)


@pytest.mark.parametrize("row", [np.ones(16)[::2], np.ones(8, dtype=np.float32)])
def test_other_rows_do_not_compile(row):
    with pytest.raises(TypingError):
        clear(row)
