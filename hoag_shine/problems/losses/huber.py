"""Huber's loss with a scale that is fitted beside the location."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .base import Array, Loss


class HuberLoss(Loss):
    r""":math:`\ell(y, z) = \max_{|c| \le \epsilon} 2 c\, (z_0 - y) + (1 - c^2)\, \sigma`.

    With a scale :math:`\sigma = u\, (1 + z_1)` and Huber's function :math:`H(r) = r^2` for
    :math:`|r| \le \epsilon`, :math:`2 \epsilon |r| - \epsilon^2` beyond, this is
    :math:`\sigma + \sigma H((z_0 - y) / \sigma)` where the scale is positive: the loss of
    ``HuberRegressor``. As a maximum of linear functions it is jointly convex in location and
    scale, and it falls with :math:`\sigma` below zero, so that no scale that is fitted ends there
    and none needs a bound. The second derivative jumps at
    :math:`|z_0 - y| = \epsilon \sigma`.

    Parameters
    ----------
    epsilon : float, default=1.35
        Larger than 1.
    unit : float, default=1.0
        u, a constant, in which scales are counted: of the targets' size, so that z = 0 is a fair
        guess.

    References
    ----------
    .. [1] P. J. Huber and E. M. Ronchetti, *Robust Statistics*, 2nd ed., section 7.8.
    .. [2] A. B. Owen, "A robust hybrid of lasso and ridge regression", 2007.
    """

    convex = True
    n_predictors = 2

    def __init__(self, epsilon: float = 1.35, unit: float = 1.0) -> None:
        self.epsilon = float(epsilon)
        self.unit = float(unit)

    def value(self, y: Array, z: Array) -> Array:
        r, sigma, c, _ = self._terms(y, z)
        return np.asarray(2.0 * c * r + (1.0 - c * c) * sigma)[..., None]

    def gradient(self, y: Array, z: Array) -> Array:
        c = self._terms(y, z)[2]
        return np.stack([2.0 * c, self.unit * (1.0 - c * c)], axis=-1)

    def hessian(self, y: Array, z: Array) -> Array:
        """Return the vector h of the second derivative h h', which is of rank one."""
        _, sigma, c, inside = self._terms(y, z)
        size = np.sqrt(2.0 / np.where(inside, sigma, np.inf))
        return np.stack([size, -self.unit * c * size], axis=-1)

    def hessian_product(self, hessian: Array, v: Array) -> Array:
        return np.asarray(hessian * (hessian * v).sum(axis=-1, keepdims=True))

    def hessian_diagonal(self, hessian: Array) -> Array:
        return hessian**2

    def scale(self, z: Array) -> Array:
        """Return the scale for the second predictor."""
        return np.asarray(self.unit * (1.0 + z))

    def _terms(self, y: Array, z: Array) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """Return the residual, the scale, the maximising c, and whether that is inside."""
        r, sigma = z[..., 0] - y[..., 0], self.scale(z[..., 1])
        inside = np.abs(r) < self.epsilon * sigma
        edge = np.where(r < 0.0, -self.epsilon, self.epsilon)
        c = np.where(inside, r / np.where(inside, sigma, 1.0), edge)
        return r, sigma, c, inside

    def __repr__(self) -> str:
        return f"HuberLoss(epsilon={self.epsilon:g})"
