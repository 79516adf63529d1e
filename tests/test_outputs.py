"""Several targets, and a penalty for each target or class."""

import numpy as np
import pytest
from helpers import LAYOUTS, diabetes, finite_difference, solve_tightly
from scipy.special import log_softmax
from sklearn.datasets import load_iris, load_linnerud
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import scale

from hoag_shine import ShineCV, fold_problems
from hoag_shine.testing import check_hypergradient, check_problem

CV = KFold(5, shuffle=True, random_state=0)


def three_targets():
    """The diabetes data; targets of different noise, so that they want different penalties."""
    X, y = diabetes()
    noise = np.random.default_rng(0).normal(size=(len(y), 3))
    return X, y[:, None] + noise * [0.0, 2.0, 20.0]


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_penalty_for_each_target_is_what_each_target_alone_gets(fit_intercept):
    X, Y = three_targets()
    ridge = Ridge(fit_intercept=fit_intercept)
    together = ShineCV(ridge, cv=CV, penalty="output", max_iter=100, tol=1e-3).fit(X, Y)
    alone = [ShineCV(ridge, cv=CV, tol=1e-3).fit(X, y) for y in Y.T]
    assert together.penalty_names_ == (0, 1, 2)
    np.testing.assert_allclose(
        -together.best_score_, np.mean([-search.best_score_ for search in alone]), rtol=1e-4
    )
    alpha = together.best_params_["alpha"]
    assert alpha[0] < alpha[2]
    best = together.best_estimator_
    assert best.coef_.shape == (3, X.shape[1])
    np.testing.assert_array_equal(best.alpha, alpha)
    expected = Ridge(alpha=alpha, fit_intercept=fit_intercept).fit(X, Y)
    np.testing.assert_allclose(best.coef_, expected.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(best.predict(X), expected.predict(X), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shared_penalty_of_several_targets_agrees_with_grid_search(layout):
    X, Y = three_targets()
    X = LAYOUTS[layout](X)
    search = ShineCV(Ridge(), cv=CV, scoring="r2", refit="neg_criterion", tol=1e-3).fit(X, Y)
    grid = GridSearchCV(
        Ridge(),
        {"alpha": [search.best_params_["alpha"] * factor for factor in (0.9, 1.0, 1.1)]},
        cv=CV,
        scoring="neg_mean_squared_error",
    ).fit(X, Y)
    np.testing.assert_allclose(
        search.cv_results_["mean_test_neg_criterion"][search.best_index_],
        grid.cv_results_["mean_test_score"][1],
        rtol=1e-6,
    )
    assert grid.best_index_ == 1
    np.testing.assert_allclose(
        search.best_estimator_.coef_, grid.best_estimator_.coef_, rtol=1e-3, atol=1e-3
    )


def test_a_column_of_targets_is_one_target():
    X, y = diabetes()
    flat, column = (ShineCV(Ridge(), cv=CV).fit(X, target) for target in (y, y[:, None]))
    assert flat.best_params_ == column.best_params_
    np.testing.assert_array_equal(flat.predict(X), column.predict(X))


def test_real_targets_of_several_scales():
    X, Y = load_linnerud(return_X_y=True)
    X, Y = scale(X), scale(Y)
    search = ShineCV(Ridge(), cv=4, penalty="output", bounds=(1e-4, 1e4)).fit(X, Y)
    shared = ShineCV(Ridge(), cv=4, bounds=(1e-4, 1e4)).fit(X, Y)
    assert search.best_score_ >= shared.best_score_ - 1e-6 * abs(shared.best_score_)


@pytest.mark.filterwarnings("ignore:The outer search ended")  # a class may want no penalty
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_penalty_for_each_class(fit_intercept):
    """The final fit minimises the softmax loss with a penalty for each class, by gradients."""
    X, y = load_iris(return_X_y=True)
    X, names = scale(X), np.array(["setosa", "versicolor", "virginica"])
    model = LogisticRegression(fit_intercept=fit_intercept)
    search = ShineCV(model, cv=5, penalty="output", tol=1e-3).fit(X, names[y])
    shared = ShineCV(model, cv=5, tol=1e-3).fit(X, names[y])
    assert search.penalty_names_ == tuple(names)
    C = search.best_params_["C"]
    assert C.shape == (3,)
    assert search.best_score_ >= shared.best_score_
    best = search.best_estimator_
    assert best.C == model.C  # it has no place for three

    def objective(w):
        coef, intercept = w[:12].reshape(3, 4), w[12:] if fit_intercept else 0.0
        fit = log_softmax(X @ coef.T + intercept, axis=1)[np.arange(150), y].sum()
        return -fit + 0.5 * ((coef**2).sum(axis=1) / C).sum()

    w = np.concatenate([best.coef_.ravel(), best.intercept_ if fit_intercept else []])
    gradient, at_zero = (finite_difference(objective, v, 1e-5) for v in (w, 0.0 * w))
    assert np.linalg.norm(gradient) <= 1e-5 * np.linalg.norm(at_zero)


@pytest.mark.parametrize("estimator", [Ridge(), LogisticRegression()], ids=["ridge", "softmax"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("penalty", ["shared", "feature", "output", [0, -1, 0, 1]])
def test_derivatives_whatever_the_penalty_and_the_layout(estimator, layout, penalty):
    X, y = load_iris(return_X_y=True)
    weight = np.random.default_rng(0).exponential(size=150)
    target = np.eye(3)[y] if isinstance(estimator, Ridge) else y
    cv = KFold(2, shuffle=True, random_state=0)
    problems = fold_problems(
        estimator, LAYOUTS[layout](scale(X)), target, cv=cv, penalty=penalty, sample_weight=weight
    )
    theta = np.random.default_rng(1).normal(size=problems.n_hyperparameters)
    check_problem(problems, theta=theta)
    for method in ("exact", "cg", "auto"):
        check_hypergradient(method, problems[0], theta=theta, exact=True)


def test_bad_targets_are_refused():
    X, Y = three_targets()
    Y = Y.copy()
    Y[3, 1] = np.nan
    with pytest.raises(ValueError, match="y contains NaN"):
        ShineCV(Ridge()).fit(X, Y)
    with pytest.raises(ValueError, match="y should be a 1d array"):
        ShineCV(LogisticRegression()).fit(X, np.zeros((len(X), 2), dtype=int))


def test_the_folds_solutions_are_those_of_each_target():
    X, Y = three_targets()
    theta = np.array([0.0, 1.0, 2.0])
    together = fold_problems(Ridge(), X, Y, cv=CV, penalty="output")[0]
    W = solve_tightly(together, theta).w.reshape(-1, 3)
    for k, y in enumerate(Y.T):
        alone = fold_problems(Ridge(), X, y, cv=CV)[0]
        np.testing.assert_allclose(W[:, k], solve_tightly(alone, theta[k : k + 1]).w, rtol=1e-7)
