"""Several penalties: how they are named, that they are tuned, and that they pay."""

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, train_test_split
from sklearn.preprocessing import StandardScaler, scale

from hoag_shine import ShineCV, fold_problems, hoag
from hoag_shine.problems.groups import coefficient_groups


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return scale(X), y


@pytest.mark.parametrize(
    ("penalty", "names", "of_column"),
    [
        ("shared", ("shared",), [0, 0, 0, 0]),
        ("feature", ("a", "b", "c", "d"), [0, 1, 2, 3]),
        (["b", "a", "b", None], ("b", "a"), [0, 1, 0, -1]),
        (np.array([7, -1, 3, 7]), (7, 3), [0, -1, 1, 0]),
        ({"x": [0, 3], "y": slice(1, 3)}, ("x", "y"), [0, 1, 1, 0]),
        ({"x": 2, None: np.array([True, True, False, True])}, ("x",), [-1, -1, 0, -1]),
        ({"x": ["b", "d"], "y": "a", "z": ["c"]}, ("y", "x", "z"), [0, 1, 2, 1]),
    ],
)
def test_what_penalty_may_say(penalty, names, of_column):
    groups = coefficient_groups(penalty, 4, np.array(["a", "b", "c", "d"], dtype=object))
    assert groups.names == names
    assert np.broadcast_to(groups.of_coefficient[:, 0], 4).tolist() == of_column


def test_the_output_of_a_column_transformer_names_groups(diabetes):
    X, _ = diabetes
    transformer = ColumnTransformer(
        [("body", StandardScaler(), [2, 3]), ("blood", "passthrough", slice(4, 10))],
        remainder="drop",
    ).fit(X)
    groups = coefficient_groups(transformer.output_indices_, 8)
    assert groups.names == ("body", "blood")
    assert groups.of_coefficient[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        ("each", "penalty must be 'shared', 'feature'"),
        ([0, 1, 0], "penalty must have a label for each of the 4 columns"),
        ([-1, -1, None, -1], "nothing to tune"),
        ({"x": [0, 1]}, "exactly one group"),
        ({"x": [0, 1, 2, 3], "y": [3]}, "exactly one group"),
        ({"x": [0, 1, 2, 4]}, "does not fit 4 columns"),
        ({"x": ["a", "b", "c", "e"]}, "columns that X does not have"),
    ],
)
def test_groups_that_are_no_partition_are_refused(penalty, message):
    with pytest.raises(ValueError, match=message):
        coefficient_groups(penalty, 4, ["a", "b", "c", "d"])


def test_feature_names_need_a_frame():
    with pytest.raises(ValueError, match="X has none"):
        coefficient_groups({"x": ["a", "b"]}, 2)


@pytest.mark.parametrize("hypergradient", ["shine", "cg"])
def test_groups_beat_the_shared_penalty_and_solve_their_own_problem(diabetes, hypergradient):
    """The criterion at the reported penalties is that of ridge with columns scaled by them."""
    X, y = diabetes
    # Columns of noise want a strong penalty, the others a weak one.
    noise = np.random.default_rng(0).standard_normal((X.shape[0], 40))
    X = np.hstack([X, noise])
    cv = KFold(5, shuffle=True, random_state=0)
    labels = ["signal"] * 10 + ["noise"] * 40
    shared = ShineCV(Ridge(), cv=cv, hypergradient=hypergradient).fit(X, y)
    search = ShineCV(Ridge(), cv=cv, penalty=labels, hypergradient=hypergradient).fit(X, y)
    assert search.penalty_names_ == ("signal", "noise")
    alpha = search.best_params_["alpha"]
    assert alpha[1] > 10.0 * alpha[0]
    assert search.best_score_ > shared.best_score_

    scaled = X / np.sqrt(np.repeat(alpha, [10, 40]))
    errors = [
        np.mean((Ridge(alpha=1.0).fit(scaled[a], y[a]).predict(scaled[b]) - y[b]) ** 2)
        for a, b in cv.split(X)
    ]
    np.testing.assert_allclose(-search.best_score_, np.mean(errors), rtol=1e-5)
    whole = Ridge(alpha=1.0).fit(scaled, y)
    np.testing.assert_allclose(search.predict(X), whole.predict(scaled), rtol=1e-3, atol=1e-2)


