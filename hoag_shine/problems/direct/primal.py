r"""Folds with more rows than columns: Newton's equations in the coefficients.

The Hessian of fold k is :math:`\Phi^\top D_k \Phi + \mathrm{diag}(h) + R_k`, with the design
:math:`\Phi`, which has a last column of ones where there is an intercept, the weighted second
derivatives :math:`D_k` of the loss, the penalty h, and for a softmax the centring :math:`R_k` of
:mod:`hoag_shine.problems.linear`. Variables are arrays (fold, column, output).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...linalg import stacks
from ...linalg.precision import SUM_ROUNDING
from .batched import Factorised
from .newton import Folds, State, weighted

Array = NDArray[np.float64]
Vector = NDArray[np.float64]

# Most columns of which compiled loops make Gram matrices; beyond, BLAS does.
# Why: BLAS became as fast at about as many, on an AMD EPYC.
MAX_TILED_COLUMNS = 96


class Design:
    """The rows of all folds, with the products of its columns.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_columns)
    fit_intercept : bool
    centre : bool
        Whether columns are centred. An intercept without a penalty makes up for it, and a column
        that is nearly constant is no longer nearly parallel to that of the intercept.

    Attributes
    ----------
    rows : ndarray of shape (n_rows, d), float64
        With a last column of ones for an intercept.
    """

    def __init__(self, X: Any, fit_intercept: bool, centre: bool) -> None:
        dense = X.toarray() if hasattr(X, "toarray") else X
        dense = dense.astype(np.float64, copy=False)
        self._middle = _middle(dense) if centre else np.zeros(dense.shape[1])
        ones = np.ones((dense.shape[0], int(fit_intercept)))
        self.rows = np.ascontiguousarray(np.hstack([dense - self._middle, ones]))
        self._centred = centre

    def uncentred(self, W: Array) -> Array:
        """Return coefficients for X, of shape (n_folds, d, n_outputs), given those for ``rows``."""
        return self._shifted(W, -1.0)

    def centred(self, W: Array) -> Array:
        """Return coefficients for ``rows``, given those for X."""
        return self._shifted(W, 1.0)

    def _shifted(self, W: Array, sign: float) -> Array:
        if not self._centred:
            return W
        W = W.copy()
        W[:, -1] += sign * np.einsum("j,kjm->km", self._middle, W[:, :-1])
        return W

    def transposed(self, G: Array, sign: float) -> Array:
        """Return gradients for X, given those for ``rows``; the other way for a negative sign."""
        if not self._centred:
            return G
        G = G.copy()
        G[:, :-1] += sign * self._middle[:, None] * G[:, -1:]
        return G

    @cached_property
    def sizes(self) -> Array:
        """The absolute values of the rows."""
        return np.asarray(np.abs(self.rows))

    @cached_property
    def _padded(self) -> Array:
        """The rows, with columns of zeros up to whole tiles."""
        d = self.rows.shape[1]
        return np.pad(self.rows, ((0, 0), (0, -d % stacks.TILE_ROWS)))

    def gram(self, weight: Array) -> Array:
        """Return Phi' diag(u) Phi for each column u of weights of shape (n_rows, k)."""
        d, k = self.rows.shape[1], weight.shape[1]
        if d <= MAX_TILED_COLUMNS:
            padded = self._padded.shape[1]
            products = np.zeros((k, padded, padded))
            room = np.empty((stacks.GRAM_BLOCK, padded))
            stacks.gram(self._padded, np.ascontiguousarray(weight.T), room, products)
            return products[:, :d, :d]
        if weight.min(initial=0.0) < 0.0:
            return np.stack([(self.rows.T * u) @ self.rows for u in weight.T])
        roots = [self.rows.T * np.sqrt(u) for u in weight.T]
        # numpy recognises a matrix times its own transpose and has BLAS make one triangle of it.
        return np.stack([root @ root.T for root in roots])


def _middle(X: Array) -> Vector:
    """Return the mean of each column, and of a constant one what it is, without rounding.

    What rounding would leave of a large constant is another intercept, with next to no penalty.
    """
    constant = np.ptp(X, axis=0) == 0.0
    return np.asarray(np.where(constant, X[0], X.mean(axis=0)))


