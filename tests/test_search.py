"""ShineCV against scikit-learn on the same folds, and in scikit-learn's manners."""

import pickle
from math import log

import numpy as np
import pytest
from helpers import breast_cancer, diabetes, needs_data, thinned
from scipy import sparse
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, make_scorer, mean_absolute_error, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hoag_shine import Outcome, ShineCV, load_dataset

METHODS = ("shine", "cg", "exact")
every_method = pytest.mark.parametrize("hypergradient", METHODS)


def tight(estimator):
    """Return the estimator with its own solver at the limit of precision."""
    if isinstance(estimator, Ridge):
        return clone(estimator).set_params(solver="cholesky")
    return clone(estimator).set_params(solver="newton-cholesky", tol=1e-12, max_iter=1000)


def grid(estimator, params, X, y, **options):
    scoring = "neg_log_loss" if is_classifier(estimator) else "neg_mean_squared_error"
    options = {"scoring": scoring, "refit": False} | options
    return GridSearchCV(tight(estimator), params, **options)


def grid_score(search, X, y, **options):
    """Return GridSearchCV's score at the best parameters that the search found."""
    params = {name: [value] for name, value in search.best_params_.items()}
    found = grid(search.estimator, params, X, y, cv=search.cv or 5, **options).fit(X, y)
    return found.cv_results_["mean_test_score"][0]


def data_for(estimator):
    return breast_cancer() if is_classifier(estimator) else diabetes()


ESTIMATORS = [
    LogisticRegression(),
    LogisticRegression(fit_intercept=False),
    LogisticRegression(class_weight="balanced"),
    LogisticRegression(class_weight={0: 1.0, 1: 7.0}),
    LogisticRegression(class_weight={0: 3.0}),
    Ridge(),
    Ridge(fit_intercept=False),
]


# --- the same numbers as scikit-learn ----------------------------------------------------------


@every_method
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_the_best_score_is_that_of_grid_search(estimator, hypergradient):
    X, y = data_for(estimator)
    search = ShineCV(estimator, cv=5, hypergradient=hypergradient, tol=1e-3).fit(X, y)
    np.testing.assert_allclose(search.best_score_, grid_score(search, X, y), rtol=1e-5)


@pytest.fixture(scope="module")
def fine_grids():
    """The best score of 61 values, for which GridSearchCV fits 305 models."""
    scores = {}
    for estimator, parameter in ((LogisticRegression(), "C"), (Ridge(), "alpha")):
        X, y = data_for(estimator)
        values = {parameter: np.logspace(-2, 2, 61)}
        scores[parameter] = grid(estimator, values, X, y, cv=5).fit(X, y).best_score_
    return scores


@pytest.mark.parametrize(
    # From far out on a plain, where the criterion hardly changes, a search may end on it.
    ("start", "gap"),
    [(1.0, 1e-5), (1e-7, 1e-4), (1e-3, 1e-4), (1e5, 1e-4)],
)
@pytest.mark.parametrize(
    ("estimator", "parameter"), [(LogisticRegression(), "C"), (Ridge(), "alpha")], ids=str
)
@every_method
def test_no_grid_is_better(fine_grids, hypergradient, estimator, parameter, start, gap):
    X, y = data_for(estimator)
    search = ShineCV(estimator, cv=5, hypergradient=hypergradient, init=start, tol=1e-3).fit(X, y)
    assert search.outcome_ is Outcome.CONVERGED
    assert search.best_score_ >= fine_grids[parameter] * (1 + gap)  # scores are negative


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_the_best_estimator_is_scikit_learns_own_fit(estimator):
    X, y = data_for(estimator)
    search = ShineCV(estimator, cv=5, tol=1e-3).fit(X, y)
    fitted = search.best_estimator_
    assert type(fitted) is type(estimator)
    own = tight(estimator).set_params(**search.best_params_).fit(X, y)
    size = np.linalg.norm(own.coef_)
    assert fitted.coef_.shape == own.coef_.shape
    np.testing.assert_allclose(fitted.coef_, own.coef_, rtol=0, atol=1e-4 * size)
    np.testing.assert_allclose(fitted.intercept_, own.intercept_, rtol=0, atol=1e-4 * size)
    assert np.shape(fitted.intercept_) == np.shape(own.intercept_)
    assert fitted.get_params() == estimator.get_params() | search.best_params_
    np.testing.assert_array_equal(search.predict(X), fitted.predict(X))
    np.testing.assert_allclose(
        own.predict(X), search.predict(X), atol=1e-3 * np.abs(own.predict(X)).max()
    )


