"""The loss of linear support vector machines."""

from __future__ import annotations

import numpy as np

from .base import Array, Loss


class SquaredHingeLoss(Loss):
    r""":math:`\ell(y, z) = \max(0, 1 - y z)^2`, for :math:`y \in \{-1, 1\}`.

    Its second derivative jumps at :math:`y z = 1`, where it is taken as 0.
    """

    convex = True
    smooth = False
    minimum = 0.0
    target_range = (-1.0, 1.0)

    def value(self, y: Array, z: Array) -> Array:
        return np.asarray(np.maximum(0.0, 1.0 - y * z) ** 2)

    def gradient(self, y: Array, z: Array) -> Array:
        return np.asarray(-2.0 * y * np.maximum(0.0, 1.0 - y * z))

    def hessian(self, y: Array, z: Array) -> Array:
        return np.asarray(2.0 * y**2 * (y * z < 1.0))

    def inverse_link(self, z: Array) -> Array:
        return np.asarray(np.clip(z, -1.0, 1.0))
