r"""Folds with more columns than rows: Newton's equations in variables of the samples.

The coefficients of a penalised fit are combinations of the training rows,
:math:`w = \mathrm{diag}(1/h)\, X^\top a` with :math:`a = -\partial \ell / \partial z` (the
representer theorem). To solve for ``a`` is exact and cheap, and keeps the coefficients in the span
of the training rows. In a solver for the coefficients themselves, no loss would see what rounding
or a preconditioner adds outside of that span, and only the penalty, however small, would bring it
back.

With the kernel :math:`K = X \mathrm{diag}(1/h) X^\top`, columns F without a penalty (intercepts)
and their coefficients b, linear predictors are :math:`z = K a + F b`, and the optimum has
:math:`F^\top a = 0`. A Newton step from there solves

.. math:: (I + D K)\, c + D F \beta = u, \qquad F^\top c - R \beta = v

for curvatures D, a centring R of the softmax, and a force (u, v). With :math:`D = V V^\top`, sample
by sample, that is a positive definite system whose eigenvalues are at least 1, whatever the units
of X are and wherever D is zero:

.. math:: c = u - V e, \qquad B e = V^\top (K u + F \beta), \qquad B = I + V^\top K V

(C. E. Rasmussen and C. K. I. Williams, *Gaussian Processes for Machine Learning*, section 3.4.3).
An output may have a kernel of another scale, :math:`\kappa_c K`, and one that has no coefficients,
as the scale of Huber's loss, has :math:`\kappa_c = 0`. Variables are two arrays:
a (fold, sample, output) and b (fold, column of F, output).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...linalg.precision import SUM_ROUNDING
from .batched import Factorised
from .newton import Folds, State
from .primal import largest_share, less_rounding

Array = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class DualSystem:
    r"""Newton's equations in variables of the samples.

    Attributes
    ----------
    kernel : ndarray of shape (n_rows, n_rows)
        K above.
    scale : ndarray of shape (n_outputs,)
        :math:`\kappa` above.
    free : ndarray of shape (n_rows, q)
        F above.
    active : ndarray of shape (q, n_outputs), bool
        The coefficients of F that the model has; others are zero.
    folds : Folds
    centring : ndarray of shape (q, n_folds) or None
        :math:`\rho` of each fold and column of F.
    """

    kernel: Array
    scale: Vector
    free: Array
    active: NDArray[np.bool_]
    folds: Folds
    centring: Array | None

    def zero(self) -> State:
        """Return the state of a model without coefficients."""
        k, (q, m) = len(self.folds), self.active.shape
        return np.zeros((k, len(self.kernel), m)), np.zeros((k, q, m))

    def predict(self, state: State) -> Array:
        a, b = state
        return self.times_kernel(a.swapaxes(0, 1)) + self._times_free(b)

    def times_kernel(self, a: Array) -> Array:
        """Return K times a, both of shape (n_rows, n_folds, n_outputs)."""
        product = self.kernel @ a.reshape(len(a), -1)
        return product.reshape(a.shape) * self.scale

    def pull(self, state: State, slopes: Array) -> State:
        a, b = state
        return -slopes - a.swapaxes(0, 1), -self._gap(a, b)

    def load(self, slopes: Array) -> State:
        k, (q, m) = len(self.folds), self.active.shape
        return slopes, np.zeros((k, q, m))

    def work(self, force: State, step: State, dZ: Array) -> Vector:
        u, v = force
        work = np.einsum("nkm,nkm->k", u, dZ) - np.einsum("kqm,kqm->k", v, step[1])
        return np.asarray(work)

    def stiffness(self, state: State, step: State) -> Vector:
        a = state[0].swapaxes(0, 1)
        inner = np.einsum("nkm,nkm->k", a, self.times_kernel(step[0].swapaxes(0, 1)))
        if self.centring is not None:
            sums = state[1].sum(axis=2) * step[1].sum(axis=2)
            inner += np.einsum("qk,kq->k", self.centring, sums)
        return np.asarray(inner)

    def drift(self, state: State, curvature: Array) -> State:
        # K is divided by the common factor of the penalties, and so are the predictors K a.
        k, (q, m) = len(self.folds), self.active.shape
        shrunk = self.times_kernel(state[0].swapaxes(0, 1))
        return self.folds.curved(curvature, shrunk), np.zeros((k, q, m))

    def remainder(self, force: State, state: State, curvature: Array) -> State:
        """Return the residual of the equations: a force minus their left side for a state."""
        (u, v), c = force, state[0].swapaxes(0, 1)
        return u - c - self.folds.curved(curvature, self.predict(state)), v - self._gap(*state)

    def unmoved(self, rest: State, force: State, slopes: Array) -> Vector:
        """Return the largest share of the gradient that a step leaves where there is no penalty.

        As a share of the sum of the sizes of the gradient's terms; ``rest`` is the residual of the
        step.
        """
        k, (q, m) = len(self.folds), self.active.shape
        sizes = np.abs(slopes) + np.abs(force[0])
        terms = np.abs(self.free).T @ sizes.reshape(len(slopes), k * m)
        return largest_share(np.abs(rest[1]), terms.reshape(q, k, m).swapaxes(0, 1))

    def length(self, force: State) -> Vector:
        """Return the root of u'Ku, the norm of X'u in the inverse of the penalty."""
        squares = np.einsum("nkm,nkm->k", force[0], self.times_kernel(force[0]))
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)))

    def sizes(self, state: State) -> Array:
        """Return the sums of the sizes of the terms of :meth:`predict`."""
        a, b = (np.abs(x) for x in state)
        k, q, m = b.shape
        free = np.abs(self.free) @ (b * self.active).swapaxes(0, 1).reshape(q, k * m)
        return np.asarray(self._times_sizes(a.swapaxes(0, 1)) + free.reshape(-1, k, m))

    def _times_sizes(self, a: Array) -> Array:
        """Return the sums of the sizes of the terms of :meth:`times_kernel`."""
        product = np.abs(self.kernel) @ a.reshape(len(a), -1)
        return np.asarray(product.reshape(a.shape) * self.scale)

    def reach(self, slopes: Array, state: State) -> Vector:
        """Bound :meth:`length` of what changes of slopes and rounding do to a force."""
        u = slopes + SUM_ROUNDING * np.abs(state[0].swapaxes(0, 1))
        return np.asarray(np.sqrt(np.einsum("nkm,nkm->k", u, self._times_sizes(u))))

    def along_free(self, slopes: Array) -> Iterator[State]:
        """Return a force for each coefficient without a penalty: what slopes may add to its own."""
        n, k, m = slopes.shape
        terms = (np.abs(self.free).T @ slopes.reshape(n, k * m)).reshape(-1, k, m).swapaxes(0, 1)
        for j, c in np.argwhere(self.active):
            force = np.zeros_like(terms)
            force[:, j, c] = terms[:, j, c]
            yield np.zeros_like(slopes), force

    def significant(self, force: State, state: State, slopes: Array) -> State:
        """Return a force, reduced by what may be rounding of the terms that it is the sum of.

        Linear predictors are rounded, too, which changes the slopes by curvature times rounding.
        """
        curvature = self.folds.curvature(self.predict(state))
        moved = self.folds.curved_sizes(curvature, self.sizes(state))
        terms = np.abs(slopes) + moved + np.abs(state[0].swapaxes(0, 1))
        return less_rounding(force[0], terms), force[1]

    def linearise(self, Z: Array, damping: Vector | None = None) -> _Dual:
        loss, weight = self.folds.loss, self.folds.weight
        curvature = self.folds.curvature(Z)
        size = np.sqrt(weight)
        if not loss.couples:
            added = 0.0 if damping is None else damping[:, None]
            V = np.where(size > 0.0, size * np.sqrt(np.maximum(curvature, 0.0) + added), 0.0)
            return _Dual(self, V, lambda u: _divided(u, V))

        root = loss.hessian_root(curvature)
        damped = np.flatnonzero(0.0 if damping is None else damping)
        if damped.size:
            root[:, damped] = _added(root[:, damped], damping[damped])  # type: ignore[index]

        def divide(u: Array) -> tuple[Array, Array]:
            share, rest = loss.hessian_root_solve(curvature, u)
            if damped.size:
                share[:, damped] = np.linalg.solve(root[:, damped], u[:, damped, :, None])[..., 0]
                rest[:, damped] = 0.0
            quotient, left = _divided(share, np.broadcast_to(size, share.shape))
            return quotient, np.where(left != 0.0, u, rest)

        return _Dual(self, size[..., None] * root, divide)

    def _times_free(self, b: Array) -> Array:
        k, q, m = b.shape
        columns = (b * self.active).swapaxes(0, 1).reshape(q, k * m)
        return np.asarray((self.free @ columns).reshape(len(self.free), k, m))

    def transposed_free(self, c: Array) -> Array:
        """Return F' c, of shape (n_folds, q, n_outputs), for c (n_rows, n_folds, n_outputs)."""
        n, k, m = c.shape
        product = (self.free.T @ c.reshape(n, k * m)).reshape(self.free.shape[1], k, m)
        return product.swapaxes(0, 1) * self.active

    def _gap(self, a: Array, b: Array) -> Array:
        """Return F' a - R b, which is zero at the optimum."""
        gap = self.transposed_free(a.swapaxes(0, 1))
        if self.centring is not None:
            gap -= (self.centring.T * b.sum(axis=2))[:, :, None]
        return gap


