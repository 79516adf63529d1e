"""Cases of scikit-learn's own tests of GridSearchCV that apply to a search without a grid.

Each names the test that it is after, in ``sklearn/model_selection/tests/test_search.py`` of version
1.9; the code is ours. Cases of candidates, of estimators without a penalty, and of pairwise kernels
have no counterpart here.
"""

import pickle
from functools import cache
from types import GeneratorType

import numpy as np
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_iris,
    make_multilabel_classification,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, make_scorer, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    LeavePGroupsOut,
    StratifiedKFold,
    StratifiedShuffleSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from hoag_shine import ShineCV

X, Y = load_breast_cancer(return_X_y=True)
X = StandardScaler().fit_transform(X)[::3, ::3]
Y = Y[::3]
NARROW = {"bounds": (0.5, 0.50001), "init": 0.5}
TIGHT = {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 1000}
# One value of C, so that a search visits what a grid of one point has.
ON_BOUND = pytest.mark.filterwarnings("ignore:The outer search ended")


def shine(**options):
    return ShineCV(LogisticRegression(), **{"cv": 3} | options)


@cache
def plain_search():
    """Return what several tests look at; none changes it."""
    return shine().fit(X, Y)


def test_an_attribute_for_everything_a_grid_leaves():
    """After ``test_grid_search`` and ``test_trivial_cv_results_attr``."""
    search = plain_search()
    grid = GridSearchCV(LogisticRegression(**TIGHT), {"C": [1.0]}, cv=3).fit(X, Y)
    own = {name for name in vars(grid) if name.endswith("_") and not name.startswith("_")}
    assert {name for name in own if not hasattr(search, name)} == set()
    one = ShineCV(LogisticRegression(), cv=[(np.arange(100), np.arange(100, len(Y)))]).fit(X, Y)
    assert one.n_splits_ == 1
    assert (one.cv_results_["std_test_score"] == 0.0).all()


def test_unknown_metadata_is_an_error():
    """After ``test_SearchCV_with_fit_params``."""
    with pytest.raises(TypeError, match="spam"):
        shine().fit(X, Y, spam=np.ones(10))


def test_scoring_is_what_score_computes():
    """After ``test_grid_search_score_method`` and ``test_grid_search_no_score``."""
    plain = plain_search()
    accuracy = shine(scoring="accuracy", refit="accuracy").fit(X, Y)
    auc = shine(scoring="roc_auc", refit="roc_auc").fit(X, Y)
    assert plain.score(X, Y) == accuracy.score(X, Y) == accuracy_score(Y, plain.predict(X))
    assert auc.score(X, Y) == roc_auc_score(Y, auc.decision_function(X))


@pytest.mark.parametrize(
    "cv", [LeaveOneGroupOut(), LeavePGroupsOut(2), GroupKFold(3), GroupShuffleSplit(random_state=0)]
)
def test_groups_reach_the_splitter(cv):
    """After ``test_grid_search_groups``."""
    groups = np.arange(len(Y)) % 3
    with pytest.raises(ValueError, match="The 'groups' parameter should not be None"):
        shine(cv=cv).fit(X, Y)
    shine(cv=cv).fit(X, Y, groups=groups)


@pytest.mark.parametrize("cv", [StratifiedKFold(), StratifiedShuffleSplit(3, random_state=0)])
def test_groups_are_no_need_of_other_splitters(cv):
    """After ``test_grid_search_groups``."""
    shine(cv=cv).fit(X, Y)


def test_classes_are_those_of_y():
    """After ``test_classes__property``."""
    search = shine()
    assert not hasattr(search, "classes_")
    np.testing.assert_array_equal(search.fit(X, Y).classes_, np.unique(Y))
    assert not hasattr(ShineCV(Ridge(), cv=3).fit(X, Y), "classes_")


