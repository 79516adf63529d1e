"""Real data that promises are kept on, and their criteria by scikit-learn's own solvers.

Left out are those whose references take hours: text, images, and 200 classes. What does not
converge has no reference, and decides nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from draws import Drawn
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import scale
from sklearn.svm import LinearSVC
from supported import log_loss, squared_hinge
from truth import DECISIVE, Truth

from hoag_shine.datasets import load_dataset

# Solvers at the limit of what they can do.
TIGHT: dict[type, dict[str, Any]] = {
    LogisticRegression: {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 1000},
    LinearSVC: {"dual": False, "tol": 1e-10, "max_iter": 1000},
}
# Duality gap of a LinearSVC that has converged, as a share of its objective, and most steps to it.
MAX_GAP, MAX_STEPS = 1e-8, 50
# What their values may be off, relative to these.
ACCURACY = {LogisticRegression: 1e-7, LinearSVC: 1e-6, Ridge: 1e-11}
SCORERS: dict[type, Callable[..., float]] = {
    LogisticRegression: log_loss,
    LinearSVC: squared_hinge,
}


@dataclass(frozen=True)
class Animal:
    """A data set, and the estimator that is tuned on it."""

    name: str
    estimator: Any
    scaled: bool = True

    def __str__(self) -> str:
        raw = "" if self.scaled else ", as it is"
        return f"{type(self.estimator).__name__} on {self.name}{raw}"

    def data(self):
        """Return X and y, of which dense columns are scaled."""
        X, y = _loaded(self.name)
        return (scale(X) if self.scaled and not sparse.issparse(X) else X), y

    @property
    def cv(self):
        split = KFold if isinstance(self.estimator, Ridge) else StratifiedKFold
        return split(5, shuffle=True, random_state=0)


@cache
def _loaded(name):
    if not name.startswith("synthetic:"):
        X, y = load_dataset(name)
        return (X.toarray() if sparse.issparse(X) and X.shape[1] < 100 else X), y
    n, p, task = name.removeprefix("synthetic:").split("x")
    options = {"n_samples": int(n), "n_features": int(p), "n_informative": 10, "random_state": 0}
    if task == "regression":
        return make_regression(noise=50.0, **options)
    return make_classification(flip_y=0.1, **options)


def _of(estimator, *names, scaled=True):
    return [Animal(name, estimator, scaled) for name in names]


LOGISTIC, SVC, RIDGE = LogisticRegression(), LinearSVC(), Ridge()
# Those that take a second or two, and the others.
SMALL = [
    *_of(LOGISTIC, "sklearn:breast_cancer", "sklearn:iris", "libsvm:svmguide3"),
    *_of(LOGISTIC, "libsvm:leukemia", "libsvm:colon-cancer", "libsvm:german.numer_scale"),
    *_of(SVC, "sklearn:iris", "libsvm:svmguide3", "libsvm:duke_train"),
    *_of(SVC, "sklearn:breast_cancer", scaled=False),
    *_of(RIDGE, "sklearn:diabetes", "tabular:abalone", "tabular:boston_housing"),
    *_of(RIDGE, "tabular:bodyfat", "tabular:triazines", "tabular:cpu_small", "tabular:puma32H"),
    *_of(RIDGE, "synthetic:1000x100xregression"),
]
LARGE = [
    *_of(LOGISTIC, "sklearn:wine", "libsvm:duke_train", "synthetic:1000x20xclassification"),
    *_of(SVC, "sklearn:breast_cancer", "sklearn:wine", "libsvm:leukemia", "libsvm:colon-cancer"),
    *_of(LOGISTIC, "sklearn:digits", "libsvm:madelon_scale", "libsvm:splice_scale", "libsvm:dna"),
    *_of(LOGISTIC, "libsvm:a9a", "libsvm:w8a", "libsvm:phishing", "libsvm:ijcnn1"),
    *_of(LOGISTIC, "libsvm:mushrooms", "libsvm:cod-rna_scale", "libsvm:skin_nonskin_scale"),
    *_of(SVC, "libsvm:german.numer_scale", "libsvm:madelon_scale", "libsvm:splice_scale"),
    *_of(SVC, "libsvm:a9a", "libsvm:phishing", "libsvm:mushrooms", "sklearn:digits"),
    *_of(LOGISTIC, "synthetic:10000x100xclassification", "synthetic:100000x20xclassification"),
    *_of(RIDGE, "tabular:cal_housing", "synthetic:100000x100xregression"),
]


class Criterion:
    """The mean held-out loss at penalties, by scikit-learn, for Ridge by an SVD.

    With more columns than rows, which classifiers have here, it is that of ``truth.py``.
    """

    def __init__(self, animal):
        self.estimator, (X, y) = animal.estimator, animal.data()
        self.X, self.y = X, y
        self.splits = list(animal.cv.split(X, y))
        self.accuracy = ACCURACY[type(self.estimator)]
        self.exact = _exact(self.estimator, X, y, self.splits) if X.shape[1] > len(y) else None
        null = [_null(self.estimator, y[train], y[test]) for train, test in self.splits]
        self.null = float(np.mean(null))

    def __call__(self, alpha):
        """Return its values at penalties as alpha, infinite where a fit has not converged."""
        if self.exact is not None:
            seen = self.exact.criteria([self.exact.strengths({"alpha": a}, ()) for a in alpha])
            return np.where(seen.errors <= DECISIVE * np.abs(seen.values), seen.values, np.inf)
        one = self._ridge if isinstance(self.estimator, Ridge) else self._fitted
        return np.mean([one(alpha, train, test) for train, test in self.splits], axis=0)

    def slope(self, theta, h=0.1):
        """Return the derivative in log alpha, and what its error may be.

        By differences of three widths, where it is not known exactly.
        """
        if self.exact is not None:
            return self.exact.slope(theta, ())
        steps = np.array([1.0, -1.0, 0.5, -0.5, 0.25, -0.25])
        values = self(np.exp(theta + h * steps)).reshape(3, 2)
        coarse, fine, finest = (values[:, 0] - values[:, 1]) / (2.0 * h * steps[::2])
        first, second = (4.0 * fine - coarse) / 3.0, (4.0 * finest - fine) / 3.0
        rounded = 8.0 * self.accuracy * np.abs(values).max() / h
        return np.array([second]), abs(second - first) + rounded

    def _ridge(self, alpha, train, test):
        X, y, centre = self.X[train], self.y[train], self.X[train].mean(axis=0)
        U, s, Vt = np.linalg.svd(X - centre, full_matrices=False)
        shrunk = (s / (s**2 + np.asarray(alpha)[:, None])) * (U.T @ (y - y.mean()))
        found = y.mean() + shrunk @ (Vt @ (self.X[test] - centre).T)
        return np.mean((found - self.y[test]) ** 2, axis=1)

    def _fitted(self, alpha, train, test):
        return [self._one(1.0 / a, train, test) for a in alpha]

    def _one(self, C, train, test):
        kind = type(self.estimator)
        model = clone(self.estimator).set_params(C=C, **TIGHT[kind])
        with warnings.catch_warnings():
            # Newton's method goes on from where liblinear ends.
            warnings.simplefilter("ignore" if kind is LinearSVC else "error")
            try:
                model.fit(self.X[train], self.y[train])
            except (Warning, np.linalg.LinAlgError):
                return np.inf
        if kind is LinearSVC and not _polish(model, self.X[train], self.y[train]):
            return np.inf
        with np.errstate(divide="ignore"):  # of a probability of zero
            return -SCORERS[kind](model, self.X[test], self.y[test])


def _polish(model, X, y):
    """Solve a ``LinearSVC`` to a small duality gap by Newton's method; return whether it is.

    Where the penalty is weak, liblinear may end at an objective that is some percent too high, and
    call that converged.
    """
    X = np.column_stack([X.toarray() if sparse.issparse(X) else X, np.ones(X.shape[0])])
    ones = model.classes_[1:] if len(model.classes_) == 2 else model.classes_
    starts = np.column_stack([model.coef_, model.intercept_])
    ends = [
        fit_squared_hinge(w, np.where(y == one, 1.0, -1.0)[:, None] * X, model.C)
        for w, one in zip(starts, ones, strict=True)
    ]
    coef = np.array([w for w, _ in ends])
    model.coef_, model.intercept_ = coef[:, :-1], coef[:, -1]
    return all(gap <= MAX_GAP for _, gap in ends)


def fit_squared_hinge(w, A, C, most=MAX_GAP):
    """Minimise |w|^2 / 2 + C sum (1 - Aw)_+^2, and return its duality gap over the objective.

    ``most`` is the gap to end at.
    """

    def at(w):
        slack = np.maximum(1.0 - A @ w, 0.0)
        grad = w - 2.0 * C * (A.T @ slack)
        return 0.5 * w @ w + C * slack @ slack, grad, A[slack > 0.0]

    value, grad, tight = at(w)
    for _ in range(MAX_STEPS):
        # With the dual variables 2 C slack, the gap is half the squared norm of the gradient.
        if 0.5 * grad @ grad <= most * value:
            break
        step = np.linalg.solve(np.eye(w.size) + 2.0 * C * tight.T @ tight, grad)
        tries = (w - t * step for t in 0.5 ** np.arange(20))
        w = next((w for w in tries if at(w)[0] < value), w)
        value, grad, tight = at(w)
    return w, 0.5 * grad @ grad / value


def _exact(estimator, X, y, splits):
    """Return the exact reference, in as many columns as rows that have the same products."""
    X = X.toarray() if sparse.issparse(X) else X
    U, s, _ = np.linalg.svd(X, full_matrices=False)
    name = {LogisticRegression: "logistic", LinearSVC: "svc"}[type(estimator)]
    codes = np.unique(y, return_inverse=True)[1]
    return Truth(Drawn(0, name, estimator, U * s, codes, None, splits, "shared", {}, True))


def _null(estimator, train, test):
    """Return the held-out loss of a constant."""
    if isinstance(estimator, Ridge):
        return np.mean((test - train.mean()) ** 2)
    classes, counts = np.unique(train, return_counts=True)
    share = counts / counts.sum()
    if isinstance(estimator, LogisticRegression):
        return -np.mean(np.log(share[np.searchsorted(classes, test)]))
    return 1.0
