"""Half precision in compiled code, against numpy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hoag_shine import half
from hoag_shine.inner.vectors import MANY, Vectors


def stored(v):
    """Return a long vector that begins with v as it is read again, and its unit."""
    vectors = Vectors(3, MANY)
    long = np.zeros(MANY)
    long[: v.size] = v
    assert vectors.write(1, long)
    back = vectors.read(np.array([1]))[0]
    assert not back[v.size :].any()
    return back[: v.size], vectors.units[1]


def by_numpy(v, unit):
    """Return v rounded by numpy, to the same unit."""
    half_unit = unit / 2.0**112
    return np.asarray(v / half_unit, dtype=np.float32).astype(np.float16).astype(float) * half_unit


# What is smaller has a square that is zero.
SIZES = st.floats(1e-30, 1e3)
NUMBERS = st.just(0.0) | SIZES | SIZES.map(lambda x: -x)


@given(v=arrays(float, st.integers(1, 40), elements=NUMBERS), power=st.integers(-300, 300))
def test_numbers_are_rounded_as_by_numpy(v, power):
    v = np.ldexp(v, power)
    back, unit = stored(v)
    expected = by_numpy(v, unit)
    small = np.abs(expected) < 2.0**-14 * unit / 2.0**112  # without a leading one, or zero
    np.testing.assert_array_equal(back, np.where(small, 0.0, expected))


@given(v=arrays(float, 30, elements=NUMBERS))
def test_eleven_bits_are_right_of_all_that_is_not_tiny(v):
    size = np.linalg.norm(v)
    back, _ = stored(v)
    large = np.abs(v) > 4e-9 * size
    np.testing.assert_allclose(back[large], v[large], rtol=2.0**-11)
    assert (np.abs(back[~large]) <= 4e-9 * size).all()


def test_what_lies_in_the_middle_goes_to_the_even_one():
    fine = 2.0**-10
    v = np.array([1.0 + fine / 2, 1.0 + 3 * fine / 2, 1.0 + fine / 2 + 1e-6, -1.0 - fine / 2])
    np.testing.assert_array_equal(stored(v)[0], [1.0, 1.0 + 2 * fine, 1.0 + fine, -1.0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_what_has_no_finite_norm_is_not_stored(value):
    vectors = Vectors(1, MANY)
    assert vectors.write(0, np.ones(MANY))
    v = np.ones(MANY)
    v[5] = value
    assert not vectors.write(0, v)
    np.testing.assert_array_equal(vectors.read(np.array([0]))[0], np.ones(MANY))


def test_short_vectors_are_kept_as_they_are():
    v = np.random.default_rng(0).normal(size=MANY - 1)
    vectors = Vectors(2, v.size)
    assert vectors.write(0, v)
    np.testing.assert_array_equal(vectors.read(np.array([0]))[0], v)


@pytest.mark.parametrize("norm", [1e-150, 1e-3, 1.0, 2.0, 7e5, 1e150])
def test_no_number_exceeds_the_range(norm):
    assert norm / half.unit_for(norm) < 2.0**half.LARGEST
    assert norm / half.unit_for(norm) >= 2.0 ** (half.LARGEST - 1)


def test_a_copy_lives_on_its_own():
    vectors = Vectors(2, MANY)
    vectors.write(0, np.ones(MANY))
    twin = vectors.copy()
    twin.write(0, np.full(MANY, 3.0))
    np.testing.assert_array_equal(vectors.read(np.array([0]))[0], np.ones(MANY))
    np.testing.assert_array_equal(twin.read(np.array([0]))[0], np.full(MANY, 3.0))