@pytest.mark.parametrize("scoring", [None, ["accuracy", "precision"]])
def test_no_refit(scoring):
    """After ``test_no_refit``."""
    search = shine(refit=False, scoring=scoring).fit(X, Y)
    assert not hasattr(search, "best_estimator_")
    assert hasattr(search, "best_index_")
    assert hasattr(search, "best_params_")
    for name in ("predict", "predict_proba", "predict_log_proba"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'") as error:
            getattr(search, name)(X)
        assert "refit=False" in str(error.value.__cause__)


@pytest.mark.parametrize("refit", ["recall", "accuracy"])
def test_refit_names_a_score_by_its_own_name(refit):
    """After ``test_no_refit``; ``refit=True`` is the loss here and no error."""
    scoring = {"acc": "accuracy", "prec": "precision"}
    with pytest.raises(ValueError, match="refit must name one of the scores"):
        shine(refit=refit, scoring=scoring).fit(X, Y)


def test_rows_of_X_and_y_are_as_many():
    """After ``test_grid_search_error``."""
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        shine().fit(X[:100], Y)


@ON_BOUND
def test_one_value_is_tuned_to_itself():
    """After ``test_grid_search_one_grid_point``."""
    search = shine(**NARROW).fit(X, Y)
    own = LogisticRegression(C=search.best_params_["C"], **TIGHT).fit(X, Y)
    assert search.best_params_["C"] == pytest.approx(0.5, rel=1e-4)
    np.testing.assert_allclose(search.coef_, own.coef_, atol=1e-3)


@pytest.mark.parametrize("convert", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix])
def test_sparse_and_dense_end_alike(convert):
    """After ``test_grid_search_sparse``."""
    dense = plain_search()
    other = shine().fit(convert(X), Y)
    assert dense.best_params_["C"] == pytest.approx(other.best_params_["C"], rel=2e-2)
    assert np.mean(dense.predict(X) == other.predict(convert(X))) >= 1 - 1 / len(Y)


def test_sparse_scores_are_dense_ones_and_a_loss_is_their_negative():
    """After ``test_grid_search_sparse_scoring``."""

    def f1_loss(y_true, y_pred):
        return -f1_score(y_true, y_pred)

    options = {"scoring": "f1", "refit": "f1"}
    dense, other = shine(**options).fit(X, Y), shine(**options).fit(sparse.csr_array(X), Y)
    assert dense.best_score_ == pytest.approx(other.best_score_, abs=1e-2)
    loss = make_scorer(f1_loss, greater_is_better=False)
    negated = shine(scoring=loss, refit="score").fit(X, Y)
    assert negated.best_score_ == dense.best_score_


def lowest_C(results):
    return int(np.argmin(np.asarray(results["param_C"].data, dtype=float)))


def test_refit_may_be_a_function():
    """After ``test_refit_callable`` and ``test_refit_callable_multi_metric``."""
    for scoring in (None, "accuracy", ["accuracy", "roc_auc"]):
        search = shine(refit=lowest_C, scoring=scoring).fit(X, Y)
        assert search.best_params_["C"] == min(p["C"] for p in search.cv_results_["params"])
        assert not hasattr(search, "best_score_")


@pytest.mark.parametrize(
    ("index", "error"),
    [("a string", TypeError), (None, TypeError), (-1, IndexError), (99, IndexError)],
)
def test_refit_returns_the_index_of_a_row(index, error):
    """After ``test_refit_callable_invalid_type`` and ``test_refit_callable_out_bound``."""
    with pytest.raises(error, match="refit must return"):
        shine(refit=lambda results: index).fit(X, Y)


@pytest.mark.parametrize("kind", ["X", "y", "both"])
def test_lists_are_data(kind):
    """After ``test_X_as_list`` and ``test_y_as_list``."""
    given = X.tolist() if kind != "y" else X, Y.tolist() if kind != "X" else Y
    assert shine().fit(*given).best_params_ == plain_search().best_params_


