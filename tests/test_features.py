"""The table of estimators and features in the guide: a test behind every cell."""

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from supported import CASES, Case, real_target, squared_error

from hoag_shine import GeneralizedLinear, Outcome, ShineCV

GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "estimators.rst"
WIDE = (np.exp(-11), np.exp(11))

OWN_LOSS = Case(GeneralizedLinear(), real_target, squared_error, {"tol": 1e-10, "max_iter": 10_000})
# One of each estimator and kind of target; tests/test_estimators.py has their options.
OF_EACH_KIND = {
    (type(case.estimator), case.data): case for case in (OWN_LOSS, *reversed(CASES))
}.values()
OF_ESTIMATOR = {
    name: [case for case in OF_EACH_KIND if type(case.estimator).__name__ == name]
    for name in sorted({type(case.estimator).__name__ for case in OF_EACH_KIND})
}


def search(case, estimator=None, **options):
    stratified = is_classifier(case.estimator) and case.data()[1].ndim == 1
    kind = StratifiedKFold if stratified else KFold
    folds = kind(3, shuffle=True, random_state=0)
    estimator = case.estimator if estimator is None else estimator
    return ShineCV(estimator, cv=folds, **{"bounds": WIDE, "tol": 1e-3, **options})


def own_fit(case, found, **options):
    """Return scikit-learn's estimator, tightly fitted with what the search ended with."""
    X, y = case.data()
    return case.own(**found.refit_params_).set_params(**options).fit(X, y)


def assert_alike(one, other, case):
    X, _ = case.data()
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
    assert one.best_score_ == other.best_score_


def assert_same_coefficients(fitted, own, share=1e-2):
    atol = share * np.abs(own.coef_).max()
    np.testing.assert_allclose(fitted.coef_, own.coef_, rtol=0, atol=atol)


def n_outputs(case):
    X, y = case.data()
    return len(np.atleast_2d(case.own().fit(X, y).coef_))


# --- features of all estimators -------------------------------------------------------------------


def a_pipeline(case):
    X, y = case.data()
    pipeline = make_pipeline(StandardScaler(), case.estimator)
    found = search(case, pipeline).fit(X, y)
    ((name, value),) = found.best_params_.items()
    assert name == f"{pipeline.steps[-1][0]}__{case.parameter}"
    own = make_pipeline(StandardScaler(), case.own(**{case.parameter: value}))

    def criterion(fitted, X, y):
        return case.criterion(fitted[-1], fitted[:-1].transform(X), y)

    expected = cross_val_score(own, X, y, cv=found.cv, scoring=criterion).mean()
    np.testing.assert_allclose(found.best_score_, expected, rtol=1e-4)
    assert_same_coefficients(found.best_estimator_[-1], own.fit(X, y)[-1])


def sparse_data(case):
    X, y = case.data()
    dense, thin = (search(case).fit(convert(X), y) for convert in (np.array, sparse.csr_array))
    np.testing.assert_allclose(thin.best_score_, dense.best_score_, rtol=1e-5)
    assert_same_coefficients(thin.best_estimator_, own_fit(case, thin))


