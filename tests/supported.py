"""Every estimator that can be tuned: small data, its own tight fit, and its criterion as a scorer.

The references call scikit-learn's estimators and metrics, or write a loss out on what
``decision_function`` and ``predict`` return.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from helpers import _frozen
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_linnerud
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    TweedieRegressor,
)
from sklearn.metrics import mean_tweedie_deviance
from sklearn.preprocessing import scale
from sklearn.svm import LinearSVC


@cache
def two_classes():
    X, y = load_breast_cancer(return_X_y=True)
    return _frozen(scale(X[:160, :8]), np.array(["benign", "malignant"])[y[:160]])


@cache
def three_classes():
    X, y = load_iris(return_X_y=True)
    return _frozen(scale(X), y + 3)


@cache
def several_labels():
    X, y = load_iris(return_X_y=True)
    return _frozen(scale(X), np.column_stack([y == 1, y > 0]).astype(int))


@cache
def real_target():
    X, y = load_diabetes(return_X_y=True)
    return _frozen(scale(X[:150]), y[:150] - 100.0)


@cache
def several_targets():
    X, y = load_linnerud(return_X_y=True)
    return _frozen(scale(np.tile(X, (3, 1))), y.repeat(3, axis=0).reshape(60, 3))


@cache
def positive_target():
    X, y = real_target()
    return _frozen(X.copy(), y + 101.0)


@cache
def counts():
    X, _ = real_target()
    rate = np.exp(1.0 + 0.5 * X[:, 2] + 0.4 * X[:, 8])
    return _frozen(X.copy(), np.random.default_rng(0).poisson(rate).astype(float))


@cache
def outliers():
    X, y = real_target()
    rng = np.random.default_rng(1)
    return _frozen(X.copy(), y + 1000.0 * rng.normal(size=y.size) * (rng.random(y.size) < 0.1))


def squared_error(model, X, y):
    return -np.mean((model.predict(X) - y) ** 2)


def log_loss(model, X, y):
    column = np.searchsorted(model.classes_, y)
    return np.mean(model.predict_log_proba(X)[np.arange(len(y)), column])


def _signs(model, y):
    if y.ndim == 2:
        return 2.0 * y - 1.0
    signs = np.where(y[:, None] == model.classes_, 1.0, -1.0)
    return signs[:, 1] if model.classes_.size == 2 else signs


def squared_error_of_signs(model, X, y):
    return -np.mean((model.decision_function(X) - _signs(model, y)) ** 2)


def squared_hinge(model, X, y):
    return -np.mean(np.maximum(0.0, 1.0 - _signs(model, y) * model.decision_function(X)) ** 2)


def deviance(model, X, y):
    power = {PoissonRegressor: 1, GammaRegressor: 2}.get(type(model))
    power = model.power if power is None else power
    return -mean_tweedie_deviance(y, model.predict(X), power=power)


def huber(model, X, y):
    u = np.abs(model.predict(X) - y) / model.scale_
    inner = np.where(u <= model.epsilon, u**2, 2 * model.epsilon * u - model.epsilon**2)
    return -np.mean(model.scale_ * (1.0 + inner))


@dataclass(frozen=True)
class Case:
    """An estimator and what to hold it against."""

    estimator: object
    data: Callable
    criterion: Callable
    tight: dict = field(default_factory=dict)
    scoring: str | None = None

    def __str__(self):
        return f"{self.estimator!r}, {self.data.__name__}"

    @property
    def parameter(self):
        return "C" if hasattr(self.estimator, "C") else "alpha"

    def own(self, **params):
        """Return scikit-learn's estimator, its solver at the limit of precision."""
        return clone(self.estimator).set_params(**self.tight, **params)


def _logistic(*data, **options):
    # liblinear penalises the intercept, so that no other solver can stand in for it.
    own = {} if options.get("solver") == "liblinear" else {"solver": "newton-cholesky"}
    own |= {"tol": 1e-10, "max_iter": 100_000}
    estimator = LogisticRegression(**options)
    return [Case(estimator, d, log_loss, own, "neg_log_loss") for d in data]


def _ridge(data, **options):
    own = {"solver": "cholesky"}
    return Case(Ridge(**options), data, squared_error, own, "neg_mean_squared_error")


def _ridge_classifier(data, **options):
    own = {"solver": "cholesky"}
    return Case(RidgeClassifier(**options), data, squared_error_of_signs, own)


def _svc(data, **options):
    own = {"dual": False, "tol": 1e-12, "max_iter": 100_000}
    return Case(LinearSVC(**options), data, squared_hinge, own)


def _glm(estimator, data, scoring=None, criterion=deviance):
    own = {"tol": 1e-12, "max_iter": 10_000, "solver": "newton-cholesky"}
    return Case(estimator, data, criterion, own, scoring)


def _huber(data, **options):
    return Case(HuberRegressor(**options), data, huber, {"tol": 1e-10, "max_iter": 100_000})


DEVIANCES = {1: "neg_mean_poisson_deviance", 2: "neg_mean_gamma_deviance"}
CASES = [
    *_logistic(two_classes, three_classes),
    *_logistic(two_classes, class_weight="balanced"),
    *_logistic(two_classes, solver="liblinear"),
    *_logistic(two_classes, solver="liblinear", intercept_scaling=0.2),
    *_logistic(two_classes, fit_intercept=False),
    _ridge(real_target),
    _ridge(several_targets),
    _ridge(real_target, fit_intercept=False),
    _ridge_classifier(two_classes),
    _ridge_classifier(three_classes),
    _ridge_classifier(several_labels),
    _ridge_classifier(three_classes, fit_intercept=False),
    _ridge_classifier(two_classes, class_weight="balanced"),
    _ridge_classifier(three_classes, class_weight={3: 1.0, 4: 5.0}),
    _svc(two_classes),
    _svc(three_classes),
    _svc(two_classes, intercept_scaling=5.0),
    _svc(three_classes, fit_intercept=False),
    _svc(two_classes, class_weight="balanced"),
    _svc(three_classes, class_weight={3: 1.0, 4: 5.0, 5: 2.0}),
    _glm(PoissonRegressor(), counts, DEVIANCES[1]),
    _glm(PoissonRegressor(fit_intercept=False), counts, DEVIANCES[1]),
    _glm(GammaRegressor(), positive_target, DEVIANCES[2]),
    _glm(TweedieRegressor(), real_target, "neg_mean_squared_error"),
    _glm(TweedieRegressor(power=0, link="log"), counts, "neg_mean_squared_error"),
    _glm(TweedieRegressor(power=1.5), counts),
    _glm(TweedieRegressor(power=3), positive_target),
    _huber(outliers),
    _huber(outliers, fit_intercept=False),
    _huber(real_target, epsilon=3.0),
]