@pytest.mark.parametrize("weighted", [False, True])
def test_columns_of_the_results(weighted):
    """After ``test_grid_search_cv_results`` and ``test_cv_results_dtype_issue_29074``."""
    search = shine(return_train_score=True).fit(
        X, Y, sample_weight=np.ones(len(Y)) if weighted else None
    )
    grid = GridSearchCV(
        LogisticRegression(**TIGHT), {"C": [0.1, 1.0]}, cv=3, return_train_score=True
    ).fit(X, Y)
    assert search.cv_results_.keys() == grid.cv_results_.keys()
    for name, column in grid.cv_results_.items():
        own = search.cv_results_[name]
        assert len(own) == search.n_iter_
        assert type(own) is type(column)
        assert name == "params" or own.dtype == column.dtype
    assert not search.cv_results_["param_C"].mask.any()


def test_columns_of_several_scores():
    """After ``test_grid_search_cv_results_multimetric``."""
    scoring = {"accuracy": make_scorer(accuracy_score), "recall": "recall"}
    several = shine(scoring=scoring, refit="recall").fit(X, Y)
    single = shine(scoring="recall", refit="recall").fit(X, Y)
    assert several.multimetric_
    assert not single.multimetric_
    for part in ("mean_test", "std_test", "split0_test", "rank_test"):
        np.testing.assert_array_equal(
            several.cv_results_[f"{part}_recall"], single.cv_results_[f"{part}_score"]
        )
    assert several.best_params_ == single.best_params_


@ON_BOUND
def test_ties_have_one_rank():
    """After ``test_search_cv_results_rank_tie_breaking``."""
    search = shine(scoring=lambda estimator, X, y: 0.5, refit="score").fit(X, Y)
    assert (search.cv_results_["rank_test_score"] == 1).all()
    assert search.best_index_ == 0


def test_times_are_measured():
    """After ``test_search_cv_timing``."""
    results = shine(scoring=["accuracy"]).fit(X, Y).cv_results_
    for name in ("mean_fit_time", "std_fit_time", "mean_score_time", "std_score_time"):
        assert (results[name] >= 0.0).all()
        assert results[name].max() < 10.0


@ON_BOUND
@pytest.mark.parametrize("score", ["accuracy", "roc_auc"])
def test_scores_of_folds_are_those_of_fits_by_hand(score):
    """After ``test_grid_search_correct_score_results``."""
    cv = StratifiedKFold(3)
    search = shine(cv=cv, scoring=score, refit=score, tol=1e-6, **NARROW).fit(X, Y)
    for k, (train, test) in enumerate(cv.split(X, Y)):
        own = LogisticRegression(C=0.5, **TIGHT).fit(X[train], Y[train])
        expected = {
            "accuracy": accuracy_score(Y[test], own.predict(X[test])),
            "roc_auc": roc_auc_score(Y[test], own.decision_function(X[test])),
        }
        assert search.cv_results_[f"split{k}_test_score"][-1] == pytest.approx(expected[score])


def test_it_is_pickled():
    """After ``test_pickle``."""
    search = plain_search()
    loaded = pickle.loads(pickle.dumps(search))  # noqa: S301
    np.testing.assert_array_equal(loaded.predict(X), search.predict(X))


@pytest.mark.parametrize("estimator", [Ridge(), RidgeClassifier()])
def test_several_outputs(estimator):
    """After ``test_grid_search_with_multioutput_data``."""
    X_own, labels = make_multilabel_classification(
        n_samples=60, return_indicator=True, random_state=0
    )
    cv = KFold(3)
    search = ShineCV(estimator, cv=cv, scoring="neg_mean_squared_error", refit=False).fit(
        X_own, labels
    )
    value = search.best_params_["alpha"]
    for k, (train, test) in enumerate(cv.split(X_own)):
        own = clone(estimator).set_params(alpha=value).fit(X_own[train], labels[train])
        error = ((labels[test] - own.predict(X_own[test])) ** 2).mean()
        found = search.cv_results_[f"split{k}_test_score"][search.best_index_]
        assert found == pytest.approx(
            -error, rel=1e-3, abs=0.02 * isinstance(estimator, RidgeClassifier)
        )


