"""Callbacks, limits of time, and starting where the last fit ended."""

import time

import numpy as np
import pytest
from helpers import breast_cancer, diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import Outcome, ShineCV, fold_problems, hoag


def unconverged(X, y, max_time, **options):
    search = ShineCV(LogisticRegression(), cv=3, tol=1e-3, max_time=max_time, **options)
    with pytest.warns(ConvergenceWarning, match="limit of time was reached.*increase max_time"):
        return search.fit(X, y)


def test_max_time_keeps_the_best_so_far_and_fits_it():
    X, y = breast_cancer()
    search = unconverged(X, y, 1e-9)
    assert search.outcome_ is Outcome.MAX_TIME
    assert len(search.history_) == 1
    assert np.isfinite(search.best_score_)
    own = LogisticRegression(solver="newton-cholesky", tol=1e-12, **search.best_params_).fit(X, y)
    np.testing.assert_allclose(search.best_estimator_.coef_, own.coef_, atol=1e-3)


def test_max_time_counts_what_a_callback_takes():
    X, y = breast_cancer()
    search = unconverged(
        X, y, 0.05, callback=lambda record: time.sleep(0.06), init=1e-4, selection="one-se"
    )
    assert len(search.history_) == 1


def test_enough_time_changes_nothing():
    X, y = breast_cancer()
    plain, limited = (ShineCV(LogisticRegression(), max_time=t).fit(X, y) for t in (None, 1e6))
    assert plain.best_params_ == limited.best_params_


def test_an_inner_solve_that_takes_too_long_is_cut_short():
    """Columns of very different scales, and one sample of the criterion asked for exactly."""
    X, y = diabetes()
    X = X * np.logspace(-4, 4, 10)
    problems = fold_problems(Ridge(), X, y)
    with pytest.warns(ConvergenceWarning, match="limit of time"):
        result = hoag(problems, [-17.0], max_time=1e-6)
    assert result.outcome is Outcome.MAX_TIME
    assert sum(r["inner_iterations"] for r in result.history) <= 4


# --- warm starts ---------------------------------------------------------------------------------


def passes(history):
    """Those of the search itself: looks at the range are the same wherever it starts."""
    return sum(record["data_passes"] for record in history if not record["look"])


@pytest.mark.parametrize("piped", [False, True], ids=["plain", "pipeline"])
def test_a_warm_start_begins_where_the_last_fit_ended(piped):
    X, y = breast_cancer()
    estimator = LogisticRegression()
    if piped:
        estimator = make_pipeline(StandardScaler(), estimator)
    spent = []
    for seed in range(3):
        cv = StratifiedKFold(4, shuffle=True, random_state=seed)
        cold = ShineCV(estimator, cv=cv, init=1e-3, tol=5e-4).fit(X, y)
        warm = ShineCV(estimator, cv=cv, init=1e-3, tol=5e-4, warm_start=True)
        warm.fit(X[:520], y[:520])
        ((_, last),) = warm.best_params_.items()
        warm.fit(X, y)
        ((_, first),) = warm.history_[0]["params"].items()
        np.testing.assert_allclose(first, last, rtol=1e-12)
        np.testing.assert_allclose(warm.best_score_, cold.best_score_, rtol=1e-6)
        spent.append((passes(warm.history_), passes(cold.history_)))
    again, anew = np.sum(spent, axis=0)
    assert again < 0.9 * anew


def test_coefficients_are_taken_over_where_they_fit():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=4, warm_start=True).fit(X, y)
    cold = passes(search.history_)
    again = search.fit(X, y)
    assert passes(again.history_) < 0.7 * cold
    # Other columns, other folds, another number of penalties: only what still has a meaning.
    search.fit(X[:, :10], y)
    assert search.n_features_in_ == 10
    search.set_params(cv=3).fit(X[:, :10], y)
    assert search.n_splits_ == 3
    search.set_params(penalty=np.arange(10) % 2).fit(X[:, :10], y)
    np.testing.assert_allclose(search.history_[0]["params"]["C"], [1.0, 1.0])


def test_without_a_warm_start_the_past_is_forgotten():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=3).fit(X, y)
    first = search.history_[-1]
    assert search.fit(X, y).history_[-1]["criterion"] == first["criterion"]
    assert search.history_[0]["params"] == {"C": 1.0}


