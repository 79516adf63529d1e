"""Fewer rows stand for all, and nobody notices."""

import tracemalloc

import numpy as np
import pytest
from helpers import breast_cancer, diabetes, solve_tightly
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import (
    HuberRegressor,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    TweedieRegressor,
)
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import KFold, LeaveOneOut, RepeatedKFold, ShuffleSplit

from hoag_shine import ShineCV, fold_problems
from hoag_shine.problems.groups import FIXED
from hoag_shine.problems.linear import LinearProblems
from hoag_shine.problems.losses import LogisticLoss, MultinomialLoss, SquaredLoss, TweedieLoss
from hoag_shine.problems.penalties import GroupedPenalty
from hoag_shine.problems.presolve.rows import CompressedRows

CV = KFold(3, shuffle=True, random_state=0)


def pass_of(problems):
    """Return what an evaluation counts for, of a pass over the data."""
    before = problems.n_passes
    problem = problems[0]
    problem.value_and_grad(np.full(problem.n_params, 0.001), np.zeros(1))
    return problems.n_passes - before


def drawn(n, n_folds, rng):
    """Return how often the folds draw the rows: some twice, some never, some for no fold at all."""
    pattern = rng.integers(3, size=(4, 2 * n_folds))
    pattern[0], pattern[1, 0] = 0, 1
    pattern[1:, -n_folds:] += 1  # held out by every fold
    return pattern[rng.integers(4, size=n)].astype(float)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_outputs=st.integers(1, 3),
    n_folds=st.integers(1, 4),
    n_columns=st.integers(1, 6),
    dtype=st.sampled_from([np.float32, np.float64]),
    fit_intercept=st.booleans(),
    by_output=st.booleans(),
)
def test_objectives_and_derivatives_are_those_of_all_rows(
    seed, n_outputs, n_folds, n_columns, dtype, fit_intercept, by_output
):
    rng = np.random.default_rng(seed)
    n = 300
    scale = 10.0 ** rng.integers(-3, 4, size=n_columns)
    X = ((rng.normal(size=(n, n_columns)) + rng.normal(size=n_columns)) * scale).astype(dtype)
    X[:, rng.integers(n_columns)] = rng.choice([0.0, 1.0])
    y = rng.normal(size=(n, n_outputs)) + 3.0
    weight = drawn(n, n_folds, rng) * (rng.random((n, 1)) * rng.integers(3, size=(n, 1)))
    train, test = weight[:, :n_folds], weight[:, n_folds:] / 7.0
    if by_output:
        train = train[:, :, None] * rng.random((n_folds, n_outputs))
    rows = CompressedRows.of(X, y, SquaredLoss(), train, test, fit_intercept=fit_intercept)
    assert len(rows.X) <= 3 * (n_columns + fit_intercept + n_outputs)

    unit = np.repeat([*1.0 / scale, *np.ones(int(fit_intercept))], n_outputs)
    compare(rows, (X, y, SquaredLoss(), train, test), fit_intercept, rng, unit)


def compare(rows, data, fit_intercept, rng, unit):
    """Hold problems over the compressed rows against those over all, at variables of size unit."""
    X, y, loss, train, test = data
    n_outputs, theta = y.size // len(y), rng.normal(size=1)
    free = rng.choice([0, 0, -1, FIXED], size=X.shape[1] * n_outputs)
    groups = np.concatenate([free, np.full(n_outputs * fit_intercept, -1)])
    groups[0] = 0
    penalty = GroupedPenalty(groups, 2.0)
    whole = LinearProblems(X, y, loss, penalty, train, test, fit_intercept=fit_intercept)
    few = LinearProblems(
        rows.X, rows.y, loss, penalty, rows.train_weight, rows.test_weight,
        fit_intercept=rows.fit_intercept,
    )  # fmt: skip
    for one, other in zip(few, whole, strict=True):
        w, v = rng.normal(size=(2, unit.size)) * unit
        pairs = [
            (one.value_and_grad(w, theta), other.value_and_grad(w, theta)),
            (one.outer_value_and_grad(w), other.outer_value_and_grad(w)),
        ]
        for (value, grad), (expected, expected_grad) in pairs:
            np.testing.assert_allclose(value, expected, rtol=1e-11)
            close(grad * unit, expected_grad * unit, expected)
        product, expected = (problem.hessp(w, theta)(v) * unit for problem in (one, other))
        close(product, expected, np.abs(expected).max())
        diagonals = (problem.data_diagonal(w) * unit**2 for problem in (one, other))
        np.testing.assert_allclose(*diagonals, rtol=1e-11)


def close(found, expected, size):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * max(1.0, size))


LOSSES = {
    "logistic": lambda rng, n: (LogisticLoss(), rng.integers(2, size=(n, 1))),
    "softmax": lambda rng, n: (MultinomialLoss(), np.eye(3)[rng.integers(3, size=n)]),
    "poisson": lambda rng, n: (TweedieLoss(1.0), rng.integers(3, size=(n, 1))),
    "squared, many columns": lambda rng, n: (SquaredLoss(), rng.integers(3, size=(n, 2))),
}


