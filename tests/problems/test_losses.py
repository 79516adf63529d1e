"""The losses against their formulas, derivatives by differences, and scikit-learn's metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mean_squared_error

from hoag_shine import LogisticLoss, SquaredLoss

LOSSES = [LogisticLoss(), SquaredLoss()]


def targets(loss, rng, n):
    labels = rng.integers(0, 2, n) if isinstance(loss, LogisticLoss) else rng.normal(size=n)
    return labels.astype(float)[:, None]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("k", [1, 3])
def test_derivatives_are_those_of_the_value(loss, k):
    rng = np.random.default_rng(0)
    y, z, h = targets(loss, rng, 50), 3.0 * rng.normal(size=(50, k)), 1e-5
    slope = (loss.value(y, z + h) - loss.value(y, z - h)) / (2 * h)
    np.testing.assert_allclose(loss.gradient(y, z), slope, rtol=1e-7, atol=1e-9)
    curvature = (loss.gradient(y, z + h) - loss.gradient(y, z - h)) / (2 * h)
    np.testing.assert_allclose(loss.hessian(y, z), curvature, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_are_the_value_and_the_gradient(loss):
    rng = np.random.default_rng(1)
    y, z = targets(loss, rng, 20), rng.normal(size=(20, 4))
    value, gradient = loss.value_and_gradient(y, z)
    np.testing.assert_array_equal(value, loss.value(y, z))
    np.testing.assert_array_equal(gradient, loss.gradient(y, z))
    assert value.shape == gradient.shape == loss.hessian(y, z).shape == z.shape


def test_the_mean_logistic_loss_is_scikit_learns_log_loss():
    rng = np.random.default_rng(2)
    y, z = rng.integers(0, 2, 200)[:, None].astype(float), 4.0 * rng.normal(size=(200, 1))
    loss = LogisticLoss()
    probability = loss.inverse_link(z)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-z)), rtol=1e-13)
    np.testing.assert_allclose(
        loss.value(y, z).mean(), log_loss(y.ravel(), probability.ravel()), rtol=1e-12
    )
    assert loss.scoring == "neg_log_loss"


def test_the_mean_squared_loss_is_scikit_learns():
    rng = np.random.default_rng(3)
    y, z = rng.normal(size=(2, 200, 1))
    loss = SquaredLoss()
    np.testing.assert_allclose(loss.value(y, z).mean(), mean_squared_error(y, z), rtol=1e-13)
    np.testing.assert_array_equal(loss.inverse_link(z), z)
    assert loss.scoring == "neg_mean_squared_error"


@given(z=st.floats(-1e300, 1e300), label=st.sampled_from([0.0, 1.0]))
def test_the_logistic_loss_neither_overflows_nor_loses_its_tails(z, label):
    loss = LogisticLoss()
    y, z_ = np.array([[label]]), np.array([[z]])
    value, gradient, hessian = (f(y, z_)[0, 0] for f in (loss.value, loss.gradient, loss.hessian))
    margin = z if label == 1.0 else -z  # how far z is on the right side
    assert value >= max(-margin, 0.0)
    assert value <= max(-margin, 0.0) + np.log(2.0)
    assert abs(gradient) <= 1.0
    assert gradient * (0.5 - label) >= 0.0
    assert 0.0 <= hessian <= np.nextafter(0.25, 1.0)
    if 30.0 <= margin <= 700.0:  # all three are e^-margin there
        for found in (value, abs(gradient), hessian):
            np.testing.assert_allclose(found, np.exp(-margin), rtol=1e-12)


@pytest.mark.parametrize("z", [np.nan, np.inf])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_finite_is_not_hidden(loss, z):
    assert not np.isfinite(loss.value(np.zeros((1, 1)), np.array([[z]])))


def test_losses_compare_by_what_they_compute():
    assert LogisticLoss() == LogisticLoss()
    assert hash(SquaredLoss()) == hash(SquaredLoss())
    assert LogisticLoss() != SquaredLoss()
    assert repr(LogisticLoss()) == "LogisticLoss()"
