"""The losses against their formulas, derivatives by differences, and scikit-learn's metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mean_squared_error, mean_tweedie_deviance

from hoag_shine import HuberLoss, LogisticLoss, SquaredHingeLoss, SquaredLoss, TweedieLoss
from hoag_shine.testing import check_loss

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


ALL = [
    LogisticLoss(),
    SquaredLoss(),
    SquaredHingeLoss(),
    *(TweedieLoss(power) for power in (-1.5, 0, 1, 1.3, 1.9, 2, 3)),
    TweedieLoss(1, unit=50.0),
    TweedieLoss(2, unit=0.02),
    HuberLoss(),
    HuberLoss(epsilon=1.01, unit=30.0),
    HuberLoss(unit=5.0).rounded(0.1),
]


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_a_loss_is_what_it_has_to_be(loss):
    check_loss(loss)


@pytest.mark.parametrize("power", [-2, 0, 1, 1.01, 1.5, 2, 2.5, 3])
@pytest.mark.parametrize("unit", [1.0, 7.0])
def test_the_mean_tweedie_loss_is_scikit_learns_deviance(power, unit):
    rng = np.random.default_rng(4)
    loss = TweedieLoss(power, unit)
    y, z = rng.gamma(1.0, size=(200, 1)), rng.normal(size=(200, 1))
    if 1 <= power < 2:
        y[::3] = 0.0
    elif power <= 0:
        y -= 0.5
    mean = loss.inverse_link(z)
    np.testing.assert_allclose(mean, unit * np.exp(z), rtol=1e-13)
    expected = mean_tweedie_deviance(y.ravel(), mean.ravel(), power=power)
    np.testing.assert_allclose(loss.value(y, z).mean(), expected, rtol=1e-9)


@given(
    z=st.floats(-1e6, 1e6),
    y=st.floats(0.0, 1e30) | st.just(0.0),
    power=st.sampled_from([1.0, 1.5, 2.0]),
)
def test_a_deviance_of_any_predictor_is_a_number_and_not_negative(z, y, power):
    y = max(y, 1e-30) if power == 2.0 else y
    loss = TweedieLoss(power)
    y_, z_ = np.array([[y]]), np.array([[z]])
    for found in (loss.value(y_, z_), loss.gradient(y_, z_), loss.hessian(y_, z_)):
        assert np.isfinite(found).all()
    assert loss.value(y_, z_)[0, 0] >= -1e-12 * y
    assert loss.hessian(y_, z_)[0, 0] >= 0.0


def test_a_good_poisson_fit_loses_no_digits():
    y = np.array([[1e8]])
    r = 1e-6  # mu = y e^r: the deviance is y r^2 to leading order, of terms as large as 1e9
    found = TweedieLoss(1).value(y, np.log(y) + r)
    np.testing.assert_allclose(found, 1e8 * r**2, rtol=1e-5)


@pytest.mark.parametrize("power", [0.5, np.nan, np.inf])
def test_powers_without_a_distribution_are_refused(power):
    with pytest.raises(ValueError, match="power"):
        TweedieLoss(power)


@given(
    r=st.floats(-50, 50),
    sigma=st.floats(1e-3, 100),
    epsilon=st.floats(1.001, 5),
)
def test_the_huber_loss_is_that_of_the_regressor(r, sigma, epsilon):
    u = abs(r) / sigma
    inner = u**2 if u <= epsilon else 2 * epsilon * u - epsilon**2
    loss = HuberLoss(epsilon)
    z = np.array([[[r + 3.0, sigma - 1.0]]])
    found = loss.value(np.array([[[3.0, 0.0]]]), z)
    np.testing.assert_allclose(found, sigma * (1 + inner), rtol=1e-9, atol=1e-9)


@given(
    st.lists(st.floats(-20, 20), min_size=4, max_size=4),
    st.floats(0, 1),
    st.floats(1.001, 4),
)
def test_the_huber_loss_is_jointly_convex_for_every_scale(points, t, epsilon):
    loss, y = HuberLoss(epsilon), np.zeros((1, 1, 2))
    a, b = np.reshape(points, (2, 1, 1, 2))
    chord = t * loss.value(y, a) + (1 - t) * loss.value(y, b)
    assert loss.value(y, t * a + (1 - t) * b) <= chord + 1e-9 * (1 + np.abs(chord))


@given(
    y=st.floats(-50, 50), z=st.floats(-50, 50), scale=st.floats(-2, 20), width=st.floats(1e-6, 1)
)
def test_a_rounded_corner_is_as_near_as_its_width(y, z, scale, width):
    loss = HuberLoss(epsilon=1.5, unit=3.0)
    y_, z_ = np.array([[[y, 0.0]]]), np.array([[[z, scale]]])
    more = (loss.rounded(width).value(y_, z_) - loss.value(y_, z_)).item()
    assert -1e-9 <= more <= 2.0 * 1.5 * 3.0 * width + 1e-9


def test_a_loss_without_corners_has_none_to_round():
    assert LogisticLoss().rounded(0.1) == LogisticLoss()