def test_sample_weights_weigh_training_and_held_out_losses():
    X, y = breast_cancer()
    weight = np.random.default_rng(0).random(y.size)
    search = ShineCV(LogisticRegression(), cv=4).fit(X, y, sample_weight=weight)
    expected = 0.0
    for train, test in StratifiedKFold(4).split(X, y):
        fold = tight(LogisticRegression(**search.best_params_))
        fold.fit(X[train], y[train], sample_weight=weight[train])
        expected -= log_loss(y[test], fold.predict_proba(X[test]), sample_weight=weight[test]) / 4
    np.testing.assert_allclose(search.best_score_, expected, rtol=1e-5)
    own = tight(LogisticRegression(**search.best_params_)).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(search.best_estimator_.coef_, own.coef_, rtol=0, atol=1e-3)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_weight_of_two_is_a_row_twice_and_of_zero_none(class_weight):
    """In the same folds."""
    X, y = breast_cancer()
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 3, y.size).astype(float)
    part = rng.integers(0, 3, y.size)
    rows = np.repeat(np.arange(y.size), weight.astype(int))
    estimator = LogisticRegression(class_weight=class_weight)
    weighted = ShineCV(estimator, cv=PredefinedSplit(part), tol=1e-5, hypergradient="cg")
    weighted.fit(X, y, sample_weight=weight)
    repeated = ShineCV(estimator, cv=PredefinedSplit(part[rows]), tol=1e-5, hypergradient="cg")
    repeated.fit(X[rows], y[rows])
    np.testing.assert_allclose(weighted.best_score_, repeated.best_score_, rtol=1e-7)
    np.testing.assert_allclose(weighted.best_params_["C"], repeated.best_params_["C"], rtol=1e-4)
    np.testing.assert_allclose(
        weighted.best_estimator_.coef_, repeated.best_estimator_.coef_, rtol=0, atol=1e-3
    )


def test_the_scale_of_weights_is_part_of_the_training_loss_alone():
    """Ridge with all weights doubled is Ridge with half the alpha, at the same held-out loss."""
    X, y = diabetes()
    plain = ShineCV(Ridge(), tol=1e-5).fit(X, y)
    double = ShineCV(Ridge(), tol=1e-5).fit(X, y, sample_weight=np.full(y.size, 2.0))
    np.testing.assert_allclose(double.best_score_, plain.best_score_, rtol=1e-6)
    np.testing.assert_allclose(
        double.best_params_["alpha"] / 2, plain.best_params_["alpha"], rtol=1e-2
    )


# --- folds -------------------------------------------------------------------------------------


def groups_of(y):
    return np.arange(y.size) % 11


@pytest.mark.parametrize(
    "cv",
    [
        3,
        StratifiedKFold(4, shuffle=True, random_state=1),
        KFold(4, shuffle=True, random_state=1),
        RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0),
        ShuffleSplit(3, test_size=0.3, random_state=0),
        PredefinedSplit(np.where(np.arange(569) % 4 == 0, 0, -1)),
        [(np.arange(0, 400), np.arange(400, 569)), (np.arange(300, 569), np.arange(0, 200))],
        # A bootstrap: rows drawn more than once, in any order.
        [(np.random.default_rng(0).integers(0, 569, 569), np.arange(569))],
        [(list(range(400)), list(range(400, 569)))],
        [(np.arange(400), -np.arange(1, 170))],  # counted from the end
    ],
    ids=str,
)
def test_folds_are_what_scikit_learn_makes_of_cv(cv):
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), cv=cv).fit(X, y)
    np.testing.assert_allclose(search.best_score_, grid_score(search, X, y), rtol=1e-5)
    assert search.n_splits_ == sum(key.startswith("split") for key in search.cv_results_)


def test_five_folds_are_the_default():
    X, y = breast_cancer()
    default, five = ShineCV(LogisticRegression()).fit(X, y), ShineCV(LogisticRegression(), cv=5)
    assert default.n_splits_ == 5
    assert default.best_score_ == five.fit(X, y).best_score_


def test_a_generator_of_folds_is_used_up_once():
    X, y = breast_cancer()
    folds = StratifiedKFold(4)
    once = ShineCV(LogisticRegression(), cv=folds.split(X, y)).fit(X, y)
    assert once.n_splits_ == 4
    assert once.best_score_ == ShineCV(LogisticRegression(), cv=folds).fit(X, y).best_score_


def test_groups_are_handed_to_the_splitter():
    X, y = breast_cancer()
    groups = groups_of(y)
    search = ShineCV(LogisticRegression(), cv=GroupKFold(3)).fit(X, y, groups=groups)
    explicit = list(GroupKFold(3).split(X, y, groups))
    same = ShineCV(LogisticRegression(), cv=explicit).fit(X, y)
    assert search.best_score_ == same.best_score_
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        ShineCV(LogisticRegression(), cv=GroupKFold(3)).fit(X, y)


def test_leave_one_out_is_one_fold_per_row():
    X, y = diabetes()
    X, y = X[:40], y[:40]
    search = ShineCV(Ridge(), cv=LeaveOneOut()).fit(X, y)
    assert search.n_splits_ == 40
    np.testing.assert_allclose(search.best_score_, grid_score(search, X, y), rtol=1e-5)


