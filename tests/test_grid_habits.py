"""What a hand that is used to GridSearchCV, LogisticRegressionCV and RidgeCV reaches for."""

import warnings

import numpy as np
import pytest
from helpers import breast_cancer, diabetes
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hoag_shine import Outcome, ShineCV

CHOSEN = "chosen by the held-out loss"


@pytest.mark.parametrize(
    "arguments",
    [
        ((LogisticRegression(), {"C": [0.1, 1, 10]}), {}),
        ((LogisticRegression(),), {"param_grid": {"C": np.logspace(-1, 1, 5)}}),
        ((LogisticRegression(),), {"Cs": [0.1, 10]}),
    ],
    ids=["by place", "by name", "as the values"],
)
def test_candidates_are_answered_by_what_to_write(arguments):
    positional, named = arguments
    with pytest.raises(TypeError, match=r"takes no candidates.*bounds=\(0\.1, 10\)"):
        ShineCV(*positional, **named)


def test_options_go_by_name():
    with pytest.raises(TypeError, match=r"Write ShineCV\(estimator\), and other options by their"):
        ShineCV(LogisticRegression(), 5)


# --- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", ["roc_auc", make_scorer(roc_auc_score)])
def test_a_score_that_does_not_choose_is_told_of_once(scoring):
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=3, scoring=scoring)
    with pytest.warns(UserWarning, match=CHOSEN) as told:
        search.fit(X, y)
    assert len(told) == 1
    assert search.best_params_ == ShineCV(LogisticRegression(), cv=3).fit(X, y).best_params_


@pytest.mark.parametrize(
    ("scoring", "options"),
    [
        ("roc_auc", {"refit": "roc_auc"}),
        ("roc_auc", {"refit": "score"}),
        ("roc_auc", {"refit": "neg_criterion"}),
        ("roc_auc", {"refit": False}),
        ("roc_auc", {"selection": "one-se"}),
        ("neg_log_loss", {}),
        (["roc_auc", "accuracy"], {}),
    ],
)
def test_who_says_what_chooses_is_not_told(scoring, options):
    X, y = breast_cancer()
    ShineCV(LogisticRegression(), cv=3, scoring=scoring, max_iter=30, **options).fit(X, y)


def lost(estimator, X, y):
    return float("nan")


def lost_at_first(estimator, X, y):
    return float("nan") if lost_at_first.calls.append(0) or len(lost_at_first.calls) < 3 else 1.0


def test_scores_that_are_no_numbers_are_told_of():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=3, scoring=lost, refit="neg_criterion")
    with pytest.warns(UserWarning, match=r"not numbers \(score\)"):
        search.fit(X, y)
    assert search.best_params_ == ShineCV(LogisticRegression(), cv=3).fit(X, y).best_params_


def test_no_row_is_chosen_by_scores_that_are_no_numbers():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=3, scoring=lost, refit="score")
    with pytest.warns(UserWarning, match="refit='score' has nothing to choose by"):
        search.fit(X, y)
    assert search.best_params_ == ShineCV(LogisticRegression(), cv=3).fit(X, y).best_params_
    lost_at_first.calls = []
    search.set_params(scoring=lost_at_first)
    with pytest.warns(UserWarning, match="not numbers"):
        search.fit(X, y)
    assert search.best_index_ > 0
    assert search.best_score_ == 1.0


def test_each_score_that_ignores_weights_is_named():
    X, y = breast_cancer()

    def without(y_true, y_pred):
        return (y_true == y_pred).mean()

    scoring = {"accuracy": "accuracy", "plain": make_scorer(without)}
    search = ShineCV(LogisticRegression(), cv=3, scoring=scoring)
    with pytest.warns(UserWarning, match="scoring='plain' does not take sample_weight"):
        search.fit(X, y, sample_weight=1.0 + y)