@given(
    seed=st.integers(0, 2**32 - 1),
    loss=st.sampled_from(sorted(LOSSES)),
    n_folds=st.integers(1, 4),
    layout=st.sampled_from([np.asarray, np.asfortranarray, sparse.csr_array]),
    dtype=st.sampled_from([np.float32, np.float64]),
    fit_intercept=st.booleans(),
)
def test_equal_samples_are_one_whatever_the_loss(seed, loss, n_folds, layout, dtype, fit_intercept):
    rng = np.random.default_rng(seed)
    n, n_columns = 300, 3 if "many" not in loss else 200
    categories = rng.integers(-1, 2, size=(5, n_columns)) * rng.choice([0.3, 1.0, 7.0], n_columns)
    dense = categories[rng.integers(5, size=n)].astype(dtype)
    loss, y = LOSSES[loss](rng, n)
    y, X = y.astype(float), layout(dense)
    weight = drawn(n, n_folds, rng) * (rng.random((n, 1)) * rng.integers(3, size=(n, 1)))
    train, test = weight[:, :n_folds], weight[:, n_folds:] / 7.0
    rows = CompressedRows.of(X, y, loss, train, test, fit_intercept=fit_intercept)
    assert rows.X.dtype == dtype
    samples = np.hstack([dense, y])
    _, first = np.unique(samples, axis=0, return_index=True)
    kept = rows.X.toarray() if sparse.issparse(rows.X) else rows.X
    np.testing.assert_array_equal(np.hstack([kept, rows.y]), samples[np.sort(first)])
    unit = 0.1 * np.ones((n_columns + fit_intercept) * y.shape[1])
    compare(rows, (X, y, loss, train, test), fit_intercept, rng, unit)


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array])
def test_samples_that_differ_by_a_small_number_beside_a_large_one_stay_apart(layout):
    X = np.repeat([[1e12, 1e-6], [1e12, 2e-6], [1.0, 0.0]], 50, axis=0)
    y, ones = np.ones((150, 1)), np.ones((150, 1))
    y[-20:] = 0.0
    rows = CompressedRows.of(layout(X), y, LogisticLoss(), ones, ones, fit_intercept=True)
    kept = np.hstack([rows.X.toarray() if sparse.issparse(rows.X) else rows.X, rows.y])
    np.testing.assert_array_equal(np.unique(kept, axis=0), np.unique(np.hstack([X, y]), axis=0))


SPLITTERS = {
    "k-fold": CV,
    "repeated": RepeatedKFold(n_splits=2, n_repeats=2, random_state=0),
    "some in neither": ShuffleSplit(2, train_size=0.5, test_size=0.2, random_state=0),
    "bootstrap": [
        (np.r_[np.arange(300), np.arange(150)], np.arange(300, 442)),
        (np.arange(100, 442), np.r_[np.arange(90), np.arange(90)]),
    ],
}


def hard(X):
    """Return columns of a wild variety of scales, one twice, one constant."""
    scaled = X * 10.0 ** np.linspace(-5, 5, X.shape[1])
    return np.column_stack([scaled, scaled[:, 3], np.full(len(X), 2.0)])


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("columns", [np.asarray, hard, np.float32], ids=["plain", "hard", "single"])
@pytest.mark.parametrize("splits", SPLITTERS)
def test_the_folds_of_ridge_are_those_of_scikit_learn(splits, columns, fit_intercept):
    X, y = diabetes()
    X, cv = columns(X), SPLITTERS[splits]
    weight = np.random.default_rng(1).integers(4, size=y.size) + 0.0
    estimator = Ridge(alpha=3.0, fit_intercept=fit_intercept)
    problems = fold_problems(estimator, X, y, cv=cv, sample_weight=weight)
    assert pass_of(problems) < 0.5
    X = X.astype(np.float64)
    for problem, (train, test) in zip(
        problems, cv if isinstance(cv, list) else cv.split(X), strict=True
    ):
        solution = solve_tightly(problem, np.log([3.0]))
        own = Ridge(alpha=3.0, fit_intercept=fit_intercept, solver="svd")
        own.fit(X[train], y[train], weight[train])
        expected = mean_squared_error(y[test], own.predict(X[test]), sample_weight=weight[test])
        value, _ = problem.outer_value_and_grad(solution.w)
        np.testing.assert_allclose(value, expected, rtol=1e-8)
        coef = solution.w[: X.shape[1]] * X.std(axis=0)
        np.testing.assert_allclose(coef, own.coef_ * X.std(axis=0), rtol=0, atol=1e-7)