def test_probabilities_are_those_of_the_estimator():
    """After ``test_predict_proba_disabled``."""
    assert not hasattr(ShineCV(LinearSVC(), cv=3).fit(X, Y), "predict_proba")
    assert hasattr(shine(), "predict_proba")


def test_missing_values_are_the_pipelines():
    """After ``test_grid_search_allows_nans``."""
    holes = X.copy()
    holes[::7, 3] = np.nan
    search = ShineCV(make_pipeline(SimpleImputer(), LogisticRegression()), cv=3).fit(holes, Y)
    assert search.score(holes, Y) > 0.9


def test_train_scores_are_asked_for():
    """After ``test_search_train_scores_set_to_false``."""
    assert not any("train" in name for name in plain_search().cv_results_)


class Once:
    """A splitter that can be asked once."""

    def __init__(self, n_splits, n_rows):
        self._folds = iter(KFold(n_splits).split(np.ones(n_rows)))
        self._n = n_splits

    def split(self, X=None, y=None, groups=None):
        yield from self._folds

    def get_n_splits(self, X=None, y=None, groups=None):
        return self._n


def test_folds_are_drawn_once():
    """After ``test_grid_search_cv_splits_consistency``."""
    shuffled = KFold(3, shuffle=True, random_state=0)
    assert isinstance(shuffled.split(X, Y), GeneratorType)
    for first, second in ((Once(3, len(Y)), KFold(3)), (shuffled.split(X, Y), shuffled)):
        a, b = (
            shine(cv=cv, return_train_score=True).fit(X, Y).cv_results_ for cv in (first, second)
        )
        for name in (name for name in a if not name.endswith("_time") and name != "params"):
            np.testing.assert_array_equal(a[name], b[name])


def test_a_splitter_without_folds_is_an_error():
    """After ``test_empty_cv_iterator_error`` and ``test_random_search_bad_cv``."""
    with pytest.raises(ValueError, match="cv has no folds"):
        shine(cv=iter([])).fit(X, Y)


def test_scores_that_are_not_finite_are_told_of():
    """After ``test_searchcv_raise_warning_with_non_finite_score``."""
    calls = []

    def sometimes(estimator, X, y):
        calls.append(1)
        return np.nan if len(calls) % 5 == 0 else 1.0

    with pytest.warns(UserWarning, match="not numbers") as told:
        search = shine(scoring=sometimes, refit="score").fit(X, Y)
    assert len(told) == 1
    ranks, lost = (
        search.cv_results_["rank_test_score"],
        np.isnan(search.cv_results_["mean_test_score"]),
    )
    assert lost.any()
    assert (ranks[lost] == ranks.max()).all()
    assert (ranks[~lost] < ranks.max()).all()


def both(estimator, X, y):
    return {
        "accuracy": accuracy_score(y, estimator.predict(X)),
        "f1": f1_score(y, estimator.predict(X)),
    }


def test_a_function_may_return_several_scores():
    """After ``test_callable_multimetric_same_as_list_of_strings``."""
    listed = shine(scoring=["accuracy", "f1"], refit="f1").fit(X, Y)
    called = shine(scoring=both, refit="f1").fit(X, Y)
    assert called.best_params_ == listed.best_params_
    assert called.cv_results_.keys() == listed.cv_results_.keys()
    assert called.score(X, Y) == listed.score(X, Y)


def test_scores_may_be_any_numbers():
    """After ``test_callable_multimetric_confusion_matrix``."""

    def counts(estimator, X, y):
        matrix = confusion_matrix(y, estimator.predict(X))
        return {"tp": matrix[1, 1], "fp": matrix[0, 1]}

    search = shine(scoring=counts, refit="fp").fit(X, Y)
    assert search.score(X, Y) == counts(search.best_estimator_, X, Y)["fp"]
    assert {"mean_test_tp", "mean_test_fp"} <= search.cv_results_.keys()