def _added(root: Array, damping: Vector) -> Array:
    """Return roots of matrices, given by their roots, to whose diagonals something is added."""
    values, vectors = np.linalg.eigh(root @ np.swapaxes(root, -1, -2))
    values = np.maximum(values, 0.0) + damping[:, None]
    return np.asarray(vectors * np.sqrt(values)[..., None, :])


def _divided(u: Array, V: Array) -> tuple[Array, Array]:
    """Return u / V, zero where V is, and what is left of u there."""
    positive = V > 0.0
    return np.divide(u, V, out=np.zeros_like(u), where=positive), np.where(positive, 0.0, u)


class _Dual:
    """The factorised equations of a :class:`DualSystem`.

    Parameters
    ----------
    system : DualSystem
    V : ndarray of shape (n_rows, n_folds, n_outputs) or with a further axis (n_outputs)
        Roots of the weighted curvatures: numbers, or matrices (output, column).
    divide : callable
        Splits u into :math:`V s + u_0` and returns s and :math:`u_0`.
    """

    def __init__(
        self, system: DualSystem, V: Array, divide: Callable[[Array], tuple[Array, Array]]
    ) -> None:
        self._system = system
        self._V = V
        self._divide = divide
        self._couples = V.ndim == 4
        self._factor = Factorised(self._matrix())
        self._free = self._factored_free()
        self._kept = np.flatnonzero(system.active)
        self._schur = self._factored_schur()

    def solve(self, force: State) -> State:
        u, v = force
        system = self._system
        # Where the data are interpolated, c is many digits smaller than u, and the difference
        # u - V e would lose these digits. With u = V s + u0, it is V B^-1 (s - V' K u0) + u0.
        s, rest = self._divide(u)
        e = self._apply(s - self._down(system.times_kernel(rest)))
        k, (q, m) = len(system.folds), system.active.shape
        b = np.zeros((k, q, m))
        if self._schur is not None:
            # The equations of b: (F' V B^-1 V' F + R) b = F' c - v, for c without F.
            b = self._solve_free(system.transposed_free(self._up(e) + rest) - v)
            e -= self._of_free(b)
        return (self._up(e) + rest).swapaxes(0, 1), b

    def apart(self, Z: Array, v: Array) -> State:
        r"""Return the combination of rows for coefficients that change linear predictors by Z.

        ``v`` is the rest of a right-hand side that belongs to F. With the solution's predictors
        :math:`z = Z + K c + F \beta`, it has :math:`c = -D z` and
        :math:`F^\top D z + R \beta = v`.
        """
        e = self._apply(self._down(Z))
        k, (q, m) = len(self._system.folds), self._system.active.shape
        b = np.zeros((k, q, m))
        if self._schur is not None:
            b = self._solve_free(v - self._system.transposed_free(self._up(e)))
            e += self._of_free(b)
        return (-self._up(e)).swapaxes(0, 1), b

    @property
    def singular(self) -> NDArray[np.bool_]:
        """Which folds have a matrix that is singular to working precision."""
        singular = self._factor.singular.reshape(len(self._system.folds), -1)
        return np.asarray(singular.any(axis=1))

    @property
    def incomplete(self) -> NDArray[np.bool_]:
        """Which folds have a coefficient without penalty that their Hessians say nothing of."""
        if self._schur is None:
            return np.zeros(len(self._system.folds), dtype=bool)
        return np.asarray(self._schur.incomplete)

    def ignored(self, force: State, load: State) -> Vector:
        """Return zero: the eigenvalues of B are at least 1, so that no direction is left out."""
        return np.zeros(len(self._system.folds))

    def _matrix(self) -> Array:
        """Return B, one for each fold, or each fold and output where these are apart."""
        K, scale, V = self._system.kernel, self._system.scale, self._V
        n, k, m = V.shape[:3]
        if not self._couples:
            rows = (V * np.sqrt(scale)).transpose(1, 2, 0).reshape(k * m, n)
            B = rows[:, :, None] * K * rows[:, None, :]
        else:
            blocks = np.empty((k, n, m, n, m))
            T = V.swapaxes(0, 1)
            for r in range(m):
                for s in range(r, m):
                    product = np.zeros((k, n, n))
                    for c in np.flatnonzero(scale):
                        product += scale[c] * T[:, :, c, r, None] * T[:, None, :, c, s]
                    product *= K
                    blocks[:, :, r, :, s] = product
                    blocks[:, :, s, :, r] = np.swapaxes(product, 1, 2)
            B = blocks.reshape(k, n * m, n * m)
        np.einsum("bii->bi", B)[...] += 1.0
        return B

    def _up(self, e: Array) -> Array:
        """Return V e."""
        return np.einsum("nkcr,nkr->nkc", self._V, e) if self._couples else self._V * e

    def _down(self, x: Array) -> Array:
        """Return V' x."""
        return np.einsum("nkcr,nkc->nkr", self._V, x) if self._couples else self._V * x

    def _apply(self, x: Array) -> Array:
        """Return B^-1 x, for x of shape (n_rows, n_folds, n_outputs)."""
        n, k, m = x.shape
        if self._couples:
            sides = x.swapaxes(0, 1).reshape(k, n * m, 1)
            return self._factor(sides).reshape(k, n, m).swapaxes(0, 1)
        sides = x.transpose(1, 2, 0).reshape(k * m, n, 1)
        return self._factor(sides).reshape(k, m, n).transpose(2, 0, 1)

    def _factored_free(self) -> Array | None:
        """Return B^-1 V' F: for each active coefficient of F a column (row, fold, output)."""
        system = self._system
        places = np.argwhere(system.active)
        if not len(places):
            return None
        n, k, m = self._V.shape[:3]
        columns = np.zeros((len(places), n, k, m))
        for column, (j, c) in zip(columns, places, strict=True):
            x = np.zeros((n, k, m))
            x[:, :, c] = system.free[:, j, None]
            column[...] = self._apply(self._down(x))
        return columns

    def _factored_schur(self) -> Factorised | None:
        """Return the matrices of the equations of b."""
        system, kept = self._system, self._kept
        if self._free is None:
            return None
        k, m = len(system.folds), system.active.shape[1]
        S = np.empty((k, kept.size, kept.size))
        for i, column in enumerate(self._free):
            S[:, :, i] = system.transposed_free(self._up(column)).reshape(k, -1)[:, kept]
        if system.centring is not None:
            place = kept // m
            S += np.where(place[:, None] == place, system.centring.T[:, place, None], 0.0)
        return Factorised(0.5 * (S + np.swapaxes(S, 1, 2)))

    def _solve_free(self, rest: Array) -> Array:
        """Return b, given the right-hand side of its equations."""
        factor: Any = self._schur
        b = np.zeros((len(rest), self._system.active.size))
        b[:, self._kept] = factor(rest.reshape(len(rest), -1)[:, self._kept, None])[:, :, 0]
        return b.reshape(rest.shape)

    def _of_free(self, b: Array) -> Array:
        """Return B^-1 V' F b."""
        coefficients = b.reshape(len(b), -1)[:, self._kept]
        free: Any = self._free
        return np.asarray(np.einsum("jnkm,kj->nkm", free, coefficients))
