"""The squared loss: least squares, and ridge classification."""

from __future__ import annotations

import numpy as np

from .base import Array, Loss


class SquaredLoss(Loss):
    r""":math:`\ell(y, z) = (z - y)^2`."""

    scoring = "neg_mean_squared_error"
    convex = True
    minimum = 0.0
    quadratic = True

    def value(self, y: Array, z: Array) -> Array:
        return np.asarray((z - y) ** 2)

    def gradient(self, y: Array, z: Array) -> Array:
        return 2.0 * (z - y)

    def hessian(self, y: Array, z: Array) -> Array:
        return np.full_like(z, 2.0)
