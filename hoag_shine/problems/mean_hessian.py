"""The folds' mean Hessian, factorised: a preconditioner for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from ..linalg.cholesky import cholesky_solver
from ..linalg.costs import MAX_FACTORISED_ORDER, WORKSPACE_NUMBERS
from ..linalg.precision import SMALLEST_NORMAL
from .losses import Loss
from .passes import Passes

Vector = NDArray[np.float64]
Array = NDArray[np.float64]
Solve = Callable[[Vector], Vector]

# Largest cost of the Hessian's data term, in products of the data with a vector for each output, at
# which it is factorised.
# Why: five folds of a9a took 36 passes with it where they took 190 with a diagonal, so that it may
# cost as much as some tens of products. Those of digits took 80 iterations with a block for each
# class, 144 with one for all, and 251 with a diagonal.
MAX_GRAM_PRODUCTS = 40.0
# Multiplications for the data term that are allowed in any case.
# Why: they take some milliseconds.
QUICK_GRAM_MULTIPLICATIONS = 1e7
# Change of the samples' curvatures, as a share of their sum, up to which the last data term serves
# again.
# Why: 10 % of a search on phishing; with two fifths, more iterations than it saves.
SAME_CURVATURE_SHARE = 0.1


class MeanHessian:
    r"""The mean over the folds of the Hessians at one w, or its larger part.

    The folds share most of their rows, so that one factorisation serves all of them. Of a loss that
    couples the outputs, the whole Hessian has a block for each pair of outputs. Where that costs
    too much, only the blocks on the diagonal are kept, :math:`X^\top D_c X` for output c; of a
    softmax, twice their sum is at least the Hessian. Where these cost too much, too, there is one
    block for all outputs, with the mean of the :math:`D_c`, times a factor for each output.

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
        """Whether it is worth its cost, or a part of it is."""
        return self._whole or self._affords(1)

    @cached_property
    def _whole(self) -> bool:
        """Whether the blocks of all pairs of outputs are to be made."""
        m = self._passes.n_outputs
        small = self._passes.n_variables * m <= MAX_FACTORISED_ORDER
        return self._loss.couples and small and self._affords(m * (m + 1) // 2)

    def _affords(self, n_blocks: int) -> bool:
        """Whether so many blocks are cheap to make and to keep."""
        design, m, order = self._passes.design, self._passes.n_outputs, self._passes.n_variables
        most = max(MAX_GRAM_PRODUCTS * m, QUICK_GRAM_MULTIPLICATIONS / design.n_stored)
        small = order <= MAX_FACTORISED_ORDER and n_blocks * order**2 <= WORKSPACE_NUMBERS
        return small and design.gram_cost * n_blocks <= most

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
        if self._whole:
            return self._coupled_solver(w, weight, h, centring)
        h = h.reshape(-1, self._passes.n_outputs)
        if centring is not None:
            h = h + centring[:, None]
        curvature = self._diagonals(w, weight)
        if self._affords(curvature.shape[1]):
            return self._blocks_solver(curvature, h)
        return self._common_solver(curvature, h)

    def _blocks_solver(self, curvature: Array, h: Array) -> Solve:
        """Factorise the blocks on the diagonal, output by output."""
        m = h.shape[1]
        factors: list[Any] = []
        for c in range(m):
            # Least squares of several targets under one penalty have one Hessian.
            same = np.array_equal(curvature[:, c], curvature[:, 0])
            if c > 0 and same and np.array_equal(h[:, c], h[:, 0]):
                factors.append(factors[0])
            else:
                block = self._among_free(self._data_hessian(c, curvature[:, c]), c)
                factors.append(cholesky_solver(block + np.diag(h[:, c])))

        def solve(v: Vector) -> Vector:
            V = v.reshape(-1, m)
            solved = np.empty_like(V)
            for c, factor in enumerate(factors):
                solved[:, c] = factor(V[:, c])
            return solved.ravel()

        return solve

    def _common_solver(self, curvature: Array, h: Array) -> Solve:
        r"""Factorise one block for all outputs.

        The eigenvectors V and values of :math:`S G S` with :math:`S = \mathrm{diag}(h)^{-1/2}`
        invert :math:`t_c G + \mathrm{diag}(h)` for every factor :math:`t_c`.
        """
        if self._passes.free is not None or not (h == h[:, :1]).all():
            raise LinAlgError("The outputs differ too much for a common Hessian.")
        sizes = curvature.sum(axis=0)
        G = self._data_hessian(0, curvature.mean(axis=1))
        # Without a penalty, the curvature stands in for one.
        positive = np.where(h[:, 0] > 0.0, h[:, 0], np.diagonal(G))
        S = 1.0 / np.sqrt(np.maximum(positive, SMALLEST_NORMAL))
        values, V = np.linalg.eigh(G * S * S[:, None])
        V *= S[:, None]
        shrunk = 1.0 / (1.0 + np.outer(np.maximum(values, 0.0), sizes / max(float(sizes.mean()), SMALLEST_NORMAL)))
        if not np.isfinite(shrunk).all():
            raise LinAlgError("The Hessian is not finite.")
        return lambda v: np.ravel(V @ (shrunk * (V.T @ v.reshape(h.shape))))

    def _diagonals(self, w: Vector, weight: Array) -> Array:
        """Return the samples' second derivatives by each output, (sample, output)."""
        Z = self._passes.predict(w[None])
        diagonal = self._loss.hessian_diagonal(self._loss.hessian(self._y, Z))[:, 0]
        mean = _mean(weight)
        # Where a loss is not convex, samples of opposite curvature would cancel.
        return np.asarray(np.abs(diagonal * mean.reshape(len(mean), -1)))

    def _among_free(self, block: Array, output: int) -> Array:
        """Return the block without the variables that are fixed at zero."""
        if self._passes.free is None:
            return block
        free = self._passes.free.reshape(-1, self._passes.n_outputs)[:, output]
        return block * free * free[:, None]

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
