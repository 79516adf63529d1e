"""Problems on which searches have been seen to end too early, small and drawn by number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from draws import KINDS, Drawn, draw
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import PolynomialFeatures, scale
from sklearn.svm import LinearSVC

# One of this number of problems is of the kinds below.
EVERY = 4


def one_penalty(number):
    """Return the problem of that number with one penalty, for a search with default options."""
    which, hard = divmod(number, EVERY)
    if hard == EVERY - 1:
        names = list(HARD)
        return HARD[names[which % len(names)]](number)
    drawn = draw(number - which)  # all kinds of estimators, in turn
    notes = {k: v for k, v in drawn.notes.items() if k not in ("penalty", *drawn.options)}
    return replace(drawn, seed=number, penalty="shared", options={}, notes=notes)


def several_penalties(number):
    """Return the problem of that number with groups of columns, or a penalty for each column."""
    convex = [k for k, kind in enumerate(KINDS.values()) if kind.convex]
    turn, which = divmod(number, len(convex))
    rng = np.random.default_rng([24, number])
    by_feature = rng.random() < 0.3
    name = list(KINDS)[convex[which]]
    fewest, most = (2, 4 if name == "multinomial" else 8) if by_feature else (4, 60)
    # The first of its kind whose columns and weights are of one order, as bounds are.
    for again in range(1000):
        drawn = draw(convex[which] + len(KINDS) * (turn + 10_000 * again))
        p = drawn.X.shape[1]
        if drawn.ordinary and fewest <= p <= most and _varied(drawn.X):
            break
    notes = {k: v for k, v in drawn.notes.items() if k not in ("penalty", *drawn.options)}
    if by_feature:
        penalty, notes["penalty"] = "feature", "feature"
    else:
        n_groups = int(rng.integers(2, 5))
        penalty = rng.permutation(np.arange(p) % n_groups)
        notes["penalty"] = f"{n_groups} groups"
    unit = 10.0 ** rng.uniform(-1, 1)
    notes["unit of X"] = f"{unit:.2g}"
    X = (drawn.X * unit).astype(drawn.X.dtype)
    return replace(drawn, seed=number, X=X, penalty=penalty, options={}, notes=notes)


def _varied(X):
    """Whether no column is constant, so that each has a unit."""
    X = X.toarray() if sparse.issparse(X) else X
    return bool((X.std(axis=0) > 1e-3).all())


def several_targets(number):
    """Return Ridge with targets of other units and noise, or classes, each with a penalty."""
    rng = np.random.default_rng([25, number])
    if number % 4 == 3:
        name = ["ridge-classifier-classes", "svc-classes"][number // 4 % 2]
        place = list(KINDS).index(name)
        tries = (draw(place + len(KINDS) * (number + 10_000 * k)) for k in range(1000))
        drawn = next(d for d in tries if d.ordinary)
        notes = {k: v for k, v in drawn.notes.items() if k not in drawn.options}
        notes["penalty"] = "output"
        return replace(drawn, seed=number, penalty="output", options={}, notes=notes)
    n, p, m = int(rng.integers(30, 81)), int(rng.integers(4, 41)), int(rng.integers(2, 5))
    X = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-1, 1)
    Y = X @ (rng.normal(size=(p, m)) * (rng.random((p, m)) < 0.5))
    Y = Y / np.maximum(Y.std(axis=0), 1e-3 * X.std())
    Y = Y + rng.normal(size=(n, m)) * 10.0 ** rng.uniform(-1.5, 1, m)
    Y = Y * np.geomspace(1.0, 1e6, m)[rng.permutation(m)]
    notes = {"n": n, "p": p, "targets": m, "penalty": "output"}
    cv = _folds(rng)
    return Drawn(number, "ridge-targets", Ridge(), X, Y, None, cv, "output", {}, True, notes)


def any_penalty(number):
    """Return the problem of that number with one penalty, or several."""
    return [one_penalty, several_penalties, one_penalty, several_targets][number % 4](
        number // 2 if number % 2 == 0 else number // 4
    )


# The same problems, stated otherwise.


def stated_otherwise(drawn, rng):
    """Return the same problem in other orders and units, by what is changed.

    Units are powers of two, so that nothing else is rounded otherwise.
    """
    n, p = drawn.X.shape
    rows, columns = rng.permutation(n), rng.permutation(p)
    place = np.argsort(rows)
    weight = drawn.sample_weight
    grouped = not isinstance(drawn.penalty, str)
    found = {
        "rows": {
            "X": drawn.X[rows],
            "y": drawn.y[rows],
            "sample_weight": None if weight is None else weight[rows],
            "cv": [(place[train], place[test]) for train, test in drawn.cv],
        },
        "columns": {
            "X": drawn.X[:, columns],
            "penalty": drawn.penalty[columns] if grouped else drawn.penalty,
        },
        "folds": {"cv": drawn.cv[::-1]},
    }
    if drawn.kind.targets == "classes":
        found["classes"] = _renamed(drawn, rng)
    if grouped:
        names = rng.permutation(["one", "two", "three", "four"])
        found["groups"] = {"penalty": names[drawn.penalty]}
    elif drawn.penalty == "feature":
        found["units of columns"] = {"X": _times(drawn.X, 2.0 ** rng.integers(-10, 11, p))}
    elif drawn.penalty == "output" and drawn.kind.targets == "real":
        found["units of targets"] = {"y": drawn.y * 2.0 ** rng.integers(-20, 21, drawn.y.shape[1])}
    return {what: replace(drawn, **changes) for what, changes in found.items()}


def _times(X, scale):
    """Return the columns in other units, in the same layout."""
    scale = scale.astype(X.dtype)
    return sparse.csr_array(X @ sparse.diags_array(scale)) if sparse.issparse(X) else X * scale


def _renamed(drawn, rng):
    """Return classes in another order."""
    names = np.roll(np.arange(drawn.kind.n), int(rng.integers(1, drawn.kind.n)))
    estimator = clone(drawn.estimator)
    if isinstance(estimator.class_weight, dict):
        weights = {int(names[c]): w for c, w in estimator.class_weight.items()}
        estimator.set_params(class_weight=weights)
    return {"y": names[drawn.y], "estimator": estimator}


def family(drawn):
    """Return the name that a problem is counted under."""
    return drawn.notes.get("hard", drawn.name)


def _problem(number, name, hard, estimator, X, y, cv, **notes):
    notes = {"hard": hard, "n": X.shape[0], "p": X.shape[1], **notes}
    return Drawn(number, name, estimator, X, y, None, cv, "shared", {}, True, notes)


def _folds(rng, y=None):
    split = KFold if y is None else StratifiedKFold
    return split(5, shuffle=True, random_state=int(rng.integers(1000)))


def plateau(number):
    """More columns than rows: the criterion is flat where the training rows are interpolated."""
    rng = np.random.default_rng([17, number])
    n, p = [(100, 150), (50, 300)][rng.integers(2)]
    unit = [3.0, 10.0, 30.0, 100.0][rng.integers(4)]
    Z = rng.normal(size=(n, p))
    level = [1.0, 2.0, 4.0][rng.integers(3)]
    beta = rng.normal(size=p) * (rng.random(p) < 0.1)
    y = Z @ beta + level * np.linalg.norm(beta) * rng.normal(size=n)
    return _problem(number, "ridge", "plateau", Ridge(), unit * Z, y, 5, scale=unit, noise=level)


def unscaled_margins(number):
    """Rows of a real set in its original units, which differ by 1e5."""
    rng = np.random.default_rng([18, number])
    X, y = load_breast_cancer(return_X_y=True)
    rows = rng.permutation(len(y))[: int(rng.integers(80, 160))]
    X, y = X[rows], y[rows]
    return _problem(number, "svc", "unscaled margins", LinearSVC(), X, y, _folds(rng, y))


def polynomials(number):
    """Squares and products of skewed columns, with leverage: several minima."""
    rng = np.random.default_rng([19, number])
    n, p = int(rng.integers(60, 120)), int(rng.integers(6, 11))
    Z = rng.normal(size=(n, 3)) @ rng.normal(size=(3, p)) + 0.3 * rng.normal(size=(n, p))
    Z = scale(np.exp(0.7 * Z))
    X = PolynomialFeatures(2, include_bias=False).fit_transform(Z)
    y = (Z[:, 0] + Z[:, 1] + 0.5 * rng.normal(size=n) > 0.0).astype(float)
    return _problem(number, "ridge", "polynomials", Ridge(), X, y, _folds(rng))


def row_space(number):
    """Two classes of gene expression in their row space: as many columns as rows."""
    rng = np.random.default_rng([20, number])
    n, genes = int(rng.integers(40, 73)), 1000
    y = _balanced(rng, n)
    X = rng.normal(size=(n, 8)) @ rng.normal(size=(8, genes)) + rng.normal(size=(n, genes))
    X[:, :20] += rng.uniform(0.2, 1.0) * (2.0 * y[:, None] - 1.0)
    U, s, _ = np.linalg.svd(scale(X), full_matrices=False)
    Z = U * s * 10.0 ** rng.uniform(-1, 1)
    return _problem(number, "logistic", "row space", LogisticRegression(), Z, y, _folds(rng, y))


def noise(number):
    """Nothing to learn: the best penalty is the largest."""
    rng = np.random.default_rng([21, number])
    n, p = int(rng.integers(40, 81)), int(rng.integers(5, 61))
    X = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-2, 2)
    if rng.random() < 0.5:
        y = _balanced(rng, n)
        return _problem(number, "logistic", "noise", LogisticRegression(), X, y, _folds(rng, y))
    y = rng.poisson(3.0, n).astype(float)
    return _problem(number, "poisson", "noise", PoissonRegressor(), X, y, _folds(rng))


def separable(number):
    """Classes far apart: the best penalty is weak, and the criterion near zero."""
    rng = np.random.default_rng([22, number])
    n, p = int(rng.integers(40, 81)), int(rng.integers(2, 41))
    y = _balanced(rng, n)
    X = rng.normal(size=(n, p))
    X[:, 0] += rng.uniform(2.0, 6.0) * (2 * y - 1)
    X *= 10.0 ** rng.uniform(-2, 2)
    name, estimator = [("logistic", LogisticRegression()), ("svc", LinearSVC())][rng.integers(2)]
    return _problem(number, name, "separable", estimator, X, y, _folds(rng, y))


def far_start(number):
    """The start is decades from the optimum, in either direction."""
    rng = np.random.default_rng([23, number])
    n, p = int(rng.integers(40, 81)), int(rng.integers(5, 61))
    Z = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-1, 1, p)
    y = Z @ rng.normal(size=p) / np.linalg.norm(Z.std(axis=0)) + rng.normal(size=n)
    unit = 10.0 ** (rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 3.0))
    return _problem(
        number, "ridge", "far start", Ridge(), unit * Z, y, _folds(rng), scale=f"{unit:.1g}"
    )


def _balanced(rng, n):
    return rng.permutation(np.arange(n) % 2)


HARD = {
    "plateau": plateau,
    "unscaled margins": unscaled_margins,
    "polynomials": polynomials,
    "row space": row_space,
    "noise": noise,
    "separable": separable,
    "far start": far_start,
}