@pytest.mark.parametrize("class_weight", [None, {0: 1.0, 1: 3.0}, "balanced"])
def test_classes_may_weigh_differently(class_weight):
    X, y = diabetes()
    y = (y > 0.5).astype(int)
    problems = fold_problems(RidgeClassifier(class_weight=class_weight), X, y, cv=CV)
    assert pass_of(problems) < 0.5
    for problem, (train, test) in zip(problems, CV.split(X), strict=True):
        own = RidgeClassifier(class_weight=class_weight, solver="svd").fit(X[train], y[train])
        w = solve_tightly(problem, np.zeros(1)).w
        np.testing.assert_allclose(w[:-1], np.ravel(own.coef_), rtol=1e-7, atol=1e-9)
        expected = mean_squared_error(2 * y[test] - 1, own.decision_function(X[test]))
        np.testing.assert_allclose(problem.outer_value_and_grad(w)[0], expected, rtol=1e-8)


@pytest.mark.filterwarnings("ignore:The penalty is chosen by")
def test_a_search_scores_and_fits_on_all_rows():
    X, y = diabetes()
    found = ShineCV(Ridge(), cv=CV, scoring="r2", return_train_score=True).fit(X, y)
    best = found.best_params_["alpha"]
    own = Ridge(alpha=best, solver="svd")
    scores = [own.fit(X[a], y[a]).score(X[b], y[b]) for a, b in CV.split(X)]
    np.testing.assert_allclose(found.best_score_, np.mean(scores), rtol=1e-5)
    trained = [own.fit(X[a], y[a]).score(X[a], y[a]) for a, _ in CV.split(X)]
    row = found.cv_results_["mean_train_score"][found.best_index_]
    np.testing.assert_allclose(row, np.mean(trained), rtol=1e-5)
    np.testing.assert_allclose(found.best_estimator_.coef_, own.fit(X, y).coef_, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_search_whose_passes_are_nearly_free_ends_within_a_millionth(seed):
    X, y = diabetes()
    splits = list(KFold(3, shuffle=True, random_state=seed).split(X))
    found = ShineCV(Ridge(), cv=splits).fit(X, y)

    def criterion(theta):
        model = Ridge(alpha=np.exp(theta), solver="svd")
        errors = [mean_squared_error(y[b], model.fit(X[a], y[a]).predict(X[b])) for a, b in splits]
        return np.mean(errors)

    near = np.log(found.best_params_["alpha"]) + np.linspace(-3, 3, 121)
    lowest = min(map(criterion, near))
    assert criterion(near[60]) <= (1.0 + 1e-6) * lowest
    np.testing.assert_allclose(-found.best_score_, criterion(near[60]), rtol=1e-6)


def test_passes_are_shares_of_the_data():
    X, y = diabetes()
    problems = fold_problems(Ridge(), X, y, cv=CV)
    assert problems.n_passes == 1.0  # X was read once
    np.testing.assert_allclose(pass_of(problems), 3 * (X.shape[1] + 2) / y.size, rtol=1e-12)
    assert pass_of(fold_problems(HuberRegressor(), X, y, cv=CV)) == 1.0


def test_every_sample_twice_is_read_in_half_a_pass():
    X, y = breast_cancer()
    twice = np.tile(np.arange(len(y)), 2)
    assert pass_of(fold_problems(LogisticRegression(), X, y, cv=CV)) == 1.0
    again = fold_problems(LogisticRegression(), X[twice], y[twice], cv=CV)
    np.testing.assert_allclose(pass_of(again), 0.5, rtol=1e-12)


def test_it_is_the_loss_that_allows_it():
    X, y = diabetes()
    y = y - y.min() + 1.0
    assert pass_of(fold_problems(TweedieRegressor(power=0), X, y, cv=CV)) < 0.5
    assert pass_of(fold_problems(TweedieRegressor(power=1), X, y, cv=CV)) == 1.0


@pytest.mark.parametrize(
    ("n", "p", "cv"),
    [
        (60, 5, LeaveOneOut()),
        (60, 50, KFold(5)),
        (500, 5, ShuffleSplit(30, test_size=0.5, random_state=0)),
        (1000, 400, KFold(2)),
    ],
    ids=["leave one out", "wide", "all drawn differently", "many columns"],
)
def test_rows_stay_where_too_few_would_go(n, p, cv):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, p)), rng.normal(size=n)
    assert pass_of(fold_problems(Ridge(), X, y, cv=cv)) == 1.0


def test_sparse_rows_stay():
    X, y = diabetes()
    assert pass_of(fold_problems(Ridge(), sparse.csr_array(X), y, cv=CV)) == 1.0


def test_many_rows_are_read_block_by_block():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80_000, 50)), rng.normal(size=80_000)
    train = np.repeat(np.array([[0.0, 1.0], [1.0, 0.0]]), y.size // 2, axis=0)
    tracemalloc.start()
    try:
        rows = CompressedRows.of(X, y, SquaredLoss(), train, 1.0 - train, fit_intercept=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * X.nbytes  # half of which each fold trains on
    for weight, own in zip(train.T, rows.train_weight.T, strict=True):
        expected, found = ((X.T * weight) @ X for X, weight in ((X, weight), (rows.X[:, :-1], own)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
        np.testing.assert_allclose(
            (rows.X.T * own) @ rows.y[:, 0],
            [*((X.T * weight) @ y), weight @ y],
            rtol=0,
            atol=1e-11 * np.abs(expected).max(),
        )
