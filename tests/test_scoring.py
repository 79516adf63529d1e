"""Scores beside the criterion, and what refit and selection make of them."""

import pickle

import numpy as np
import pytest
from helpers import breast_cancer, diabetes
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    make_scorer,
    mean_squared_error,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import Outcome, ShineCV, fold_problems, hoag

# Scores beside the criterion are what is tested here; that they do not choose is said elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:The penalty is chosen by the held-out loss")
TIGHT = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000}


def both_metrics(estimator, X, y):
    """A scorer that returns several scores by name."""
    return {
        "accuracy": accuracy_score(y, estimator.predict(X)),
        "brier": -brier_score_loss(y, estimator.predict_proba(X)[:, 1]),
    }


def auc(estimator, X, y):
    return roc_auc_score(y, estimator.decision_function(X))


SCORINGS = {
    "string": "roc_auc",
    "scorer": make_scorer(accuracy_score),
    "function": auc,
    "list": ["accuracy", "roc_auc"],
    "tuple": ("accuracy", "roc_auc", "neg_log_loss"),
    "dict": {"right": "accuracy", "auc": auc},
    "returns dict": both_metrics,
}


@pytest.mark.parametrize("scoring", SCORINGS.values(), ids=SCORINGS.keys())
@pytest.mark.parametrize("piped", [False, True], ids=["plain", "pipeline"])
def test_scores_are_those_of_grid_search_by_the_same_names(scoring, piped):
    X, y = breast_cancer()
    estimator, name = LogisticRegression(), "C"
    if piped:
        estimator, name = make_pipeline(StandardScaler(), estimator), "logisticregression__C"
    search = ShineCV(estimator, cv=3, scoring=scoring, return_train_score=True).fit(X, y)
    prefix = name.removesuffix("C")
    tight = clone(estimator).set_params(**{prefix + key: v for key, v in TIGHT.items()})
    grid = GridSearchCV(
        tight,
        {name: [search.best_params_[name]]},
        cv=3,
        scoring=scoring,
        refit=False,
        return_train_score=True,
    ).fit(X, y)
    i = search.best_index_
    assert set(grid.cv_results_) <= set(search.cv_results_)
    for column, values in grid.cv_results_.items():
        if "_test_" in column or "_train_" in column:
            if not column.startswith("rank"):
                np.testing.assert_allclose(
                    search.cv_results_[column][i], values[0], rtol=1e-4, atol=1e-6
                )
            assert len(search.cv_results_[column]) == len(search.history_)
            assert search.cv_results_[column].dtype == values.dtype
    assert search.multimetric_ == grid.multimetric_
    assert search.cv_results_["rank_test_neg_criterion"][i] == 1
    assert type(search.scorer_) is type(grid.scorer_)


@pytest.mark.parametrize("estimator", [LogisticRegression(), Ridge()], ids=str)
def test_the_criterion_of_the_training_rows(estimator):
    X, y = breast_cancer() if isinstance(estimator, LogisticRegression) else diabetes()
    weight = np.random.default_rng(0).exponential(size=y.size)
    search = ShineCV(estimator, cv=3, return_train_score=True).fit(X, y)
    scoring = "neg_log_loss" if isinstance(estimator, LogisticRegression) else None
    grid = GridSearchCV(
        clone(estimator).set_params(**TIGHT) if scoring else clone(estimator),
        {name: [value] for name, value in search.best_params_.items()},
        cv=3,
        scoring=scoring or "neg_mean_squared_error",
        return_train_score=True,
    ).fit(X, y)
    for column in ("mean_train_score", "split1_train_score", "std_train_score"):
        np.testing.assert_allclose(
            search.cv_results_[column][search.best_index_],
            grid.cv_results_[column][0],
            rtol=1e-3,
        )
    # Weights weigh training scores, too.
    weighted = search.fit(X, y, sample_weight=weight).cv_results_["split0_train_score"]
    assert weighted[search.best_index_] != grid.cv_results_["split0_train_score"][0]


