"""The squared norm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array, Penalty


@dataclass(frozen=True)
class L2(Penalty):
    r""":math:`\phi(w) = w^2 / 2`."""

    quadratic = True

    def value(self, w: Array) -> Array:
        return 0.5 * w**2

    def gradient(self, w: Array) -> Array:
        return w

    def hessian(self, w: Array) -> Array:
        return np.ones_like(w)

    def prox(self, w: Array, step: Array) -> Array:
        return w / (1.0 + step)