@dataclass(frozen=True)
class PrimalSystem:
    r"""Newton's equations in the coefficients.

    Attributes
    ----------
    design : Design
    folds : Folds
    penalty : ndarray of shape (d, n_outputs)
        h above.
    active : ndarray of shape (d, n_outputs), bool
        The variables that the model has; others are zero.
    centring : ndarray of shape (d, n_folds) or None
        :math:`\rho` of each fold and row.
    """

    design: Design
    folds: Folds
    penalty: Array
    active: NDArray[np.bool_]
    centring: Array | None

    def zero(self) -> State:
        """Return the state of a model without coefficients."""
        return (np.zeros((len(self.folds), *self.penalty.shape)),)

    def predict(self, state: State) -> Array:
        (W,) = state
        columns = W.swapaxes(0, 1).reshape(W.shape[1], -1)
        return np.asarray((self.design.rows @ columns).reshape(-1, len(W), W.shape[2]))

    def pull(self, state: State, slopes: Array) -> State:
        (W,) = state
        return (-(self._transposed(slopes) + self._stretched(W)),)

    def load(self, slopes: Array) -> State:
        return (self._transposed(slopes),)

    def work(self, force: State, step: State, dZ: Array) -> Vector:
        return np.asarray(np.einsum("kdm,kdm->k", force[0], step[0]))

    def stiffness(self, state: State, step: State) -> Vector:
        return np.asarray(np.einsum("kdm,kdm->k", state[0], self._stretched(step[0])))

    def linearise(self, Z: Array, damping: Vector | None = None) -> _Primal:
        added = 0.0 if damping is None else damping[:, None]
        return self._coupled(Z, added) if self.folds.loss.couples else self._each(Z, added)

    def drift(self, state: State, curvature: Array) -> State:
        return (-(self.penalty * state[0]),)

    def remainder(self, force: State, state: State, curvature: Array) -> State:
        """Return the residual of the equations: a force minus the Hessian times a state."""
        slopes = self.folds.curved(curvature, self.predict(state))
        return (force[0] - self._transposed(slopes) - self._stretched(state[0]),)

    def unmoved(self, rest: State, force: State, slopes: Array) -> Vector:
        """Return the largest share of the gradient that a step leaves where there is no penalty.

        As a share of the sum of the sizes of the gradient's terms; ``rest`` is the residual of the
        step.
        """
        columns, has = self._free
        # Where there is no gradient, what a step leaves is its own rounding.
        left = np.minimum(np.abs(rest[0][:, columns]), np.abs(force[0][:, columns]))
        return largest_share(left * has, self._free_terms(np.abs(slopes)))

    @staticmethod
    def _sums(rows: Array, slopes: Array) -> Array:
        n, k, m = slopes.shape
        return np.asarray((rows.T @ slopes.reshape(n, -1)).reshape(-1, k, m))

    def length(self, force: State) -> Vector:
        """Return the root of f'diag(1/h)f over the variables with a penalty.

        The Hessian is at least diag(h), so that it bounds the norm of f in its inverse.
        """
        inverse = np.where(
            self.penalty > 0.0, 1.0 / np.where(self.penalty > 0.0, self.penalty, 1), 0
        )
        return np.asarray(np.sqrt(np.einsum("kdm,dm->k", force[0] ** 2, inverse)))

    def sizes(self, state: State) -> Array:
        """Return the sums of the sizes of the terms of :meth:`predict`."""
        columns = np.abs(state[0]).swapaxes(0, 1).reshape(self.penalty.shape[0], -1)
        return np.asarray((self.design.sizes @ columns).reshape(-1, *self._shape))

    def reach(self, slopes: Array, state: State) -> Vector:
        """Bound :meth:`length` of what changes of slopes and rounding do to a force."""
        terms = self._sums(self.design.sizes, slopes).swapaxes(0, 1)
        return self.length((terms + SUM_ROUNDING * np.abs(self._stretched(state[0])),))

    def along_free(self, slopes: Array) -> Iterator[State]:
        """Return a force for each coefficient without a penalty: what slopes may add to its own."""
        (columns, has), terms = self._free, self._free_terms(slopes)
        for i, c in np.argwhere(has):
            (force,) = self.zero()
            force[:, columns[i], c] = terms[:, i, c]
            yield (force,)

    @cached_property
    def _free(self) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The columns of coefficients without a penalty, and which outputs of these have one."""
        free = self.active & (self.penalty == 0.0)
        columns = np.flatnonzero(free.any(axis=1))
        return columns, free[columns]

    def _free_terms(self, slopes: Array) -> Array:
        """Return the sums of the sizes of the gradients' terms of these coefficients."""
        columns, has = self._free
        return self._sums(self.design.sizes[:, columns], slopes).swapaxes(0, 1) * has

    def significant(self, force: State, state: State, slopes: Array) -> State:
        """Return a force, reduced by what may be rounding of the terms that it is the sum of.

        Linear predictors are rounded, too, which changes the slopes by curvature times rounding.
        """
        (W,), rows = state, self.design.sizes
        curvature = self.folds.curvature(self.predict(state))
        moved = self.folds.curved_sizes(curvature, self.sizes(state))
        terms = self._sums(rows, np.abs(slopes) + moved).swapaxes(0, 1)
        return (less_rounding(force[0], terms + np.abs(self._stretched(W))),)

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.folds), self.penalty.shape[1]

    def _transposed(self, slopes: Array) -> Array:
        return self._sums(self.design.rows, slopes).swapaxes(0, 1) * self.active

    def _stretched(self, W: Array) -> Array:
        """Return what penalty and centring make of coefficients."""
        pull = self.penalty * W
        if self.centring is not None:
            pull += (self.centring.T * W.sum(axis=2))[:, :, None]
        return pull

    def _each(self, Z: Array, added: Any) -> _Primal:
        """Factorise the Hessians of the outputs, of which each has its own."""
        d, m = self.penalty.shape
        loss, weight = self.folds.loss, self.folds.weight
        D = weighted(weight, self.folds.curvature(Z) + added)
        # Least squares of several targets under one penalty have one Hessian.
        alike = loss.quadratic and weight.shape[2] == 1 and np.ptp(self.penalty, axis=1).max() == 0
        outputs = 1 if alike else m
        H = self.design.gram(D[:, :, :outputs].reshape(len(D), -1))
        diagonals = np.tile(self.penalty.T[:outputs], (len(self.folds), 1))
        np.einsum("bii->bi", H)[...] += diagonals
        k = len(self.folds)

        def pack(force: Array) -> Array:
            return force if alike else force.swapaxes(1, 2).reshape(k * m, d, 1)

        def unpack(x: Array) -> Array:
            return x if alike else x.reshape(k, m, d).swapaxes(1, 2)

        return _Primal(Factorised(H), pack, unpack, diagonals, k)

    def _coupled(self, Z: Array, added: Any) -> _Primal:
        """Factorise the Hessians of all outputs together."""
        (d, m), k = self.penalty.shape, len(self.folds)
        loss, weight = self.folds.loss, self.folds.weight
        curvature = self.folds.curvature(Z)
        places = [(b, c) for c in range(m) for b in range(c, m)]
        columns: list[Array] = []
        for c in range(m):
            unit = np.broadcast_to(np.eye(m)[c], Z.shape)
            column = weighted(weight, loss.hessian_product(curvature, unit) + added * unit)
            columns += (column[:, :, b] for b in range(c, m))
        H: Any = np.empty((k, d, m, d, m))
        blocks = self.design.gram(np.concatenate(columns, axis=1)).reshape(-1, k, d, d)
        for block, (b, c) in zip(blocks, places, strict=True):
            H[:, :, b, :, c] = H[:, :, c, :, b] = block
        if self.centring is not None:
            rows = np.arange(d)
            H[:, rows, :, rows, :] += self.centring[:, :, None, None]
        kept = np.flatnonzero(self.active)
        H = H.reshape(k, d * m, d * m)
        np.einsum("bii->bi", H)[...] += self.penalty.ravel()

        def pack(force: Array) -> Array:
            return force.reshape(k, d * m)[:, kept, None]

        def unpack(x: Array) -> Array:
            full = np.zeros((k, d * m))
            full[:, kept] = x[:, :, 0]
            return full.reshape(k, d, m)

        diagonals = np.tile(self.penalty.ravel()[kept], (k, 1))
        if kept.size < d * m:
            H = H[:, kept[:, None], kept]
        return _Primal(Factorised(H), pack, unpack, diagonals, k)


