"""The folds' mean Hessian, factorised: a preconditioner for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..linalg.cholesky import cholesky_solver
from ..linalg.costs import MAX_FACTORISED_ORDER
from .losses import Loss
from .passes import Passes

Vector = NDArray[np.float64]
Array = NDArray[np.float64]
Solve = Callable[[Vector], Vector]

# Largest cost of the Hessian's data term, in products with the data, at which it is factorised.
# Why: five folds of a9a took 36 passes with it where they took 190 with a diagonal, so that it may
# cost as much as some tens of products.
MAX_GRAM_PRODUCTS = 40.0
# Multiplications for the data term that are allowed in any case.
# Why: they take some milliseconds.
QUICK_GRAM_MULTIPLICATIONS = 1e7
# Change of the samples' curvatures, as a share of their sum, up to which the last data term serves
# again.
# Why: 10 % of a search on phishing; with two fifths, more iterations than it saves.
SAME_CURVATURE_SHARE = 0.1


class MeanHessian:
    """The mean over the folds of the Hessians at one w.

    The folds share most of their rows, so that one factorisation serves all of them.

    Parameters
    ----------
    passes : Passes
    y : ndarray of shape (n_samples, 1, n_outputs)
    loss : Loss
    """

    def __init__(self, passes: Passes, y: Array, loss: Loss) -> None:
        self._passes, self._y, self._loss = passes, y, loss
        self._last: dict[int, tuple[Vector, Array]] = {}

    @cached_property
    def cheap(self) -> bool:
        """Whether it is worth its cost."""
        m, design = self._passes.n_outputs, self._passes.design
        cost = design.gram_cost * (m * (m + 1) // 2 if self._loss.couples else m)
        n_params = self._passes.n_variables * m
        return n_params <= MAX_FACTORISED_ORDER and cost <= max(
            MAX_GRAM_PRODUCTS, QUICK_GRAM_MULTIPLICATIONS / design.n_stored
        )

    def solver(self, w: Vector, weight: Array, h: Vector, centring: Vector | None) -> Solve:
        """Return the product with the inverse.

        Parameters
        ----------
        w : ndarray of shape (n_params,)
        weight : ndarray of shape (n_samples, n_folds[, n_outputs])
            Of the samples in the training losses.
        h : ndarray of shape (n_params,)
            Diagonal of the penalty's Hessian at w.
        centring : ndarray of shape (n_variables,) or None
            The centring rho of each row, see :mod:`hoag_shine.problems.linear`.

        Raises
        ------
        scipy.linalg.LinAlgError
            If it is not positive definite.
        """
        if self._loss.couples:
            return self._coupled_solver(w, weight, h, centring)
        return self._solver(w, weight, h)

    def _solver(self, w: Vector, weight: Array, h: Vector) -> Solve:
        """Factorise the Hessian of a loss that is a sum over the outputs, output by output."""
        n_outputs = self._passes.n_outputs
        h = h.reshape(-1, n_outputs)
        curvature = np.abs(self._curvature(w, weight, np.ones(n_outputs)))
        factors: list[Any] = []
        for c in range(n_outputs):
            # Least squares of several targets under one penalty have one Hessian.
            same = np.array_equal(curvature[:, c], curvature[:, 0])
            if c > 0 and same and np.array_equal(h[:, c], h[:, 0]):
                factors.append(factors[0])
            else:
                H = self._data_hessian(c, curvature[:, c]) + np.diag(h[:, c])
                factors.append(cholesky_solver(H))

        def solve(v: Vector) -> Vector:
            V = v.reshape(-1, n_outputs)
            solved = np.empty_like(V)
            for c, factor in enumerate(factors):
                solved[:, c] = factor(V[:, c])
            return solved.ravel()

        return solve

    def _data_hessian(self, output: int, curvature: Vector) -> Array:
        """Return the Hessian of an output's data term, or the last one if it is nearly the same."""
        if output in self._last:
            known, H = self._last[output]
            if np.abs(curvature - known).sum() <= SAME_CURVATURE_SHARE * known.sum():
                return H
        self._last[output] = curvature, self._passes.gram(curvature)
        return self._last[output][1]

    def _coupled_solver(
        self, w: Vector, weight: Array, h: Vector, centring: Vector | None
    ) -> Solve:
        """Factorise the Hessian of a loss that couples the outputs, as a whole.

        Its block of outputs c and d is X' diag(s l_cd) X, with the second derivatives l_cd.
        """
        m, rows = self._passes.n_outputs, self._passes.n_variables
        H = np.zeros((rows, m, rows, m))
        for d in range(m):  # the loss's second derivative times unit vector d is its column d
            curvature = self._curvature(w, weight, np.eye(m)[d])
            for c in range(d, m):
                H[:, c, :, d] = self._passes.gram(curvature[:, c])
                H[:, d, :, c] = H[:, c, :, d]
        if self._passes.free is not None:
            free = self._passes.free.reshape(-1, m)
            H *= free * free[:, :, None, None]
        if centring is not None:
            each = np.arange(rows)
            H[each, :, each, :] += centring[:, None, None]
        return cholesky_solver(H.reshape(rows * m, -1) + np.diag(h))

    def _curvature(self, w: Vector, weight: Array, v: Vector) -> Array:
        """Return each sample's second derivative at w times v, weighted by the mean over folds."""
        Z = self._passes.predict(w[None])
        product = self._loss.hessian_product(self._loss.hessian(self._y, Z), np.ones_like(Z) * v)
        mean = _mean(weight)
        return np.asarray(product[:, 0] * mean.reshape(len(mean), -1))


def _mean(weight: Array) -> Array:
    """Return the mean over the folds, of shape (n_samples,) or (n_samples, n_outputs)."""
    # By BLAS, which sums short rows much faster than numpy.
    share = np.full(weight.shape[1], 1.0 / weight.shape[1])
    return np.asarray(np.moveaxis(weight, 1, -1) @ share)