def sample_weights(case):
    """A weight of two is a row twice, a weight of zero is no row."""
    X, y = case.data()
    weight = np.random.default_rng(0).integers(0, 3, len(y))
    rows = np.repeat(np.arange(len(y)), weight)
    folds = np.arange(len(y)) % 3
    weighted, repeated = (
        ShineCV(
            case.estimator,
            cv=[(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(3)],
            bounds=WIDE,
        )
        for part in (folds, folds[rows])
    )
    weighted.fit(X, y, sample_weight=weight)
    repeated.fit(X[rows], y[rows])
    np.testing.assert_allclose(weighted.best_score_, repeated.best_score_, rtol=1e-4)
    own = case.own(**weighted.best_params_).fit(X, y, sample_weight=weight)
    assert_same_coefficients(weighted.best_estimator_, own)


def several_scores(case):
    X, y = case.data()
    scoring = {"own": case.criterion, "default": lambda fitted, X, y: fitted.score(X, y)}
    found = search(case, scoring=scoring, refit="default", return_train_score=True)
    table = found.fit(X, y).cv_results_
    assert found.best_score_ == table["mean_test_default"].max()
    best = table["rank_test_neg_criterion"].argmin()
    np.testing.assert_allclose(
        table["mean_test_own"][best], table["mean_test_neg_criterion"][best], rtol=1e-4
    )
    assert np.isfinite(table["std_train_own"]).all()


def one_standard_error(case):
    X, y = case.data()
    lowest, stronger = (search(case, selection=s).fit(X, y) for s in ("min", "one-se"))
    folds = lowest.history_[lowest.best_index_]["fold_criteria"]
    line = folds.mean() + folds.std(ddof=1) / np.sqrt(3)
    assert -stronger.best_score_ <= line * (1 + 1e-6 * np.sign(line))
    if stronger.outcome_ is Outcome.CONVERGED:
        np.testing.assert_allclose(-stronger.best_score_, line, rtol=1e-2)
    ratio = np.log(stronger.best_params_[case.parameter] / lowest.best_params_[case.parameter])
    assert (ratio < 0.0) == (case.parameter == "C")


def penalty_per_sample(case):
    X, y = case.data()
    found = search(case, refit_penalty="per-sample").fit(X, y)
    assert_same_coefficients(found.best_estimator_, own_fit(case, found), 1e-3)
    ratio = found.refit_params_[case.parameter] / found.best_params_[case.parameter]
    # Three folds are fitted to two thirds; scikit-learn's GLMs have a penalty per sample anyway.
    mean = "Poisson", "Gamma", "Tweedie"
    change = 0.0 if type(case.estimator).__name__.startswith(mean) else np.log(1.5)
    assert abs(np.log(ratio)) == pytest.approx(change, abs=0.05)


def penalties_of_groups(case):
    X, y = case.data()
    shared = search(case).fit(X, y)
    # Of losses with kinks in their slopes, no more digits are certain.
    found = search(case, penalty=np.arange(X.shape[1]) % 2, tol=1e-2).fit(X, y)
    assert found.best_params_[case.parameter].shape == (2,)
    assert found.best_score_ >= shared.best_score_ - 1e-4 * abs(shared.best_score_)


def two_threads(case):
    X, y = case.data()
    assert_alike(*(search(case, n_jobs=n).fit(X, y) for n in (1, 2)), case)


def pickling_and_cloning(case):
    X, y = case.data()
    found = search(case).fit(X, y)
    assert_alike(pickle.loads(pickle.dumps(found)), found, case)  # noqa: S301
    assert_alike(clone(found).fit(X, y), found, case)


def a_warm_start(case):
    X, y = case.data()
    cold = search(case).fit(X, y)
    warm = search(case, warm_start=True).fit(X, y).fit(X, y)
    np.testing.assert_allclose(warm.best_score_, cold.best_score_, rtol=1e-4)


def max_time(case):
    X, y = case.data()
    with pytest.warns(ConvergenceWarning, match="limit of time"):
        found = search(case, max_time=1e-9).fit(X, y)
    assert found.outcome_ is Outcome.MAX_TIME
    assert_same_coefficients(found.best_estimator_, own_fit(case, found))


# --- features of some -----------------------------------------------------------------------------


def class_weights(case):
    X, y = case.data()
    weights = dict.fromkeys(np.unique(y).tolist(), 1.0) | {y[-1]: 20.0}
    estimator = clone(case.estimator).set_params(class_weight=weights)
    found, plain = search(case, estimator).fit(X, y), search(case).fit(X, y)
    assert_same_coefficients(found.best_estimator_, own_fit(case, found, class_weight=weights))
    assert (found.predict(X) == y[-1]).sum() > (plain.predict(X) == y[-1]).sum()


def several_outputs(case):
    X, y = case.data()
    found = search(case).fit(X, y)
    assert len(found.best_estimator_.coef_) == n_outputs(case) > 1
    assert_same_coefficients(found.best_estimator_, own_fit(case, found), 1e-3)


def penalties_of_outputs(case):
    X, y = case.data()
    shared = search(case).fit(X, y)
    found = search(case, penalty="output").fit(X, y)
    assert found.best_params_[case.parameter].shape == (n_outputs(case),)
    assert found.best_score_ >= shared.best_score_ - 1e-4 * abs(shared.best_score_)


def probabilities(case):
    X, y = case.data()
    found = search(case).fit(X, y)
    P = found.predict_proba(X)
    np.testing.assert_allclose(P, own_fit(case, found).predict_proba(X), atol=1e-3)
    np.testing.assert_array_equal(found.classes_[P.argmax(axis=1)], found.predict(X))


def of_all(case):
    return True


def of_weighted(case):
    return hasattr(case.estimator, "class_weight") and case.data()[1].ndim == 1


def of_several(case):
    return case.data.__name__ in ("three_classes", "several_targets", "several_labels")


def of_probabilities(case):
    return hasattr(case.estimator, "predict_proba")


# By their names in the guide: what a feature is, and what has it.
FEATURES = {
    "in a pipeline": (a_pipeline, of_all),
    "sparse X": (sparse_data, of_all),
    "sample weights": (sample_weights, of_all),
    "class weights": (class_weights, of_weighted),
    "several classes or targets": (several_outputs, of_several),
    "probabilities": (probabilities, of_probabilities),
    "penalties of groups of columns": (penalties_of_groups, of_all),
    "penalties of outputs": (penalties_of_outputs, of_several),
    "several scores": (several_scores, of_all),
    "one-standard-error rule": (one_standard_error, of_all),
    "penalty kept per sample": (penalty_per_sample, of_all),
    "threads, to the same bits": (two_threads, of_all),
    "pickling and cloning": (pickling_and_cloning, of_all),
    "warm start": (a_warm_start, of_all),
    "limit of time": (max_time, of_all),
}


@pytest.mark.filterwarnings("ignore:The outer search ended because the best")  # no matter here
@pytest.mark.parametrize(
    ("feature", "case"),
    [
        pytest.param(check, case, id=f"{name}, {case}")
        for name, (check, of) in FEATURES.items()
        for case in OF_EACH_KIND
        if of(case)
    ],
)
def test_an_estimator_has_a_feature(feature, case):
    feature(case)


# --- what the guide does not promise --------------------------------------------------------------


@pytest.mark.parametrize(
    "case", [c for c in OF_EACH_KIND if not is_classifier(c.estimator)], ids=str
)
def test_no_class_weights(case):
    with pytest.raises(ValueError, match="class_weight"):
        search(case).set_params(estimator__class_weight="balanced")


@pytest.mark.parametrize(
    "case",
    [cases[0] for cases in OF_ESTIMATOR.values() if not any(map(of_several, cases))],
    ids=str,
)
def test_no_several_targets(case):
    X, y = case.data()
    with pytest.raises(ValueError, match="1d array"):
        search(case).fit(X, np.column_stack([y, y]))


@pytest.mark.parametrize("case", [c for c in OF_EACH_KIND if not of_probabilities(c)], ids=str)
def test_no_probabilities(case):
    assert not hasattr(search(case).fit(*case.data()), "predict_proba")


def test_the_table_in_the_guide_is_what_is_tested():
    _, text = GUIDE.read_text().split(".. csv-table:: Features\n")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    options = [line for line in lines if line.startswith(":")]
    (header,) = (line.removeprefix(":header:") for line in options if ":header:" in line)
    _, *names = next(csv.reader([header], skipinitialspace=True))
    assert sorted(names) == list(OF_ESTIMATOR)
    rows = csv.reader(lines[len(options) :], skipinitialspace=True)
    promised = {feature: cells for feature, *cells in rows}
    tested = {
        feature: ["yes" if any(map(of, OF_ESTIMATOR[name])) else "" for name in names]
        for feature, (_, of) in FEATURES.items()
    }
    assert promised == tested
