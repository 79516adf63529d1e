"""Compiled exponentials and logarithms against those of more digits."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from hoag_shine.linalg.compiled import loop
from hoag_shine.linalg.exponentials import (
    LOG_2_HIGH,
    LOG_2_LOW,
    exp_of_negative,
    log1p_of_share,
)

LAST_PLACES = 2.0 * np.finfo(float).eps


@loop()
def exp_of_each(x, values):
    for i in range(x.size):
        values[i] = exp_of_negative(x[i])


@loop()
def log1p_of_each(x, values):
    for i in range(x.size):
        values[i] = log1p_of_share(x[i])


def applied(function, x):
    values = np.empty_like(x)
    function(x, values)
    return values


# Of a length that leaves some numbers over, whatever the width of vectors.
EXPONENTS = -np.concatenate([[0.0, -0.0, 708.0], np.geomspace(1e-300, 708.0, 5_003)])
SHARES = np.concatenate([[0.0, 1.0, 2.0**-1022, 2.0**-53], np.geomspace(1e-300, 1.0, 5_002)])


@pytest.mark.parametrize(
    ("function", "reference", "x"),
    [(exp_of_each, np.exp, EXPONENTS), (log1p_of_each, np.log1p, SHARES)],
    ids=["exp", "log1p"],
)
def test_it_is_right_to_the_last_places(function, reference, x):
    with np.errstate(under="ignore"):
        exact = reference(x.astype(np.longdouble)).astype(float)
    np.testing.assert_allclose(applied(function, x), exact, rtol=LAST_PLACES, atol=0.0)


def test_log1p_is_right_around_the_place_where_its_formula_changes():
    x = np.sqrt(2.0) - 1.0 + np.linspace(-1e-3, 1e-3, 2_001)
    exact = np.log1p(x.astype(np.longdouble)).astype(float)
    np.testing.assert_allclose(applied(log1p_of_each, x), exact, rtol=LAST_PLACES)


def test_what_is_no_number_stays_none_and_what_is_small_is_as_good_as_zero():
    far = applied(exp_of_each, np.array([np.nan, -np.inf, -1e300, -709.0, -1.0]))
    assert np.isnan(far[0])
    assert (far[1:4] <= 1e-307).all()
    assert (far[1:4] >= 0.0).all()
    assert np.isnan(applied(log1p_of_each, np.array([np.nan, 0.5]))[0])


def test_log_2_is_parted_where_products_are_exact():
    log_2 = sum(Fraction(1, k << k) for k in range(1, 140))
    assert Fraction(LOG_2_HIGH) == Fraction(floor(log_2 * 2**42), 2**42)
    assert float(log_2 - Fraction(LOG_2_HIGH)) == LOG_2_LOW
