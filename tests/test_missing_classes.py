"""Folds whose training rows lack a class: what is tuned, what is left out, and what is said."""

import warnings

import numpy as np
import pytest
from helpers import breast_cancer
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from hoag_shine import ShineCV

LEFT_OUT = "left out"


def rare_iris(label=99):
    """Three kinds of iris and a single flower of a fourth, which the third of five folds has."""
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    y[75] = label
    return X, y


def held_out_loss(C, X, y, cv):
    """Return the mean loss of held-out rows whose class each fold's training rows have."""
    losses = []
    for train, test in cv.split(X):
        model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10).fit(X[train], y[train])
        known = test[np.isin(y[test], model.classes_)]
        losses.append(log_loss(y[known], model.predict_proba(X[known]), labels=model.classes_))
    return np.mean(losses)


@pytest.mark.parametrize("hypergradient", ["auto", "cg"])
def test_a_class_of_one_row_is_left_out_of_its_fold(hypergradient):
    X, y = rare_iris()
    cv = KFold(5)
    search = ShineCV(
        LogisticRegression(), cv=cv, hypergradient=hypergradient, tol=1e-3, return_train_score=True
    )
    with pytest.warns(UserWarning, match=r"fold 2 .* class 99.* 1 of them are left out") as told:
        search.fit(X, y)
    assert sum(LEFT_OUT in str(w.message) for w in told) == 1
    C = search.best_params_["C"]
    assert -search.best_score_ == pytest.approx(held_out_loss(C, X, y, cv), rel=1e-4)
    best = minimize_scalar(
        lambda t: held_out_loss(np.exp(t), X, y, cv),
        bounds=(np.log(C) - 1, np.log(C) + 1),
        method="bounded",
    )
    assert -search.best_score_ <= best.fun * (1 + 1e-4)
    assert list(search.classes_) == [0, 1, 2, 99]
    own = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10).fit(X, y)
    np.testing.assert_allclose(search.predict_proba(X), own.predict_proba(X), atol=1e-4)


def test_digits_with_one_label_changed():
    X, y = load_digits(return_X_y=True)
    X, y = X[:300] / 16.0, y[:300].copy()
    y[0] = 99
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        with pytest.warns(UserWarning, match="class 99"):
            search = ShineCV(LogisticRegression(), cv=3, scoring="accuracy", refit="accuracy").fit(
                X, y
            )
    assert search.best_score_ > 0.85
    assert set(search.classes_) == {*range(10), 99}


@pytest.mark.parametrize(
    "estimator",
    [
        RidgeClassifier(),
        RidgeClassifier(class_weight="balanced"),
        LinearSVC(),
        LinearSVC(class_weight="balanced"),
        LogisticRegression(fit_intercept=False),
    ],
)
def test_fits_that_have_a_minimum_without_a_class_go_on_in_silence(estimator):
    X, y = rare_iris()
    search = ShineCV(estimator, cv=KFold(5)).fit(X, y)
    assert search.n_splits_ == 5
    own = clone(search.best_estimator_).fit(X, y)
    assert search.score(X, y) == pytest.approx(own.score(X, y), abs=2 / len(y))


@pytest.mark.filterwarnings("ignore:The outer search ended")  # on a bound: one sample is no class
def test_a_fold_of_a_single_class_is_left_out_whole():
    X, y = breast_cancer()
    rare = np.zeros_like(y)
    rare[3] = 1
    cv = KFold(5)
    with pytest.warns(UserWarning, match=r"fold 0 is left out whole"):
        search = ShineCV(LogisticRegression(), cv=cv).fit(X, rare)
    assert search.n_splits_ == 4
    assert "split4_test_score" not in search.cv_results_


def test_no_fold_at_all_is_an_error():
    X, y = breast_cancer()
    by_class = np.argsort(y, kind="stable")
    n = int((y == 0).sum())
    cv = [(by_class[:n], by_class[n:]), (by_class[n:], by_class[:n])]
    with pytest.raises(ValueError, match="no sample of class 1, nor has any fold"):
        ShineCV(LogisticRegression(), cv=cv).fit(X, y)