@pytest.mark.parametrize("masks", [np.asarray, list])
def test_folds_may_be_boolean_masks_as_in_scikit_learn(masks):
    X, y = breast_cancer()
    held_out = np.arange(y.size) % 3 == 0
    by_mask = ShineCV(LogisticRegression(), cv=[(masks(~held_out), masks(held_out))]).fit(X, y)
    rows = ShineCV(
        LogisticRegression(), cv=[(np.flatnonzero(~held_out), np.flatnonzero(held_out))]
    ).fit(X, y)
    assert by_mask.best_score_ == rows.best_score_


@pytest.mark.parametrize(
    ("estimator", "splitter"), [(LogisticRegression(), StratifiedKFold), (Ridge(), KFold)]
)
def test_a_random_state_shuffles_the_folds_of_a_number(estimator, splitter):
    X, y = data_for(estimator)

    def score(**options):
        return ShineCV(estimator, **options).fit(X, y).best_score_

    shuffled = score(cv=4, random_state=3)
    assert shuffled == score(cv=splitter(4, shuffle=True, random_state=3))
    assert shuffled == score(cv=4, random_state=3)
    assert shuffled != score(cv=4, random_state=4)
    assert shuffled != score(cv=4)
    assert score(cv=4) == score(cv=splitter(4))


# --- kinds of data -----------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix])
@pytest.mark.parametrize("estimator", [LogisticRegression(), Ridge()], ids=str)
def test_sparse_data_gives_what_dense_data_gives(estimator, convert):
    X, y = data_for(estimator)
    X = thinned(X)
    dense = ShineCV(estimator, tol=1e-5).fit(X, y)
    thin = ShineCV(estimator, tol=1e-5).fit(convert(X), y)
    np.testing.assert_allclose(thin.best_score_, dense.best_score_, rtol=1e-6)
    np.testing.assert_allclose(
        thin.best_estimator_.coef_, dense.best_estimator_.coef_, rtol=0, atol=1e-3
    )
    np.testing.assert_array_equal(
        thin.predict(convert(X)) if is_classifier(estimator) else 0,
        dense.predict(X) if is_classifier(estimator) else 0,
    )


@pytest.mark.parametrize("convert", [np.array, sparse.csr_array])
@pytest.mark.parametrize("estimator", [LogisticRegression(), Ridge()], ids=str)
def test_float32_is_kept(estimator, convert):
    X, y = data_for(estimator)
    X32 = X.astype(np.float32)
    search = ShineCV(estimator).fit(convert(X32), y)
    assert search.best_estimator_.coef_.dtype == np.float32
    assert np.asarray(search.best_estimator_.intercept_).dtype == np.float32
    # The criterion is computed in double precision from these numbers.
    wide = ShineCV(estimator).fit(X32.astype(np.float64), y)
    assert wide.best_estimator_.coef_.dtype == np.float64
    np.testing.assert_allclose(search.best_score_, wide.best_score_, rtol=1e-6)


@pytest.mark.parametrize(
    "labels", [["benign", "malignant"], [False, True], [-1, 1], [3.0, 4.0], ["yes", "no"]]
)
def test_labels_may_be_anything(labels):
    X, y = breast_cancer()
    named = np.array(labels)[y]
    search = ShineCV(LogisticRegression()).fit(X, named)
    plain = ShineCV(LogisticRegression()).fit(X, y)
    np.testing.assert_array_equal(search.classes_, np.unique(labels))
    np.testing.assert_array_equal(search.best_estimator_.classes_, np.unique(labels))
    np.testing.assert_allclose(search.best_score_, plain.best_score_, rtol=1e-6)
    np.testing.assert_allclose(search.best_params_["C"], plain.best_params_["C"], rtol=0.02)
    agreement = np.mean(search.predict(X) == np.array(labels)[plain.predict(X)])
    assert agreement >= 0.998
    assert search.score(X, named) > 0.97
    column = list(search.classes_).index(labels[1])
    np.testing.assert_allclose(
        search.predict_proba(X)[:, column], plain.predict_proba(X)[:, 1], atol=5e-3
    )


def test_class_weights_go_by_the_users_labels():
    X, y = breast_cancer()
    named = np.array(["benign", "malignant"])[y]
    weights = {"malignant": 1.0, "benign": 7.0}
    search = ShineCV(LogisticRegression(class_weight=weights), cv=4).fit(X, named)
    np.testing.assert_allclose(search.best_score_, grid_score(search, X, named), rtol=1e-5)


def test_lists_and_integers_are_data_too():
    X, y = breast_cancer()
    X = np.rint(4 * X).astype(int)
    from_list = ShineCV(LogisticRegression(), cv=3).fit(X.tolist(), y.tolist())
    from_array = ShineCV(LogisticRegression(), cv=3).fit(X.astype(float), y)
    assert from_list.best_score_ == from_array.best_score_


