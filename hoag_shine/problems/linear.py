r"""Penalised linear models on the folds of one data set.

The inner problem of fold k is

.. math:: g_k(w, \theta) = \sum_i s_{ik}\, \ell(y_i, W^\top x_i + b)
          + \frac{1}{2} w^\top \mathrm{diag}(h(\theta)) w

and its outer loss is :math:`f_k(w) = \sum_i v_{ik}\, \ell(y_i, W^\top x_i + b)`. A fold is nothing
but two columns of weights, :math:`s_{\cdot k}` for training and :math:`v_{\cdot k}` for the
held-out rows, so that all folds share one X, and one pass over X serves them all.

Layout: ``w`` of a fold is an array of shape (``n_rows``, ``n_outputs``), flattened: a row for each
feature, then one for the intercept if there is one. Where several folds are served, their arrays
stand side by side in the middle axis of three: (row, fold, output), and likewise linear predictors
(sample, fold, output).

A softmax does not feel a constant that is added to all of its outputs. In a row of W that no
penalty feels either, such as the intercepts', the Hessian would be singular along it. There
:math:`g_k` has the further term :math:`\frac{1}{2} \rho_{jk} (\sum_c W_{jc})^2` with
:math:`\rho_{jk} = \sum_i s_{ik} x_{ij}^2 / m^2` for m outputs, of the size of the loss's own
curvature. It makes the Hessian positive definite and changes nothing else: every solution can be
shifted to one with :math:`\sum_c W_{jc} = 0`, where the term vanishes. That one has the smallest
norm, and it is where scikit-learn's solver ends, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from ..groups import HELD
from ..inner.requests import Evaluate, HessianProduct, Request
from .base import Problem, ProblemSet
from .design import as_design
from .losses import Loss
from .penalties import L2Penalty

Vector = NDArray[np.float64]
Array = NDArray[np.float64]

# A factorised Hessian is worth it up to this many variables, and where its data term costs no more
# than so many products with the data.
MAX_FACTORISED = 1000
MAX_GRAM_COST = 40.0
# Or where it takes no more than so many multiplications: some milliseconds.
QUICK = 1e7


class LinearProblem(Problem):
    """One fold of a :class:`LinearProblems`; holds no data of its own."""

    def __init__(self, folds: LinearProblems, index: int) -> None:
        self._folds = folds
        self._index = index
        self.n_params = folds.n_params
        self.n_hyperparameters = folds.penalty.n_groups
        self.convex = folds.loss.convex

    @property
    def n_passes(self) -> float:  # type: ignore[override]
        """Data passes spent by all folds together: they are read in common."""
        return self._folds.n_passes

    def value_and_grad(self, w: Vector, theta: Vector) -> tuple[float, Vector]:
        return self._folds.values_and_grads({self._index: w}, theta)[self._index]

    def hessp(self, w: Vector, theta: Vector) -> Callable[[Vector], Vector]:
        k = self._index
        return lambda v: self._folds.hessian_products({k: (w, v)}, theta)[k]

    def cross_vjp(self, w: Vector, theta: Vector, q: Vector) -> Vector:
        return self._folds.penalty.cross_vjp(w, theta, q)

    def cross_jvp(self, w: Vector, theta: Vector, direction: Vector) -> Vector:
        return self._folds.penalty.cross_jvp(w, theta, direction)

    def outer_value_and_grad(self, w: Vector) -> tuple[float, Vector]:
        return self._folds.outer_at({self._index: w})[self._index]

    def penalty_hessian(self, theta: Vector) -> Vector:
        return self._folds.penalty.hessian(theta)

    def preconditioner(self, w: Vector, theta: Vector) -> Callable[[Vector], Vector] | None:
        return self._folds.preconditioners([w], theta)[0]

    def data_diagonal(self, w: Vector) -> Vector:
        return self._folds.diagonals_at({self._index: w})[self._index]


class LinearProblems(ProblemSet):
    """The folds of a penalised linear model.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features), float32 or float64
        Data, validated and finite. Not copied.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
        Targets as the loss expects them.
    loss : Loss
    penalty : L2Penalty
        Over the variables in their flat layout.
    train_weight, test_weight : ndarray of shape (n_samples, n_folds), float64
        :math:`s` and :math:`v` above. Or of shape (n_samples, n_folds, n_outputs), where a loss
        that is the sum over the outputs weighs them differently.
    fit_intercept : bool, default=True

    Attributes
    ----------
    n_passes : float
        Times that X was read forwards and backwards, for however many folds at once.
    """

    def __init__(
        self,
        X: Any,
        y: Vector,
        loss: Loss,
        penalty: L2Penalty,
        train_weight: Array,
        test_weight: Array,
        *,
        fit_intercept: bool = True,
    ) -> None:
        self.design = as_design(X)
        self.y = y.reshape(len(y), 1, -1)
        self.loss = loss
        self.penalty = penalty
        self.train_weight = train_weight
        self.test_weight = test_weight
        self.fit_intercept = fit_intercept
        self.n_features = X.shape[1]
        self.n_outputs = self.y.shape[2]
        self.n_params = (self.n_features + int(fit_intercept)) * self.n_outputs
        self._n_passes = 0.0
        # Only rows that some fold holds out are read for the outer loss.
        self._share_held_out = float(test_weight.any(axis=1).mean())
        # Each fold's last linear predictor and curvature, with the w they belong to.
        self._predictor: dict[int, tuple[Vector, Array]] = {}
        self._curvature: dict[int, tuple[Vector, Array]] = {}
        # Without those variables that the penalty holds at zero.
        free = (penalty.groups != HELD).reshape(-1, 1, self.n_outputs)
        self._free = None if free.all() else free
        self._centring = self._make_centring()
        super().__init__([LinearProblem(self, k) for k in range(train_weight.shape[1])])

    @property
    def n_passes(self) -> float:
        return self._n_passes

    def answer(self, requests: Mapping[int, Request], theta: Vector) -> dict[int, Any]:
        values = {k: r.w for k, r in requests.items() if isinstance(r, Evaluate)}
        products = {k: (r.w, r.v) for k, r in requests.items() if isinstance(r, HessianProduct)}
        return self.values_and_grads(values, theta) | self.hessian_products(products, theta)

    def values_and_grads(
        self, ws: Mapping[int, Vector], theta: Vector
    ) -> dict[int, tuple[float, Vector]]:
        """Return :math:`g_k` and its gradient for each fold k of ``ws``, in one pass."""
        if not ws:
            return {}
        folds = list(ws)
        W = self._side_by_side(ws.values())
        Z = np.empty((self.design.shape[0], *W.shape[1:]))
        values = np.zeros(len(folds))
        G = np.zeros_like(W)
        for block in self.design.blocks:
            Z[block] = self._forward(block, W)
            weight = self._columns(self.train_weight[block], folds)
            values += self._add_losses(block, Z[block], weight, G)
        self._n_passes += 1.0
        h = self.penalty.hessian(theta)
        answers = {}
        for c, k in enumerate(folds):
            self._predictor[k] = ws[k].copy(), Z[:, c]
            push = self._quadratic_product(k, h, ws[k])
            answers[k] = float(values[c] + 0.5 * ws[k] @ push), G[:, c].ravel() + push
        return answers

    def hessian_products(
        self, points: Mapping[int, tuple[Vector, Vector]], theta: Vector
    ) -> dict[int, Vector]:
        """Return the Hessian of :math:`g_k` at w times v, for each fold's (w, v), in one pass.

        v may be several vectors, the rows of a matrix.
        """
        if not points:
            return {}
        rows = {k: np.atleast_2d(v) for k, (_, v) in points.items()}
        folds = [k for k, v in rows.items() for _ in v]
        V = self._side_by_side(row for v in rows.values() for row in v)
        curvatures = {k: self._curvature_at(k, w) for k, (w, _) in points.items()}
        D = np.stack([curvatures[k] for k in folds], axis=1)
        G = np.zeros_like(V)
        for block in self.design.blocks:
            U = self.loss.hessian_product(D[block], self._forward(block, V))
            weight = self._columns(self.train_weight[block], folds)
            self._add_backward(block, U * weight, G)
        self._n_passes += 1.0
        h = self.penalty.hessian(theta)
        columns = iter(np.moveaxis(G, 1, 0))
        products = {
            k: np.stack([next(columns).ravel() + self._quadratic_product(k, h, row) for row in v])
            for k, v in rows.items()
        }
        return {k: products[k].reshape(v.shape) for k, (_, v) in points.items()}

    def outer_values_and_grads(self, ws: Sequence[Vector]) -> list[tuple[float, Vector]]:
        return list(self.outer_at(dict(enumerate(ws))).values())

    def data_diagonals(self, ws: Sequence[Vector]) -> list[Vector | None]:
        return list(self.diagonals_at(dict(enumerate(ws))).values())

    def outer_at(self, ws: Mapping[int, Vector]) -> dict[int, tuple[float, Vector]]:
        """Return :math:`f_k` and its gradient for each fold k of ``ws``, in half a pass."""
        folds = list(ws)
        Z = np.stack([self._predictor_at(k, w) for k, w in ws.items()], axis=1)
        values = np.zeros(len(folds))
        G = self._zeros(len(folds))
        for block in self.design.blocks:
            weight = self._columns(self.test_weight[block], folds)
            values += self._add_losses(block, Z[block], weight, G)
        self._n_passes += 0.5 * self._share_held_out
        return {k: (float(values[c]), G[:, c].flatten()) for c, k in enumerate(folds)}

    def diagonals_at(self, ws: Mapping[int, Vector]) -> dict[int, Vector]:
        """Return the diagonal of the loss term's Hessian for each fold, in half a pass.

        Where a loss is not convex, samples of opposite curvature do not cancel but add up: the
        sum scales a variable, and one near zero would say that nothing holds it.
        """
        folds = list(ws)
        D = np.stack([self._curvature_at(k, w) for k, w in ws.items()], axis=1)
        G = self._zeros(len(folds))
        for block in self.design.blocks:
            diagonal = np.abs(self.loss.hessian_diagonal(D[block]))
            weight = self._columns(self.train_weight[block], folds)
            self._add_backward(block, diagonal * weight, G, squared=True)
        self._n_passes += 0.5
        if self._centring is not None:
            G += self._centring[:, folds, None]
        return {k: G[:, c].flatten() for c, k in enumerate(folds)}

    def preconditioners(
        self, ws: Sequence[Vector], theta: Vector
    ) -> list[Callable[[Vector], Vector] | None]:
        """Return the inverse of the folds' mean Hessian at their mean w, where that is cheap.

        The folds share most of their rows, so that one factorisation does for all.
        """
        return [self._preconditioner(ws, theta)] * len(ws)

    def _preconditioner(
        self, ws: Sequence[Vector], theta: Vector
    ) -> Callable[[Vector], Vector] | None:
        m = self.n_outputs
        cost = self.design.gram_cost * (m * (m + 1) // 2 if self.loss.couples else m)
        cheap = cost <= max(MAX_GRAM_COST, QUICK / self.design.n_stored)
        if self.n_params > MAX_FACTORISED or not cheap:
            return None
        w = np.mean(ws, axis=0)
        h = self.penalty.hessian(theta)
        try:
            return self._coupled_solver(w, h) if self.loss.couples else self._solver(w, h)
        except (LinAlgError, ValueError):
            return None

    def _solver(self, w: Vector, h: Vector) -> Callable[[Vector], Vector]:
        """Factorise the mean Hessian of a loss that is a sum over the outputs, one by one."""
        h = h.reshape(-1, self.n_outputs)
        curvature = np.abs(self._mean_curvature(w, np.ones(self.n_outputs)))
        factors: list[Any] = []
        for c in range(self.n_outputs):
            # Least squares of several targets under one penalty have one Hessian.
            same = np.array_equal(curvature[:, c], curvature[:, 0])
            if c > 0 and same and np.array_equal(h[:, c], h[:, 0]):
                factors.append(factors[0])
            else:
                H = self._gram(curvature[:, c]) + np.diag(h[:, c])
                factors.append(cho_factor(H, lower=True))

        def solve(v: Vector) -> Vector:
            columns = zip(factors, v.reshape(-1, self.n_outputs).T, strict=True)
            solved = [cho_solve(factor, u, check_finite=False) for factor, u in columns]
            return np.stack(solved, axis=1).ravel()

        return solve

    def _coupled_solver(self, w: Vector, h: Vector) -> Callable[[Vector], Vector]:
        """Factorise the mean Hessian of a loss that couples the outputs, as a whole."""
        m = self.n_outputs
        H = np.zeros((self.n_params // m, m, self.n_params // m, m))
        for d in range(m):
            curvature = self._mean_curvature(w, np.eye(m)[d])
            for c in range(d, m):
                H[:, c, :, d] = self._gram(curvature[:, c])
                H[:, d, :, c] = H[:, c, :, d]
        if self._free is not None:
            free = self._free[:, 0]
            H *= free * free[:, :, None, None]
        if self._centring is not None:
            rows = np.arange(len(H))
            H[rows, :, rows, :] += self._centring.mean(axis=1)[:, None, None]
        factor = cho_factor(H.reshape(self.n_params, -1) + np.diag(h))
        return lambda v: np.asarray(cho_solve(factor, v, check_finite=False))

    def _mean_curvature(self, w: Vector, v: Vector) -> Array:
        """Return each sample's second derivative at w times v, weighted, as a mean over folds."""
        Z = self._predictor_of(w)[:, None]
        product = self.loss.hessian_product(self.loss.hessian(self.y, Z), np.ones_like(Z) * v)
        weight = self.train_weight.mean(axis=1)
        return np.asarray(product[:, 0] * weight.reshape(len(weight), -1))

    def _gram(self, u: Vector) -> Array:
        """Return X' diag(u) X, with the intercept's column of ones."""
        rows, p = self.n_params // self.n_outputs, self.n_features
        H, G = np.zeros((rows, rows)), np.zeros((p, p))
        for block in self.design.blocks:
            self.design.add_gram(block, u[block], G)
            if self.fit_intercept:
                self.design.add_rmatmul(block, u[block, None], H[p:, :p].T)
        H[:p, :p] = np.tril(G) + np.tril(G, -1).T
        H[:p, p:] = H[p:, :p].T
        H[p:, p:] = u.sum()
        self._n_passes += 0.5
        return H

    def _zeros(self, n_folds: int) -> Array:
        return np.zeros((self.n_params // self.n_outputs, n_folds, self.n_outputs))

    def _side_by_side(self, ws: Iterable[Vector]) -> Array:
        return np.stack([w.reshape(-1, self.n_outputs) for w in ws], axis=1)

    def _add_losses(self, block: slice, Z: Array, weight: Array, G: Array) -> Array:
        """Add the gradients of a block's weighted losses to G; return the sums of the losses."""
        loss, slope = self.loss.value_and_gradient(self.y[block], Z)
        self._add_backward(block, slope * weight, G)
        return np.asarray(np.einsum("ikm,ikm->k", weight, loss))

    def _forward(self, block: slice, W: Array) -> Array:
        """Return the linear predictors of a block of rows."""
        W = W if self._free is None else W * self._free
        columns = W.reshape(len(W), -1)
        Z = self.design.matmul(block, columns[: self.n_features])
        if self.fit_intercept:
            Z += columns[-1]
        return Z.reshape(-1, *W.shape[1:])

    def _add_backward(self, block: slice, U: Array, G: Array, *, squared: bool = False) -> None:
        """Add the transposed product of :meth:`_forward` to G."""
        U, columns = U.reshape(len(U), -1), G.reshape(len(G), -1)
        self.design.add_rmatmul(block, U, columns[: self.n_features], squared=squared)
        if self.fit_intercept:
            columns[-1] += np.einsum("ic->c", U)  # faster than a sum over few columns
        if self._free is not None:
            G *= self._free

    def _predictor_at(self, k: int, w: Vector) -> Array:
        known = self._predictor.get(k)
        if known is not None and np.array_equal(known[0], w):
            return known[1]
        Z = self._predictor_of(w)
        self._predictor[k] = w.copy(), Z
        return Z

    def _predictor_of(self, w: Vector) -> Array:
        """Return the linear predictors at w, (sample, output)."""
        W = self._side_by_side([w])
        Z = np.concatenate([self._forward(block, W) for block in self.design.blocks])[:, 0]
        self._n_passes += 0.5
        return Z

    def _curvature_at(self, k: int, w: Vector) -> Array:
        """Return the loss's second derivatives at fold k's w, kept for the next product."""
        known = self._curvature.get(k)
        if known is not None and np.array_equal(known[0], w):
            return known[1]
        z = self._predictor_at(k, w)[:, None]
        curvature = self.loss.hessian(self.y, z)[:, 0]
        self._curvature[k] = w.copy(), curvature
        return curvature

    def _quadratic_product(self, k: int, h: Vector, v: Vector) -> Vector:
        """Return fold k's Hessian of all that is not the loss, times v."""
        if self._centring is None:
            return h * v
        sums = v.reshape(-1, self.n_outputs).sum(axis=1)
        return np.asarray(h * v + np.repeat(self._centring[:, k] * sums, self.n_outputs))

    def _make_centring(self) -> Array | None:
        """Return each fold's rho, row by row, for a loss that needs it; see the module."""
        free = np.all(self.penalty.groups.reshape(-1, self.n_outputs) < 0, axis=1)
        if not (self.loss.shift_invariant and free.any()):
            return None
        squares = np.zeros((free.size, self.train_weight.shape[1], 1))
        for block in self.design.blocks:
            self._add_backward(block, self.train_weight[block][:, :, None], squares, squared=True)
        self._n_passes += 0.5
        return np.where(free[:, None], squares[:, :, 0], 0.0) / self.n_outputs**2

    @staticmethod
    def _columns(weight: Array, folds: Sequence[int]) -> Array:
        """Return the weights of some folds, (sample, fold, 1 or output)."""
        chosen = weight if folds == list(range(weight.shape[1])) else weight[:, folds]
        return chosen.reshape(len(weight), len(folds), -1)
