r"""The estimators that can be tuned: for each, its loss, its penalty parameter, and how to fit it.

To scikit-learn's parametrisation belongs a strength of the penalty
:math:`\frac{1}{2} \lambda \|w\|^2` on the *sum* of losses: :math:`\lambda = 1/C` for
``LogisticRegression`` and :math:`\lambda = 2\alpha` for ``Ridge``, whose loss is the square
without a half. ``theta`` is the logarithm of :math:`\alpha`, with :math:`\alpha = 1/C`.
"""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from .generalized_linear import GeneralizedLinear, resolve_loss
from .problems.losses import LogisticLoss, Loss, MultinomialLoss, SquaredLoss

Vector = NDArray[np.float64]


class Model(ABC):
    """What is known about an estimator class that can be tuned.

    Parameters
    ----------
    estimator : estimator instance
        The user's own; never changed.

    Attributes
    ----------
    parameter : str
        Name of the estimator's penalty parameter.
    loss : Loss
        Known once y is.
    n_outputs : int
        Linear predictors of a sample: one for each target, or class where there are more than two.
    n_averaged : int
        Of so many outputs the score is the mean, where the loss is their sum.
    multi_output : bool
        Whether y may have several columns.
    classes_ : ndarray or None
        The classes of y, for a classifier, once y is known.
    penalty_scale : float
        Penalty strength in units of alpha.
    """

    parameter: ClassVar[str]
    loss: Loss
    penalty_scale: ClassVar[float]
    classifier: ClassVar[bool] = False
    multi_output: ClassVar[bool] = False
    n_outputs: int = 1
    n_averaged: int = 1
    classes_: NDArray[Any]

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self._check_options()
        value = getattr(estimator, self.parameter)
        self.start = check_positive(f"estimator.{self.parameter}", value)

    @abstractmethod
    def _check_options(self) -> None:
        """Raise ValueError for options of the estimator that make it another problem."""

    @property
    def output_names(self) -> tuple[Any, ...]:
        """A name for each output, once y is known."""
        return tuple(range(self.n_outputs))

    def theta(self, value: float) -> float:
        """Return log alpha for a value of the estimator's parameter."""
        return float(np.log(value))

    def value(self, theta: Vector) -> Vector:
        """Return the estimator's parameter for each log alpha."""
        return np.exp(theta)

    def encode(self, y: NDArray[Any]) -> Vector:
        """Return targets as numbers, class codes for a classifier, after checking them."""
        return np.asarray(y, dtype=np.float64)

    def targets(self, y: Vector) -> Vector:
        """Return encoded targets as the loss expects them, (n,) or (n, n_outputs)."""
        return y

    def decode(self, y: Vector) -> NDArray[Any]:
        """Return encoded targets as the user gave them."""
        return y

    def check_fold(self, y: Vector, weight: Vector) -> str | None:
        """Return what is wrong with a fold's training targets, or None."""
        return None if weight.any() else "its training rows have no weight"

    def training_weight(self, y: Vector, weight: Vector) -> Vector:
        """Return the weights of the training losses, class weights included."""
        return weight

    def fitted(
        self, value: Any, w: Vector, n_iter: int, dtype: Any, *, by_output: bool = False
    ) -> Any:
        """Return a fitted clone of the estimator with coefficients and intercept ``w``.

        Its parameter is set to ``value`` where that is a single number, or one for each output and
        the estimator takes those; other penalties have no place in it.
        """
        fitted = clone(self.estimator)
        if np.ndim(value) == 0 or (by_output and self.multi_output):
            fitted.set_params(**{self.parameter: value})
        W = w.reshape(-1, self.n_outputs).astype(dtype)
        coef, intercept = W, np.zeros(self.n_outputs, dtype)
        if self.estimator.fit_intercept:
            coef, intercept = W[:-1], W[-1]
        self._set_fitted(fitted, np.ascontiguousarray(coef.T), intercept, n_iter)
        return fitted

    @abstractmethod
    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        """Set the fitted attributes, given (n_outputs, n_features) and (n_outputs,)."""


