"""Columns that are multiples of each other are merged for the solver, and nobody notices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold

from hoag_shine import ShineCV, fold_problems, hoag
from hoag_shine.problems.groups import coefficient_groups
from hoag_shine.problems.presolve.columns import MIN_COLUMNS, MergedColumns

CV = KFold(3, shuffle=True, random_state=0)


def text_like(n=150, p=60, seed=0, dtype=np.float64):
    """Return rows of a few common columns and of many that occur once or never."""
    rng = np.random.default_rng(seed)
    common = sparse.random(n, p, density=0.2, random_state=rng)
    rare = sparse.coo_array(
        (
            rng.normal(size=2 * MIN_COLUMNS),
            (
                rng.integers(n, size=2 * MIN_COLUMNS),
                rng.permutation(3 * MIN_COLUMNS)[: 2 * MIN_COLUMNS],
            ),
        ),
        shape=(n, 3 * MIN_COLUMNS),
    )
    columns = rng.permutation(3 * MIN_COLUMNS + p)
    X = sparse.csr_array(sparse.hstack([rare, common]))[:, columns].astype(dtype)
    X.sort_indices()
    z = X @ rng.normal(size=X.shape[1])
    return X, z / z.std() + 0.5 * rng.normal(size=n)


def labelled(y, classes=2):
    return np.digitize(y, np.quantile(y, np.arange(1, classes) / classes))


def merged(X, penalty="shared"):
    return MergedColumns.of(X, coefficient_groups(penalty, X.shape[1]))


def test_merged_columns_are_one_for_each_row_that_has_some():
    X, _ = text_like()
    few = merged(X)
    assert few.X.shape[1] <= 60 + X.shape[0]
    assert few.X.has_canonical_format
    np.testing.assert_allclose(few.X.power(2).sum(axis=1), X.power(2).sum(axis=1), rtol=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    per_direction=st.integers(1, 40),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_multiples_of_a_column_become_one_and_rows_keep_their_products(seed, per_direction, dtype):
    rng = np.random.default_rng(seed)
    distinct = sparse.random(30, 50, density=0.2, random_state=rng).toarray()
    rare = np.eye(30)
    scale = rng.choice([-3.0, -1.0, 0.1, 0.7, 1.0], size=(50, per_direction))
    multiples = (distinct[:, :, None] * scale).reshape(30, -1)
    dense = np.hstack([multiples, np.repeat(rare, MIN_COLUMNS // 30 + 1, axis=1)])
    X = sparse.csr_array(dense[:, rng.permutation(dense.shape[1])].astype(dtype))
    few = merged(X)
    directions = np.hstack([distinct, rare])
    lengths = np.linalg.norm(directions, axis=0)
    units = directions[:, lengths > 0] / lengths[lengths > 0]
    n_distinct = np.unique(np.round(units, 9), axis=1).shape[1]
    # In float32, a multiple that was rounded is none.
    assert few.X.shape[1] == n_distinct or dtype is np.float32
    assert few.X.shape[1] <= 50 * min(5, per_direction) + 30
    rtol = 50 * np.finfo(dtype).eps
    exact = X.toarray().astype(np.float64)
    np.testing.assert_allclose((few.X @ few.X.T).toarray(), exact @ exact.T, rtol, atol=rtol)


def test_columns_that_differ_a_little_stay_apart():
    rng = np.random.default_rng(0)
    column = rng.normal(size=30)
    other = column.copy()
    other[17] *= 1.0 + 1e-9
    rare = np.repeat(np.eye(30), MIN_COLUMNS // 30 + 1, axis=1)
    X = sparse.csr_array(np.hstack([column[:, None], other[:, None], 2.0 * column[:, None], rare]))
    assert merged(X).X.shape[1] == 30 + 2


def test_columns_whose_entries_are_too_far_apart_to_compare_stay_apart():
    column = np.r_[1e-300, 1e300, np.zeros(28)]
    rare = np.repeat(np.eye(30), MIN_COLUMNS // 30 + 1, axis=1)
    few = merged(sparse.csr_array(np.hstack([column[:, None], column[:, None], rare])))
    assert few.X.shape[1] == 30 + 2
    assert np.isfinite(few.X.data).all()


def test_columns_with_more_entries_come_first():
    X, _ = text_like()
    n_entries = np.diff(merged(X).X.tocsc().indptr)
    magnitude = np.floor(np.log2(n_entries))
    assert (np.diff(magnitude) <= 0).all()
    assert n_entries[0] > 16 > n_entries[-1]


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_expanded_variables_predict_the_same_and_weigh_the_same(n_outputs):
    X, _ = text_like()
    few = merged(X)
    W = np.random.default_rng(1).normal(size=(few.X.shape[1] + 1, n_outputs))
    full = few.expand(W.ravel(), n_outputs).reshape(-1, n_outputs)
    np.testing.assert_allclose(X @ full[:-1], few.X @ W[:-1], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(full[-1], W[-1])
    np.testing.assert_allclose(few.restrict(full.ravel(), n_outputs), W.ravel(), atol=1e-12)
    shared = few.X.power(2).sum(axis=0) > 0
    np.testing.assert_allclose(
        (full[:-1] ** 2).sum(axis=0), (W[:-1][shared] ** 2).sum(axis=0), rtol=1e-12
    )


@pytest.mark.parametrize("estimator", [LogisticRegression(), Ridge()], ids=repr)
def test_a_search_ends_where_one_over_all_columns_does(estimator):
    X, y = text_like()
    y = labelled(y) if isinstance(estimator, LogisticRegression) else y
    assert merged(X) is not None
    found = ShineCV(estimator, cv=CV, tol=1e-4).fit(X, y)
    whole = hoag(fold_problems(estimator, X, y, cv=CV), tol=1e-4)
    np.testing.assert_allclose(-found.best_score_, whole.value, rtol=1e-6)
    own = type(estimator)(**found.best_params_, tol=1e-10).fit(X, y)
    assert found.best_estimator_.coef_.size == X.shape[1]
    scale = np.abs(own.coef_).max()
    np.testing.assert_allclose(found.best_estimator_.coef_, own.coef_, atol=1e-4 * scale)


@pytest.mark.parametrize("penalty", ["shared", "output"])
def test_classes_share_the_merged_columns(penalty):
    X, y = text_like()
    y = labelled(y, 3)
    whole = fold_problems(LogisticRegression(), X, y, cv=CV, penalty=penalty)
    once = {"hypergradient": "cg", "max_iter": 1, "tol": 1e-4}
    found = ShineCV(LogisticRegression(), cv=CV, penalty=penalty, **once)
    with pytest.warns(ConvergenceWarning, match="max_iter"):  # at the first penalty
        found.fit(X, y)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        whole = hoag(whole, **once)
    np.testing.assert_allclose(-found.best_score_, whole.value, rtol=1e-7)
    derivative, expected = (h[0]["hypergradient"] for h in (found.history_, whole.history))
    assert np.linalg.norm(derivative - expected) <= 1e-3 * np.linalg.norm(expected)
    own = LogisticRegression(tol=1e-8, max_iter=1000).fit(X, y)
    scale = np.abs(own.coef_).max()
    np.testing.assert_allclose(found.best_estimator_.coef_, own.coef_, atol=1e-4 * scale)


def test_columns_with_different_penalties_are_not_merged():
    X, _ = text_like()
    labels = np.arange(X.shape[1]) % 2
    few = merged(X, labels)
    assert 60 + X.shape[0] < few.X.shape[1] <= 60 + 2 * X.shape[0]
    w = np.random.default_rng(0).normal(size=few.X.shape[1])
    full, own = few.expand(w, 1), few.groups.of_coefficient[:, 0]
    occurs = few.X.power(2).sum(axis=0) > 0
    for group in (0, 1):
        np.testing.assert_allclose(
            (full[labels == group] ** 2).sum(), (w[(own == group) & occurs] ** 2).sum(), rtol=1e-12
        )


def test_columns_without_a_penalty_stay():
    X, _ = text_like()
    labels = np.where(np.arange(X.shape[1]) % 3 == 1, -1, 0)  # some of them without entries
    few, free = merged(X, labels), labels == -1
    own = few.groups.of_coefficient[:, 0] == -1
    assert own.sum() == free.sum()
    w = np.random.default_rng(0).normal(size=own.size)
    np.testing.assert_array_equal(np.sort(few.expand(w, 1)[free]), np.sort(w[own]))
    np.testing.assert_allclose(few.restrict(few.expand(w, 1), 1), w, rtol=1e-12)


def test_a_penalty_of_columns_without_entries_keeps_its_place():
    X, y = text_like()
    assert merged(X, "feature") is None
    labels = np.where(np.bincount(X.indices, minlength=X.shape[1]) > 0, "used", "unused")
    found = ShineCV(LogisticRegression(), cv=CV, penalty=labels, max_iter=3)
    with pytest.warns(ConvergenceWarning):
        found.fit(X, labelled(y))
    assert found.best_params_["C"].shape == (2,)


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_entries_whose_squares_leave_the_range_keep_their_share(scale):
    X, _ = text_like()
    few, plain = merged(X * scale), merged(X)
    np.testing.assert_allclose(few.X.data / scale, plain.X.data, rtol=1e-12)


def test_little_is_left_as_it_is():
    X, _ = text_like()
    assert merged(X.toarray()) is None
    assert merged(X[:, : MIN_COLUMNS - 1]) is None
    all_different = sparse.random(150, MIN_COLUMNS, density=0.2, random_state=0)
    assert merged(all_different.tocsr()) is None


def test_a_warm_start_goes_on_where_other_columns_are_merged():
    X, y = text_like(n=300)
    y = labelled(y)
    warm = ShineCV(LogisticRegression(), cv=CV, warm_start=True, tol=1e-4)
    warm.fit(X[:200], y[:200]).fit(X, y)
    cold = ShineCV(LogisticRegression(), cv=CV, tol=1e-4).fit(X, y)
    np.testing.assert_allclose(warm.best_score_, cold.best_score_, rtol=1e-5)
    again = warm.fit(X, y)
    assert again.history_[0]["inner_iterations"] <= cold.history_[0]["inner_iterations"]