def test_hoag_can_start_from_given_variables():
    problems = fold_problems(LogisticRegression(), *breast_cancer())
    cold = hoag(problems)
    warm = hoag(problems, cold.theta, start=[s.w for s in cold.solutions], first_step=0.25)
    assert passes(warm.history) < 0.6 * passes(cold.history)
    np.testing.assert_allclose(warm.value, cold.value, rtol=1e-6)
    for start in ([np.zeros(3)] * 5, [np.zeros(31)] * 4, [np.full(31, np.nan)] * 5):
        with pytest.raises(ValueError, match="start must hold finite arrays of shapes"):
            hoag(problems, start=start)


@pytest.mark.parametrize("step", ["secant", "trust-region", "adaptive"])
def test_the_first_step_is_as_long_as_it_may_be(step):
    problems = fold_problems(LogisticRegression(), *breast_cancer())
    result = hoag(problems, [-8.0], step=step, first_step=0.5, hypergradient="exact", max_iter=60)
    first, second = (record["theta"][0] for record in result.history[:2])
    np.testing.assert_allclose(abs(second - first), 0.5, rtol=1e-9)
    for bad in (0.0, -1.0, np.nan, "short"):
        with pytest.raises((ValueError, TypeError), match="first_step must be"):
            hoag(problems, first_step=bad)


# --- scikit-learn's callbacks --------------------------------------------------------------------


class Listener:
    """Notes what a fit says; stops the search at an iteration."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.heard = []
        self.open = []
        self.fitted = []

    def setup(self, estimator, context):
        self.heard.append("setup")

    def teardown(self, estimator, context):
        self.heard.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None):
        assert X is not None
        self.open.append(context.task_name)

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        assert self.open.pop() == context.task_name
        self.heard.append(context.task_name)
        if fitted_estimator is not None:
            self.fitted.append((fitted_estimator.best_params_["C"], fitted_estimator.score(X, y)))
        return context.task_name == "iteration" and context.task_id == self.stop_at


def test_callbacks_hear_of_search_iterations_and_refit():
    pytest.importorskip("sklearn.callback")
    X, y = breast_cancer()
    listener = Listener()
    search = ShineCV(LogisticRegression(), cv=3).set_callbacks(listener).fit(X, y)
    n = listener.heard.count("iteration")
    assert n >= len(search.history_)
    assert listener.heard == [
        "setup",
        *["iteration"] * n,
        "search",
        "refit-with-best-params",
        "fit",
        "teardown",
    ]
    assert listener.open == []
    # As if the search had ended there: fitted to all rows.
    (C, score), *_ = listener.fitted
    assert len(listener.fitted) == n
    assert pytest.approx(1.0) == C
    own = LogisticRegression(C=1.0, solver="newton-cholesky").fit(X, y)
    assert score == own.score(X, y)


def test_a_callback_can_end_the_search():
    pytest.importorskip("sklearn.callback")
    X, y = breast_cancer()
    listener = Listener(stop_at=1)
    search = ShineCV(LogisticRegression(), cv=3).set_callbacks(listener).fit(X, y)
    assert search.outcome_ is Outcome.CALLBACK
    assert listener.heard.count("iteration") == 2
    assert listener.heard[-3:] == ["refit-with-best-params", "fit", "teardown"]
    assert search.score(X, y) > 0.9


def test_callbacks_are_torn_down_after_an_error():
    pytest.importorskip("sklearn.callback")
    X, y = breast_cancer()
    listener = Listener()
    search = ShineCV(LogisticRegression(), cv=3).set_callbacks(listener)
    with pytest.raises(ValueError, match="at least 2 classes"):
        search.fit(X, np.ones_like(y))
    assert listener.heard == ["setup", "teardown"]


def test_scikit_learns_own_monitors(capsys):
    callback = pytest.importorskip("sklearn.callback")
    X, y = breast_cancer()
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    search = ShineCV(LogisticRegression(), cv=3)
    search.set_callbacks(monitor, callback.ProgressBar()).fit(X, y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    assert len(rows) >= len(search.history_)
    # The training loss falls as the penalty does, and grows as it does.
    values = [record["params"]["C"] for record in search.history_]
    scores = [row["neg_log_loss"] for row in rows]
    # A penalty that is looked at twice has two rows, alike but for a little more accuracy.
    new = [score for k, score in enumerate(scores) if k == 0 or abs(score - scores[k - 1]) > 1e-5]
    np.testing.assert_array_equal(np.argsort(new), np.argsort(values))
    capsys.readouterr()


def test_callbacks_do_not_hinder_nested_cross_validation():
    pytest.importorskip("sklearn.callback")
    X, y = breast_cancer()
    listener = Listener()
    search = ShineCV(LogisticRegression(), cv=3).set_callbacks(listener)
    assert cross_val_score(search, X, y, cv=KFold(2)).shape == (2,)
