"""The base class of penalties."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Penalty(ABC):
    r"""A penalty of one coefficient, :math:`\phi(w)`.

    What is minimised has the term :math:`\sum_j c_j\, e^{\theta_{g(j)}}\, \phi(w_j)`, where
    variable j belongs to group :math:`g(j)` and :math:`\theta` holds the logarithms of the
    hyperparameters. A penalty does not see groups, hyperparameters or data: arrays of coefficients
    go in, and arrays of the same shape come out.

    A penalty is even in w and has its minimum, zero, at zero. It is hashable and equal to another
    with the same parameters, as a frozen dataclass is.

    Attributes
    ----------
    convex : bool
        A promise that :meth:`hessian` is never negative. Certified errors rest on it.
    quadratic : bool
        A promise that :meth:`hessian` is 1 everywhere. A change of a hyperparameter then needs no
        pass over the data, and small problems are solved by factorised Hessians.
    """

    convex: bool = True
    quadratic: bool = False

    @abstractmethod
    def value(self, w: Array) -> Array:
        r"""Return :math:`\phi(w)`."""

    @abstractmethod
    def gradient(self, w: Array) -> Array:
        r"""Return :math:`\phi'(w)`."""

    @abstractmethod
    def hessian(self, w: Array) -> Array:
        r"""Return :math:`\phi''(w)`."""

    def prox(self, w: Array, step: Array) -> Array:
        r"""Return :math:`\arg\min_v \frac{1}{2} (v - w)^2 + t\, \phi(v)`, t the ``step`` of each w.

        Only solvers for penalties that are not smooth ask for it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no prox.")

    def support(self, w: Array) -> NDArray[np.bool_]:
        """Return which coefficients move with the hyperparameters: all, of a smooth penalty."""
        return np.ones(w.shape, dtype=bool)