def test_refit_by_a_score_takes_the_best_that_was_visited():
    X, y = breast_cancer()
    search = ShineCV(
        LogisticRegression(), cv=4, tol=1e-3, scoring=["accuracy", "roc_auc"], refit="accuracy"
    )
    search.fit(X, y)
    accuracies = search.cv_results_["mean_test_accuracy"]
    assert search.best_score_ == accuracies.max()
    assert search.cv_results_["rank_test_accuracy"][search.best_index_] == 1
    assert search.best_params_ == search.cv_results_["params"][search.best_index_]
    assert search.best_params_["C"] == search.best_estimator_.C
    own = LogisticRegression(**TIGHT, **search.best_params_).fit(X, y)
    np.testing.assert_allclose(search.best_estimator_.coef_, own.coef_, atol=1e-3)
    assert search.score(X, y) == accuracy_score(y, search.predict(X))


def test_refit_by_a_function_of_the_results():
    X, y = breast_cancer()

    def strongest(results):
        return int(np.argmin(results["param_C"]))

    search = ShineCV(LogisticRegression(), cv=4, refit=strongest).fit(X, y)
    assert search.best_params_["C"] == min(p["C"] for p in search.cv_results_["params"])
    assert search.best_params_["C"] == search.best_estimator_.C
    assert not hasattr(search, "best_score_")  # as in GridSearchCV


def test_several_scores_and_a_plain_refit_go_by_the_criterion():
    X, y = breast_cancer()
    several = ShineCV(LogisticRegression(), cv=4, scoring=["accuracy", "roc_auc"]).fit(X, y)
    plain = ShineCV(LogisticRegression(), cv=4).fit(X, y)
    assert several.best_params_ == plain.best_params_
    assert several.best_score_ == plain.best_score_
    assert several.best_score_ == several.cv_results_["mean_test_neg_criterion"].max()
    with pytest.raises(ValueError, match="let refit name it"):
        several.score(X, y)
    np.testing.assert_array_equal(several.predict(X), plain.predict(X))


def failing(estimator, X, y):
    if y[0] == y[1]:
        raise RuntimeError("no taste")
    return 1.0


@pytest.mark.parametrize("scoring", [failing, {"it": failing, "accuracy": "accuracy"}])
def test_a_scorer_that_raises_leaves_the_error_score(scoring):
    X, y = breast_cancer()
    alike, unlike = np.arange(300), np.r_[np.arange(18, 300), 0:18]
    assert y[0] == y[1]
    assert y[18] != y[19]
    cv = [(np.arange(300, 569), alike), (np.arange(300, 569), unlike)]
    search = ShineCV(LogisticRegression(), cv=cv, scoring=scoring, error_score=-7.0)
    with pytest.warns(UserWarning, match=r"Scoring failed.*set to -7.0"):
        search.fit(X, y)
    name = "score" if callable(scoring) else "it"
    assert set(search.cv_results_[f"split0_test_{name}"]) == {-7.0}
    assert set(search.cv_results_[f"split1_test_{name}"]) == {1.0}
    search.set_params(error_score=np.nan, refit=name)
    with (
        pytest.warns(UserWarning, match="set to nan"),
        pytest.warns(UserWarning, match=f"refit='{name}' has nothing to choose by"),
    ):
        search.fit(X, y)
    assert np.isnan(search.cv_results_[f"mean_test_{name}"]).all()
    assert set(search.cv_results_[f"rank_test_{name}"]) == {1}
    with pytest.raises(RuntimeError, match="no taste"):
        search.set_params(error_score="raise").fit(X, y)