def test_feature_names_of_a_data_frame_are_kept():
    pandas = pytest.importorskip("pandas")
    X, y = diabetes()
    names = [f"feature {j}" for j in range(X.shape[1])]
    frame = pandas.DataFrame(X, columns=names)
    search = ShineCV(Ridge()).fit(frame, pandas.Series(y))
    np.testing.assert_array_equal(search.feature_names_in_, names)
    np.testing.assert_array_equal(search.best_estimator_.feature_names_in_, names)
    np.testing.assert_allclose(search.best_score_, ShineCV(Ridge()).fit(X, y).best_score_)
    search.predict(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        search.predict(frame[names[::-1]])


@pytest.mark.parametrize("estimator", [LogisticRegression(), Ridge()], ids=str)
def test_nothing_that_is_passed_is_changed(estimator):
    X, y = data_for(estimator)
    weight = np.random.default_rng(0).random(y.size)
    copies = X.copy(), y.copy(), weight.copy()
    weight.flags.writeable = False  # X and y are already
    before = estimator.get_params()
    ShineCV(estimator).fit(X, y, sample_weight=weight)
    for now, then in zip((X, y, weight), copies, strict=True):
        np.testing.assert_array_equal(now, then)
    assert estimator.get_params() == before
    assert not hasattr(estimator, "coef_")


def test_nothing_to_predict_is_predicted():
    X, y = diabetes()
    search = ShineCV(Ridge()).fit(X, np.zeros_like(y))
    assert search.outcome_ is Outcome.CONVERGED
    np.testing.assert_array_equal(search.predict(X), 0.0)


# A criterion of rounding errors has its minimum anywhere.
@pytest.mark.filterwarnings("ignore:The outer search ended")
def test_a_constant_target_needs_no_features():
    X, y = diabetes()
    search = ShineCV(Ridge()).fit(X, np.full_like(y, 3.0))
    np.testing.assert_allclose(search.predict(X), 3.0, rtol=1e-6)


@pytest.mark.parametrize("estimator", [LogisticRegression(), Ridge()], ids=str)
def test_features_without_any_information_do_no_harm(estimator):
    _, y = data_for(estimator)
    search = ShineCV(estimator).fit(np.zeros((y.size, 3)), y)
    np.testing.assert_array_equal(search.best_estimator_.coef_, 0.0)
    np.testing.assert_allclose(search.best_score_, grid_score(search, np.zeros((y.size, 3)), y))


@pytest.mark.parametrize(
    # Without a residual, what the inner error does to the score is an estimate.
    ("hypergradient", "rtol"),
    [("cg", 1e-5), ("exact", 1e-5), ("shine", 1e-4)],
)
@pytest.mark.parametrize("convert", [np.array, sparse.csr_array])
def test_more_features_than_samples_are_fine(convert, hypergradient, rtol):
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(60, 300)), np.zeros(300)
    w[:5] = 1.0
    y = X @ w + 0.3 * rng.normal(size=60)
    search = ShineCV(Ridge(), cv=4, hypergradient=hypergradient, tol=1e-3).fit(convert(X), y)
    np.testing.assert_allclose(search.best_score_, grid_score(search, X, y), rtol=rtol)


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "parameter"), [(LogisticRegression(C=0.03), "C"), (Ridge(alpha=0.03), "alpha")]
)
def test_the_search_starts_at_init_or_else_where_the_estimator_stands(estimator, parameter):
    X, y = data_for(estimator)
    first = ShineCV(estimator).fit(X, y).history_[0]["params"]
    np.testing.assert_allclose(first[parameter], 0.03, rtol=1e-12)
    first = ShineCV(estimator, init=5.0).fit(X, y).history_[0]["params"]
    np.testing.assert_allclose(first[parameter], 5.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "parameter", "bounds", "nearest"),
    [
        (LogisticRegression(), "C", (1e-3, 1e-2), 1e-2),
        (LogisticRegression(), "C", (50.0, 900.0), 50.0),
        (Ridge(), "alpha", (1e-4, 1e-1), 1e-1),
        (Ridge(), "alpha", (1e5, 1e7), 1e5),
    ],
)
def test_bounds_are_kept_and_an_optimum_on_one_is_reported(estimator, parameter, bounds, nearest):
    X, y = data_for(estimator)
    search = ShineCV(estimator, bounds=bounds)
    with pytest.warns(ConvergenceWarning, match="lies on a bound"):
        search.fit(X, y)
    assert search.outcome_ is Outcome.BOUND
    np.testing.assert_allclose(search.best_params_[parameter], nearest, rtol=1e-12)
    for record in search.history_:
        assert bounds[0] <= record["params"][parameter] <= bounds[1]


def test_max_iter_is_a_limit_that_is_warned_of():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), init=1e-4, max_iter=2)
    with pytest.warns(ConvergenceWarning, match="increase max_iter"):
        search.fit(X, y)
    assert search.outcome_ is Outcome.MAX_ITER
    assert len(search.history_) == 2
    np.testing.assert_allclose(search.best_score_, grid_score(search, X, y), rtol=1e-5)


def test_a_smaller_tolerance_is_more_accurate():
    X, y = breast_cancer()
    thetas = {
        tol: log(
            ShineCV(LogisticRegression(), tol=tol, hypergradient="exact")
            .fit(X, y)
            .best_params_["C"]
        )
        for tol in (1e-1, 1e-3, 1e-6)
    }
    assert abs(thetas[1e-3] - thetas[1e-6]) <= 1e-2
    assert abs(thetas[1e-1] - thetas[1e-6]) >= abs(thetas[1e-3] - thetas[1e-6])