def test_each_class_may_have_a_penalty_only_where_every_fold_has_it():
    X, y = rare_iris()
    with (
        pytest.warns(UserWarning, match=LEFT_OUT),
        pytest.raises(ValueError, match="penalty='output' needs every class"),
    ):
        ShineCV(LogisticRegression(), cv=KFold(5), penalty="output").fit(X, y)


def test_a_pipeline_lacks_classes_too():
    X, y = rare_iris()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    with pytest.warns(UserWarning, match="class 99"):
        search = ShineCV(pipeline, cv=KFold(5)).fit(X, y)
    assert search.score(X, y) > 0.9


def test_bagging_with_rare_classes():
    X, y = rare_iris()
    y[[3, 20]] = 99
    bag = BaggingClassifier(ShineCV(LogisticRegression(), cv=3), n_estimators=5, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        warnings.filterwarnings("ignore", message=".*left out")
        bag.fit(X, y)
    assert bag.score(X, y) > 0.9


def test_one_against_the_rest_with_a_rare_label():
    X, y = rare_iris()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        warnings.filterwarnings("ignore", message=".*left out|.*lies on a bound")
        model = OneVsRestClassifier(ShineCV(LogisticRegression(), cv=3)).fit(X, y)
    assert model.score(X, y) > 0.9


def test_weights_that_leave_a_class_without_rows_are_refused():
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="sample_weight must not be zero for all rows of class 2"):
        ShineCV(LogisticRegression(), cv=3).fit(X, y, sample_weight=y != 2)
    assert ShineCV(RidgeClassifier(), cv=3).fit(X, y, sample_weight=y != 2).score(X, y) > 0.6


@pytest.mark.parametrize(
    "estimator",
    [RidgeClassifier(), LinearSVC(max_iter=100_000), LogisticRegression(fit_intercept=False)],
)
def test_a_class_weight_of_zero_leaves_its_rows_out(estimator):
    X, y = load_iris(return_X_y=True)
    estimator.set_params(class_weight={0: 1.0, 1: 0.0, 2: 1.0}, tol=1e-6)
    search = ShineCV(estimator, cv=3, tol=1e-3).fit(X, y)
    own = clone(search.best_estimator_).fit(X, y)
    np.testing.assert_allclose(search.coef_, own.coef_, atol=1e-3)


@pytest.mark.parametrize("piped", [False, True])
def test_a_class_weight_of_zero_makes_a_class_impossible(piped):
    X, y = load_iris(return_X_y=True)
    labels = np.array(["foo", "bar", "baz"])[y]
    weights = {"bar": 1, "baz": 2, "foo": 0}
    estimator = LogisticRegression(class_weight=weights)
    search = ShineCV(make_pipeline(StandardScaler(), estimator) if piped else estimator, cv=3)
    with pytest.warns(UserWarning, match="no row with a weight of class 'foo'"):
        search.fit(X, labels)
    assert list(search.classes_) == ["bar", "baz", "foo"]
    assert set(search.predict(X)) == {"bar", "baz"}
    assert (search.predict_proba(X)[:, 2] == 0.0).all()
    two = labels != "foo"
    model = search.best_estimator_[-1] if piped else search.best_estimator_
    assert model.class_weight == weights
    Z = StandardScaler().fit_transform(X) if piped else X
    # A softmax of two classes splits the coefficients of one logistic function among them.
    own = LogisticRegression(
        C=2 * model.C, class_weight={"bar": 1, "baz": 2}, tol=1e-10, max_iter=10_000
    ).fit(Z[two], labels[two])
    np.testing.assert_allclose(model.coef_[1] - model.coef_[0], own.coef_[0], rtol=2e-2, atol=1e-3)


def test_a_class_weight_must_leave_two_classes():
    X, y = breast_cancer()
    with pytest.raises(ValueError, match="class_weight must be positive for at least two"):
        ShineCV(LogisticRegression(class_weight={0: 0.0}), cv=3).fit(X, y)
