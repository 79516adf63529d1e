r"""Losses: functions of a target and a linear predictor.

A loss never sees the data matrix. It gets linear predictors :math:`z = Xw + b` of shape (n, k, m),
for n samples, k problems side by side and m outputs, and targets ``y`` of shape (n, 1, m); all are
float64. Everything about folds, weights, sparsity and precision is the problem's affair, so that
a new loss is one class with a value and two derivatives.

Most losses are *pointwise*: formulas of y and z that numpy applies to every element, whatever the
shapes, as long as they broadcast; several outputs then simply add up. A loss that couples the
outputs, as the softmax does, also says how its second derivative multiplies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

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
    shift_invariant : bool
        Whether a constant that is added to all outputs of a sample changes nothing.
    """

    scoring: ClassVar[str | None] = None
    convex: ClassVar[bool] = False
    target_range: ClassVar[tuple[float, float]] = (-np.inf, np.inf)
    shift_invariant: ClassVar[bool] = False

    @abstractmethod
    def value(self, y: Array, z: Array) -> Array:
        """Return the loss of each element, or of each sample: z's shape, or (n, k, 1)."""

    @abstractmethod
    def gradient(self, y: Array, z: Array) -> Array:
        """Return the derivative with respect to ``z``, of z's shape."""

    @abstractmethod
    def hessian(self, y: Array, z: Array) -> Array:
        """Return the second derivative with respect to ``z``, of z's shape.

        A loss that couples the outputs returns what :meth:`hessian_product` and
        :meth:`hessian_diagonal` make theirs of.
        """

    def value_and_gradient(self, y: Array, z: Array) -> tuple[Array, Array]:
        """Return both; worth overriding where the two share work."""
        return self.value(y, z), self.gradient(y, z)

    def hessian_product(self, hessian: Array, v: Array) -> Array:
        """Return the second derivative times ``v``, of z's shape, given :meth:`hessian`."""
        return hessian * v

    def hessian_diagonal(self, hessian: Array) -> Array:
        """Return the second derivative's diagonal, of z's shape, given :meth:`hessian`."""
        return hessian

    def inverse_link(self, z: Array) -> Array:
        """Return the expected target at linear predictor ``z``."""
        return z

    def check_targets(self, y: Array) -> None:
        """Raise ValueError if a target lies outside of ``target_range``."""
        low, high = self.target_range
        if y.size and not (low <= y.min() and y.max() <= high):
            raise ValueError(
                f"y must lie between {low:g} and {high:g} for {self!r}, but it goes from "
                f"{y.min():g} to {y.max():g}."
            )

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
        # numpy's exp and log1p are vectorised, which those of compiled loops are not.
        gradient = np.exp(-np.abs(z))
        value = np.log1p(gradient)
        kernels.logistic(*(a.reshape(len(z), -1) for a in (y, z, value, gradient)))
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


class MultinomialLoss(Loss):
    r""":math:`\ell(y, z) = \log \sum_c e^{z_c} - \sum_c y_c z_c`, for :math:`\sum_c y_c = 1`.

    The negative log-likelihood of a class with probabilities
    :math:`p_c = e^{z_c} / \sum_d e^{z_d}`; y is 1 in the column of the class and 0 elsewhere, with
    an output for each class. The second derivative is :math:`\mathrm{diag}(p) - p p^\top`.
    """

    scoring = "neg_log_loss"
    convex = True
    target_range = (0.0, 1.0)
    shift_invariant = True

    def value(self, y: Array, z: Array) -> Array:
        return self.value_and_gradient(y, z)[0]

    def gradient(self, y: Array, z: Array) -> Array:
        return self.value_and_gradient(y, z)[1]

    def value_and_gradient(self, y: Array, z: Array) -> tuple[Array, Array]:
        return _compiled(kernels.multinomial, y, z, (*z.shape[:-1], 1))

    def hessian(self, y: Array, z: Array) -> Array:
        return self.inverse_link(z)

    def hessian_product(self, hessian: Array, v: Array) -> Array:
        p = hessian
        return np.asarray(p * (v - (p * v).sum(axis=-1, keepdims=True)))

    def hessian_diagonal(self, hessian: Array) -> Array:
        return hessian * (1.0 - hessian)

    def inverse_link(self, z: Array) -> Array:
        return np.asarray(softmax(z, axis=-1))


def _compiled(
    kernel: Callable[..., None], y: Array, z: Array, value_shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return value and gradient by a kernel, which takes two axes, the first for the samples."""
    value, gradient = np.empty(value_shape), np.empty(z.shape)
    kernel(*(a.reshape(len(z), -1) for a in (y, z, value, gradient)))
    return value, gradient


def _sigmoid_slope(z: Array) -> Array:
    """Return the derivative of the sigmoid, without cancellation where it is small."""
    e = np.exp(-np.abs(z))
    return np.asarray(e / (1.0 + e) ** 2)