@pytest.mark.parametrize("scoring", ["accuracy", make_scorer(accuracy_score)])
def test_a_score_is_reported_beside_the_criterion(scoring):
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), scoring=scoring, cv=4)
    with pytest.warns(UserWarning, match="chosen by the held-out loss"):
        search.fit(X, y)
    params = {"C": [search.best_params_["C"]]}
    expected = grid(LogisticRegression(), params, X, y, cv=4, scoring="accuracy").fit(X, y)
    i = search.best_index_
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"][i], expected.cv_results_["mean_test_score"][0]
    )
    for k in range(4):
        name = f"split{k}_test_score"
        np.testing.assert_allclose(search.cv_results_[name][i], expected.cv_results_[name][0])
    assert search.score(X, y) == accuracy_score(y, search.predict(X))
    assert search.best_score_ == search.cv_results_["mean_test_score"][i]
    # The criterion is the log loss all the same.
    plain = ShineCV(LogisticRegression(), cv=4).fit(X, y)
    assert search.cv_results_["mean_test_neg_criterion"][i] == plain.best_score_
    assert search.best_params_ == plain.best_params_


def test_score_is_the_estimators_own_unless_scoring_says_otherwise():
    X, y = diabetes()
    weight = np.random.default_rng(0).random(y.size)
    search = ShineCV(Ridge()).fit(X, y)
    np.testing.assert_allclose(search.score(X, y), r2_score(y, search.predict(X)))
    np.testing.assert_allclose(
        search.score(X, y, sample_weight=weight),
        r2_score(y, search.predict(X), sample_weight=weight),
    )
    other = ShineCV(
        Ridge(), scoring="neg_mean_absolute_error", refit="neg_mean_absolute_error"
    ).fit(X, y)
    np.testing.assert_allclose(other.score(X, y), -mean_absolute_error(y, other.predict(X)))


def test_without_refit_there_is_no_estimator():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), refit=False).fit(X, y)
    assert search.best_params_ == ShineCV(LogisticRegression()).fit(X, y).best_params_
    assert not hasattr(search, "best_estimator_")
    for call in (lambda: search.predict(X), lambda: search.score(X, y)):
        with pytest.raises(AttributeError) as error:
            call()
        assert "refit=False" in str(error.value.__cause__ or error.value)


@pytest.mark.parametrize("n_jobs", [2, -1])
def test_threads_change_nothing(n_jobs):
    X, y = breast_cancer()
    serial = ShineCV(LogisticRegression()).fit(X, y)
    parallel = ShineCV(LogisticRegression(), n_jobs=n_jobs).fit(X, y)
    assert parallel.best_score_ == serial.best_score_
    np.testing.assert_array_equal(parallel.best_estimator_.coef_, serial.best_estimator_.coef_)


def test_verbose_prints_a_line_for_each_iteration(capsys):
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression(), verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= len(search.history_)
    assert all("iteration" in line and "C=" in line for line in lines)
    ShineCV(LogisticRegression()).fit(X, y)
    assert capsys.readouterr().out == ""


def test_a_callback_hears_of_each_iteration_and_can_end_the_search():
    X, y = breast_cancer()
    heard = []

    def callback(record):
        heard.append(record["iteration"])
        assert 1e-8 <= record["params"]["C"] <= 1e8
        return record["iteration"] == 2

    search = ShineCV(LogisticRegression(), callback=callback).fit(X, y)
    assert search.outcome_ is Outcome.CALLBACK
    assert len(search.history_) == 3
    assert sorted(set(heard)) == [0, 1, 2]
    np.testing.assert_allclose(search.best_score_, grid_score(search, X, y), rtol=1e-5)


def test_an_interrupt_leaves_a_fitted_search():
    X, y = breast_cancer()

    def callback(record):
        if record["iteration"] == 2:
            raise KeyboardInterrupt

    search = ShineCV(LogisticRegression(), callback=callback)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        search.fit(X, y)
    assert search.outcome_ is Outcome.INTERRUPTED
    assert search.score(X, y) > 0.9


# --- what is left after fit --------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    X, y = breast_cancer()
    return ShineCV(LogisticRegression(), cv=4).fit(X, y)


def test_results_have_the_layout_of_grid_search(fitted):
    X, y = breast_cancer()
    table = fitted.cv_results_
    layout = grid(LogisticRegression(), {"C": [1.0, 2.0]}, X, y, cv=4).fit(X, y).cv_results_
    assert set(layout) <= set(table)
    n = len(fitted.history_)
    for name, column in table.items():
        assert len(column) == n, name
        if name != "params":
            assert type(column) is type(layout[name]), name
    splits = np.array([table[f"split{k}_test_score"] for k in range(4)])
    np.testing.assert_allclose(table["mean_test_score"], splits.mean(axis=0))
    np.testing.assert_allclose(table["std_test_score"], splits.std(axis=0))
    assert list(table["param_C"]) == [params["C"] for params in table["params"]]
    i = fitted.best_index_
    assert table["rank_test_score"][i] == 1
    assert table["rank_test_score"].min() == 1
    assert table["rank_test_score"].dtype == layout["rank_test_score"].dtype
    assert table["mean_test_score"][i] == fitted.best_score_
    assert table["params"][i] == fitted.best_params_


