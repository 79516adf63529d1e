"""Half precision in compiled code, against numpy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numba import njit
from numba.core.errors import TypingError

from hoag_shine.linalg import half

# A number's size in its unit is below this.
TOP = 2.0**half.LARGEST_EXPONENT


@njit
def write(v, row):
    for j in range(v.size):
        row[j] = half.narrow(v[j], row)


@njit
def read(row):
    out = np.empty(row.size)
    for j in range(row.size):
        out[j] = half.widen(row[j])
    return out


def rounded(v):
    """Return v as it is read again, by compiled code and by numpy."""
    bits = np.empty(v.size, half.DTYPE)
    write(v, bits)
    np.testing.assert_array_equal(half.widened(bits), read(bits))
    return read(bits)


SIZES = st.floats(1e-12, 1.0, exclude_max=True)
NUMBERS = arrays(float, st.integers(1, 40), elements=st.just(0.0) | SIZES | SIZES.map(lambda x: -x))


@given(v=NUMBERS)
def test_numbers_are_rounded_as_by_numpy(v):
    expected = (v * 2.0**15).astype(np.float32).astype(np.float16).astype(float)
    small = np.abs(expected) < 2.0**-14  # zero, or without a leading one
    expected = np.where(small, 0.0, expected) / 2.0**15
    np.testing.assert_array_equal(rounded(v * TOP) / TOP, expected)


@given(v=NUMBERS)
def test_eleven_bits_are_right_of_all_that_is_not_tiny(v):
    back = rounded(v * TOP) / TOP
    large = np.abs(v) > 2e-9
    np.testing.assert_allclose(back[large], v[large], rtol=2.0**-11)
    assert (np.abs(back[~large]) <= 2e-9).all()


def test_what_lies_in_the_middle_goes_to_the_even_one():
    fine = 2.0**-10
    v = np.array([1.0 + fine / 2, 1.0 + 3 * fine / 2, 1.0 + fine / 2 + 1e-6, -1.0 - fine / 2])
    expected = np.array([1.0, 1.0 + 2 * fine, 1.0 + fine, -1.0])
    np.testing.assert_array_equal(rounded(0.5 * TOP * v), 0.5 * TOP * expected)


def test_the_top_of_the_range_may_be_reached_by_rounding():
    almost = TOP * (1.0 - 1e-9)
    np.testing.assert_array_equal(rounded(np.array([almost, -almost])), [TOP, -TOP])


def test_numbers_of_other_types_are_what_they_are():
    v = np.random.default_rng(0).normal(size=9)
    same = np.empty(9)
    write(v, same)
    np.testing.assert_array_equal(same, v)
    np.testing.assert_array_equal(read(v), v)
    np.testing.assert_array_equal(read(v.astype(np.float32)), v.astype(np.float32))


def test_other_integers_hold_no_numbers():
    with pytest.raises(TypingError):
        write(np.ones(2), np.empty(2, np.int32))
