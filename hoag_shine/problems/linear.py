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
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from ..linalg import kernels
from ..linalg.allocator import keep_freed_memory
from ..linalg.design import MODERATE_SIZE, Block, Design, Matrix, Part, most_rows
from .base import Problem, ProblemSet
from .by_fold import columns
from .direct import DirectProblems, Sizes, affordable
from .fold_weights import FoldWeights, as_fold_weights
from .groups import FIXED, UNPENALISED
from .held_out import HeldOut
from .losses import Loss
from .mean_hessian import MeanHessian
from .passes import Passes
from .penalties import GroupedPenalty
from .pool import CALLER, Pool
from .predictors import LinearPredictors
from .requests import Evaluate, HessianProduct, Request

Vector = NDArray[np.float64]
Array = NDArray[np.float64]


class LinearProblem(Problem):
    """One fold of a :class:`LinearProblems`; it holds no data of its own."""

    def __init__(self, folds: LinearProblems, index: int) -> None:
        self._folds = folds
        self._index = index
        self.n_params = folds.n_params
        self.n_hyperparameters = folds.penalty.n_groups
        self.convex = folds.loss.convex and folds.penalty.convex
        self.smooth = folds.loss.smooth
        self.n_summed = len(folds.y)
        self.outer_minimum = folds.loss.minimum

    @property
    def n_passes(self) -> float:  # type: ignore[override]
        """Data passes made for all folds together, which share them."""
        return self._folds.n_passes

    @property
    def most_threads(self) -> int:
        return self._folds.passes.most_threads

    def share_passes(self, pool: Pool | None) -> None:
        self._folds.share_passes(pool)

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
        # With another penalty, there is no ``penalty_hessian`` to take off the diagonal.
        quadratic = self._folds.penalty.quadratic
        return self._folds.diagonals_at({self._index: w})[self._index] if quadratic else None


