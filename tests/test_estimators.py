"""Every supported estimator: ShineCV against the estimator itself, tightly fitted."""

import numpy as np
import pytest
from helpers import finite_difference
from scipy import sparse
from scipy.optimize import minimize_scalar
from sklearn.base import is_classifier
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
    RidgeClassifier,
    TweedieRegressor,
)
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC
from supported import CASES, Case, counts, outliers, positive_target, three_classes, two_classes

from hoag_shine import Outcome, ShineCV, fold_problems, minimize_lbfgs
from hoag_shine.testing import check_problem

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def folds(case):
    stratified = is_classifier(case.estimator) and case.data()[1].ndim == 1
    kind = StratifiedKFold if stratified else KFold
    return kind(3, shuffle=True, random_state=0)


def scan(case, cv):
    """Return the best score, and the parameter's logarithm there, by scikit-learn alone."""
    X, y = case.data()

    def score(log_value):
        own = case.own(**{case.parameter: float(np.exp(log_value))})
        return cross_val_score(own, X, y, cv=cv, scoring=case.criterion).mean()

    grid = np.linspace(-8.0, 8.0, 9)
    near = grid[np.argmax([score(t) for t in grid])]
    best = minimize_scalar(
        lambda t: -score(t), bounds=(near - 2, near + 2), options={"xatol": 1e-3}
    )
    return -best.fun, best.x


# A scan ends at any of several local optima: what it must not find is a better one.
@pytest.mark.slow
@every_case
def test_no_scan_finds_a_better_penalty(case):
    X, y = case.data()
    cv = folds(case)
    search = ShineCV(case.estimator, cv=cv, tol=1e-3, bounds=(np.exp(-11), np.exp(11))).fit(X, y)
    assert search.outcome_ is Outcome.CONVERGED
    best, _ = scan(case, cv)
    assert search.best_score_ >= best - 1e-4 * abs(best)
    own = case.own(**search.best_params_)
    found = cross_val_score(own, X, y, cv=cv, scoring=case.criterion).mean()
    np.testing.assert_allclose(search.best_score_, found, rtol=1e-4)
    if case.scoring is not None:
        found = cross_val_score(own, X, y, cv=cv, scoring=case.scoring).mean()
        np.testing.assert_allclose(search.best_score_, found, rtol=1e-4)


@every_case
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_the_best_estimator_is_the_estimators_own_fit(case, weighted):
    X, y = case.data()
    weight = np.random.default_rng(3).integers(0, 4, len(y)) / 2.0 if weighted else None
    search = ShineCV(case.estimator, cv=folds(case), tol=1e-3).fit(X, y, sample_weight=weight)
    fitted = search.best_estimator_
    own = case.own(**search.best_params_).fit(X, y, sample_weight=weight)
    assert type(fitted) is type(case.estimator)
    assert set(vars(fitted)) == set(vars(own))
    assert fitted.get_params() == case.estimator.get_params() | search.best_params_
    size = np.abs(own.coef_).max()
    for name in ("coef_", "intercept_"):
        found, expected = getattr(fitted, name), getattr(own, name)
        assert np.shape(found) == np.shape(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3 * size)
    np.testing.assert_array_equal(search.predict(X), fitted.predict(X))
    if hasattr(own, "decision_function"):
        expected = own.decision_function(X)
        atol = 1e-3 * np.abs(expected).max()
        np.testing.assert_allclose(search.decision_function(X), expected, atol=atol)
        np.testing.assert_array_equal(own.classes_, fitted.classes_)
    else:
        np.testing.assert_allclose(
            search.predict(X), own.predict(X), rtol=1e-3, atol=1e-3 * np.abs(own.predict(X)).max()
        )