class _Primal:
    """The factorised Hessians of a :class:`PrimalSystem`.

    Parameters
    ----------
    factor : Factorised
    pack, unpack : callable
        The way from coefficients, (fold, column, output), to right-hand sides of ``factor``, and
        from its solutions back.
    penalty : ndarray of shape (n_matrices, order)
        The penalty's part of the diagonals.
    n_folds : int
    """

    def __init__(
        self,
        factor: Factorised,
        pack: Callable[[Array], Array],
        unpack: Callable[[Array], Array],
        penalty: Array,
        n_folds: int,
    ) -> None:
        self._factor, self._pack, self._unpack, self._penalty = factor, pack, unpack, penalty
        self._n_folds = n_folds

    def solve(self, force: State) -> State:
        return (self._unpack(self._factor(self._pack(force[0]))),)

    @property
    def singular(self) -> NDArray[np.bool_]:
        """Which folds have a matrix that is singular to working precision."""
        return np.asarray(self._factor.singular.reshape(self._n_folds, -1).any(axis=1))

    @property
    def incomplete(self) -> NDArray[np.bool_]:
        """Which folds have a direction that their Hessians say nothing of."""
        return np.asarray(self._factor.incomplete.reshape(self._n_folds, -1).any(axis=1))

    def ignored(self, force: State, load: State) -> Vector:
        """Bound the change of a function by a force, along directions that are not solved for.

        ``load`` is the gradient of the function. All that is known of the Hessian in these
        directions is that it is at least the penalty.
        """
        sides = self._pack(force[0]), self._pack(load[0])
        total = self._factor.ignored(*sides, self._penalty)
        return np.asarray(total.reshape(len(force[0]), -1).sum(axis=1))


def largest_share(left: Array, terms: Array) -> Vector:
    """Return each fold's largest share of what is left, zero where there was nothing."""
    nothing = np.where(left > 0.0, np.inf, 0.0)
    share = np.divide(left, terms, out=nothing, where=terms > 0.0)
    return np.asarray(share.reshape(len(share), -1).max(axis=1, initial=0.0))


def less_rounding(force: Array, terms: Array) -> Array:
    """Return a sum, moved towards zero by as much as rounding may have added to it."""
    return np.asarray(np.sign(force) * np.maximum(np.abs(force) - SUM_ROUNDING * terms, 0.0))
