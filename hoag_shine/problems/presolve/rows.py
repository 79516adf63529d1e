r"""Fewer rows with the same losses.

*Distinct rows.* Samples with the same x and y have the same loss, so that one row with the sum of
their weights stands for all of them. Where columns are categories, or binned or rounded numbers,
that may remove most rows. Linear programming knows the reduction as that of duplicate rows
(Andersen and Andersen, 1995, see :mod:`~hoag_shine.problems.presolve`).

*Factors of least squares.* A weighted sum of squared errors over some rows,
:math:`\sum_i a_i \|W^\top x_i + b - y_i\|^2`, is a squared norm of :math:`A\, (W^\top, b, -I)^\top`
with the rows :math:`\sqrt{a_i}\, (x_i, 1, y_i)` in A, and A may be replaced by the triangular
factor R of its QR decomposition, which has no more rows than columns:
:math:`\|A v\| = \|Q R v\| = \|R v\|`. The folds weigh rows differently, but rows that are in the
same folds, for training and held out, have weights that are multiples of each other: in group g,
:math:`s_{ik} = a_i S_{gk}` and :math:`v_{ik} = a_i V_{gk}`. So an R for each group, with the
weights S and V, leaves every fold's inner objective and outer loss as they are. Cross-validation
has as many groups as folds.

R is computed from the rows and not from their products :math:`A^\top A`, which would square the
condition number [1]_. It is updated block by block, as the factor of R stacked on the next block
[2]_, so that X is never copied as a whole. An X that is not in memory is read once, and its rows
are not looked at for repetitions.

References
----------
.. [1] N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., chapter 20.
.. [2] G. H. Golub and C. F. Van Loan, *Matrix Computations*, 4th ed., section 6.5, on updates of
   factorisations by further rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ...linalg.clusters import ClusterMatrix
from ...linalg.costs import CORE_CACHE_NUMBERS, MAX_FACTORISED_ORDER
from ...linalg.design import Matrix, Part, as_design, in_memory_design
from ...linalg.streams import PartedMatrix
from ..losses import Loss
from . import WORTHWHILE_SHARE

Array = NDArray[np.float64]
Vector = NDArray[np.float64]

# Products that a search makes of each entry of X, for each fold and output.
# Why: a search for one penalty takes 20 passes or so, with two products each.
PRODUCTS_PER_SEARCH = 40
# Difference of two shares of weights up to which they are the same.
# Why: some thousand roundings of float64, far below any difference of weights that are not.
WEIGHT_ROUNDING = 1e-12
# Rows by which the share of repeated rows is estimated.
# Why: enough to tell a tenth from none (to a hundredth or so), and hashed in no time.
SAMPLED_ROWS = 4096


@dataclass(frozen=True)
class CompressedRows:
    """Rows that stand for more, with the arrays that belong to them.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_columns), float32 or float64
    y : ndarray of shape (n_rows, n_outputs)
    train_weight : ndarray of shape (n_rows, n_folds) or (n_rows, n_folds, n_outputs)
    test_weight : ndarray of shape (n_rows, n_folds)
    fit_intercept : bool
        Whether there is an intercept that is not the coefficient of X's last column.
    """

    X: Any
    y: Array
    train_weight: Array
    test_weight: Array
    fit_intercept: bool

    @classmethod
    def of(
        cls,
        X: Any,
        y: Vector,
        loss: Loss,
        train_weight: Array,
        test_weight: Array,
        *,
        fit_intercept: bool,
    ) -> Self | None:
        """Return the compressed rows, or None where they would cost more than they save."""
        rows, streamed = None, isinstance(X, PartedMatrix)
        if loss.quadratic and not (X.is_sparse if streamed else hasattr(X, "tocsr")):
            rows = cls._factors(X, y, train_weight, test_weight, fit_intercept)
        if streamed:
            return rows
        return rows or cls._distinct(X, y, train_weight, test_weight, fit_intercept)

    @classmethod
    def _factors(
        cls, X: Any, y: Vector, train_weight: Array, test_weight: Array, fit_intercept: bool
    ) -> Self | None:
        """Replace the rows that are drawn alike by the factor R."""
        n, m = len(y), y.size // len(y)
        n_columns = X.shape[1] + int(fit_intercept) + m
        products = PRODUCTS_PER_SEARCH * int(test_weight.any(axis=0).sum()) * m
        if isinstance(X, PartedMatrix):  # to read it takes longer than to multiply
            products = max(products, MAX_FACTORISED_ORDER)
        if n_columns >= products:
            return None
        weight = np.hstack([train_weight.reshape(n, -1), test_weight])
        groups, size = _proportional(weight)
        kept = sum(min(rows.size, n_columns) for rows in groups)
        # The factorisation makes as many products of each entry as there are columns; the search
        # saves its products with the rows that are gone.
        if n_columns >= (1.0 - kept / n) * products:
            return None
        beside = np.ones((n, int(fit_intercept))), y.reshape(n, m)
        triangles = _joined_triangles if isinstance(X, ClusterMatrix) else _triangles
        factors = triangles(as_design(X), beside, groups, np.sqrt(size))
        X, y = np.split(np.concatenate(factors), [-m], axis=1)
        first = np.repeat([rows[0] for rows in groups], [len(R) for R in factors])
        own = weight[first] / size[first, None]
        train, test = np.split(own, [-test_weight.shape[1]], axis=1)
        return cls(X, y, train.reshape(-1, *train_weight.shape[1:]), test, False)

    @classmethod
    def _distinct(
        cls, X: Any, y: Vector, train_weight: Array, test_weight: Array, fit_intercept: bool
    ) -> Self | None:
        """Keep the first of all rows that are the same, with the sums of their weights."""
        n = len(y)
        if X.shape[1] >= n:
            return None  # with more columns than rows, rows are rarely the same
        marks = _marks(X, y.reshape(n, -1))
        # The rows whose marks have a fractional part in an interval are a sample of all, and for
        # each of them it has all of its copies.
        part = marks[marks - np.floor(marks) < SAMPLED_ROWS / n]
        if np.unique(part).size > (1.0 - WORTHWHILE_SHARE) * part.size:
            return None
        order = np.argsort(marks)
        marks = marks[order]
        again = np.flatnonzero(marks[1:] == marks[:-1])
        # The same mark is not enough: rounding hides small entries beside large ones.
        one, other = order[again], order[again + 1]
        again = again[_equal(X[one], X[other]) & _equal(y[one], y[other])]
        first = np.delete(np.arange(n), again + 1)
        # Of each set of copies, the first row in X stays, and rows keep their order.
        kept = np.minimum.reduceat(order, first)
        stays = np.zeros(n, dtype=bool)
        stays[kept] = True
        slot = np.empty(n, dtype=np.intp)
        slot[order] = np.repeat((np.cumsum(stays) - 1)[kept], np.diff(first, append=n))
        add = sparse.csc_array((np.ones(n), slot, np.arange(n + 1)), shape=(kept.size, n))
        train, test = (
            np.asarray(add @ weight.reshape(n, -1)).reshape(-1, *weight.shape[1:])
            for weight in (train_weight, test_weight)
        )
        return cls(X[stays], y[stays], train, test, fit_intercept)


def _marks(X: Any, y: Array) -> Vector:
    """Return a random sum of each row's entries and targets: a hash of the row.

    Rows that are the same must have sums of the same bits. Those of BLAS depend on the place of a
    row among others; so there is a second column, of zeros, since BLAS does not make products of
    two columns.
    """
    design, rng = in_memory_design(X), np.random.default_rng(0)
    W = design.zeros(X.shape[1], 2)
    W[:, 0] = rng.random(X.shape[1])
    sums = np.concatenate([design.matmul(block, W, 2) for block in design.blocks])
    return np.asarray(sums[:, 0] + (y * rng.random(y.shape[1])).sum(axis=1))


def _equal(one: Any, other: Any) -> NDArray[np.bool_]:
    """Return which rows of two matrices, or which numbers, are the same."""
    differs = one != other
    return np.asarray((differs @ np.ones(differs.shape[1]) if differs.ndim > 1 else differs) == 0)


def _proportional(weight: Array) -> tuple[list[NDArray[np.intp]], Vector]:
    """Group rows whose weights are multiples of each other; return also the size of each row's.

    Rows without weights are in no group.
    """
    mean = np.full(len(weight), 1.0 / len(weight)) @ weight
    unit = np.divide(1.0, mean, out=np.zeros_like(mean), where=mean > 0.0)
    # Three random sums of a row's weights: the first is its size, the other two, in units of the
    # first, are the same for multiples and for no others.
    random = np.random.default_rng(0).random((unit.size, 3))
    size, *marks = (weight @ (unit[:, None] * random)).T
    used = np.flatnonzero(size)
    used = used[np.argsort(marks[0][used] / size[used], kind="stable")]
    steps = [np.abs(np.diff(mark[used] / size[used])) for mark in marks]
    # NaN is equal to no other.
    alike = np.maximum(*steps) <= WEIGHT_ROUNDING
    return np.split(used, np.flatnonzero(~alike) + 1), size


def _triangles(
    X: Matrix, beside: tuple[Array, ...], groups: list[NDArray[np.intp]], scale: Vector
) -> list[Array]:
    """Return the factor R of each group of rows."""
    n_columns = X.shape[1] + sum(array.shape[1] for array in beside)
    factors = [np.empty((0, n_columns)) for _ in groups]
    for part in X.parts():
        factors = [
            _triangle(R, part, beside, rows, scale) for R, rows in zip(factors, groups, strict=True)
        ]
    return factors


def _joined_triangles(
    X: Any, beside: tuple[Array, ...], groups: list[NDArray[np.intp]], scale: Vector
) -> list[Array]:
    """Do the same where workers hold the rows: each makes the factors of its own."""

    def own(rows: slice) -> tuple[Any, ...]:
        chosen = [g[(g >= rows.start) & (g < rows.stop)] - rows.start for g in groups]
        return tuple(array[rows] for array in beside), chosen, scale[rows]

    found = X.apply(_triangles, [own(rows) for rows in X.rows])
    return [np.asarray(np.linalg.qr(np.concatenate(R), mode="r")) for R in zip(*found, strict=True)]


def _triangle(
    R: Array, part: Part, beside: tuple[Array, ...], rows: NDArray[np.intp], scale: Vector
) -> Array:
    """Return the factor of R above those of some rows that a part of X has.

    The rows are of X with some arrays beside it, and scaled.
    """
    n_columns, first = R.shape[1], part.rows.start
    rows = rows[(rows >= first) & (rows < part.rows.stop)]
    step = max(CORE_CACHE_NUMBERS // n_columns, 4 * n_columns)
    # R'R is the sum of block' block so far: the factor of R above a block has that of both.
    for begin in range(0, rows.size, step):
        chosen = rows[begin : begin + step]
        own = part.design.matrix[chosen - first], *(array[chosen] for array in beside)
        block = np.hstack(own) * scale[chosen, None]
        R = np.asarray(np.linalg.qr(np.concatenate([R, block]), mode="r"))
    return R
