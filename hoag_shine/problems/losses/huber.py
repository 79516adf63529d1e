"""Huber's loss with a scale that is fitted beside the location."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from ...utils.validation import check_positive
from .base import Array, Loss

# Smallest residual, in units of the targets, that the scale is fitted to.
# Why: it keeps the scale of a perfect fit from zero, and is below all that targets are measured to.
_SMALLEST_RESIDUAL = 1e-9


class HuberLoss(Loss):
    r""":math:`\ell(y, z) = \max_{0 \le c \le \epsilon} 2 c\, r + (1 - c^2)\, \sigma`.

    With the residual :math:`r = \sqrt{(z_0 - y)^2 + \tau^2}`, a scale
    :math:`\sigma = u\, (1 + z_1)` and Huber's function :math:`H(x) = x^2` for
    :math:`x \le \epsilon`, :math:`2 \epsilon x - \epsilon^2` beyond, this is
    :math:`\sigma + \sigma H(r / \sigma)` where the scale is positive: the loss of
    ``HuberRegressor``, but for :math:`\tau = 10^{-9} u`, which keeps the scale of a perfect fit
    from zero. As a maximum of convex functions it is jointly convex in location and scale, and it
    falls with :math:`\sigma` below zero, so that no scale that is fitted ends there and none needs
    a bound. The second derivative jumps at :math:`r = \epsilon \sigma`.

    Parameters
    ----------
    epsilon : float, default=1.35
        Larger than 1.
    unit : float, default=1.0
        u, a constant, in which scales are counted: of the targets' size, so that z = 0 is a fair
        guess.

    Raises
    ------
    ValueError, TypeError
        For other values.

    References
    ----------
    .. [1] P. J. Huber and E. M. Ronchetti, *Robust Statistics*, 2nd ed., section 7.8.
    .. [2] A. B. Owen, "A robust hybrid of lasso and ridge regression", 2007.
    """

    convex = True
    smooth = False
    minimum = 0.0
    n_predictors = 2

    def __init__(self, epsilon: float = 1.35, unit: float = 1.0) -> None:
        self.epsilon = check_positive("epsilon", epsilon)
        if self.epsilon <= 1.0:
            raise ValueError(
                "epsilon must be larger than 1, since smaller ones do not determine a scale; got "
                f"{epsilon!r}."
            )
        self.unit = check_positive("unit", unit)
        self._smallest = _SMALLEST_RESIDUAL * self.unit

    def rounded(self, width: float) -> HuberLoss:
        loss = copy.copy(self)
        loss._smallest = max(width, _SMALLEST_RESIDUAL) * self.unit
        return loss

    def value(self, y: Array, z: Array) -> Array:
        _, r, sigma, c, _ = self._terms(y, z)
        return np.asarray(2.0 * c * r + (1.0 - c * c) * sigma)[..., None]

    def gradient(self, y: Array, z: Array) -> Array:
        difference, r, _, c, _ = self._terms(y, z)
        return np.stack([2.0 * c * difference / r, self.unit * (1.0 - c * c)], axis=-1)

    def hessian(self, y: Array, z: Array) -> Array:
        """Return the entries 00, 01 and 11 of the second derivative, in the last axis."""
        # Inside, the loss is sigma + r**2 / sigma with r / sigma = c, and the entries are 2 / sigma
        # times 1, -u c slope and u**2 c**2. Outside, it is linear in r and sigma, and all that is
        # left is 2 c times the second derivative of r, which is tau**2 / r**3.
        difference, r, sigma, c, inside = self._terms(y, z)
        slope = difference / r
        steep = 2.0 / np.where(inside, sigma, np.inf)
        flat = np.where(inside, 0.0, 2.0 * c * (self._smallest / r) ** 2 / r)
        u = self.unit * c
        return np.stack([steep + flat, -steep * u * slope, steep * u * u], axis=-1)

    def hessian_product(self, hessian: Array, v: Array) -> Array:
        a, b, c = np.moveaxis(hessian, -1, 0)
        return np.stack([a * v[..., 0] + b * v[..., 1], b * v[..., 0] + c * v[..., 1]], axis=-1)

    def hessian_diagonal(self, hessian: Array) -> Array:
        return hessian[..., [0, 2]]

    def hessian_root(self, hessian: Array) -> Array:
        # A Cholesky factor of [[a, b], [b, c]]; the second derivative may be singular.
        a, b, c = np.moveaxis(hessian, -1, 0)
        root = np.zeros((*a.shape, 2, 2))
        root[..., 0, 0] = np.sqrt(a)
        root[..., 1, 0] = np.divide(b, root[..., 0, 0], out=np.zeros_like(b), where=a > 0.0)
        root[..., 1, 1] = np.sqrt(np.maximum(c - root[..., 1, 0] ** 2, 0.0))
        return root

    def hessian_root_solve(self, hessian: Array, u: Array) -> tuple[Array, Array]:
        # The scale has no coefficients: what V does not reach may stay there.
        root = self.hessian_root(hessian)
        first = root[..., 0, 0]
        s = np.zeros_like(u)
        s[..., 0] = np.divide(u[..., 0], first, out=np.zeros_like(first), where=first > 0.0)
        rest = np.stack(
            [np.where(first > 0.0, 0.0, u[..., 0]), u[..., 1] - root[..., 1, 0] * s[..., 0]],
            axis=-1,
        )
        return s, rest

    def scale(self, z: Array) -> Array:
        """Return the scale for the second predictor."""
        return np.asarray(self.unit * (1.0 + z))

    def _terms(self, y: Array, z: Array) -> tuple[Array, Array, Array, Array, NDArray[np.bool_]]:
        """Return z0 - y, the residual, the scale, the best c, and whether that is inside."""
        difference, sigma = z[..., 0] - y[..., 0], self.scale(z[..., 1])
        r = np.hypot(difference, self._smallest)
        # The c that maximises 2 c r + (1 - c**2) sigma is r / sigma, but at most epsilon.
        inside = r < self.epsilon * sigma
        c = np.where(inside, r / np.where(inside, sigma, 1.0), self.epsilon)
        return difference, r, sigma, c, inside

    def __repr__(self) -> str:
        return f"HuberLoss(epsilon={self.epsilon:g})"