@pytest.mark.parametrize("at", [0, 1, 2], ids=["first", "second", "third"])
def test_an_interrupt_in_a_scorer_leaves_the_best_so_far(at):
    X, y = breast_cancer()
    calls = []

    def slow(estimator, X, y):
        calls.append(1)
        if len(calls) == 3 * at + 2:
            raise KeyboardInterrupt
        return estimator.score(X, y)

    search = ShineCV(LogisticRegression(), cv=3, scoring=slow, return_train_score=False)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        search.fit(X, y)
    assert search.outcome_ is Outcome.INTERRUPTED
    assert 1 <= len(search.history_) == len(search.cv_results_["mean_test_score"]) <= at + 1
    assert search.best_score_ > 0.9
    assert search.predict(X).shape == y.shape


def test_sample_weights_reach_the_scorers_that_take_them():
    X, y = breast_cancer()
    weight = np.random.default_rng(0).exponential(size=y.size)
    scoring = {"weighted": "accuracy", "plain": auc}
    search = ShineCV(LogisticRegression(), cv=3, scoring="accuracy").fit(X, y, sample_weight=weight)
    expected = []
    for train, test in StratifiedKFold(3).split(X, y):
        own = LogisticRegression(**TIGHT, **search.best_params_)
        own.fit(X[train], y[train], sample_weight=weight[train])
        expected.append(own.score(X[test], y[test], sample_weight=weight[test]))
    np.testing.assert_allclose(search.best_score_, np.mean(expected), rtol=1e-6)
    for without in (auc, scoring):
        with pytest.warns(UserWarning, match="does not take sample_weight"):
            ShineCV(LogisticRegression(), cv=3, scoring=without).fit(X, y, sample_weight=weight)


def test_a_function_of_several_scores_is_what_score_calls():
    X, y = breast_cancer()

    def scoring(model, X, y):
        right = model.predict(X) == y
        return {"right": right.mean(), "wrong": 1.0 - right.mean()}

    search = ShineCV(LogisticRegression(), cv=3, scoring=scoring, refit="right").fit(X, y)
    assert search.score(X, y) == (search.predict(X) == y).mean()


def test_refit_may_name_the_only_score():
    X, y = breast_cancer()
    named, score = (
        ShineCV(LogisticRegression(), scoring="roc_auc", refit=refit).fit(X, y)
        for refit in ("roc_auc", "score")
    )
    assert named.best_score_ == named.cv_results_["mean_test_score"].max() == score.best_score_
    assert named.best_index_ == score.best_index_


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"refit": "beauty"}, ValueError, r"refit must name one of the scores \('score'"),
        ({"scoring": ["accuracy"], "refit": "roc_auc"}, ValueError, "refit must name one of"),
        ({"scoring": auc, "refit": "roc_auc"}, ValueError, "refit must name one of"),
        ({"refit": 3}, TypeError, "refit must be a bool"),
        ({"refit": lambda results: 0.5}, TypeError, "refit must return the integer"),
        ({"refit": lambda results: 10_000}, IndexError, "refit must return an index from 0"),
        ({"refit": lambda results: -1}, IndexError, "got -1"),
        ({"error_score": "zero"}, TypeError, "error_score must be 'raise' or a number"),
        ({"error_score": None}, TypeError, "error_score must be 'raise' or a number"),
        ({"scoring": lambda estimator, X, y: "good"}, ValueError, "scoring must return numbers"),
        ({"scoring": lambda estimator, X, y: {"a": [1.0]}}, ValueError, "scoring must return num"),
        ({"scoring": {}}, ValueError, "scoring must have at least one"),
        ({"scoring": 3.0}, ValueError, "scoring"),
        ({"selection": "best"}, ValueError, "selection must be 'min' or 'one-se'"),
        ({"refit_penalty": "mean"}, ValueError, "refit_penalty must be 'total' or 'per-sample'"),
        ({"max_time": 0.0}, ValueError, "max_time must be positive"),
        ({"max_time": np.nan}, ValueError, "max_time must be positive"),
        ({"max_time": "long"}, TypeError, "max_time must be a positive number"),
    ],
)
def test_bad_options_are_refused_by_name(options, error, message):
    X, y = breast_cancer()
    with pytest.raises(error, match=message):
        ShineCV(LogisticRegression(), cv=3, **options).fit(X, y)


