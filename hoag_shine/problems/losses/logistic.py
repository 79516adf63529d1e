"""Losses of two or more classes that go through a probability."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from ...linalg import kernels
from ...linalg.precision import SUM_ROUNDING
from .base import Array, Loss


class LogisticLoss(Loss):
    r""":math:`\ell(y, z) = \log(1 + e^z) - y z`, for :math:`y \in \{0, 1\}`.

    The negative log-likelihood of a Bernoulli variable with probability
    :math:`1 / (1 + e^{-z})`.
    """

    scoring = "neg_log_loss"
    convex = True
    minimum = 0.0
    target_range = (0.0, 1.0)

    def value(self, y: Array, z: Array) -> Array:
        return self.value_and_gradient(y, z)[0]

    def gradient(self, y: Array, z: Array) -> Array:
        return self.value_and_gradient(y, z)[1]

    def value_and_gradient(self, y: Array, z: Array) -> tuple[Array, Array]:
        # The targets of all folds, which the kernel replaces by the derivatives.
        targets = y.copy() if y.shape == z.shape else np.repeat(y, z.shape[1], axis=1)
        value, gradient = np.empty(z.shape), targets.astype(np.float64, copy=False)
        kernels.logistic(z.ravel(), value.ravel(), gradient.ravel())
        return value, gradient

    def hessian(self, y: Array, z: Array) -> Array:
        return _sigmoid_slope(z)

    def inverse_link(self, z: Array) -> Array:
        return np.asarray(expit(z))


class SigmoidSquaredLoss(Loss):
    r""":math:`\ell(y, z) = \frac{1}{2} (y - \sigma(z))^2`, for :math:`y \in \{0, 1\}`.

    With :math:`\sigma(z) = 1 / (1 + e^{-z})`. The nonlinear least squares of the HOAG and SHINE
    experiments: bounded, so that a wrong label costs no more than 1/2, and not convex.
    """

    minimum = 0.0
    target_range = (0.0, 1.0)

    def value(self, y: Array, z: Array) -> Array:
        return np.asarray(0.5 * (expit(z) - y) ** 2)

    def gradient(self, y: Array, z: Array) -> Array:
        return np.asarray((expit(z) - y) * _sigmoid_slope(z))

    def hessian(self, y: Array, z: Array) -> Array:
        # With p' = p (1 - p): p'**2 + (p - y) p'', and p'' = p' (1 - 2 p).
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
    minimum = 0.0
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
        p, v = np.broadcast_arrays(hessian, v)
        return self.hessian_products(p, v[..., None, :])[..., 0, :]

    def hessian_products(self, hessian: Array, vs: Array) -> Array:
        products = np.empty(vs.shape, np.result_type(hessian, vs))
        own = np.ascontiguousarray(hessian).reshape(-1, vs.shape[-1])
        several = (len(own), *vs.shape[-2:])
        vs = np.ascontiguousarray(vs).reshape(several)
        kernels.multinomial_product(own, vs, products.reshape(several))
        return products

    def hessian_product_sizes(self, hessian: Array, sizes: Array) -> Array:
        # Those of p_c v_c (1 - p_c), too, which is a difference.
        p = hessian
        return np.asarray(p * (sizes + (p * sizes).sum(axis=-1, keepdims=True)))

    def hessian_root(self, hessian: Array) -> Array:
        # (I - p 1') diag(p)^(1/2), times its transpose, is diag(p) - p p', since p sums to one.
        p, root = hessian, np.sqrt(hessian)
        return np.eye(p.shape[-1]) * root[..., None, :] - p[..., :, None] * root[..., None, :]

    def hessian_root_solve(self, hessian: Array, u: Array) -> tuple[Array, Array]:
        # V diag(p)^(-1/2) u is u less p times the sum of u. Gradients sum to zero, but for what
        # variables have gathered that do not, which a step must take away: a sum that may be
        # rounding is none, so that small differences of u keep their digits.
        positive = hessian > 0.0
        s = np.divide(u, np.sqrt(hessian), out=np.zeros_like(u), where=positive)
        lost = np.where(positive, u, 0.0).sum(axis=-1, keepdims=True)
        rounded = np.abs(lost) <= SUM_ROUNDING * np.abs(u).sum(axis=-1, keepdims=True)
        lost = np.where(rounded & positive.all(axis=-1, keepdims=True), 0.0, lost)
        return s, np.where(positive, hessian * lost, u)

    def hessian_diagonal(self, hessian: Array) -> Array:
        return hessian * (1.0 - hessian)

    def inverse_link(self, z: Array) -> Array:
        # The derivative in z where no class is the right one.
        return self.gradient(np.zeros((len(z), z.shape[-1])), z)


def _compiled(
    kernel: Callable[..., None], y: Array, z: Array, value_shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return value and gradient by a kernel, which takes two axes, the first for the samples."""
    value, gradient = np.empty(value_shape), np.empty(z.shape)
    kernel(*(a.reshape(len(z), -1) for a in (y, z, value, gradient)))
    return value, gradient


def _sigmoid_slope(z: Array) -> Array:
    """Return the derivative of the sigmoid, without cancellation where it is small."""
    slope = np.empty(z.shape)
    kernels.sigmoid_slope(z.ravel(), slope.ravel())
    return slope
