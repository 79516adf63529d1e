"""GeneralizedLinear, alone and tuned: losses of one's own in plain numpy."""

import numpy as np
import pytest
from helpers import breast_cancer, diabetes
from scipy import sparse
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from hoag_shine import (
    GeneralizedLinear,
    LogisticLoss,
    Loss,
    MultinomialLoss,
    ShineCV,
    SigmoidSquaredLoss,
    SquaredLoss,
)


class PoissonLoss(Loss):
    """Half the Poisson deviance, with a log link."""

    convex = True
    target_range = (0.0, np.inf)

    def value(self, y, z):
        return np.exp(z) - y * z

    def gradient(self, y, z):
        return np.exp(z) - y

    def hessian(self, y, z):
        return np.exp(z) * np.ones_like(y)

    def inverse_link(self, z):
        return np.exp(z)


class HuberLoss(Loss):
    """Quadratic near zero and linear beyond ``delta``, made smooth: a loss with a parameter."""

    convex = True

    def __init__(self, delta=1.0):
        self.delta = delta

    def value(self, y, z):
        squared = ((z - y) / self.delta) ** 2
        return self.delta**2 * squared / (np.sqrt(1 + squared) + 1)

    def gradient(self, y, z):
        return (z - y) / np.sqrt(1 + ((z - y) / self.delta) ** 2)

    def hessian(self, y, z):
        return (1 + ((z - y) / self.delta) ** 2) ** -1.5


def counts():
    X, _ = diabetes()
    return X, np.random.default_rng(0).poisson(np.exp(0.4 * X[:, 2] + 0.3 * X[:, 8]))


@parametrize_with_checks(
    [GeneralizedLinear(), GeneralizedLinear(HuberLoss(), alpha=0.1, tol=1e-11)]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# --- the fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_squared_loss_is_ridge(fit_intercept):
    X, y = diabetes()
    y = y + 2.0
    found = GeneralizedLinear(alpha=6.0, fit_intercept=fit_intercept, tol=1e-12).fit(X, y)
    # Ridge's penalty has no factor of a half.
    expected = Ridge(alpha=3.0, fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-8)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, rtol=1e-8)
    np.testing.assert_allclose(found.predict(X), expected.predict(X), rtol=1e-8)
    assert found.n_iter_ == 1  # the loss is quadratic, and its Hessian is factorised


def test_the_logistic_loss_is_logistic_regression():
    X, y = breast_cancer()
    weight = np.random.default_rng(0).random(y.size)
    found = GeneralizedLinear(LogisticLoss(), alpha=2.0, tol=1e-10).fit(X, y, weight)
    expected = LogisticRegression(C=0.5, tol=1e-10, solver="newton-cholesky").fit(X, y, weight)
    np.testing.assert_allclose(found.coef_, expected.coef_[0], atol=1e-7)
    np.testing.assert_allclose(found.predict(X), expected.predict_proba(X)[:, 1], atol=1e-7)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array, sparse.csc_matrix])
def test_a_poisson_loss_is_poisson_regression(convert):
    X, y = counts()
    found = GeneralizedLinear(PoissonLoss(), alpha=10.0, tol=1e-10).fit(convert(X), y)
    expected = PoissonRegressor(alpha=10.0 / y.size, tol=1e-10, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-6)
    np.testing.assert_allclose(found.predict(convert(X)), expected.predict(X), rtol=1e-5)