def test_the_history_goes_with_the_results(fitted):
    for record, params in zip(fitted.history_, fitted.cv_results_["params"], strict=True):
        assert record["params"] == params
        np.testing.assert_allclose(record["theta"], [-log(params["C"])], atol=1e-12)
    assert fitted.n_features_in_ == 30
    assert fitted.refit_time_ > 0
    assert fitted.n_splits_ == 4


def test_every_way_to_predict_is_the_best_estimators(fitted):
    X, _ = breast_cancer()
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        np.testing.assert_array_equal(
            getattr(fitted, method)(X), getattr(fitted.best_estimator_, method)(X)
        )


def test_a_regressor_has_no_probabilities():
    X, y = diabetes()
    search = ShineCV(Ridge()).fit(X, y)
    for method in ("predict_proba", "decision_function"):
        assert not hasattr(search, method)
    assert is_regressor(search)
    assert not is_classifier(search)
    assert is_classifier(ShineCV(LogisticRegression()))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_there_is_nothing_to_predict_with_before_fit(method):
    X, _ = breast_cancer()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(ShineCV(LogisticRegression()), method)(X)


def test_it_can_be_cloned_changed_pickled_and_shown(fitted):
    X, y = breast_cancer()
    search = clone(fitted)
    assert not hasattr(search, "best_params_")
    assert search.get_params()["cv"] == 4
    search.set_params(estimator__C=0.02, tol=0.1)
    assert search.estimator.C == 0.02
    assert "tol=0.1" in repr(search)
    assert search._repr_html_()
    search.fit(X, y)
    np.testing.assert_allclose(search.history_[0]["params"]["C"], 0.02)
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert again.best_params_ == fitted.best_params_
    assert again.outcome_ is fitted.outcome_


def test_fitting_again_forgets_what_was_before():
    X, y = breast_cancer()
    search = ShineCV(LogisticRegression()).fit(X[:, 10:], y)
    assert search.n_features_in_ == 20
    search.fit(X, y)
    assert search.n_features_in_ == 30
    assert search.best_score_ == ShineCV(LogisticRegression()).fit(X, y).best_score_


def test_it_is_the_last_step_of_a_pipeline():
    X, y = breast_cancer()
    pipeline = make_pipeline(StandardScaler(), ShineCV(LogisticRegression())).fit(3.0 * X + 1.0, y)
    assert pipeline.score(3.0 * X + 1.0, y) > 0.97


def test_the_same_fit_twice_gives_the_same_bits():
    X, y = breast_cancer()
    first, second = (ShineCV(LogisticRegression()).fit(X, y) for _ in range(2))
    assert first.best_params_ == second.best_params_
    np.testing.assert_array_equal(first.best_estimator_.coef_, second.best_estimator_.coef_)


# --- bad input ---------------------------------------------------------------------------------


def spoiled(array, value):
    array = np.array(array, dtype=float)
    array[(3,) * array.ndim] = value
    return array


X_BC, Y_BC = breast_cancer()
X_D, Y_D = diabetes()
ONES = np.ones(Y_BC.size)
ROWS = np.arange(Y_BC.size)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (spoiled(X_BC, np.nan), Y_BC, "Input X contains NaN"),
        (spoiled(X_BC, np.inf), Y_BC, "Input X contains infinity"),
        (sparse.csr_array(spoiled(X_BC, np.nan)), Y_BC, "Input X contains NaN"),
        (X_BC, spoiled(Y_BC, np.nan), "Input y contains NaN"),
        (X_BC, Y_BC[:-1], r"inconsistent numbers of samples: \[569, 568\]"),
        (X_BC, np.zeros(569), r"y must have .*2 classes"),
        (X_BC, np.arange(569) / 569, "Unknown label type"),
        (X_BC, np.array([["a", "b"]] * 569), "y should be a 1d array"),
        (np.array([["a", "b"]] * 569), Y_BC, "could not convert string to float"),
        (np.array([[None, {}]] * 569), Y_BC, "float"),
        (X_BC + 1j, Y_BC, "Complex data not supported"),
        (np.zeros((0, 3)), np.zeros(0), r"0 sample\(s\)"),
        (np.zeros((569, 0)), Y_BC, r"0 feature\(s\)"),
        (X_BC[:1], Y_BC[:1], "minimum of 2 is required"),
        (X_BC[:, 0], Y_BC, "Expected 2D array, got 1D"),
    ],
)
def test_bad_data_is_refused(X, y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ShineCV(LogisticRegression()).fit(X, y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (spoiled(Y_D, np.nan), "Input y contains NaN"),
        (spoiled(Y_D, np.inf), "Input y contains infinity"),
        (Y_D[:-1], "inconsistent numbers of samples"),
        (np.array(["a"] * Y_D.size), "could not convert string to float"),
    ],
)
def test_bad_targets_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        ShineCV(Ridge()).fit(X_D, y)