def test_an_unpenalised_group_is_fitted_without_a_penalty(diabetes):
    X, y = diabetes
    labels = [None, None] + ["rest"] * 8
    search = ShineCV(Ridge(), cv=5, penalty=labels).fit(X, y)
    (alpha,) = search.best_params_["alpha"]
    strength = np.diag(np.r_[0.0, 0.0, np.full(8, alpha)])
    centred = X - X.mean(axis=0)
    coef = np.linalg.solve(centred.T @ centred + strength, centred.T @ (y - y.mean()))
    np.testing.assert_allclose(search.best_estimator_.coef_, coef, rtol=1e-3, atol=1e-2)


def test_one_penalty_for_each_feature_survives_noise():
    """Shrunk together, they serve new data better than one, and noise gets the strongest."""
    X, y = load_breast_cancer(return_X_y=True)
    X = np.hstack([scale(X), np.random.default_rng(1).standard_normal((len(y), 100))])
    X, X_new, y, y_new = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)
    shared = ShineCV(LogisticRegression(), scoring="neg_log_loss").fit(X, y)
    search = ShineCV(
        LogisticRegression(),
        penalty="feature",
        shrinkage=1.0 / len(y),
        max_iter=300,
        scoring="neg_log_loss",
    ).fit(X, y)
    C = search.best_params_["C"]
    assert C.shape == (130,)
    assert np.median(C[:30]) > np.median(C[30:])
    assert search.best_score_ > shared.best_score_
    assert search.score(X_new, y_new) > shared.score(X_new, y_new)


def test_shrinkage_pulls_the_penalties_together(diabetes):
    X, y = diabetes
    searches = [
        ShineCV(Ridge(), penalty="feature", shrinkage=shrinkage, tol=1e-4).fit(X, y)
        for shrinkage in (0.1, 1.0, 1e4)
    ]
    spreads = [np.ptp(np.log(search.best_params_["alpha"])) for search in searches]
    assert spreads[0] > spreads[1] > spreads[2]
    assert spreads[2] < 0.1


@pytest.mark.parametrize(("shrinkage", "error"), [(-1.0, ValueError), ("1", TypeError)])
def test_bad_shrinkage_is_refused(diabetes, shrinkage, error):
    with pytest.raises(error, match="shrinkage"):
        ShineCV(Ridge(), shrinkage=shrinkage).fit(*diabetes)


@pytest.mark.parametrize("hypergradient", ["cg", "exact"])
def test_hypergradients_of_many_penalties_match_finite_differences(diabetes, hypergradient):
    """Against the closed form of ridge, whose criterion is differentiated numerically."""
    X, y = diabetes
    cv = KFold(3)
    labels = np.arange(10) % 3
    problems = fold_problems(Ridge(), X, y, cv=cv, penalty=labels)
    theta = np.array([0.5, 3.0, 1.0])

    def criterion(theta):
        strength = np.diag(np.exp(theta)[labels])
        total = 0.0
        for train, test in cv.split(X):
            mean, level = X[train].mean(axis=0), y[train].mean()
            A = X[train] - mean
            w = np.linalg.solve(A.T @ A + strength, A.T @ (y[train] - level))
            total += np.mean((y[test] - level - (X[test] - mean) @ w) ** 2) / 3
        return total

    step = 1e-4 * np.eye(3)
    differences = [(criterion(theta + e) - criterion(theta - e)) / 2e-4 for e in step]

    seen = []
    hoag(
        problems,
        theta,
        hypergradient=hypergradient,
        tolerance="exact",
        step="adaptive",
        callback=lambda record, solutions: seen.append(record) or True,
    )
    np.testing.assert_allclose(seen[0]["hypergradient"], differences, rtol=1e-5)


def test_an_empty_group_has_no_penalty(diabetes):
    """A ColumnTransformer whose remainder is dropped has one."""
    X, y = diabetes
    search = ShineCV(Ridge(), penalty={"all": slice(None), "remainder": []}).fit(X, y)
    assert search.penalty_names_ == ("all",)
    assert search.best_params_["alpha"].shape == (1,)
