"""Which estimators can be tuned."""

from __future__ import annotations

from typing import Any

from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    TweedieRegressor,
)
from sklearn.svm import LinearSVC

from .base import Model
from .generalized_linear import GeneralizedLinear, GeneralizedLinearModel
from .glm import GLMModel
from .huber import HuberModel
from .logistic import LogisticModel
from .ridge import RidgeClassifierModel, RidgeModel
from .svm import LinearSVCModel

MODELS: dict[type, type[Model]] = {
    LogisticRegression: LogisticModel,
    LinearSVC: LinearSVCModel,
    RidgeClassifier: RidgeClassifierModel,
    Ridge: RidgeModel,
    PoissonRegressor: GLMModel,
    GammaRegressor: GLMModel,
    TweedieRegressor: GLMModel,
    HuberRegressor: HuberModel,
    GeneralizedLinear: GeneralizedLinearModel,
}


def as_model(estimator: Any) -> Model:
    """Return the model of an estimator; raise TypeError if it is none that can be tuned.

    A subclass counts as its base class, unless it has a ``fit`` of its own.
    """
    cls = type(estimator)
    known = next((base for base in cls.__mro__ if base in MODELS), None)
    if known is not None and cls.fit is known.fit:  # type: ignore[attr-defined]
        return MODELS[known](estimator)
    supported = " or ".join(f"{cls.__name__}()" for cls in MODELS)
    if isinstance(estimator, type):
        name = estimator.__name__
        raise TypeError(f"estimator must be {supported} (an instance, not the class {name}).")
    found = f"{cls.__module__}.{cls.__qualname__}"
    reason = "" if known is None else f", whose fit is not that of {known.__name__}"
    raise TypeError(f"estimator must be {supported}, got {found}{reason}.")