@pytest.mark.parametrize("estimator", [LogisticRegression(), Ridge()], ids=str)
def test_a_target_is_needed(estimator):
    with pytest.raises(ValueError, match="requires y to be passed"):
        ShineCV(estimator).fit(data_for(estimator)[0], None)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (spoiled(ONES, np.nan), "sample_weight contains NaN"),
        (spoiled(ONES, np.inf), "sample_weight contains infinity"),
        (spoiled(ONES, -1.0), "Negative values in data passed to `sample_weight`"),
        (ONES[:-1], r"sample_weight.shape == \(568,\), expected \(569,\)"),
        (np.zeros(569), "[wW]eight"),
        (Y_BC.astype(float), "must not be zero for all rows of class 0"),
    ],
)
def test_bad_weights_are_refused(weight, message):
    message = message.replace("class 0", r"class (np.int64\()?0")
    with pytest.raises(ValueError, match=message):
        ShineCV(LogisticRegression()).fit(X_BC, Y_BC, sample_weight=weight)


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        ([(ROWS[Y_BC == 1], ROWS[Y_BC == 0])], "Fold 0 of cv .*no sample of class"),
        ([(ROWS[:400], ROWS[400:]), (ROWS, ROWS[:0])], "Fold 1 of cv .*held-out rows are empty"),
        ([(ROWS[:0], ROWS)], "Fold 0 of cv"),
        ([], "cv has no folds"),
        ("five", "[cC]v"),
        (1, "cv must be a number of folds from 2 to 569.*got 1"),
        (1000, "cv must be a number of folds from 2 to 569.*got 1000"),
        (0.5, "[cC]v"),
    ],
)
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_bad_folds_are_refused(cv, message):
    with pytest.raises(ValueError, match=message):
        ShineCV(LogisticRegression(), cv=cv).fit(X_BC, Y_BC)


@pytest.mark.parametrize(
    "part",
    [
        np.arange(565, 575),  # there is no row 570
        np.array([0.0, 0.5]),
        np.array(["a"]),
        ROWS[:-1] < 100,  # a mask that is too short
    ],
)
def test_rows_that_do_not_exist_are_refused(part):
    for cv in ([(part, ROWS)], [(ROWS, part)]):
        with pytest.raises(ValueError, match="cv must give the rows of a fold"):
            ShineCV(LogisticRegression(), cv=cv).fit(X_BC, Y_BC)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hypergradient": "newton"}, "hypergradient must be one of .*'shine'"),
        ({"hypergradient": None}, "hypergradient must be one of"),
        ({"penalty": "l1"}, "penalty must"),
        ({"penalty": None}, "penalty must"),
        ({"init": 0.0}, "init must be positive"),
        ({"init": -1.0}, "init must be positive"),
        ({"init": np.nan}, "init must be positive"),
        ({"init": "one"}, "init must be a positive number"),
        ({"init": 1e9}, "init=1000000000.0 lies outside of bounds"),
        ({"bounds": (1.0, 0.1)}, "bounds must be increasing"),
        ({"bounds": (1.0, 1.0)}, "bounds must be increasing"),
        ({"bounds": (0.0, 1.0)}, r"bounds\[0\] must be positive"),
        ({"bounds": (1.0, np.inf)}, r"bounds\[1\] must be positive and finite"),
        ({"bounds": ("a", 1.0)}, r"bounds\[0\] must be a positive number"),
        ({"bounds": 5.0}, "bounds must be a pair"),
        ({"bounds": (1.0, 2.0, 3.0)}, "bounds must be a pair"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"tol": -1e-3}, "tol must be positive"),
        ({"tol": np.nan}, "tol must be positive"),
        ({"tol": "small"}, "tol must be a positive number"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"max_iter": -3}, "max_iter must be at least 1"),
        ({"max_iter": 2.5}, "max_iter must be a positive integer"),
        ({"max_iter": True}, "max_iter must be a positive integer"),
        ({"scoring": "beauty"}, "scoring"),
        ({"n_jobs": 0}, "n_jobs"),
        ({"random_state": "lucky"}, "RandomState"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ShineCV(LogisticRegression(), **options).fit(X_BC, Y_BC)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "one", None, True])
