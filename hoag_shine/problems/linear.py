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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from ..linalg import kernels
from ..linalg.allocator import keep_freed_memory
from ..linalg.cholesky import cholesky_solver
from ..linalg.design import MODERATE, CSRDesign, DenseDesign, as_design
from .base import Problem, ProblemSet
from .by_fold import ByFold, columns
from .direct import DirectProblems, Sizes, affordable
from .fold_weights import FoldWeights, as_fold_weights
from .groups import HELD, UNPENALISED
from .held_out import HeldOut
from .losses import Loss
from .penalties import GroupedPenalty
from .requests import Evaluate, HessianProduct, Request

Vector = NDArray[np.float64]
Array = NDArray[np.float64]

# A factorised Hessian is worth it up to this many variables, and where its data term costs no more
# than so many products with the data.
MAX_FACTORISED = 1000
MAX_GRAM_COST = 40.0
# Of the data term's Hessian, the last will do again where the samples' curvatures have changed by
# no more than this share.
SAME_CURVATURE = 0.1
# Or where it takes no more than so many multiplications: some milliseconds.
QUICK = 1e7
# Of the rows that are held out, those in so many blocks are looked at together.
PIECE = 16


class LinearProblem(Problem):
    """One fold of a :class:`LinearProblems`; holds no data of its own."""

    def __init__(self, folds: LinearProblems, index: int) -> None:
        self._folds = folds
        self._index = index
        self.n_params = folds.n_params
        self.n_hyperparameters = folds.penalty.n_groups
        self.convex = folds.loss.convex and folds.penalty.convex
        self.n_summed = len(folds.y)
        self.outer_minimum = folds.loss.minimum

    @property
    def n_passes(self) -> float:  # type: ignore[override]
        """Data passes spent by all folds together: they are read in common."""
        return self._folds.n_passes

    @property
    def direct(self) -> DirectProblems | None:
        """What solves the problem by factorised Hessians, if it is the only fold."""
        return self._folds.direct if len(self._folds) == 1 else None

    def value_and_grad(self, w: Vector, theta: Vector) -> tuple[float, Vector]:
        return self._folds.values_and_grads({self._index: Evaluate(w)}, theta)[self._index]

    def hessp(self, w: Vector, theta: Vector) -> Callable[[Vector], Vector]:
        k = self._index
        return lambda v: self._folds.hessian_products({k: HessianProduct(w, v)}, theta)[k]

    def cross_vjp(self, w: Vector, theta: Vector, q: Vector) -> Vector:
        return self._folds.penalty.cross_vjp(w, theta, q)

    def cross_jvp(self, w: Vector, theta: Vector, direction: Vector) -> Vector:
        return self._folds.penalty.cross_jvp(w, theta, direction)

    def outer_value_and_grad(self, w: Vector) -> tuple[float, Vector]:
        return self._folds.outer_at({self._index: w})[self._index]

    def penalty_hessian(self, theta: Vector) -> Vector | None:
        penalty = self._folds.penalty
        return penalty.strength(theta) if penalty.quadratic else None

    def preconditioner(self, w: Vector, theta: Vector) -> Callable[[Vector], Vector] | None:
        return self._folds.preconditioners([w], theta)[0]

    def data_diagonal(self, w: Vector) -> Vector | None:
        # Of another penalty, the diagonal of the whole would have to be known.
        quadratic = self._folds.penalty.quadratic
        return self._folds.diagonals_at({self._index: w})[self._index] if quadratic else None


