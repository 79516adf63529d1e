r"""Losses: functions of a target and a linear predictor, point by point.

A loss never sees the data matrix. It gets targets ``y`` of shape (n, 1) and linear predictors
:math:`z = Xw + b` of shape (n, k), one column per problem, and answers with arrays of z's shape,
float64. Everything about folds, weights, sparsity and precision is the problem's affair, so that
a new loss is one class with a value and two derivatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from .. import kernels

Array = NDArray[np.float64]


class Loss(ABC):
    """A loss of a target ``y`` and a linear predictor ``z``.

    Attributes
    ----------
    scoring : str or None
        Name of the scikit-learn scorer whose negative is the mean of this loss.
    convex : bool
        A promise that the second derivative is nowhere negative. Bounds on errors rest on it.
    target_range : pair of float
        The smallest and the largest target that the loss is made for.
    """

    scoring: ClassVar[str | None] = None
    convex: ClassVar[bool] = False
    target_range: ClassVar[tuple[float, float]] = (-np.inf, np.inf)

    @abstractmethod
    def value(self, y: Array, z: Array) -> Array:
        """Return the loss of each sample."""

    @abstractmethod
    def gradient(self, y: Array, z: Array) -> Array:
        """Return the derivative with respect to ``z``."""

    @abstractmethod
    def hessian(self, y: Array, z: Array) -> Array:
        """Return the second derivative with respect to ``z``."""

    def value_and_gradient(self, y: Array, z: Array) -> tuple[Array, Array]:
        """Return both; worth overriding where the two share work."""
        return self.value(y, z), self.gradient(y, z)

    def inverse_link(self, z: Array) -> Array:
        """Return the expected target at linear predictor ``z``."""
        return z

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))


class LogisticLoss(Loss):
    r""":math:`\ell(y, z) = \log(1 + e^z) - y z`, for :math:`y \in \{0, 1\}`.

    The negative log-likelihood of a Bernoulli variable with probability
    :math:`1 / (1 + e^{-z})`.
    """

    scoring = "neg_log_loss"
    convex = True
    target_range = (0.0, 1.0)

    def value(self, y: Array, z: Array) -> Array:
        return self.value_and_gradient(y, z)[0]

    def gradient(self, y: Array, z: Array) -> Array:
        return self.value_and_gradient(y, z)[1]

    def value_and_gradient(self, y: Array, z: Array) -> tuple[Array, Array]:
        value, gradient = np.empty_like(z), np.empty_like(z)
        kernels.logistic(y, z, value, gradient)
        return value, gradient

    def hessian(self, y: Array, z: Array) -> Array:
        return _sigmoid_slope(z)

    def inverse_link(self, z: Array) -> Array:
        return np.asarray(expit(z))


class SquaredLoss(Loss):
    r""":math:`\ell(y, z) = (z - y)^2`."""

    scoring = "neg_mean_squared_error"
    convex = True

    def value(self, y: Array, z: Array) -> Array:
        return np.asarray((z - y) ** 2)

    def gradient(self, y: Array, z: Array) -> Array:
        return 2.0 * (z - y)

    def hessian(self, y: Array, z: Array) -> Array:
        return np.full_like(z, 2.0)


class SigmoidSquaredLoss(Loss):
    r""":math:`\ell(y, z) = \frac{1}{2} (y - \sigma(z))^2`, for :math:`y \in \{0, 1\}`.

    With :math:`\sigma(z) = 1 / (1 + e^{-z})`. The nonlinear least squares of the HOAG and SHINE
    experiments: bounded, so that a wrong label costs no more than 1/2, and not convex.
    """

    target_range = (0.0, 1.0)

    def value(self, y: Array, z: Array) -> Array:
        return np.asarray(0.5 * (expit(z) - y) ** 2)

    def gradient(self, y: Array, z: Array) -> Array:
        return np.asarray((expit(z) - y) * _sigmoid_slope(z))

    def hessian(self, y: Array, z: Array) -> Array:
        p, slope = expit(z), _sigmoid_slope(z)
        return np.asarray(slope * (slope + (p - y) * (1.0 - 2.0 * p)))

    def inverse_link(self, z: Array) -> Array:
        return np.asarray(expit(z))


def _sigmoid_slope(z: Array) -> Array:
    """Return the derivative of the sigmoid, without cancellation where it is small."""
    e = np.exp(-np.abs(z))
    return np.asarray(e / (1.0 + e) ** 2)