def test_nonlinear_least_squares_is_what_scipy_finds():
    X, y = breast_cancer()
    found = GeneralizedLinear(SigmoidSquaredLoss(), alpha=1.0, tol=1e-9).fit(X, y)

    def objective(w):
        p = expit(X @ w[:-1] + w[-1])
        grad = (p - y) * p * (1 - p)
        value = 0.5 * (p - y) @ (p - y) + 0.5 * w[:-1] @ w[:-1]
        return value, np.append(X.T @ grad + w[:-1], grad.sum())

    expected = minimize(objective, np.zeros(31), jac=True, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(found.coef_, expected.x[:-1], atol=1e-7)
    np.testing.assert_allclose(found.predict(X), expit(X @ found.coef_ + found.intercept_))


def test_float32_is_kept():
    X, y = diabetes()
    found = GeneralizedLinear().fit(X.astype(np.float32), y.astype(np.float32))
    assert found.coef_.dtype == found.intercept_.dtype == np.float32
    assert found.predict(X.astype(np.float32)).dtype == np.float32


def test_a_fit_that_does_not_converge_warns():
    X, y = diabetes()
    with pytest.warns(ConvergenceWarning, match=r"iteration limit.*raise max_iter"):
        GeneralizedLinear(HuberLoss(), max_iter=1).fit(X, y)


# --- tuned -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "data"),
    [
        (PoissonLoss(), counts),
        (HuberLoss(0.5), diabetes),
        (SigmoidSquaredLoss(), breast_cancer),
        (None, diabetes),
    ],
    ids=["Poisson", "Huber", "nonlinear least squares", "squared"],
)
@pytest.mark.parametrize("hypergradient", ["shine", "cg"])
def test_shine_cv_finds_the_best_alpha(loss, data, hypergradient):
    X, y = data()
    cv = KFold(4, shuffle=True, random_state=0)
    search = ShineCV(GeneralizedLinear(loss), cv=cv, hypergradient=hypergradient, tol=1e-3).fit(
        X, y
    )
    value = (loss or SquaredLoss()).value

    def criterion(log_alpha):
        model = GeneralizedLinear(loss, alpha=np.exp(log_alpha), tol=1e-9, max_iter=10_000)
        losses = []
        for train, test in cv.split(X):
            model.fit(X[train], y[train])
            losses.append(value(y[test], X[test] @ model.coef_ + model.intercept_).mean())
        return np.mean(losses)

    grid = np.linspace(-3.0, 7.0, 21)
    near = grid[np.argmin([criterion(log_alpha) for log_alpha in grid])]
    best = minimize_scalar(criterion, bounds=(near - 0.5, near + 0.5), method="bounded")
    found = criterion(np.log(search.best_params_["alpha"]))
    np.testing.assert_allclose(-search.best_score_, found, rtol=1e-5)
    assert found <= best.fun * (1 + 1e-4)
    refit = clone(search.estimator).set_params(**search.best_params_, tol=1e-9).fit(X, y)
    np.testing.assert_allclose(search.predict(X), refit.predict(X), atol=1e-4)
    assert isinstance(search.best_estimator_, GeneralizedLinear)


def test_best_params_can_be_pasted_into_a_grid_search():
    X, y = diabetes()
    search = ShineCV(GeneralizedLinear(), cv=4, hypergradient="cg").fit(X, y)
    grid = GridSearchCV(
        GeneralizedLinear(tol=1e-9),
        {"alpha": [search.best_params_["alpha"]]},
        cv=4,
        scoring="neg_mean_squared_error",
    ).fit(X, y)
    np.testing.assert_allclose(search.best_score_, grid.best_score_, rtol=1e-6)


def test_verbose_lines_name_a_score_even_where_the_loss_has_no_scorer(capsys):
    X, y = diabetes()
    ShineCV(GeneralizedLinear(HuberLoss()), verbose=1).fit(X, y)
    assert ", score=-" in capsys.readouterr().out


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "huber"}, TypeError, "loss must be an instance of hoag_shine.Loss, got 'huber'"),
        ({"loss": HuberLoss}, TypeError, r"an instance, not the class"),
        ({"loss": MultinomialLoss()}, TypeError, "loss must be pointwise"),
        ({"loss": PoissonLoss()}, ValueError, r"y must lie between 0 and inf for PoissonLoss\(\)"),
        ({"loss": LogisticLoss()}, ValueError, r"y must lie between 0 and 1 .* goes from -"),
        ({"alpha": 0.0}, ValueError, "alpha"),
        ({"alpha": np.inf}, ValueError, "alpha"),
        ({"alpha": "1"}, TypeError, "alpha"),
    ],
)
def test_bad_options_are_named(options, error, message, tuned):
    X, y = diabetes()
    estimator = GeneralizedLinear(**options)
    with pytest.raises(error, match=message):
        (ShineCV(estimator) if tuned else estimator).fit(X, y)


@pytest.mark.parametrize("options", [{"tol": 0.0}, {"max_iter": 0}, {"max_iter": 2.5}])
def test_bad_options_of_the_fit_are_named(options):
    X, y = diabetes()
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        GeneralizedLinear(**options).fit(X, y)


def test_predict_needs_a_fit():
    with pytest.raises(NotFittedError):
        GeneralizedLinear().predict(np.zeros((2, 2)))


def test_data_that_cannot_be_fitted_are_refused():
    X, y = diabetes()
    with pytest.raises(ValueError, match=r"[wW]eight.*zero"):
        GeneralizedLinear().fit(X, y, sample_weight=np.zeros(y.size))
    with pytest.raises(ValueError, match="fit is not finite"):
        GeneralizedLinear().fit(X * 1e200, y)
