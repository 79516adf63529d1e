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

# By exact class: a subclass may well fit another model.
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
    """Return what is known about the estimator, or raise TypeError if that is nothing."""
    model = MODELS.get(type(estimator))
    if model is None:
        supported = " or ".join(f"{cls.__name__}()" for cls in MODELS)
        found = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
        hint = f" (an instance, not the class {found})" if isinstance(estimator, type) else ""
        raise TypeError(f"estimator must be {supported}{hint}, got {found}.")
    return model(estimator)