def test_a_function_of_one_score_is_that_score():
    """After ``test_callable_single_metric_same_as_single_string``."""

    def recall(estimator, X, y):
        return (estimator.predict(X)[y == 1] == 1).mean()

    named = shine(scoring="recall", refit="recall").fit(X, Y)
    called = shine(scoring=recall, refit="score").fit(X, Y)
    listed = shine(scoring=["recall"], refit="recall").fit(X, Y)
    assert named.best_params_ == called.best_params_ == listed.best_params_
    assert named.score(X, Y) == pytest.approx(called.score(X, Y)) == listed.score(X, Y)


def test_refit_must_be_among_what_a_function_returns():
    """After ``test_callable_multimetric_error_on_invalid_key``."""
    with pytest.raises(ValueError, match="refit must name one of the scores"):
        shine(scoring=both, refit="f2").fit(X, Y)


def test_columns_are_counted_as_by_the_estimator():
    """After ``test_n_features_in``."""
    search = shine()
    assert not hasattr(search, "n_features_in_")
    assert search.fit(X, Y).n_features_in_ == X.shape[1]


def test_the_given_estimator_stays_as_it_is():
    """After ``test_search_estimator_param``."""
    estimator = make_pipeline(StandardScaler(), LinearSVC(C=0.01))
    search = ShineCV(estimator, cv=3).fit(X, Y)
    assert estimator[-1].C == 0.01
    assert search.best_params_["linearsvc__C"] == search.best_estimator_[-1].C


@pytest.mark.parametrize("fitted", [False, True])
def test_html_shows_what_is_inside(fitted):
    """After ``test_search_html_repr``."""
    search = ShineCV(make_pipeline(StandardScaler(), LogisticRegression(C=4.25)), cv=3)
    with config_context(display="diagram"):
        text = search.fit(X, Y)._repr_html_() if fitted else search._repr_html_()
    assert "StandardScaler" in text
    assert ("best_estimator_: Pipeline" in text) == fitted


def test_score_takes_no_metadata_without_routing():
    """After ``test_score_rejects_params_with_no_routing_enabled``."""
    with pytest.raises((TypeError, ValueError), match=r"score_params|metadata|unexpected"):
        plain_search().score(X, Y, taste=np.ones(len(Y)))


@pytest.mark.parametrize("estimator", [Ridge(), LogisticRegression(), LinearSVC()])
def test_weights_are_repetitions(estimator):
    """After ``test_search_cv_sample_weight_equivalence``."""
    X_own, y = load_iris(return_X_y=True)
    rng = np.random.default_rng(0)
    weight, groups = rng.integers(0, 4, len(y)), np.arange(len(y)) % 3
    rows = np.repeat(np.arange(len(y)), weight)
    cv = LeaveOneGroupOut()
    search = ShineCV(
        estimator, tol=1e-4, scoring="r2" if isinstance(estimator, Ridge) else "accuracy"
    )
    search.set_params(refit="score")
    weighted = clone(search).set_params(cv=list(cv.split(X_own, y, groups)))
    repeated = clone(search).set_params(cv=list(cv.split(X_own[rows], y[rows], groups[rows])))
    weighted.fit(X_own, y, sample_weight=weight)
    repeated.fit(X_own[rows], y[rows])
    assert weighted.best_score_ == pytest.approx(repeated.best_score_, rel=1e-4)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-2, atol=1e-3)


def test_a_regression_by_default_is_scored_by_its_loss():
    """After ``test_search_default_iid``: each fold counts alike, however many rows it holds out."""
    X_own, y = load_diabetes(return_X_y=True)
    sizes = [np.arange(40), np.arange(40, len(y))]
    cv = [(np.setdiff1d(np.arange(len(y)), test), test) for test in sizes]
    search = ShineCV(Ridge(), cv=cv).fit(X_own, y)
    folds = [search.cv_results_[f"split{k}_test_score"][search.best_index_] for k in range(2)]
    assert search.best_score_ == pytest.approx(np.mean(folds), rel=1e-12)
