"""Cases of scikit-learn's own tests of RidgeCV and RidgeClassifierCV that apply here.

Each names the test that it is after, in ``sklearn/linear_model/tests/test_ridge.py`` of version
1.9; the code is ours. Those of the modes of generalised cross-validation have no counterpart.
"""

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeCV
from sklearn.metrics import make_scorer, mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneOut, cross_val_predict

from hoag_shine import ShineCV

FINE = np.logspace(-4, 4, 81)


def diabetes(n=90):
    X, y = load_diabetes(return_X_y=True)
    return X[:n] * 20.0, (y[:n] - y[:n].mean()) / y[:n].std()


def two_targets(n=90):
    X, y = diabetes(n)
    return X, np.column_stack([y, np.roll(y, 1) + X[:, 2]])


def test_integers_are_numbers():
    """After ``test_ridge_gcv_integer_arrays`` and ``test_ridgecv_int_alphas``."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 5, (40, 6)), rng.integers(0, 5, 40)
    y = y + X[:, 0]
    whole = ShineCV(Ridge(alpha=1), cv=5, bounds=(1, 1000)).fit(X, y)
    real = ShineCV(Ridge(alpha=1.0), cv=5, bounds=(1.0, 1000.0)).fit(
        X.astype(float), y.astype(float)
    )
    assert whole.alpha_ == real.alpha_
    np.testing.assert_array_equal(whole.coef_, real.coef_)


@pytest.mark.parametrize("shape", [(40, 10), (8, 10)])
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_leave_one_out_is_that_of_fits_by_hand(shape, convert, fit_intercept):
    """After ``test_ridge_gcv_vs_ridge_loo_cv`` and ``test_ridge_cv_results_predictions``."""
    X, y = diabetes(shape[0])
    own = Ridge(fit_intercept=fit_intercept)
    search = ShineCV(own, cv=LeaveOneOut(), bounds=(1e-3, 1e4)).fit(convert(X), y)
    own.set_params(alpha=search.alpha_)
    left_out = cross_val_predict(own, X, y, cv=LeaveOneOut())
    assert -search.best_score_ == pytest.approx(mean_squared_error(y, left_out), rel=1e-4)


def test_no_alpha_of_a_grid_is_better():
    """After ``test_ridge_best_score`` and ``_test_ridge_loo``: leave-one-out of RidgeCV."""
    X, y = diabetes()
    rival = RidgeCV(FINE, scoring="neg_mean_squared_error").fit(X, y)
    search = ShineCV(Ridge(), cv=LeaveOneOut()).fit(X, y)
    assert search.best_score_ >= rival.best_score_ * (1 + 1e-4)
    assert search.alpha_ == pytest.approx(rival.alpha_, rel=0.3)


def test_each_target_has_the_penalty_it_would_have_alone():
    """After ``test_ridge_cv_individual_penalties``."""
    X, Y = two_targets()
    cv = KFold(5)
    together = ShineCV(Ridge(), cv=cv, penalty="output", tol=1e-4).fit(X, Y)
    for k in range(2):
        alone = ShineCV(Ridge(), cv=cv, tol=1e-4).fit(X, Y[:, k])
        grid = GridSearchCV(
            Ridge(), {"alpha": [together.alpha_[k]]}, cv=cv, scoring="neg_mean_squared_error"
        ).fit(X, Y[:, k])
        assert grid.best_score_ == pytest.approx(alone.best_score_, rel=1e-3)
    fitted = Ridge(alpha=together.alpha_).fit(X, Y)
    np.testing.assert_allclose(together.coef_, fitted.coef_, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The outer search ended")
def test_little_weight_of_a_class_moves_the_border():
    """After ``test_class_weights_cv``."""
    X = np.array([[-1.0, -1.0], [-1.0, 0], [-0.8, -1.0], [1.0, 1.0], [1.0, 0.0]])
    y = [1, 1, 1, -1, -1]
    search = ShineCV(RidgeClassifier(class_weight={1: 0.001}), cv=2, bounds=(0.01, 10.0))
    np.testing.assert_array_equal(search.fit(X, y).predict([[-0.2, 2]]), [-1])


@pytest.mark.parametrize("n", [30, 7])
def test_sample_weights(n):
    """After ``test_ridgecv_sample_weight``."""
    X, y = diabetes(n)
    weight = 1.0 + np.random.default_rng(0).random(n)
    cv = KFold(5)
    search = ShineCV(Ridge(), cv=cv, tol=1e-4).fit(X, y, sample_weight=weight)
    own = Ridge(alpha=search.alpha_).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(search.coef_, own.coef_, rtol=1e-3, atol=1e-4)


def test_several_labels_a_row():
    """After ``test_ridgeclassifier_multilabel``."""
    X, y = make_multilabel_classification(n_classes=1, random_state=0)
    Y = np.column_stack([y, y])
    predicted = ShineCV(RidgeClassifier(), cv=3).fit(X, Y).predict(X)
    assert predicted.shape == Y.shape
    np.testing.assert_array_equal(predicted[:, 0], predicted[:, 1])


def test_several_targets_with_weights():
    """After ``test_ridge_cv_multioutput_sample_weight``."""
    X, Y = two_targets(30)
    search = ShineCV(Ridge(), cv=LeaveOneOut()).fit(X, Y, sample_weight=np.ones(30))
    left_out = cross_val_predict(Ridge(alpha=search.alpha_), X, Y, cv=LeaveOneOut())
    assert -search.best_score_ == pytest.approx(mean_squared_error(Y, left_out), rel=1e-4)


def test_a_scorer_of_ones_own_for_several_targets():
    """After ``test_ridge_cv_custom_multioutput_scorer``."""

    def weighted(y_true, y_pred):
        return -np.mean((y_true - y_pred) ** 2 * [1.0, 3.0])

    X, Y = two_targets()
    search = ShineCV(Ridge(), cv=3, scoring=make_scorer(weighted), refit="score").fit(X, Y)
    own = GridSearchCV(Ridge(), {"alpha": [search.alpha_]}, cv=3, scoring=make_scorer(weighted))
    assert search.best_score_ == pytest.approx(own.fit(X, Y).best_score_, rel=1e-3)


def test_a_classifier_is_scored_as_asked():
    """After ``test_ridge_classifier_with_scoring``."""
    X, y = load_iris(return_X_y=True)
    search = ShineCV(RidgeClassifier(), scoring="accuracy", refit="accuracy").fit(X, y)
    assert search.score(X, y) == (search.predict(X) == y).mean()


@pytest.mark.parametrize("alpha", [0.0, -1.0, "one"])
def test_alphas_must_be_positive(alpha):
    """After ``test_ridgecv_alphas_validation`` and ``test_ridgecv_alphas_zero``.

    RidgeCV takes an alpha of zero; here its logarithm is tuned.
    """
    with pytest.raises((ValueError, TypeError), match="alpha must be"):
        ShineCV(Ridge(alpha=alpha)).fit(*diabetes())


def test_the_limit_of_no_penalty_is_least_squares():
    """After ``test_regularization_limits_ridge_gcv``."""
    X, y = diabetes()
    with pytest.warns(UserWarning, match="lies on a bound"):
        weak = ShineCV(Ridge(), cv=3, bounds=(1e-8, 1e-7)).fit(X, y)
    A = np.column_stack([X, np.ones(len(y))])
    np.testing.assert_allclose(weak.coef_, np.linalg.lstsq(A, y, rcond=None)[0][:-1], atol=1e-3)
    with pytest.warns(UserWarning, match="lies on a bound"):
        strong = ShineCV(Ridge(), cv=3, bounds=(1e9, 1e10)).fit(X, y)
    np.testing.assert_allclose(strong.coef_, 0.0, atol=1e-5)
    assert strong.intercept_ == pytest.approx(y.mean(), abs=1e-4)