# --- the one-standard-error rule -----------------------------------------------------------------


def ridge_fold_errors(X, y, alpha, cv):
    errors = []
    for train, test in cv.split(X):
        fold = Ridge(alpha=alpha, solver="cholesky").fit(X[train], y[train])
        errors.append(mean_squared_error(y[test], fold.predict(X[test])))
    return np.array(errors)


def test_one_standard_error_is_where_the_criterion_crosses_it():
    X, y = diabetes()
    cv = KFold(5, shuffle=True, random_state=0)
    lowest = ShineCV(Ridge(), cv=cv, tol=1e-3).fit(X, y)
    search = ShineCV(Ridge(), cv=cv, tol=1e-3, selection="one-se").fit(X, y)
    errors = ridge_fold_errors(X, y, lowest.best_params_["alpha"], cv)
    line = errors.mean() + errors.std(ddof=1) / np.sqrt(5)
    alpha = search.best_params_["alpha"]
    assert alpha > 2.0 * lowest.best_params_["alpha"]
    assert ridge_fold_errors(X, y, alpha, cv).mean() <= line * (1 + 1e-7)
    # A thousandth more of its logarithm, the search's tolerance, and it is beyond the line.
    assert ridge_fold_errors(X, y, alpha * 1.002, cv).mean() > line
    np.testing.assert_allclose(-search.best_score_, line, rtol=1e-3)
    assert search.best_estimator_.alpha == alpha
    assert search.outcome_ is Outcome.CONVERGED
    assert search.cv_results_["rank_test_score"][search.best_index_] > 1
    # Not merely the strongest of those that the search would have visited anyway.
    assert alpha not in [record["params"]["alpha"] for record in lowest.history_]


@pytest.mark.parametrize("piped", [False, True], ids=["plain", "pipeline"])
def test_one_standard_error_of_a_classifier_is_a_stronger_penalty(piped):
    X, y = breast_cancer()
    estimator = (
        make_pipeline(StandardScaler(), LogisticRegression()) if piped else LogisticRegression()
    )
    lowest, search = (
        ShineCV(estimator, cv=5, selection=s, tol=1e-2).fit(X, y) for s in ("min", "one-se")
    )
    ((_, best),), ((_, chosen),) = lowest.best_params_.items(), search.best_params_.items()
    assert chosen < best
    folds = lowest.history_[lowest.best_index_]["fold_criteria"]
    np.testing.assert_allclose(
        -search.best_score_, folds.mean() + folds.std(ddof=1) / np.sqrt(5), rtol=1e-3
    )


def test_several_penalties_are_raised_by_a_common_factor():
    X, y = diabetes()
    labels = np.arange(10) % 2
    lowest, search = (
        ShineCV(Ridge(), cv=5, penalty=labels, selection=s).fit(X, y) for s in ("min", "one-se")
    )
    factors = search.best_params_["alpha"] / lowest.best_params_["alpha"]
    assert factors[0] > 1.5
    np.testing.assert_allclose(factors[0], factors[1], rtol=1e-6)


def test_noise_goes_to_the_strongest_penalty_and_says_so():
    X, _ = diabetes()
    y = np.random.default_rng(1).normal(size=len(X))
    search = ShineCV(Ridge(), cv=5, selection="one-se", bounds=(1e-3, 1e6))
    with pytest.warns(ConvergenceWarning, match="lies on a bound"):
        search.fit(X, y)
    assert search.outcome_ is Outcome.BOUND
    np.testing.assert_allclose(search.best_params_["alpha"], 1e6)


def test_one_fold_has_no_standard_error():
    X, y = diabetes()
    cv = [(np.arange(300), np.arange(300, 442))]
    with pytest.raises(ValueError, match="needs at least two problems or folds"):
        ShineCV(Ridge(), cv=cv, selection="one-se").fit(X, y)


