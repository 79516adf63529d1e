r"""Least squares of very many folds, as with one for each row that is left out.

The coefficients of a fold depend on its training rows through :math:`G_k = 2 \Phi^\top S_k \Phi`
and :math:`b_k = 2 \Phi^\top S_k y` alone. These are made once. Each penalty then takes a
factorisation of :math:`G_k + \mathrm{diag}(h)` for each fold, and reads no rows but the held-out
ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...linalg.precision import EPSILON
from ..fold_weights import FoldWeights
from ..held_out import HeldOut
from .batched import Factorised
from .primal import Design

Array = NDArray[np.float64]
Vector = NDArray[np.float64]


class LeastSquares:
    """The normal equations of all folds.

    Parameters
    ----------
    design : Design
    y : ndarray of shape (n_rows, n_outputs)
    weight : FoldWeights
        The same for all outputs.
    held_out : HeldOut
    chunks : iterable of slice
        Portions of the folds whose weights fit into memory together.
    """

    def __init__(
        self,
        design: Design,
        y: Array,
        weight: FoldWeights,
        held_out: HeldOut,
        chunks: Iterator[slice],
    ) -> None:
        self._rows, self._y, self._held_out = design.rows, y, held_out
        # The loss is the squared error and not half of it: hence the factor 2 in G and b.
        parts = [
            (2.0 * design.gram(S), 2.0 * self._moments(S), S.T @ (y * y).sum(axis=1))
            for S in map(weight.__getitem__, chunks)
        ]
        self._G, self._b, self._c = (np.concatenate(a) for a in zip(*parts, strict=True))

    def _moments(self, S: Array) -> Array:
        """Return b of the folds with these weights, (fold, column, output)."""
        return np.stack([self._rows.T @ (S[:, k, None] * self._y) for k in range(S.shape[1])])

    def inner(self, W: Array, h: Array) -> tuple[Vector, Array]:
        """Return the folds' inner objectives and their gradients."""
        curved = np.einsum("kij,kjm->kim", self._G, W)
        quadratic = np.einsum("kdm,kdm->k", W, 0.5 * curved + 0.5 * h * W - self._b)
        return self._c + quadratic, curved + h * W - self._b

    def solve(self, h: Array) -> tuple[Array, Vector, Vector, Array]:
        """Return coefficients, held-out losses, their errors and adjoints for penalties h.

        Parameters
        ----------
        h : ndarray of shape (d, n_outputs)

        Returns
        -------
        W, Q : ndarray of shape (n_folds, d, n_outputs)
        values, errors : ndarray of shape (n_folds,)
        """
        rows, folds = (a.astype(np.intp) for a in (self._held_out.rows, self._held_out.folds))
        W, Q = np.empty_like(self._b), np.empty_like(self._b)
        values, errors = np.zeros((2, len(W)))
        for c in range(h.shape[1]):
            # (G_k + diag(h)) w = b_k, and with the same factor the adjoint for f_k's gradient.
            H = self._G.copy()
            np.einsum("bii->bi", H)[...] += h[:, c]
            factor = Factorised(H)
            W[:, :, c] = factor(self._b[:, :, c, None])[:, :, 0]
            X, v = (
                self._rows[rows],
                self._held_out.weight[:, min(c, self._held_out.weight.shape[1] - 1)],
            )
            z, y = np.einsum("id,id->i", X, W[folds, :, c]), self._y[rows, c]
            slope = 2.0 * v * (z - y)
            load = np.zeros(W.shape[:2])
            np.add.at(load, folds, slope[:, None] * X)
            Q[:, :, c] = factor(load[:, :, None])[:, :, 0]
            values += np.bincount(folds, v * (z - y) ** 2, len(W))
            # Coefficients are known up to rounding times the condition number (Higham, chapter 10),
            # for which the inverse of the smallest pivot stands.
            terms = np.bincount(folds, np.abs(slope) * (np.abs(z) + np.abs(y)), len(W))
            errors += EPSILON * terms / factor.smallest
        return W, values, errors, Q
