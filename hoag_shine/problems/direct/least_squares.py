r"""Least squares by normal equations that are made once for all penalties.

The coefficients of a fold depend on its training rows through :math:`G_k = 2 \Phi^\top S_k \Phi`
and :math:`b_k = 2 \Phi^\top S_k y` alone. These are made once. Each penalty then takes a
factorisation of :math:`G_k + \mathrm{diag}(h)` for each fold, and reads no rows but the held-out
ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ...linalg.costs import WORKSPACE_NUMBERS
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
        self._rows, self._y = design.rows, y
        # The loss is the squared error and not half of it: hence the factor 2 in G and b.
        parts = [
            (2.0 * _grams(design, S), 2.0 * self._moments(S), S.T @ (y * y).sum(axis=1))
            for S in map(weight.__getitem__, chunks)
        ]
        self._G, self._b, self._c = (np.concatenate(a) for a in zip(*parts, strict=True))
        rows, folds = (a.astype(np.intp) for a in (held_out.rows, held_out.folds))
        self._held_out = _HeldOutRows(design.rows[rows], y[rows], held_out.weight, folds)
        # Multiplied by numbers of the held-out rows, it has the sums of each fold.
        of_rows = np.ones(rows.size), (folds, np.arange(rows.size))
        self._sums = sparse.csr_array(of_rows, shape=(len(self._G), rows.size))

    def _moments(self, S: Array) -> Array:
        """Return b of the folds with these weights, (fold, column, output)."""
        return np.stack([S.T @ (self._rows * y[:, None]) for y in self._y.T], axis=2)

    def inner(self, W: Array, h: Array) -> tuple[Vector, Array]:
        """Return the folds' inner objectives and their gradients."""
        curved = np.einsum("kij,kjm->kim", self._G, W)
        quadratic = np.einsum("kdm,kdm->k", W, 0.5 * curved + 0.5 * h * W - self._b)
        return self._c + quadratic, curved + h * W - self._b

    def solve(self, h: Array) -> tuple[Array, Vector, Vector, Array, Vector]:
        """Return coefficients, held-out losses, their errors and adjoints for penalties h.

        And what rounding may do to the products of coefficients, adjoints and penalties.

        Parameters
        ----------
        h : ndarray of shape (d, n_outputs)

        Returns
        -------
        W, Q : ndarray of shape (n_folds, d, n_outputs)
        values, errors, doubts : ndarray of shape (n_folds,)
        """
        W, Q = np.empty_like(self._b), np.empty_like(self._b)
        values, errors, doubts = np.zeros((3, len(W)))
        # Outputs under the same penalties share a factor.
        penalties = [own.tobytes() for own in h.T]
        places = {own: c for c, own in enumerate(penalties)}
        factors = {own: self._factorised(h[:, c]) for own, c in places.items()}
        for c, factor in enumerate(map(factors.__getitem__, penalties)):
            W[:, :, c] = factor(self._b[:, :, c, None])[:, :, 0]
            value, terms, load = self._outer(W[:, :, c], c)
            Q[:, :, c] = factor(load[:, :, None])[:, :, 0]
            values += value
            # Solutions are known up to rounding times the condition number of the scaled matrix, in
            # the norm that it is scaled by (Higham, Accuracy and Stability of Numerical Algorithms,
            # section 7.3).
            rounding = EPSILON * len(h) / factor.smallest
            errors += rounding * terms
            doubts += rounding * self._spread(W[:, :, c], Q[:, :, c], h[:, c])
        return W, values, errors, Q, doubts

    def _spread(self, w: Array, q: Array, h: Vector) -> Vector:
        """Return the change of the sums of h w q by relative changes of w and q of size one."""
        scale = np.einsum("kii->ki", self._G) + h
        scale = np.where(scale > 0.0, scale, 1.0)

        def norm(x: Array) -> Vector:
            return np.asarray(np.linalg.norm(x, axis=1))

        root = np.sqrt(scale)
        return norm(root * w) * norm(h * q / root) + norm(h * w / root) * norm(root * q)

    def _factorised(self, h: Vector) -> Factorised:
        H = self._G.copy()
        np.einsum("bii->bi", H)[...] += h
        return Factorised(H)

    def _outer(self, w: Array, c: int) -> tuple[Vector, Vector, Array]:
        """Return each fold's held-out loss of output c, its terms' sizes, and its gradient in w."""
        held = self._held_out
        v = held.weight[:, min(c, held.weight.shape[1] - 1)]
        z, y = np.einsum("id,id->i", held.X, w[held.folds]), held.y[:, c]
        slope = 2.0 * v * (z - y)
        terms = np.abs(slope) * (np.abs(z) + np.abs(y))
        value = self._sums @ (v * (z - y) ** 2)
        return value, self._sums @ terms, np.asarray(self._sums @ (slope[:, None] * held.X))


def _grams(design: Design, S: Array) -> Array:
    """Return Phi' diag(u) Phi for each column u of S.

    Where folds lack few rows, as one each, theirs are taken off the matrix of all rows, as long as
    that loses no more than a bit.
    """
    most = S.max(axis=1)
    lacking = most - S.T
    folds, rows = np.divmod(np.flatnonzero(lacking != 0.0), len(S))
    X, d = design.rows[rows], design.rows.shape[1]
    if rows.size > len(S) or rows.size * d * d > WORKSPACE_NUMBERS or not rows.size:
        return design.gram(S)
    whole = design.gram(most[:, None])[0]
    lost = np.zeros((S.shape[1], d, d))
    some, first = np.unique(folds, return_index=True)
    products = (lacking[folds, rows][:, None] * X)[:, :, None] * X[:, None, :]
    lost[some] = np.add.reduceat(products, first)
    G = whole - lost
    kept, before = np.einsum("kii->ki", G), np.diagonal(whole)
    little = np.flatnonzero((kept < 0.5 * before).any(axis=1))
    if little.size:
        G[little] = design.gram(S[:, little])
    return np.asarray(G)


class _HeldOutRows(NamedTuple):
    """Rows that folds hold out, their targets, weights in the outer losses, and folds."""

    X: Array
    y: Array
    weight: Array
    folds: NDArray[np.intp]