def test_hoag_by_itself_knows_the_rule():
    X, y = diabetes()
    problems = fold_problems(Ridge(), X, y)
    lowest, chosen = (hoag(problems, selection=s) for s in ("min", "one-se"))
    assert chosen.theta > lowest.theta
    assert chosen.value > lowest.value
    assert chosen.best_index == len(chosen.history) - 1
    assert all(s.w.shape == (11,) for s in chosen.solutions)


# --- the penalty of the final fit ----------------------------------------------------------------


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_the_penalty_per_sample_can_be_kept(class_weight):
    X, y = breast_cancer()
    estimator = LogisticRegression(class_weight=class_weight)
    total = ShineCV(estimator, cv=4, tol=1e-3).fit(X, y)
    each = ShineCV(estimator, cv=4, tol=1e-3, refit_penalty="per-sample").fit(X, y)
    assert total.best_params_ == each.best_params_ == total.refit_params_
    np.testing.assert_allclose(each.refit_params_["C"], 0.75 * total.best_params_["C"], rtol=1e-2)
    assert each.refit_params_["C"] == each.best_estimator_.C
    own = LogisticRegression(class_weight=class_weight, **TIGHT, **each.refit_params_).fit(X, y)
    np.testing.assert_allclose(each.best_estimator_.coef_, own.coef_, atol=1e-3)


def test_the_penalty_per_sample_counts_weights():
    X, y = diabetes()
    weight = np.ones(y.size)
    weight[:100] = 5.0
    cv = [(np.arange(100, 442), np.arange(100))]
    search = ShineCV(Ridge(), cv=cv, refit_penalty="per-sample").fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(
        search.refit_params_["alpha"], search.best_params_["alpha"] * 842 / 342, rtol=1e-12
    )


# --- as an estimator among others ----------------------------------------------------------------


def test_nested_cross_validation():
    X, y = breast_cancer()
    inner, outer = StratifiedKFold(3), StratifiedKFold(4, shuffle=True, random_state=0)
    shine = ShineCV(LogisticRegression(), cv=inner, scoring="accuracy")
    scores = cross_val_score(shine, X, y, cv=outer)
    grid = GridSearchCV(LogisticRegression(), {"C": np.logspace(-3, 3, 13)}, cv=inner)
    assert scores.mean() >= cross_val_score(grid, X, y, cv=outer).mean() - 0.005
    by_loss = cross_val_score(ShineCV(LogisticRegression()), X, y, cv=outer, scoring="neg_log_loss")
    assert by_loss.mean() > -0.12


def test_a_search_with_everything_on_can_be_cloned_pickled_and_shown():
    X, y = breast_cancer()
    search = ShineCV(
        make_pipeline(StandardScaler(), LogisticRegression()),
        scoring=["accuracy", "roc_auc"],
        refit="roc_auc",
        return_train_score=True,
        selection="one-se",
        max_time=100.0,
        warm_start=True,
    )
    assert "estimator: Pipeline" in search._repr_html_()
    assert "best_estimator_" not in search._repr_html_()
    search.fit(X, y)
    assert "best_estimator_: Pipeline" in search._repr_html_()
    assert "StandardScaler" in search._repr_html_()
    assert "selection='one-se'" in repr(search)
    again = pickle.loads(pickle.dumps(search))  # noqa: S301
    np.testing.assert_array_equal(again.predict_proba(X), search.predict_proba(X))
    assert again.score(X, y) == search.score(X, y)
    fresh = clone(search)
    assert fresh.get_params(deep=False).keys() == search.get_params(deep=False).keys()
    assert not hasattr(fresh, "cv_results_")
    deep = search.get_params()
    assert deep["estimator__logisticregression__C"] == 1.0
    fresh.set_params(estimator__standardscaler__with_mean=False, estimator__logisticregression__C=3)
    assert fresh.estimator[-1].C == 3
