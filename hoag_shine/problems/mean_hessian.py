"""The folds' mean Hessian, factorised: a preconditioner for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

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
# Share of the centring that holds changes of the outputs whose sum is zero.
# Why: by judgement. Without any, dna took 16 iterations where it took 41 with all of it.
CENTRING_SHARE = 1e-3
# Change of the samples' curvatures, as a share of their sum, up to which the last data term serves
# again.
# Why: 10 % of a search on phishing; with two fifths, more iterations than it saves.
SAME_CURVATURE_SHARE = 0.1


class MeanHessian:
    r"""The mean over the folds of the Hessians at one w, or its larger part.

    The folds share most of their rows, so that one factorisation serves all of them. Of a loss that
    couples the outputs, the whole Hessian has a block for each pair of outputs. Where that costs
    too much, only the blocks on the diagonal are kept, :math:`X^\top D_c X` for output c; of a
    softmax, twice these are at least the Hessian, but for shifts of all outputs, which are treated
    by themselves. Where these cost too much, too, there is one
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
        """Whether ``n_blocks`` blocks are cheap to make and to keep."""
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
        curvature = self._diagonals(w, weight)
        make = self._blocks_solver if self._affords(h.shape[1]) else self._common_solver
        if centring is None:
            return make(curvature, h)
        alike = self._passes.free is None and bool((h == h[:, :1]).all())
        if not alike:
            return make(curvature, h + centring[:, None])
        # All else than shifts is not held by the centring. A little of it stays, for classes that
        # have next to no curvature.
        solve = make(curvature, h + CENTRING_SHARE * centring[:, None])
        return _apart_from_shifts(solve, h[:, 0] + h.shape[1] * centring, h.shape[1])

    def _blocks_solver(self, curvature: Array, h: Array) -> Solve:
        """Factorise the blocks on the diagonal, output by output."""
        # Least squares of several targets under one penalty have one Hessian.
        alike = bool((curvature == curvature[:, :1]).all() and (h == h[:, :1]).all())
        blocks = self._data_hessians(curvature[:, :1] if alike else curvature)
        factors = [
            cholesky_solver(self._among_free(block, c) + np.diag(h[:, c]))
            for c, block in enumerate(blocks)
        ]
        if alike:
            return lambda v: np.ravel(factors[0](v.reshape(h.shape)))
        # Inverses are applied together; to solve with one factor after the other takes longer.
        inverses = np.stack([factor(np.eye(len(h))) for factor in factors])
        return lambda v: np.ravel((inverses @ v.reshape(h.shape).T[:, :, None])[:, :, 0].T)

    def _common_solver(self, curvature: Array, h: Array) -> Solve:
        r"""Factorise one block for all outputs.

        The eigenvectors V and values of :math:`S G S` with :math:`S = \mathrm{diag}(h)^{-1/2}`
        invert :math:`t_c G + \mathrm{diag}(h)` for every factor :math:`t_c`.
        """
        if self._passes.free is not None or not (h == h[:, :1]).all():
            raise LinAlgError("The outputs differ too much for a common Hessian.")
        sizes: Vector = curvature.sum(axis=0)
        (G,) = self._data_hessians(curvature.mean(axis=1, keepdims=True))
        # Without a penalty, the curvature stands in for one.
        positive = np.where(h[:, 0] > 0.0, h[:, 0], np.diagonal(G))
        S = 1.0 / np.sqrt(np.maximum(positive, SMALLEST_NORMAL))
        values, V = np.linalg.eigh(G * S * S[:, None])
        V *= S[:, None]
        shares = sizes / max(float(sizes.mean()), SMALLEST_NORMAL)
        shrunk = 1.0 / (1.0 + np.outer(np.maximum(values, 0.0), shares))
        if not np.isfinite(shrunk).all():
            raise LinAlgError("The Hessian is not finite.")
        return lambda v: np.asarray(np.ravel(V @ (shrunk * (V.T @ v.reshape(h.shape)))))

    def _diagonals(self, w: Vector, weight: Array) -> Array:
        """Return the samples' second derivatives by each output, (sample, output)."""
        found, mean = self._passes.predict(w[None])[:, 0], _mean(weight)
        for rows in self._passes.portions():  # of the linear predictors, in their place
            hessian = self._loss.hessian(self._y[rows], found[rows, None])
            diagonal = self._loss.hessian_diagonal(hessian)[:, 0]
            # Where a loss is not convex, samples of opposite curvature would cancel.
            found[rows] = np.abs(diagonal * mean[rows].reshape(len(diagonal), -1))
        return found

    def _among_free(self, block: Array, output: int) -> Array:
        """Return the block without the variables that are fixed at zero."""
        if self._passes.free is None:
            return block
        free = self._passes.free.reshape(-1, self._passes.n_outputs)[:, output]
        return np.asarray(block * free * free[:, None])

    def _data_hessians(self, curvature: Array) -> list[Array]:
        """Return X'diag(u)X for each column u, or the last one where u is nearly the same."""
        changed = [
            c
            for c, u in enumerate(curvature.T)
            if c not in self._last
            or np.abs(u - self._last[c][0]).sum() > SAME_CURVATURE_SHARE * self._last[c][0].sum()
        ]
        for c, H in zip(changed, self._passes.grams(curvature[:, changed]), strict=True):
            self._last[c] = curvature[:, c], H
        return [self._last[c][1] for c in range(curvature.shape[1])]

    def _coupled_solver(
        self, w: Vector, weight: Array, h: Vector, centring: Vector | None
    ) -> Solve:
        """Factorise the Hessian of a loss that couples the outputs, as a whole.

        Its block of outputs c and d is X' diag(s l_cd) X, with the second derivatives l_cd.
        """
        m, rows = self._passes.n_outputs, self._passes.n_variables
        H = np.zeros((rows, m, rows, m))
        Z = self._passes.predict(w[None])
        hessian, mean = self._loss.hessian(self._y, Z), _mean(weight)
        mean = mean.reshape(len(mean), -1)
        for d in range(m):  # the loss's second derivative times unit vector d is its column d
            unit = np.broadcast_to(np.eye(m)[d], Z.shape)
            curvature = self._loss.hessian_product(hessian, unit)[:, 0] * mean
            for c, block in enumerate(self._passes.grams(curvature[:, d:]), d):
                H[:, c, :, d] = H[:, d, :, c] = block
        if self._passes.free is not None:
            free = self._passes.free.reshape(-1, m)
            H *= free * free[:, :, None, None]
        if centring is not None:
            each = np.arange(rows)
            H[each, :, each, :] += centring[:, None, None]
        return cholesky_solver(H.reshape(rows * m, -1) + np.diag(h))


def _mean(weight: Array) -> Array:
    """Return the mean over the folds, of shape (n_samples,) or (n_samples, n_outputs)."""
    # By BLAS, which sums short rows much faster than numpy.
    share = np.full(weight.shape[1], 1.0 / weight.shape[1])
    return np.asarray(np.moveaxis(weight, 1, -1) @ share)


def _apart_from_shifts(solve: Solve, stiffness: Vector, n_outputs: int) -> Solve:
    """Return the product with an inverse that treats shifts of all outputs by themselves.

    A softmax does not feel them, so that only ``stiffness``, of each row, holds them. Where the
    outputs have the same penalties, the Hessian does not mix them with changes whose sum is zero.
    """
    inverse = np.divide(1.0, stiffness, out=np.zeros_like(stiffness), where=stiffness > 0.0)
    share = np.full(n_outputs, 1.0 / n_outputs)

    def solved(v: Vector) -> Vector:
        V = v.reshape(-1, n_outputs)
        shift = V @ share
        x = solve(np.ravel(V - shift[:, None])).reshape(V.shape)
        return np.ravel(x + (shift * inverse - x @ share)[:, None])

    return solved