# --- what is there after fit -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["predict", "predict_proba", "decision_function"])
def test_without_refit_there_is_nothing_to_predict_with(name):
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=3, refit=False)
    assert not hasattr(search, name)
    assert not hasattr(search.fit(X, y), name)
    assert hasattr(search.set_params(refit=True), name)


@pytest.mark.parametrize("name", ["coef_", "intercept_", "C_"])
def test_coefficients_are_there_once_they_are_fitted(name):
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=3)
    assert not hasattr(search, name)
    search.fit(X, y)
    best = search.best_estimator_
    expected = {"coef_": best.coef_, "intercept_": best.intercept_, "C_": best.C}
    np.testing.assert_array_equal(getattr(search, name), expected[name])
    assert not hasattr(search, "alpha_")


def test_without_refit_the_penalty_is_there_and_coefficients_are_not():
    X, y = diabetes()
    search = ShineCV(Ridge(), cv=3, refit=False).fit(X, y)
    assert search.alpha_ == search.best_params_["alpha"]
    with pytest.raises(AttributeError, match="needs fit, with refit=True"):
        _ = search.coef_


def test_features_are_selected_by_the_coefficients():
    X, y = breast_cancer()
    search = ShineCV(make_pipeline(StandardScaler(), LogisticRegression()), cv=3)
    chosen = SelectFromModel(search, max_features=5, threshold=-np.inf).fit(X, y)
    assert chosen.get_support().sum() == 5
    assert RFE(search, n_features_to_select=27).fit(X, y).support_.sum() == 27


def test_coefficients_of_other_columns_are_not_given_for_those_of_X():
    X, y = diabetes()
    search = ShineCV(make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge()), cv=3)
    search.fit(X, y)
    with pytest.raises(AttributeError, match="66 columns that the pipeline makes of the 10"):
        _ = search.coef_


def test_a_tuned_estimator_is_tuned_again():
    X, y = diabetes()
    Y = np.column_stack([y, X[:, 0] + y])
    first = ShineCV(Ridge(), cv=3, penalty="output").fit(X, Y)
    again = ShineCV(first.best_estimator_, cv=3, penalty="output").fit(X, Y)
    np.testing.assert_allclose(again.history_[0]["params"]["alpha"], first.best_params_["alpha"])
    shared = ShineCV(first.best_estimator_, cv=3).fit(X, Y)
    start = np.exp(np.log(first.best_params_["alpha"]).mean())
    assert shared.history_[0]["params"]["alpha"] == pytest.approx(start)


# --- what is heard of a search -----------------------------------------------------------------


@pytest.mark.parametrize("hypergradient", ["auto", "shine", "cg"])
@pytest.mark.parametrize("selection", ["min", "one-se"])
def test_every_iteration_is_heard_of_once(hypergradient, selection, capsys):
    X, y = breast_cancer()
    heard = []
    search = ShineCV(
        LogisticRegression(),
        cv=3,
        hypergradient=hypergradient,
        selection=selection,
        verbose=1,
        callback=lambda record: heard.append(record["iteration"]),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The outer search ended")
        search.fit(X, y)
    assert heard == list(range(search.n_iter_))
    assert len(capsys.readouterr().out.splitlines()) == search.n_iter_


def test_an_iteration_is_heard_of_when_it_is_complete():
    X, y = breast_cancer()
    records = []
    search = ShineCV(LogisticRegression(), cv=3, hypergradient="shine", callback=records.append)
    search.fit(X, y)
    others = [k for k in range(search.n_iter_) if k != search.best_index_][1:]
    assert others
    for k in others:
        assert records[k]["criterion"] == search.history_[k]["criterion"]


def test_a_callback_that_has_enough_ends_the_search_at_once():
    X, y = breast_cancer()
    search = ShineCV(
        LogisticRegression(), cv=3, hypergradient="shine", callback=lambda r: r["iteration"] == 1
    )
    assert search.fit(X, y).outcome_ is Outcome.CALLBACK
    assert search.n_iter_ == 2
