"""Problems on which searches have been seen to end too early, small and drawn by number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from draws import Drawn, draw
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import PolynomialFeatures, scale
from sklearn.svm import LinearSVC

# Every so many problems, one is of the kinds below.
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
    beta = rng.normal(size=p) * (rng.random(p) < 0.1)
    y = Z @ beta + 3.0 * rng.normal(size=n)
    return _problem(number, "ridge", "plateau", Ridge(), unit * Z, y, 5, scale=unit)


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
