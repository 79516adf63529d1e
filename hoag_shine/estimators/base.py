"""What the library needs to know of every estimator that can be tuned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from ..problems.losses import Loss
from ..problems.penalties import L2, Penalty
from ..utils.validation import check_number, shown

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
    start : float or ndarray of shape (n_outputs,)
        Its value.
    loss : Loss
        Known once y is.
    n_outputs : int
        Linear predictors of a sample: one for each target, or class where there are more than two.
    n_averaged : int
        Number of outputs over which a score is averaged, while the loss is their sum.
    multi_output : bool
        Whether y may have several columns.
    value_by_output : bool
        Whether the parameter may have a value for each output.
    offset : float or ndarray of shape (n_outputs,)
        Constants that are taken out of the intercepts, so that zero is a good guess for the rest.
    intercept_penalty : float
        Strength of the penalty of the intercept, in units of that of the coefficients.
    classes_ : ndarray or None
        The classes of y, for a classifier, once y is known.
    penalty_scale : float
        Penalty strength in units of alpha.
    penalty : Penalty
        That of a coefficient.
    """

    parameter: ClassVar[str]
    loss: Loss
    penalty_scale: ClassVar[float]
    classifier: ClassVar[bool] = False
    multi_output: ClassVar[bool] = False
    value_by_output: ClassVar[bool] = False
    intercept_penalty: float = 0.0
    penalty: Penalty = L2()
    offset: Any = 0.0
    n_outputs: int = 1
    n_averaged: int = 1
    classes_: NDArray[Any]

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self._check_options()
        self.start = self._start(getattr(estimator, self.parameter))

    def _start(self, value: Any) -> float | Vector:
        """Return where a search starts: one value, or one for each output if there are several."""
        name = f"estimator.{self.parameter}"
        if not self.value_by_output or np.ndim(value) == 0:
            return check_tunable(name, value)
        return np.array([check_tunable(name, one) for one in np.ravel(value).tolist()])

    @abstractmethod
    def _check_options(self) -> None:
        """Raise ValueError for options of the estimator that make it another problem."""

    @property
    def fit_intercept(self) -> bool:
        """Whether the inner problem has intercepts, one for each output."""
        return bool(self.estimator.fit_intercept)

    @property
    def output_names(self) -> tuple[Any, ...]:
        """A name for each output, once y is known."""
        return tuple(range(self.n_outputs))

    def theta(self, value: float | Vector) -> Any:
        """Return log alpha for a value of the estimator's parameter, or for several."""
        return np.log(value)

    def value(self, theta: Vector) -> Vector:
        """Return the estimator's parameter for each log alpha."""
        return np.exp(theta)

    def encode(self, y: NDArray[Any]) -> Vector:
        """Return targets as numbers, class codes for a classifier, after checking them."""
        return np.asarray(y, dtype=np.float64)

    def targets(self, y: Vector) -> Vector:
        """Return encoded targets as the loss expects them, (n,) or (n, n_outputs)."""
        return y

    def arrange(self, groups: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the groups of the variables, (row, output); those it does not have are fixed."""
        return groups

    def decode(self, y: Vector) -> NDArray[Any]:
        """Return encoded targets as the user gave them."""
        return y

    def recode(self, y: Any) -> Vector:
        """Return further targets as numbers, by the encoding that :meth:`encode` has found."""
        return np.asarray(y, dtype=np.float64)

    def lacking(self, y: Vector, weight: Vector) -> NDArray[np.intp]:
        """Return the classes that the fit needs and the training rows lack, as indices."""
        return np.empty(0, dtype=np.intp)

    def weightless(self) -> NDArray[np.intp]:
        """Return the classes that have no weight by the estimator's own options, as indices."""
        return np.empty(0, dtype=np.intp)

    def without(self, classes: Sequence[int], y: Vector) -> tuple[Model, Vector, NDArray[np.bool_]]:
        """Return a model without some classes, the codes of y there, and which rows have one."""
        raise NotImplementedError

    def training_weight(self, y: Vector, times: Vector, weight: Vector) -> Vector:
        """Return the weights of the training losses, class weights included.

        Row i, of weight ``weight[i]``, is ``times[i]`` times among the training rows.
        """
        return times * weight

    def fitted(
        self, value: Any, w: Vector, n_iter: int, dtype: Any, *, by_output: bool = False
    ) -> Any:
        """Return a fitted clone of the estimator with coefficients and intercept ``w``.

        Its parameter is set to ``value`` if that is a single number, or one for each output and the
        estimator takes these; otherwise the parameter stays as it is.
        """
        fitted = clone(self.estimator)
        if np.ndim(value) == 0 or (by_output and self.value_by_output):
            fitted.set_params(**{self.parameter: value})
        self.set_fitted(fitted, w, n_iter, dtype)
        return fitted

    def set_fitted(self, estimator: Any, w: Vector, n_iter: int, dtype: Any) -> None:
        """Give an estimator the attributes of one that was fitted, with coefficients ``w``.

        Raises
        ------
        ValueError
            If they are not finite in ``dtype``.
        """
        W = w.reshape(-1, self.n_outputs)
        coef, intercept = W, np.zeros(self.n_outputs)
        if self.fit_intercept:
            coef, intercept = W[:-1], W[-1] + self.offset
        with np.errstate(over="ignore"):
            coef = np.array(coef.T, dtype=dtype, order="C")  # a copy: it is the estimator's own
            intercept = intercept.astype(dtype)
        if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
            raise ValueError(
                f"The coefficients are too large for {np.dtype(dtype)}, the dtype of X: scale y, "
                "or pass X as float64."
            )
        self._set_fitted(estimator, coef, intercept, n_iter)

    def note_training(self, fitted: Any, X: Any, y: Vector) -> None:  # noqa: B027
        """Set fitted attributes that describe the training rows; y is encoded."""

    @abstractmethod
    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        """Set the fitted attributes, given (n_outputs, n_features) and (n_outputs,)."""


def check_tunable(name: str, value: Any) -> float:
    """Return the value as a float if it is a positive finite number."""
    number = check_number(name, value)
    if not 0.0 < number < np.inf:
        raise ValueError(
            f"{name} must be positive and finite, since its logarithm is tuned; got {shown(value)}."
        )
    return number


def middle(y: Vector) -> Vector:
    """Return the median of each column: exact where it is constant, and robust to outliers."""
    return np.asarray(np.median(y, axis=0))
