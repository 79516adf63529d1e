"""Threads share the passes over X, and their number changes nothing."""

import numpy as np
import pytest
from helpers import breast_cancer
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge

from hoag_shine import ShineCV, fold_problems
from hoag_shine.linalg import design
from hoag_shine.linalg.design import CSRDesign
from hoag_shine.problems import passes


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 rows, which threads share however short a pass is."""
    monkeypatch.setattr(design, "BLOCK_BYTES", 1)
    monkeypatch.setattr(passes, "SHARED_MULTIPLICATIONS", 0.0)


def words(n_rows, n_columns):
    """Return a CSR matrix with fewer entries in a block than columns, and a target."""
    rng = np.random.default_rng(0)
    X = sparse.random_array(
        (n_rows, n_columns), density=0.01, format="csr", rng=rng, data_sampler=rng.normal
    )
    return X, (X @ rng.normal(size=n_columns) > 0.0).astype(int)


def few_digits():
    X, y = load_digits(return_X_y=True)
    return X[:500] / 16.0, y[:500]


CASES = {
    "dense": (LogisticRegression(), *breast_cancer()),
    "dense, single": (
        LogisticRegression(),
        breast_cancer()[0].astype(np.float32),
        breast_cancer()[1],
    ),
    "entries for each column": (
        LogisticRegression(),
        sparse.csr_array(breast_cancer()[0]),
        breast_cancer()[1],
    ),
    "words": (LogisticRegression(), *words(700, 2000)),
    "words, no intercept": (LogisticRegression(fit_intercept=False), *words(700, 2000)),
    "words, single": (
        LogisticRegression(),
        words(700, 2000)[0].astype(np.float32),
        words(700, 2000)[1],
    ),
    "classes": (LogisticRegression(), *few_digits()),
    "squares": (Ridge(), words(700, 2000)[0], words(700, 2000)[0][:, [0]].toarray()[:, 0] + 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_their_number_changes_no_bit(case, small_blocks):
    estimator, X, y = CASES[case]
    # "auto" would factorise Hessians, and make no passes.
    searches = [
        ShineCV(estimator, cv=4, hypergradient="cg", max_iter=4, tol=0.1, n_jobs=n).fit(X, y)
        for n in (1, 2, 5)
    ]
    one, *others = searches
    for other in others:
        for record, same in zip(one.history_, other.history_, strict=True):
            assert record["criterion"] == same["criterion"]
            np.testing.assert_array_equal(record["hypergradient"], same["hypergradient"])
        np.testing.assert_array_equal(other.best_estimator_.coef_, one.best_estimator_.coef_)


@pytest.mark.parametrize("case", CASES)
def test_the_passes_of_each_case_are_shared(case, small_blocks):
    """Or the test above would show nothing."""
    estimator, X, y = CASES[case]
    problems = fold_problems(estimator, X, y, cv=4)
    assert problems.most_threads > 5


def test_short_passes_are_not_shared():
    problems = fold_problems(LogisticRegression(), *breast_cancer(), cv=4)
    assert problems.most_threads == len(problems) == 4


@pytest.mark.parametrize("n", [2, 3, 50])
@pytest.mark.parametrize("ones", [False, True])
def test_strips_of_columns_add_up_to_the_product(n, ones):
    X = np.random.default_rng(0).normal(size=(64, 30))
    X[:, [3, 4, 29]] = 0.0
    X = sparse.csr_array(np.where(X > 0.5, X, 0.0))
    matrix = CSRDesign(X)
    U = np.random.default_rng(1).normal(size=(64, 5))
    whole, by_strips = (matrix.zeros(30 + ones, 5) for _ in range(2))
    matrix.add_rmatmul(slice(0, 64), U, whole)
    strips = matrix.strips(n)
    assert 1 < len(strips) <= n
    for strip in strips:
        matrix.add_rmatmul(slice(0, 64), U, by_strips, strip)
    np.testing.assert_array_equal(by_strips, whole)
    expected = np.vstack([X.T @ U, U.sum(axis=0)])[: 30 + ones]
    np.testing.assert_allclose(whole[:, :5], expected, rtol=1e-12, atol=1e-12)
