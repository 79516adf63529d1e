r"""Penalised linear models on the folds of one data set.

The inner problem of fold k is

.. math:: g_k(w, \theta) = \sum_i s_{ik}\, \ell(y_i, x_i^\top w + b)
          + \frac{1}{2} w^\top \mathrm{diag}(h(\theta)) w

and its outer loss is :math:`f_k(w) = \sum_i v_{ik}\, \ell(y_i, x_i^\top w + b)`. A fold is nothing
but two columns of weights, :math:`s_{\cdot k}` for training and :math:`v_{\cdot k}` for the
held-out rows, so that all folds share one X, and one pass over X serves them all.

Layout: ``w`` of a fold is a vector of ``n_features`` coefficients, then the intercept if there is
one. Where several folds are served, their vectors stand side by side as columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inner.requests import Evaluate, HessianProduct, Request
from .base import Problem, ProblemSet
from .design import as_design
from .losses import Loss
from .penalties import L2Penalty

Vector = NDArray[np.float64]
Array = NDArray[np.float64]


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

    def data_diagonal(self, w: Vector) -> Vector:
        return self._folds.diagonals_at({self._index: w})[self._index]


class LinearProblems(ProblemSet):
    """The folds of a penalised linear model.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features), float32 or float64
        Data, validated and finite. Not copied.
    y : ndarray of shape (n_samples,), float64
        Targets as the loss expects them.
    loss : Loss
    penalty : L2Penalty
        Over ``n_features`` variables, plus one for the intercept.
    train_weight, test_weight : ndarray of shape (n_samples, n_folds), float64
        :math:`s` and :math:`v` above.
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
        self.y = y[:, None]
        self.loss = loss
        self.penalty = penalty
        self.train_weight = train_weight
        self.test_weight = test_weight
        self.fit_intercept = fit_intercept
        self.n_features = X.shape[1]
        self.n_params = self.n_features + int(fit_intercept)
        self._n_passes = 0.0
        # Each fold's last linear predictor and curvature, with the w they belong to.
        self._predictor: dict[int, tuple[Vector, Vector]] = {}
        self._curvature: dict[int, tuple[Vector, Vector]] = {}
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
        W = np.column_stack(list(ws.values()))
        Z = np.empty((self.design.shape[0], len(folds)))
        values = np.zeros(len(folds))
        G = np.zeros_like(W)
        for block in self.design.blocks:
            Z[block] = self._forward(block, W)
            loss, slope = self.loss.value_and_gradient(self.y[block], Z[block])
            weight = self._columns(self.train_weight[block], folds)
            values += np.einsum("ik,ik->k", weight, loss)
            slope *= weight
            self._add_backward(block, slope, G)
        self._n_passes += 1.0
        for column, k in enumerate(folds):
            self._predictor[k] = ws[k].copy(), Z[:, column]
        H = self.penalty.hessian(theta)[:, None] * W
        values += 0.5 * np.einsum("jk,jk->k", W, H)
        G += H
        return {k: (float(values[c]), G[:, c].copy()) for c, k in enumerate(folds)}

    def hessian_products(
        self, points: Mapping[int, tuple[Vector, Vector]], theta: Vector
    ) -> dict[int, Vector]:
        """Return the Hessian of :math:`g_k` at w times v, for each fold's (w, v), in one pass."""
        if not points:
            return {}
        V = np.column_stack([v for _, v in points.values()])
        D = np.column_stack([self._curvature_at(k, w) for k, (w, _) in points.items()])
        G = np.zeros_like(V)
        for block in self.design.blocks:
            self._add_backward(block, D[block] * self._forward(block, V), G)
        self._n_passes += 1.0
        G += self.penalty.hessian(theta)[:, None] * V
        return {k: G[:, c].copy() for c, k in enumerate(points)}

    def outer_values_and_grads(self, ws: Sequence[Vector]) -> list[tuple[float, Vector]]:
        return list(self.outer_at(dict(enumerate(ws))).values())

    def data_diagonals(self, ws: Sequence[Vector]) -> list[Vector | None]:
        return list(self.diagonals_at(dict(enumerate(ws))).values())

    def outer_at(self, ws: Mapping[int, Vector]) -> dict[int, tuple[float, Vector]]:
        """Return :math:`f_k` and its gradient for each fold k of ``ws``, in half a pass."""
        folds = list(ws)
        Z = np.column_stack([self._predictor_at(k, w) for k, w in ws.items()])
        values = np.zeros(len(folds))
        G = np.zeros((self.n_params, len(folds)))
        for block in self.design.blocks:
            loss, slope = self.loss.value_and_gradient(self.y[block], Z[block])
            weight = self._columns(self.test_weight[block], folds)
            values += np.einsum("ik,ik->k", weight, loss)
            slope *= weight
            self._add_backward(block, slope, G)
        self._n_passes += 0.5
        return {k: (float(values[c]), G[:, c].copy()) for c, k in enumerate(folds)}

    def diagonals_at(self, ws: Mapping[int, Vector]) -> dict[int, Vector]:
        """Return the diagonal of the loss term's Hessian for each fold, in half a pass.

        Where a loss is not convex, samples of opposite curvature do not cancel but add up: the
        sum scales a variable, and one near zero would say that nothing holds it.
        """
        D = np.column_stack([self._curvature_at(k, w) for k, w in ws.items()])
        G = np.zeros((self.n_params, len(ws)))
        for block in self.design.blocks:
            self._add_backward(block, np.abs(D[block]), G, squared=True)
        self._n_passes += 0.5
        return {k: G[:, c].copy() for c, k in enumerate(ws)}

    def _forward(self, block: slice, W: Array) -> Array:
        """Return the linear predictors of a block of rows."""
        Z = self.design.matmul(block, W[: self.n_features])
        if self.fit_intercept:
            Z += W[-1]
        return Z

    def _add_backward(self, block: slice, U: Array, G: Array, *, squared: bool = False) -> None:
        """Add the transposed product of :meth:`_forward` to G."""
        self.design.add_rmatmul(block, U, G[: self.n_features], squared=squared)
        if self.fit_intercept:
            G[-1] += U.sum(axis=0)

    def _predictor_at(self, k: int, w: Vector) -> Vector:
        known = self._predictor.get(k)
        if known is not None and np.array_equal(known[0], w):
            return known[1]
        Z = np.concatenate([self._forward(block, w[:, None]) for block in self.design.blocks])
        self._n_passes += 0.5
        self._predictor[k] = w.copy(), Z[:, 0]
        return Z[:, 0]

    def _curvature_at(self, k: int, w: Vector) -> Vector:
        """Return fold k's weighted second derivatives of the loss, kept for the next product."""
        known = self._curvature.get(k)
        if known is not None and np.array_equal(known[0], w):
            return known[1]
        z = self._predictor_at(k, w)[:, None]
        curvature = self.train_weight[:, k] * self.loss.hessian(self.y, z)[:, 0]
        self._curvature[k] = w.copy(), curvature
        return curvature

    @staticmethod
    def _columns(weight: Array, folds: Sequence[int]) -> Array:
        return weight if folds == list(range(weight.shape[1])) else weight[:, folds]
