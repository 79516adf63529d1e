r"""Losses: functions of a target and a linear predictor.

A loss never sees the data matrix. It gets linear predictors :math:`z = Xw + b` of shape (n, k, m),
for n samples, k problems side by side and m outputs, and targets ``y`` of shape (n, 1, m); all are
float64. Folds, weights, sparsity and precision are left to the problem, so that a new loss is one
class with a value and two derivatives.

Most losses are *pointwise*: formulas of y and z that numpy applies to every element, whatever the
shapes, as long as they broadcast; several outputs then simply add up. A loss that couples the
outputs, as the softmax does, also says how its second derivative multiplies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Loss(ABC):
    """A loss of a target ``y`` and a linear predictor ``z``.

    Attributes
    ----------
    scoring : str or None
        Name of the scikit-learn scorer whose negative is the mean of this loss.
    convex : bool
        A promise that the second derivative is nowhere negative. Bounds on errors rest on it.
    minimum : float
        A lower bound of the loss; minus infinity where none is known.
    target_range : pair of float
        The smallest and the largest target that the loss is made for.
    shift_invariant : bool
        Whether a constant that is added to all outputs of a sample changes nothing.
    smooth : bool
        Whether the second derivative is continuous. Where it jumps, the criterion has kinks, and no
        curvature bounds what a search may still gain.
    quadratic : bool
        A promise that the loss is a quadratic form of y and z, as the squared error is. A few rows
        can then stand for many, see ``hoag_shine.problems.presolve.rows``.
    n_predictors : int
        Predictors that a single target needs: 2 for a location and a scale.
    """

    scoring: str | None = None
    convex: bool = False
    minimum: float = -np.inf
    target_range: tuple[float, float] = (-np.inf, np.inf)
    shift_invariant: ClassVar[bool] = False
    smooth: ClassVar[bool] = True
    quadratic: ClassVar[bool] = False
    n_predictors: ClassVar[int] = 1

    @property
    def couples(self) -> bool:
        """Whether the loss is more than a sum over the outputs."""
        return self.shift_invariant or self.n_predictors > 1

    @abstractmethod
    def value(self, y: Array, z: Array) -> Array:
        """Return the loss of each element, or of each sample: z's shape, or (n, k, 1)."""

    @abstractmethod
    def gradient(self, y: Array, z: Array) -> Array:
        """Return the derivative with respect to ``z``, of z's shape."""

    @abstractmethod
    def hessian(self, y: Array, z: Array) -> Array:
        """Return the second derivative with respect to ``z``, of z's shape.

        A loss that couples the outputs returns whatever :meth:`hessian_product` and
        :meth:`hessian_diagonal` need.
        """

    def value_and_gradient(self, y: Array, z: Array) -> tuple[Array, Array]:
        """Return both; worth overriding where the two share work."""
        return self.value(y, z), self.gradient(y, z)

    def hessian_product(self, hessian: Array, v: Array) -> Array:
        """Return the second derivative times ``v``, of z's shape, given :meth:`hessian`."""
        return hessian * v

    def hessian_products(self, hessian: Array, vs: Array) -> Array:
        """Return the second derivative times several vectors, of shape (n, k, n_vectors, m).

        Worth overriding where all of them share work.
        """
        products = np.empty_like(vs)
        # One by one: numpy is slow at inner loops over few numbers.
        for j in range(vs.shape[2]):
            products[:, :, j] = self.hessian_product(hessian, vs[:, :, j])
        return products

    def hessian_product_sizes(self, hessian: Array, sizes: Array) -> Array:
        """Return the sums of the sizes of the terms of :meth:`hessian_product`, of z's shape.

        They tell what rounding may do to it. ``sizes``, of z's shape, are those of ``v``.
        """
        if not self.couples:
            return np.abs(self.hessian_product(hessian, sizes))
        units = np.eye(sizes.shape[-1])
        products = (self.hessian_product(hessian, sizes * unit) for unit in units)
        return np.asarray(sum(map(np.abs, products)))

    @property
    def has_root(self) -> bool:
        """Whether there is a :meth:`hessian_root`."""
        return type(self).hessian_root is not Loss.hessian_root

    def hessian_root(self, hessian: Array) -> Array:
        r"""Return V with :math:`V V^\top` the second derivative, given :meth:`hessian`.

        Of shape (n, k, m, m). Only a convex loss that couples the outputs is asked for it; without
        it, problems with more columns than rows are not solved by factorised Hessians.
        """
        raise NotImplementedError(f"{self!r} has no hessian_root.")

    def hessian_root_solve(self, hessian: Array, u: Array) -> tuple[Array, Array]:
        r"""Return s and a rest with :math:`u = V s + \text{rest}`, V being :meth:`hessian_root`.

        Where u is a gradient, the rest is zero in every output that has coefficients.
        """
        raise NotImplementedError(f"{self!r} has no hessian_root_solve.")

    def hessian_diagonal(self, hessian: Array) -> Array:
        """Return the second derivative's diagonal, of z's shape, given :meth:`hessian`."""
        return hessian

    def rounded(self, width: float) -> Loss:
        """Return the loss with its corners rounded to a width; itself if it has none.

        The width is a share of the targets' size. Newton's method finds the way to a solution in a
        corner through losses of ever smaller widths.
        """
        return self

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