@pytest.mark.parametrize("parameter", ["C", "alpha"])
def test_a_penalty_that_has_no_logarithm_is_refused(parameter, value):
    cls = LogisticRegression if parameter == "C" else Ridge
    X, y = data_for(cls())
    with pytest.raises((ValueError, TypeError), match=rf"estimator\.{parameter} must be"):
        ShineCV(cls(**{parameter: value})).fit(X, y)


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (Lasso(), TypeError, r"must be LogisticRegression\(\) or .* or Ridge\(\) or .*got .*Lasso"),
        (LinearRegression(), TypeError, "got .*LinearRegression"),
        (LogisticRegression, TypeError, "an instance, not the class LogisticRegression"),
        (None, TypeError, "estimator must be"),
        ("ridge", TypeError, "estimator must be"),
        (LogisticRegression(penalty="l1", solver="liblinear"), ValueError, "estimator has an l1"),
        (LogisticRegression(l1_ratio=0.5, solver="saga"), ValueError, "estimator has an l1"),
        (LogisticRegression(penalty=None), ValueError, "or no penalty"),
        (Ridge(positive=True), ValueError, "positive=True"),
    ],
    ids=str,
)
def test_estimators_that_cannot_be_tuned_are_refused(estimator, error, message):
    with pytest.raises(error, match=message):
        ShineCV(estimator).fit(X_BC, Y_BC)


def test_liblinear_is_fine_without_an_intercept():
    estimator = LogisticRegression(solver="liblinear", fit_intercept=False)
    search = ShineCV(estimator, cv=3).fit(X_BC, Y_BC)
    np.testing.assert_allclose(search.best_score_, grid_score(search, X_BC, Y_BC), rtol=1e-5)


@pytest.mark.parametrize(
    "class_weight", ["heavy", {5: 1.0}, {0: -1.0}, {0: 0.0}, {0: np.nan}, 3.0], ids=str
)
def test_bad_class_weights_are_refused(class_weight):
    with pytest.raises((ValueError, TypeError), match="class_weight"):
        ShineCV(LogisticRegression(class_weight=class_weight)).fit(X_BC, Y_BC)


@pytest.mark.parametrize("factor", [1e200, 1e160])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("estimator", [LogisticRegression(), Ridge()], ids=str)
def test_data_too_large_to_compute_with_end_in_an_error(estimator, factor):
    X, y = data_for(estimator)
    with pytest.raises(ValueError, match=r"not finite.*scale the features"):
        ShineCV(estimator).fit(X * factor, y)


# --- real data ---------------------------------------------------------------------------------


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("hypergradient", "at_most"), [("cg", 0.32570), ("shine", 0.3260)])
def test_a9a(hypergradient, at_most):
    """The converged optimum over C is a log loss of 0.325668."""
    X, y = load_dataset("libsvm:a9a")
    cv = StratifiedKFold(5, shuffle=True, random_state=0)
    search = ShineCV(LogisticRegression(), cv=cv, hypergradient=hypergradient, tol=1e-3).fit(X, y)
    assert search.outcome_ is Outcome.CONVERGED
    assert -search.best_score_ <= at_most
    own = GridSearchCV(
        LogisticRegression(solver="newton-cholesky", tol=1e-8),
        {"C": [search.best_params_["C"]]},
        cv=cv,
        scoring="neg_log_loss",
        refit=False,
    ).fit(X, y)
    np.testing.assert_allclose(search.best_score_, own.best_score_, rtol=1e-5)


def ridge_losses(X, y, cv, alphas):
    """Return the mean held-out squared error for each alpha, by singular values."""
    total = np.zeros(len(alphas))
    for train, test in cv.split(X):
        mean, offset = X[train].mean(axis=0), y[train].mean()
        U, s, Vt = np.linalg.svd(X[train] - mean, full_matrices=False)
        scores = (X[test] - mean) @ Vt.T
        coefficients = (s * (U.T @ (y[train] - offset)))[:, None] / (s[:, None] ** 2 + alphas)
        errors = y[test, None] - offset - scores @ coefficients
        total += (errors**2).mean(axis=0) / cv.get_n_splits()
    return total


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("hypergradient", ["shine", "cg"])
@pytest.mark.parametrize("name", ["cal_housing", "cpu_small", "puma32H"])
def test_ridge_on_tabular_data(name, hypergradient):
    X, y = load_dataset(f"tabular:{name}")
    X = StandardScaler().fit_transform(X)
    cv = KFold(5, shuffle=True, random_state=0)
    search = ShineCV(Ridge(), cv=cv, hypergradient=hypergradient, tol=1e-3).fit(X, y)
    coarse = np.logspace(-8, 8, 321)
    middle = coarse[ridge_losses(X, y, cv, coarse).argmin()]
    lowest = ridge_losses(X, y, cv, middle * np.logspace(-0.05, 0.05, 501)).min()
    (here,) = ridge_losses(X, y, cv, np.array([search.best_params_["alpha"]]))
    assert here / lowest - 1 <= 1e-6
    np.testing.assert_allclose(-search.best_score_, lowest, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_what_looks_have_seen_does_not_leave_a_search_uncertain(seed):
    """With seed 3 they see less curvature than the search had, which went on from there."""
    X, y = breast_cancer()
    cv = KFold(3, shuffle=True, random_state=seed)
    search = ShineCV(LogisticRegression(), cv=cv, bounds=(0.01, 100.0)).fit(X[::3], y[::3])
    assert search.outcome_ is Outcome.CONVERGED
    assert search.certificate_.certain