def test_the_outliers_and_the_scale_are_hubers():
    X, y = outliers()
    search = ShineCV(HuberRegressor(), tol=1e-3).fit(X, y)
    own = HuberRegressor(**search.best_params_, tol=1e-10, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(search.best_estimator_.scale_, own.scale_, rtol=1e-4)
    np.testing.assert_array_equal(search.best_estimator_.outliers_, own.outliers_)
    assert 0 < own.outliers_.sum() < y.size


def test_a_huber_regression_without_a_scale_is_a_median_regression():
    # With epsilon near one and few samples, the best scale is zero: the loss is a multiple of the
    # sizes of the residuals, and has corners where samples are fitted exactly.
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:30], y[:30]
    with pytest.warns(ConvergenceWarning, match="limit of outer iterations") as warned:
        search = ShineCV(HuberRegressor(epsilon=1.05), init=1e-8, max_iter=1).fit(X, y)
    assert len(warned) == 1
    assert search.history_[0]["error"] <= 1e-6 * search.history_[0]["criterion"]
    assert search.best_estimator_.scale_ <= 1e-6 * np.std(y)
    own = QuantileRegressor(quantile=0.5, alpha=0.0).fit(X, y)  # a linear programme
    np.testing.assert_allclose(search.predict(X), own.predict(X), atol=1e-6 * np.std(y))


# --- hypergradients ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(LinearSVC(), two_classes, None),
        Case(LinearSVC(class_weight={3: 1.0, 4: 3.0, 5: 2.0}), three_classes, None),
        Case(RidgeClassifier(), three_classes, None),
        Case(PoissonRegressor(), counts, None),
        Case(GammaRegressor(), positive_target, None),
        Case(TweedieRegressor(power=1.5), counts, None),
        Case(TweedieRegressor(power=3), positive_target, None),
        Case(HuberRegressor(), outliers, None),
        Case(HuberRegressor(fit_intercept=False), outliers, None),
        Case(LogisticRegression(solver="liblinear"), two_classes, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("penalty", ["shared", "feature"])
def test_problems_and_hypergradients_are_right(case, convert, penalty):
    """By finite differences, which are so small that no row crosses a jump of the curvature."""
    X, y = case.data()
    problems = fold_problems(case.estimator, convert(X), y, cv=3, penalty=penalty)
    check_problem(problems, rtol=1e-4)
    theta = np.linspace(-1.0, 1.0, problems.n_hyperparameters) + np.log(1e-1)
    if isinstance(case.estimator, TweedieRegressor | PoissonRegressor | GammaRegressor):
        theta -= 3.0

    problem = problems[0]
    start = problem.value_and_grad(np.zeros(problem.n_params), theta)[1]
    tol = 1e-12 * np.linalg.norm(start)

    def solve(theta):
        return minimize_lbfgs(problem, theta, tol=tol, max_iter=5000).w

    def criterion(theta):
        return problem.outer_value_and_grad(solve(theta))[0]

    w = solve(theta)
    H = np.column_stack([problem.hessp(w, theta)(e) for e in np.eye(w.size)])
    q = np.linalg.solve(H, problem.outer_value_and_grad(w)[1])
    found = -problem.cross_vjp(w, theta, q)
    expected = finite_difference(criterion, theta, 1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (LinearSVC(loss="hinge"), "loss='hinge', but LinearSVC can be tuned only with loss='squ"),
        (LinearSVC(penalty="l1", dual=False), "penalty='l1', but LinearSVC can be tuned only"),
        (LinearSVC(multi_class="crammer_singer"), "multi_class='crammer_singer'"),
        (TweedieRegressor(power=1.5, link="identity"), r"use link='log'"),
        (TweedieRegressor(power=-1), r"power=-1 and the identity as its link"),
        (HuberRegressor(epsilon=1.0), "epsilon must be larger than 1"),
        (Ridge(positive=True), r"use Ridge\(positive=False\)"),
    ],
    ids=str,
)
def test_what_would_be_another_problem_is_refused(estimator, message):
    X, y = two_classes() if is_classifier(estimator) else positive_target()
    with pytest.raises(ValueError, match=message):
        ShineCV(estimator).fit(X, y)


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (PoissonRegressor(), -1.0),
        (GammaRegressor(), 0.0),
        (TweedieRegressor(power=1.5), -1.0),
        (TweedieRegressor(power=3), 0.0),
    ],
    ids=str,
)
def test_targets_that_a_loss_is_not_made_for_are_refused(estimator, y):
    X, target = positive_target()
    target = target.copy()
    target[3] = y
    with pytest.raises(ValueError, match=r"y must .* for TweedieLoss"):
        ShineCV(estimator).fit(X, target)