class LinearProblems(ProblemSet):
    """The folds of a penalised linear model.

    Parameters
    ----------
    X : ndarray, CSR matrix or Matrix of shape (n_samples, n_features), float32 or float64
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
        Times that the data were read forwards and backwards, for any number of folds at once. Rows
        that stand for more were made in one pass, and a pass over them counts as their share of the
        data.
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
        # Variables that the penalty fixes at zero are left out.
        free = penalty.groups != FIXED
        passes = self._make_passes(None if free.all() else free)
        passes.n_spent = 0.5 * bool(self._uncoupled_rows.any())  # for the centring
        self._passes = passes
        self._precision: Any = np.float64  # of the products in evaluations
        self._predictors = LinearPredictors(passes, self.y, loss, len(self))
        self._mean_hessian = MeanHessian(passes, self.y, loss)
        # A fold's outer loss reads no other rows.
        self.held_out = test_weight if isinstance(test_weight, HeldOut) else HeldOut.of(test_weight)

    def _make_passes(self, free: NDArray[np.bool_] | None) -> Passes:
        """Return what reads X."""
        return Passes(self._X, self.n_outputs, self.fit_intercept, free, len(self))

    @property
    def passes(self) -> Passes:
        """What reads X."""
        return self._passes

    @property
    def design(self) -> Matrix:
        """X, read in blocks of rows."""
        return self._passes.design

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
        total = 0.0
        for piece in self.held_out.pieces(most_rows(self.n_outputs)):
            y = self.y[piece.rows]
            total += float((piece.weight[:, None] * self.loss.value(y, np.zeros_like(y))).sum())
        return total / len(self)

    @overload
    def __getitem__(self, index: int) -> LinearProblem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LinearProblem]: ...
    def __getitem__(self, index: int | slice) -> LinearProblem | Sequence[LinearProblem]:
        # A fold refers to the set. If the set referred to the fold, both would stay in memory, with
        # the data, until the garbage collector finds them.
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
        return self._made_in + self._share * (
            self._passes.n_spent + (direct.n_passes if direct else 0.0)
        )

    @property
    def n_bytes_read(self) -> int:
        return self._passes.n_bytes_read

    @property
    def work(self) -> float:
        return 2.0 * self.design.n_stored * len(self) * self.n_outputs

    @property
    def most_threads(self) -> int:
        return max(len(self), self._passes.most_threads)

    def share_passes(self, pool: Pool | None) -> None:
        self._passes.pool = pool or CALLER

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
        # The group of the output becomes 0, its only hyperparameter; those below 0 stay.
        groups = np.minimum(self.penalty.groups.reshape(-1, m)[:, j], 0)
        weights, held_out = self._weights, self.held_out
        if weights[:1].ndim > 2:
            weights = FoldWeights(len(self), lambda k: self._weights[k : k + 1][:, 0, j])
        if held_out.weight.shape[1] > 1:
            held_out = replace(held_out, weight=held_out.weight[:, j : j + 1])
        return type(self)(
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

    def evaluate_in_single(self, single: bool) -> bool:
        before, design = self._precision, self.design
        faster = isinstance(design, Design) and design.faster_in_single(len(self) * self.n_outputs)
        self._precision = self._single if single and faster and design.even else np.float64
        if self._precision == np.float64 != before:
            self._predictors.forget()
        return bool(self._precision != np.float64)

    def values_and_grads(
        self, requests: Mapping[int, Evaluate], theta: Vector
    ) -> dict[int, tuple[float, Vector]]:
        """Return :math:`g_k` and its gradient for each fold k that asks, in one pass."""
        if not requests:
            return {}
        values, grads = self.losses(requests)

        def add_penalty(k: int, value: float, grad: Vector) -> tuple[float, Vector]:
            return float(value) + self._add_penalty(k, requests[k].w, theta, grad), grad

        answers = self._passes.each_vector(add_penalty, requests, values, grads)
        return dict(zip(requests, answers, strict=True))

    def losses(self, requests: Mapping[int, Evaluate]) -> tuple[Array, Array]:
        """Return the folds' training losses, (fold,), and their gradients, (fold, variable).

        Half a pass is enough where the linear predictors are known.
        """
        # Points of line searches need no product forwards; for the others, ``new``, each block is
        # multiplied by all folds' variables at once.
        self._predictors.interpolate(requests)
        ws = {k: request.w for k, request in requests.items()}
        folds, new = list(ws), self._predictors.unknown(ws)
        V = np.stack([ws[k] for k in new]) if new else np.empty((0, self.n_params))
        W = self._passes.pack(V, self._precision) if new else None
        Z, own, places = self._predictors.renew(new), columns(folds), columns(new)
        # G gathers X'(s * slope), a column for each output of each fold that asks.
        G = self._passes.zeros(len(folds), self._precision)

        def losses(block: Block) -> tuple[Array, Array]:
            if W is not None:
                Z[block.rows, places] = self._passes.forward(block, W, len(new))
            weight = self._columns(self.train_weight[block.rows], folds)
            sums, U = self._losses(block, Z[block.rows, own], weight)
            return sums, U.astype(self._precision, copy=False)

        values = self._passes.add_up(losses, G, cost=1.0 if new else 0.5)
        self._predictors.mark(new, V)
        return values, self._passes.unpack(G, len(folds))

    def hessian_products(
        self, requests: Mapping[int, HessianProduct], theta: Vector
    ) -> dict[int, Vector]:
        """Return the Hessian of :math:`g_k` at w times v for each fold k that asks, in one pass."""
        if not requests:
            return {}
        (products,) = self.loss_products(requests)

        def add_penalty(k: int, own: Array) -> Array:
            w, v = requests[k].w, requests[k].v
            h = self.penalty.hessian(w, theta)
            for row, product in zip(np.atleast_2d(v), own, strict=False):
                self._add_quadratic(k, h, row, product)
            return own[: len(np.atleast_2d(v))].reshape(v.shape)

        answers = self._passes.each_vector(add_penalty, requests, products)
        return dict(zip(requests, answers, strict=True))

    def loss_products(self, requests: Mapping[int, HessianProduct]) -> tuple[Array]:
        """Return the products with the Hessians of the training losses, (fold, vector, variable).

        A fold with fewer vectors than others has zeros for the rest.
        """
        dtype = self._single if all(map(_single_will_do, requests.values())) else np.float64
        products = self._loss_products(requests, dtype)
        if dtype != np.float64 and not np.isfinite(products).all():
            # A curvature was beyond the range of single precision, perhaps that of a row without
            # weight.
            products = self._loss_products(requests, np.float64)
        return (products,)

    def _loss_products(self, requests: Mapping[int, HessianProduct], dtype: Any) -> Array:
        """Return the products, made in some precision."""
        folds = list(requests)
        rows = {k: np.atleast_2d(request.v) for k, request in requests.items()}
        # As many vectors for each fold as any of them has, padded with zeros: all vectors of a fold
        # share its curvatures.
        V = self._passes.stack((len(folds), max(map(len, rows.values()))), dtype)
        for own, v in zip(V, rows.values(), strict=True):
            own[: len(v)] = v
            own[len(v) :] = 0.0
        # X'(s * l''(z) * (X v)), with the second derivatives l'' at each fold's own w.
        self._predictors.find_curvatures({k: request.w for k, request in requests.items()})
        n_columns, n_forward = V.shape[0] * V.shape[1], self._n_seen_by_features(V)
        forward, constant = np.split(V, [n_forward], axis=1)
        W = self._passes.pack(forward.reshape(-1, self.n_params), dtype)
        constant = self._passes.free_part(constant)[:, :, -self.n_outputs :]
        G = self._passes.zeros(n_columns, dtype)

        def multiply(block: Block) -> tuple[float, Array]:
            Z = self._passes.forward(block, W, len(V) * n_forward)
            Z = Z.reshape(len(Z), len(V), n_forward, self.n_outputs)
            if constant.size:
                shape = (len(Z), *constant.shape)
                Z = np.concatenate([Z, np.broadcast_to(constant, shape)], axis=2)
            D = self._predictors.curvatures(folds, block.rows).astype(dtype, copy=False)
            weight = self._columns(self.train_weight[block.rows], folds)
            products = self.loss.hessian_products(D, Z)
            products *= weight.astype(dtype, copy=False)[:, :, None]
            return 0.0, products

        self._passes.add_up(multiply, G, cost=1.0)
        return self._passes.unpack(G, n_columns).reshape(V.shape)

    def _n_seen_by_features(self, V: Array) -> int:
        """Return how many of each fold's vectors have to be multiplied by X.

        Those after them have nothing but intercepts, which are their linear predictors.
        """
        n_vectors = int(V.shape[1])
        if self._passes.fit_intercept:
            features = V[:, :, : -self.n_outputs]
            # From the last one on, fold by fold: most often, one look at a vector is enough.
            while n_vectors > 1 and not any(own.any() for own in features[:, n_vectors - 1]):
                n_vectors -= 1
        return n_vectors

    def outer_values_and_grads(self, ws: Sequence[Vector]) -> list[tuple[float, Vector]]:
        return list(self.outer_at(dict(enumerate(ws))).values())

    def data_diagonals(self, ws: Sequence[Vector]) -> list[Vector | None]:
        if self._keeps_to_span or not self.penalty.quadratic:
            return [None] * len(ws)
        return list(self.diagonals_at(dict(enumerate(ws))).values())

    @cached_property
    def _keeps_to_span(self) -> bool:
        """Whether a solver must stay in the span of a fold's rows, where the solution lies.

        With more columns than rows, no training loss sees what a diagonal or the folds' mean
        Hessian adds outside of the span, and only the penalty would bring it back. A multiple of
        the identity adds nothing there. Sparse data are excepted: their columns differ so much in
        their numbers of entries that a solver without a diagonal would make no progress.
        """
        wide = self._weights.n_train < self.n_features
        shared = self.penalty.quadratic and self.penalty.n_groups == 1
        return wide and shared and not self.design.is_sparse

    def outer_at(self, ws: Mapping[int, Vector]) -> dict[int, tuple[float, Vector]]:
        """Return :math:`f_k` and its gradient for each fold k of ``ws``, in half a pass."""
        values, grads = self.outer_losses(ws)
        return {k: (float(values[c]), grads[c]) for c, k in enumerate(ws)}

    def outer_losses(self, ws: Mapping[int, Vector]) -> tuple[Array, Array]:
        """Return the folds' outer losses, (fold,), and their gradients, (fold, variable)."""
        # The linear predictors of held-out rows were made with those of the training rows, so that
        # the gradient X'(v * slope) is all that is left. Each row is read once for its own fold.
        Z = self._predictors.at(ws)
        held_out = self.held_out.by(list(ws), len(self))
        values, grads = np.zeros(len(ws)), np.zeros((len(ws), self.n_params))
        with closing(self._passes.parts()) as parts:
            for part in parts:
                own = held_out.among(part.rows).by_fold(len(ws))
                add = partial(self._add_held_out, part, Z, values, grads)
                self._passes.run(add, list(enumerate(own)))
        self._passes.n_spent += 0.5 * held_out.rows.size / len(self.y)
        if self._passes.free is not None:
            grads *= self._passes.free
        return values, grads

    def diagonals_at(self, ws: Mapping[int, Vector]) -> dict[int, Vector]:
        """Return the diagonal of the loss term's Hessian for each fold, in half a pass."""
        (diagonals,) = self.loss_diagonals(ws)
        if self._centring is not None:
            for k, diagonal in zip(ws, diagonals, strict=True):
                diagonal += np.repeat(self._centring[:, k], self.n_outputs)
        return dict(zip(ws, diagonals, strict=True))

    def loss_diagonals(self, ws: Mapping[int, Vector]) -> tuple[Array]:
        """Return the diagonals of the Hessians of the training losses, (fold, variable).

        Where a loss is not convex, absolute values are added up. The sum scales a variable, and
        samples of opposite curvature that cancel would make it look as if there were none.
        """
        folds = list(ws)
        self._predictors.find_curvatures(ws)
        # diag(X' diag(d) X) is the transposed product of d with the squares of X.
        G = self._passes.zeros(len(folds))

        def diagonal(block: Block) -> tuple[float, Array]:
            curvatures = self._predictors.curvatures(folds, block.rows)
            weight = self._columns(self.train_weight[block.rows], folds)
            return 0.0, np.abs(self.loss.hessian_diagonal(curvatures)) * weight

        self._passes.add_up(diagonal, G, cost=0.5, squared=True)
        return (self._passes.unpack(G, len(folds)),)

    def preconditioners(
        self, ws: Sequence[Vector], theta: Vector
    ) -> list[Callable[[Vector], Vector] | None]:
        """Return the inverse of the folds' mean Hessian at their mean w, where that is cheap.

        The folds share most of their rows, so that one factorisation serves all of them.
        """
        return [self._preconditioner(ws, theta)] * len(ws)

    def _preconditioner(
        self, ws: Sequence[Vector], theta: Vector
    ) -> Callable[[Vector], Vector] | None:
        if self._keeps_to_span or not self._mean_hessian.cheap:
            return None
        w = np.mean(ws, axis=0)
        h = self.penalty.hessian(w, theta)
        centring = None if self._centring is None else self._centring.mean(axis=1)
        try:
            return self._mean_hessian.solver(w, self.train_weight, h, centring)
        except LinAlgError:
            return None

    @cached_property
    def _single(self) -> Any:
        """The dtype of Hessian products where single precision is enough."""
        largest = self.train_weight.max(initial=0.0)
        return self.design.single if 1.0 / MODERATE_SIZE <= largest <= MODERATE_SIZE else np.float64

    def _losses(self, block: Block, Z: Array, weight: Array) -> tuple[Array, Array]:
        """Return the sums of a block's weighted losses, and their derivatives in Z."""
        loss, slope = self.loss.value_and_gradient(self.y[block.rows], Z)
        # By BLAS, which sums columns faster than numpy.
        sums = np.ones(len(Z)) @ (weight * loss).reshape(len(Z), -1)
        return np.asarray(sums.reshape(loss.shape[1], -1).sum(axis=1)), slope * weight

    def _add_held_out(
        self, part: Part, Z: Array, values: Array, grads: Array, of_fold: tuple[int, HeldOut]
    ) -> None:
        """Add the losses of a part's rows that a fold holds out to ``values``, and gradients."""
        c, held_out = of_fold
        G = grads[c].reshape(-1, self.n_outputs)
        for piece in held_out.pieces(min(part.design.step, most_rows(self.n_outputs))):
            weight, rows = piece.weight[:, None], piece.rows + part.rows.start
            # The predictors, by one index into (sample, fold).
            own = Z.reshape(-1, self.n_outputs)[rows * Z.shape[1] + c]
            loss, slope = self.loss.value_and_gradient(self.y[rows], own[:, None])
            values[c] += (weight * loss).sum()
            part.design.add_rows(piece.rows, (slope * weight)[:, 0], G)

    def _add_penalty(self, k: int, w: Vector, theta: Vector, grad: Vector) -> float:
        """Add the gradient of fold k's penalty and centring; return their value."""
        if self.penalty.quadratic:
            return 0.5 * self._add_quadratic(k, self.penalty.strength(theta), w, grad)
        grad += self.penalty.gradient(w, theta)
        centring = self._add_quadratic(k, np.zeros_like(w), w, grad)
        return self.penalty.value(w, theta) + 0.5 * centring

    def _add_quadratic(self, k: int, h: Vector, v: Vector, product: Vector) -> float:
        """Add A v, A being fold k's Hessian of penalty and centring; return v'A v."""
        total = float(kernels.add_scaled(h, v, product))
        if self._centring is not None:
            rows = self._centred_rows
            sums = v.reshape(-1, self.n_outputs)[rows].sum(axis=1)
            pull = self._centring[rows, k] * sums
            product.reshape(-1, self.n_outputs)[rows] += pull[:, None]
            total += float(pull @ sums)
        return total

    @cached_property
    def _uncoupled_rows(self) -> NDArray[np.bool_]:
        """Which rows of W need the centring term: those in which nothing else sees a constant."""
        free = np.all(self.penalty.groups.reshape(-1, self.n_outputs) < 0, axis=1)
        return np.asarray(free & self.loss.shift_invariant)

    @cached_property
    def _centred_rows(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._uncoupled_rows)

    @cached_property
    def _centring(self) -> Array | None:
        """Each fold's rho, row by row, for a loss that needs it; see the module."""
        free = self._uncoupled_rows
        if not free.any():
            return None
        # rho_jk = sum_i s_ik x_ij**2 / m**2, zero in rows of W that are penalised.
        (squares,) = self.weighted_squares()
        return np.where(free[:, None], squares, 0.0) / self.n_outputs**2

    def weighted_squares(self) -> tuple[Array]:
        """Return the sums over the training rows of x_ij**2, weighted, (row of W, fold)."""
        n_folds = self.train_weight.shape[1]
        squares = self.design.zeros(self._passes.n_variables, n_folds)

        def weights(block: Block) -> tuple[float, Array]:
            return 0.0, self.train_weight[block.rows]

        self._passes.add_up(weights, squares, cost=0.0, squared=True)
        return (squares[:, :n_folds],)

    @staticmethod
    def _columns(weight: Array, folds: Sequence[int]) -> Array:
        """Return the weights of some folds, (sample, fold, 1 or output)."""
        return weight[:, columns(folds)].reshape(len(weight), len(folds), -1)


def _single_will_do(request: HessianProduct) -> bool:
    """Whether single precision is enough, and no number will be out of its range."""
    squares = (float(v @ v) for v in np.atleast_2d(request.v))
    safe = (square == 0.0 or MODERATE_SIZE**-4 <= square <= MODERATE_SIZE**4 for square in squares)
    return request.single and all(safe)