class LinearProblems(ProblemSet):
    """The folds of a penalised linear model.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features), float32 or float64
        Data, validated and finite. Not copied.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
        Targets as the loss expects them.
    loss : Loss
    penalty : GroupedPenalty
        Over the variables in their flat layout.
    train_weight, test_weight : ndarray of shape (n_samples, n_folds), float64
        :math:`s` and :math:`v` above. Or of shape (n_samples, n_folds, n_outputs), where a loss
        that is the sum over the outputs weighs them differently. Or FoldWeights and HeldOut, which
        take less memory where the folds are many.
    fit_intercept : bool, default=True
    n_samples : int, optional
        Rows of the data, where those of X stand for more.

    Attributes
    ----------
    n_passes : float
        Times that the data were read forwards and backwards, for however many folds at once. Rows
        that stand for more were made of these in one pass, and are that share of the data.
    """

    def __init__(
        self,
        X: Any,
        y: Vector,
        loss: Loss,
        penalty: GroupedPenalty,
        train_weight: Array | FoldWeights,
        test_weight: Array | HeldOut,
        *,
        fit_intercept: bool = True,
        n_samples: int | None = None,
    ) -> None:
        kernels.get_ready()
        keep_freed_memory()
        self._X = X
        self.y = y.reshape(len(y), 1, -1)
        self.loss = loss
        self.penalty = penalty
        self._weights = as_fold_weights(train_weight)
        self.fit_intercept = fit_intercept
        self.n_features = X.shape[1]
        self.n_outputs = self.y.shape[2]
        self.n_params = (self.n_features + int(fit_intercept)) * self.n_outputs
        self._share = 1.0 if n_samples is None else len(y) / n_samples
        self._made_in = 0.0 if n_samples is None else 1.0
        self._n_passes = 0.5 * bool(self._uncoupled_rows.any())  # for the centring
        # A fold's outer loss reads no other rows.
        self.held_out = test_weight if isinstance(test_weight, HeldOut) else HeldOut.of(test_weight)
        # The folds' last linear predictors, those before them, and curvatures. The latter two share
        # memory: lines are for line searches, which want no curvature.
        self._earlier, self._curvatures = (ByFold(len(y), len(self)) for _ in range(2))
        self._last_hessian: dict[int, tuple[Vector, Array]] = {}
        self._buffers: dict[str, Array] = {}
        # Without those variables that the penalty holds at zero.
        free = penalty.groups != HELD
        self._free = None if free.all() else free

    @cached_property
    def design(self) -> DenseDesign | CSRDesign:
        """X, read in blocks of rows."""
        return as_design(self._X)

    @cached_property
    def train_weight(self) -> Array:
        """The weights of all rows in the training losses, as an array."""
        return self._weights[:]

    @cached_property
    def direct(self) -> DirectProblems | None:
        """The same problems, solved by factorised Hessians, where that is cheap."""
        sizes = Sizes(len(self), self.n_outputs, self._weights.n_train, self.fit_intercept)
        if not affordable(self._X, self.loss, self.penalty, sizes):
            return None
        weights = self._weights, self.held_out
        return DirectProblems(self._X, self.y[:, 0], self.loss, self.penalty, *weights, sizes)

    @cached_property
    def null_value(self) -> float:
        y = self.y[self.held_out.rows]
        return float(
            (self.held_out.weight[:, None] * self.loss.value(y, np.zeros_like(y))).sum()
        ) / len(self)

    @cached_property
    def _predictors(self) -> ByFold:
        """The folds' last linear predictors; searches begin at zero."""
        predictors = ByFold(len(self.y), len(self))
        predictors.room(range(len(self)), self.n_outputs).fill(0.0)
        predictors.note(range(len(self)), np.zeros((len(self), self.n_params)))
        return predictors

    @overload
    def __getitem__(self, index: int) -> LinearProblem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LinearProblem]: ...
    def __getitem__(self, index: int | slice) -> LinearProblem | Sequence[LinearProblem]:
        # A fold knows the set. If the set kept it, both would stay, and the data with them, until
        # the garbage collector looks for them.
        folds = range(len(self))[index]
        return LinearProblem(self, folds) if isinstance(folds, int) else [self[k] for k in folds]

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def n_hyperparameters(self) -> int:
        return self.penalty.n_groups

    @property
    def n_passes(self) -> float:
        direct = self.__dict__.get("direct")
        return self._made_in + self._share * (self._n_passes + (direct.n_passes if direct else 0.0))

    @property
    def work(self) -> float:
        return 2.0 * self.design.n_stored * len(self) * self.n_outputs

    @property
    def pass_share(self) -> float:
        return self._share

    def separate(self) -> list[ProblemSet] | None:
        """Return the problems of each output, if each has the penalty of its own and no other."""
        m, groups = self.n_outputs, self.penalty.groups.reshape(-1, self.n_outputs)
        own = (groups == np.arange(m)) | (groups == UNPENALISED)
        if m == 1 or m != self.penalty.n_groups or self.loss.couples or not own.all():
            return None
        return [self._output(j) for j in range(m)]

    def _output(self, j: int) -> LinearProblems:
        """Return the problems of an output by itself, on the same rows."""
        m, scale = self.n_outputs, np.broadcast_to(self.penalty.scale, self.penalty.groups.shape)
        groups = np.minimum(self.penalty.groups.reshape(-1, m)[:, j], 0)
        weights, held_out = self._weights, self.held_out
        if weights[:1].ndim > 2:
            weights = FoldWeights(len(self), lambda k: self._weights[k : k + 1][:, 0, j])
        if held_out.weight.shape[1] > 1:
            held_out = replace(held_out, weight=held_out.weight[:, j : j + 1])
        return LinearProblems(
            self._X,
            self.y[:, 0, j],
            self.loss,
            GroupedPenalty(groups, scale.reshape(-1, m)[:, j], self.penalty.shape),
            weights,
            held_out,
            fit_intercept=self.fit_intercept,
            n_samples=round(len(self.y) / self._share) if self._made_in else None,
        )

    def answer(self, requests: Mapping[int, Request], theta: Vector) -> dict[int, Any]:
        evaluations = {k: r for k, r in requests.items() if isinstance(r, Evaluate)}
        products = {k: r for k, r in requests.items() if isinstance(r, HessianProduct)}
        return self.values_and_grads(evaluations, theta) | self.hessian_products(products, theta)

    def values_and_grads(
        self, requests: Mapping[int, Evaluate], theta: Vector
    ) -> dict[int, tuple[float, Vector]]:
        """Return :math:`g_k` and its gradient for each fold k that asks, in one pass.

        In half a pass where the linear predictors are known.
        """
        if not requests:
            return {}
        self._interpolate(requests)
        ws = {k: request.w for k, request in requests.items()}
        folds, new = list(ws), self._predictors.unknown(ws)
        V = np.stack([ws[k] for k in new]) if new else np.empty((0, self.n_params))
        W = self._side_by_side(V) if new else None
        Z, own, places = self._renew(new), columns(folds), columns(new)
        values = np.zeros(len(folds))
        G = self._zeros(len(folds))
        for block in self.design.blocks:
            if W is not None:
                Z[block, places] = self._forward(block, W, len(new))
            weight = self._columns(self.train_weight[block], folds)
            values += self._add_losses(block, Z[block, own], weight, G)
        self._n_passes += 1.0 if new else 0.5
        self._predictors.note(new, V)
        grads = self._one_by_one(G, len(folds))
        answers = {}
        for c, k in enumerate(folds):
            penalty = self._add_penalty(k, ws[k], theta, grads[c])
            answers[k] = float(values[c]) + penalty, grads[c]
        return answers

    def hessian_products(
        self, requests: Mapping[int, HessianProduct], theta: Vector
    ) -> dict[int, Vector]:
        """Return the Hessian of :math:`g_k` at w times v for each fold k that asks, in one pass."""
        if not requests:
            return {}
        dtype = self._single if all(map(_single_will_do, requests.values())) else np.float64
        answers = self._hessian_products(requests, theta, dtype)
        if dtype == np.float64 or all(np.isfinite(v).all() for v in answers.values()):
            return answers
        # A curvature beyond the range of single precision, be it of a row without weight.
        return self._hessian_products(requests, theta, np.float64)

    def _hessian_products(
        self, requests: Mapping[int, HessianProduct], theta: Vector, dtype: Any
    ) -> dict[int, Vector]:
        """Return the products, made in some precision."""
        folds = list(requests)
        rows = {k: np.atleast_2d(request.v) for k, request in requests.items()}
        # As many vectors for each fold, zeros where one has fewer: they share its curvature.
        V = self._stack((len(folds), max(map(len, rows.values()))), dtype)
        for own, v in zip(V, rows.values(), strict=True):
            own[: len(v)] = v
            own[len(v) :] = 0.0
        self._find_curvatures({k: request.w for k, request in requests.items()})
        W = self._side_by_side(V.reshape(-1, self.n_params), dtype)
        n_columns = V.shape[0] * V.shape[1]
        G = self._zeros(n_columns, dtype)
        for block in self.design.blocks:
            Z = self._forward(block, W, n_columns)
            Z = Z.reshape(len(Z), *V.shape[:2], self.n_outputs)
            D = self._curvatures.of(folds, block).astype(dtype, copy=False)
            weight = self._columns(self.train_weight[block], folds).astype(dtype, copy=False)
            # One vector of each fold after the other: numpy is slow at inner loops over few.
            for c in range(V.shape[1]):
                product = self.loss.hessian_product(D, Z[:, :, c])
                np.multiply(product, weight, out=Z[:, :, c])
            self._add_backward(block, Z, G)
        self._n_passes += 1.0
        products = self._one_by_one(G, n_columns).reshape(V.shape)
        answers = {}
        for (k, v), own in zip(rows.items(), products, strict=True):
            h = self.penalty.hessian(requests[k].w, theta)
            for row, product in zip(v, own, strict=False):
                self._add_quadratic(k, h, row, product)
            answers[k] = own[: len(v)].reshape(requests[k].v.shape)
        return answers

    def outer_values_and_grads(self, ws: Sequence[Vector]) -> list[tuple[float, Vector]]:
        return list(self.outer_at(dict(enumerate(ws))).values())

    def data_diagonals(self, ws: Sequence[Vector]) -> list[Vector | None]:
        if self._keeps_to_span or not self.penalty.quadratic:
            return [None] * len(ws)
        return list(self.diagonals_at(dict(enumerate(ws))).values())

    @cached_property
    def _keeps_to_span(self) -> bool:
        """Whether a solver must not leave the span of a fold's rows, where the solution lies.

        With more columns than rows, what a diagonal or the folds' mean Hessian adds outside of it
        is seen by no training loss, and only the penalty would bring it back. A multiple of the
        identity adds nothing. Columns of sparse data differ so much in their numbers of entries
        that a solver without a diagonal would not get on.
        """
        wide = self._weights.n_train < self.n_features
        shared = self.penalty.quadratic and self.penalty.n_groups == 1
        return wide and shared and not hasattr(self._X, "tocsr")

    def outer_at(self, ws: Mapping[int, Vector]) -> dict[int, tuple[float, Vector]]:
        """Return :math:`f_k` and its gradient for each fold k of ``ws``, in half a pass."""
        Z = self._predictors_at(ws)
        held_out = self.held_out.by(list(ws), len(self))
        values, grads = np.zeros(len(ws)), np.zeros((len(ws), self.n_params))
        for piece in held_out.pieces(PIECE * self.design.step):
            self._add_held_out(piece, Z, values, grads)
        self._n_passes += 0.5 * held_out.rows.size / len(self.y)
        if self._free is not None:
            grads *= self._free
        return {k: (float(values[c]), grads[c]) for c, k in enumerate(ws)}

    def diagonals_at(self, ws: Mapping[int, Vector]) -> dict[int, Vector]:
        """Return the diagonal of the loss term's Hessian for each fold, in half a pass.

        Where a loss is not convex, samples of opposite curvature do not cancel but add up: the
        sum scales a variable, and one near zero would say that nothing holds it.
        """
        folds = list(ws)
        self._find_curvatures(ws)
        G = self._zeros(len(folds))
        for block in self.design.blocks:
            diagonal = np.abs(self.loss.hessian_diagonal(self._curvatures.of(folds, block)))
            weight = self._columns(self.train_weight[block], folds)
            self._add_backward(block, diagonal * weight, G, squared=True)
        self._n_passes += 0.5
        diagonals = dict(zip(folds, self._one_by_one(G, len(folds)), strict=True))
        if self._centring is not None:
            for k, diagonal in diagonals.items():
                diagonal += np.repeat(self._centring[:, k], self.n_outputs)
        return diagonals

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
        if self.n_params > MAX_FACTORISED or not cheap or self._keeps_to_span:
            return None
        w = np.mean(ws, axis=0)
        h = self.penalty.hessian(w, theta)
        try:
            return self._coupled_solver(w, h) if self.loss.couples else self._solver(w, h)
        except LinAlgError:
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
                H = self._data_hessian(c, curvature[:, c]) + np.diag(h[:, c])
                factors.append(cholesky_solver(H))

        def solve(v: Vector) -> Vector:
            V = v.reshape(-1, self.n_outputs)
            solved = np.empty_like(V)
            for c, factor in enumerate(factors):
                solved[:, c] = factor(V[:, c])
            return solved.ravel()

        return solve

    def _data_hessian(self, output: int, curvature: Vector) -> Array:
        """Return the Hessian of an output's data term, or the last one if that is much the same."""
        if output in self._last_hessian:
            known, H = self._last_hessian[output]
            if np.abs(curvature - known).sum() <= SAME_CURVATURE * known.sum():
                return H
        self._last_hessian[output] = curvature, self._gram(curvature)
        return self._last_hessian[output][1]

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
            free = self._free.reshape(-1, m)
            H *= free * free[:, :, None, None]
        if self._centring is not None:
            rows = np.arange(len(H))
            H[rows, :, rows, :] += self._centring.mean(axis=1)[:, None, None]
        return cholesky_solver(H.reshape(self.n_params, -1) + np.diag(h))

    @cached_property
    def _single(self) -> Any:
        """The dtype of Hessian products where single precision will do."""
        largest = self.train_weight.max(initial=0.0)
        return self.design.single if 1.0 / MODERATE <= largest <= MODERATE else np.float64

    def _mean_curvature(self, w: Vector, v: Vector) -> Array:
        """Return each sample's second derivative at w times v, weighted, as a mean over folds."""
        Z = self._predict(w[None])
        product = self.loss.hessian_product(self.loss.hessian(self.y, Z), np.ones_like(Z) * v)
        weight = _mean(self.train_weight)
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

    def _buffer(self, name: str, n_folds: int, dtype: Any = np.float64) -> Array:
        """Return columns: the outputs of the first fold, then those of the next.

        The same memory as long as they are as many: new memory would take as long as it takes to be
        filled. What stands in columns beyond these is of no account.
        """
        k, rows = n_folds * self.n_outputs, self.n_params // self.n_outputs
        known, wanted = self._buffers.get(name), (rows, self.design.width(k, dtype))
        if known is None or known.shape != wanted or known.dtype != dtype:
            self._buffers.pop(name, None)
            known = self._buffers[name] = self.design.zeros(rows, k, dtype)
        return known

    def _stack(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return memory for vectors, likewise."""
        n, known = int(np.prod(shape)), self._buffers.get("vectors")
        if known is None or len(known) < n or known.dtype != dtype:
            known = self._buffers["vectors"] = np.empty((n, self.n_params), dtype)
        return known[:n].reshape(*shape, self.n_params)

    def _zeros(self, n_folds: int, dtype: Any = np.float64) -> Array:
        G = self._buffer("transposed product", n_folds, dtype)
        G.fill(0.0)
        return G

    def _side_by_side(self, V: Array, dtype: Any = np.float64) -> Array:
        """Return the rows of V as columns, without the variables held at zero."""
        W = self._buffer("variables", len(V), dtype)
        kernels.side_by_side(V if self._free is None else V * self._free, self.n_outputs, W)
        return W

    def _one_by_one(self, G: Array, n_folds: int) -> Array:
        """Return the columns of G as rows, without the variables held at zero."""
        V = np.empty((n_folds, self.n_params))
        kernels.one_by_one(G, self.n_outputs, V)
        if self._free is not None:
            V *= self._free
        return V

    def _add_losses(self, block: slice, Z: Array, weight: Array, G: Array) -> Array:
        """Add the gradients of a block's weighted losses to G; return the sums of the losses."""
        loss, slope = self.loss.value_and_gradient(self.y[block], Z)
        self._add_backward(block, slope * weight, G)
        # By BLAS, which sums columns faster than numpy.
        sums = np.ones(len(Z)) @ (weight * loss).reshape(len(Z), -1)
        return np.asarray(sums.reshape(loss.shape[1], -1).sum(axis=1))

    def _add_held_out(self, held_out: HeldOut, Z: Array, values: Array, grads: Array) -> None:
        """Add the losses of rows that folds hold out to ``values``, and their gradients."""
        rows, folds, weight = held_out.rows, held_out.folds, held_out.weight[:, None]
        own = Z.reshape(-1, self.n_outputs)[rows * Z.shape[1] + folds]
        loss, slope = self.loss.value_and_gradient(self.y[rows], own[:, None])
        losses = (weight * loss)[:, 0]
        values += np.bincount(folds, sum(losses.T), len(values))
        G = grads.reshape(len(grads), -1, self.n_outputs)
        self.design.add_each(rows, (slope * weight)[:, 0], folds, G)

    def _forward(self, block: slice, W: Array, n_folds: int) -> Array:
        """Return the linear predictors of a block of rows, (sample, fold, output)."""
        Z = self.design.matmul(block, W, n_folds * self.n_outputs)
        return Z.reshape(-1, n_folds, self.n_outputs)

    def _add_backward(self, block: slice, U: Array, G: Array, *, squared: bool = False) -> None:
        """Add the transposed product of :meth:`_forward` to G."""
        self.design.add_rmatmul(block, U.reshape(len(U), -1), G, squared=squared)

    def _renew(self, folds: Sequence[int]) -> Array:
        """Return room for linear predictors of some folds, whose last become the earlier ones."""
        self._curvatures.give_to(self._earlier)
        if len(folds) == len(self):
            self._predictors, self._earlier = self._earlier, self._predictors
        else:
            self._earlier.take(folds, self._predictors)
        return self._predictors.room(folds, self.n_outputs)

    def _predictors_at(self, ws: Mapping[int, Vector]) -> Array:
        """Return the linear predictors of each fold of ``ws``, (sample, fold, output)."""
        if new := self._predictors.unknown(ws):
            V = np.stack([ws[k] for k in new])
            self._renew(new)[:, columns(new)] = self._predict(V)
            self._predictors.note(new, V)
        return self._predictors.of(list(ws))

    def _interpolate(self, requests: Mapping[int, Evaluate]) -> None:
        """Note the linear predictors of points on lines through two whose own are known.

        The earlier ones stay those of the line's start: rounding errors are then no larger than
        those of the way from there.
        """
        for k, (w, line) in requests.items():
            if line is None or not self._earlier.knows(k, line.start):
                continue
            if self._predictors.knows(k, line.end):
                start, end = self._earlier.of([k]), self._predictors.of([k])
                Z = start + line.share * (end - start)
                if np.isfinite(Z).all():
                    self._predictors.room([k], self.n_outputs)[:, [k]] = Z
                    self._predictors.note([k], [w.copy()])

    def _find_curvatures(self, ws: Mapping[int, Vector]) -> None:
        """See to it that the loss's second derivatives are known at the w of some folds."""
        if not self._curvatures.unknown(ws):
            return
        # Of all that are asked for: to find predictors may have taken the memory of the known.
        folds, Z = list(ws), self._predictors_at(ws)
        self._earlier.give_to(self._curvatures)
        for block in self.design.blocks:
            D = self.loss.hessian(self.y[block], Z[block])
            self._curvatures.room(folds, D.shape[2])[block, columns(folds)] = D
        self._curvatures.note(folds, np.stack(list(ws.values())))

    def _predict(self, V: Array) -> Array:
        """Return the linear predictors at the rows of V, (sample, row, output)."""
        W = self._side_by_side(V)
        self._n_passes += 0.5
        return np.concatenate([self._forward(block, W, len(V)) for block in self.design.blocks])

    def _add_penalty(self, k: int, w: Vector, theta: Vector, grad: Vector) -> float:
        """Add the gradient of all of fold k's objective that is not the loss; return its value."""
        if self.penalty.quadratic:
            return 0.5 * self._add_quadratic(k, self.penalty.strength(theta), w, grad)
        grad += self.penalty.gradient(w, theta)
        centring = self._add_quadratic(k, np.zeros_like(w), w, grad)
        return self.penalty.value(w, theta) + 0.5 * centring

    def _add_quadratic(self, k: int, h: Vector, v: Vector, product: Vector) -> float:
        """Add fold k's Hessian of all that is not the loss, times v; return that times v."""
        total = float(kernels.add_scaled(h, v, product))
        if self._centring is not None:
            sums = v.reshape(-1, self.n_outputs).sum(axis=1)
            pull = self._centring[:, k] * sums
            product += np.repeat(pull, self.n_outputs)
            total += float(pull @ sums)
        return total

    @cached_property
    def _uncoupled_rows(self) -> NDArray[np.bool_]:
        """Which rows of W neither a loss nor a penalty holds along a constant; see the module."""
        free = np.all(self.penalty.groups.reshape(-1, self.n_outputs) < 0, axis=1)
        return np.asarray(free & self.loss.shift_invariant)

    @cached_property
    def _centring(self) -> Array | None:
        """Each fold's rho, row by row, for a loss that needs it; see the module."""
        free = self._uncoupled_rows
        if not free.any():
            return None
        n_folds = self.train_weight.shape[1]
        squares = self.design.zeros(free.size, n_folds)
        for block in self.design.blocks:
            self._add_backward(block, self.train_weight[block], squares, squared=True)
        return np.where(free[:, None], squares[:, :n_folds], 0.0) / self.n_outputs**2

    @staticmethod
    def _columns(weight: Array, folds: Sequence[int]) -> Array:
        """Return the weights of some folds, (sample, fold, 1 or output)."""
        return weight[:, columns(folds)].reshape(len(weight), len(folds), -1)


def _single_will_do(request: HessianProduct) -> bool:
    """Whether it is asked for no more, and no number will be out of range."""
    squares = (float(v @ v) for v in np.atleast_2d(request.v))
    safe = (square == 0.0 or MODERATE**-4 <= square <= MODERATE**4 for square in squares)
    return request.single and all(safe)


def _mean(weight: Array) -> Array:
    """Return the mean over the folds, of shape (n_samples,) or (n_samples, n_outputs)."""
    # By BLAS, which sums short rows much faster than numpy.
    share = np.full(weight.shape[1], 1.0 / weight.shape[1])
    return np.asarray(np.moveaxis(weight, 1, -1) @ share)