class LogisticModel(Model):
    """``LogisticRegression`` with an L2 penalty, of two classes or, by a softmax, of more."""

    parameter = "C"
    penalty_scale = 1.0
    classifier = True

    def _check_options(self) -> None:
        # `penalty` is deprecated in scikit-learn 1.8 in favour of `l1_ratio` and C=inf.
        options = self.estimator.get_params(deep=False)
        if options.get("penalty", "l2") not in ("l2", "deprecated") or options.get("l1_ratio"):
            raise ValueError(
                "estimator has an l1 or no penalty, but only the L2 penalty can be tuned: use "
                "LogisticRegression() with its default penalty."
            )
        if options.get("multi_class", "auto") not in ("auto", "deprecated"):
            raise ValueError(
                f"estimator has multi_class={options['multi_class']!r}, which scikit-learn has "
                "deprecated and which is not supported: leave it at its default."
            )
        if options["solver"] == "liblinear" and options["fit_intercept"]:
            raise ValueError(
                "estimator has solver='liblinear', which penalises the intercept, and such a model "
                "is not supported: use solver='lbfgs' or fit_intercept=False."
            )

    def theta(self, value: float) -> float:
        return -float(np.log(value))

    def value(self, theta: Vector) -> Vector:
        return np.exp(-theta)

    def encode(self, y: NDArray[Any]) -> Vector:
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        self.classes_ = encoder.classes_
        n_classes = self.classes_.size
        if n_classes < 2:
            raise ValueError(
                "y must have at least 2 classes for LogisticRegression to be tuned, but it has "
                f"only {self.classes_[0]!r}."
            )
        if n_classes > 2 and self.estimator.solver == "liblinear":
            raise ValueError(
                f"estimator has solver='liblinear', which does not couple the {n_classes} classes "
                "of y: use solver='lbfgs'."
            )
        self.n_outputs = 1 if n_classes == 2 else n_classes
        self.loss = LogisticLoss() if n_classes == 2 else MultinomialLoss()
        return np.asarray(encoder.transform(y), dtype=np.float64)

    def targets(self, y: Vector) -> Vector:
        return y if self.n_outputs == 1 else np.eye(self.n_outputs)[y.astype(int)]

    @property
    def output_names(self) -> tuple[Any, ...]:
        return tuple(self.classes_.tolist()[-self.n_outputs :])

    def decode(self, y: Vector) -> NDArray[Any]:
        return np.asarray(self.classes_[y.astype(int)])

    def check_fold(self, y: Vector, weight: Vector) -> str | None:
        missing = set(range(self.classes_.size)) - set(y[weight > 0.0].astype(int))
        if missing:
            label = self.classes_.tolist()[min(missing)]
            return f"its training rows have no sample of class {label!r}"
        return None

    def training_weight(self, y: Vector, weight: Vector) -> Vector:
        codes = y.astype(int)
        if self.estimator.class_weight == "balanced":
            # scikit-learn's own function takes no sample weights before 1.7.
            mass = np.bincount(codes, weight)
            per_class = mass.sum() / (mass.size * mass)
        else:
            per_class = compute_class_weight(
                self.estimator.class_weight, classes=self.classes_, y=self.classes_
            )
        if not (per_class > 0.0).all() or not np.isfinite(per_class).all():
            raise ValueError(
                "estimator.class_weight must be positive and finite for every class, got "
                f"{self.estimator.class_weight!r}."
            )
        return np.asarray(weight * per_class[codes])

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        fitted.classes_ = self.classes_
        fitted.coef_ = coef
        fitted.intercept_ = intercept
        fitted.n_iter_ = np.array([n_iter], dtype=np.int32)


class RidgeModel(Model):
    """``Ridge`` with one target or several."""

    parameter = "alpha"
    loss = SquaredLoss()
    penalty_scale = 2.0
    multi_output = True

    def _check_options(self) -> None:
        if self.estimator.positive:
            raise ValueError(
                "estimator has positive=True, and bounded coefficients are not supported: use "
                "Ridge(positive=False)."
            )

    def encode(self, y: NDArray[Any]) -> Vector:
        self._single = y.ndim == 1 or y.shape[1] == 1
        self.n_outputs = self.n_averaged = 1 if self._single else y.shape[1]
        return super().encode(y)

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        fitted.coef_ = coef[0] if self._single else coef
        fitted.intercept_ = intercept[0] if self._single else intercept
        fitted.n_iter_ = np.array([n_iter], dtype=np.int32)
        fitted.solver_ = "lbfgs"


class GeneralizedLinearModel(Model):
    """``GeneralizedLinear``, whose loss is the user's."""

    parameter = "alpha"
    penalty_scale = 1.0

    def _check_options(self) -> None:
        self.loss = resolve_loss(self.estimator.loss)

    def encode(self, y: NDArray[Any]) -> Vector:
        self.loss.check_targets(y)
        return super().encode(y)

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        fitted.coef_ = coef[0]
        fitted.intercept_ = intercept[0]
        fitted.n_iter_ = n_iter


# By exact class: a subclass may well fit another model.
MODELS: dict[type, type[Model]] = {
    LogisticRegression: LogisticModel,
    Ridge: RidgeModel,
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


def check_positive(name: str, value: Any) -> float:
    """Return the value as a float if it is a positive finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a positive number, got {value!r}.")
    number = float(value)
    if not 0.0 < number < np.inf:
        raise ValueError(
            f"{name} must be positive and finite, since its logarithm is tuned; got {value!r}."
        )
    return number
