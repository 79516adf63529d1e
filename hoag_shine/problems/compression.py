r"""Fewer rows with the same losses: what least squares know of their samples.

A weighted sum of squared errors over some rows,
:math:`\sum_i a_i \|W^\top x_i + b - y_i\|^2`, is a squared norm of
:math:`A\, (W^\top, b, -I)^\top` with the rows :math:`\sqrt{a_i}\, (x_i, 1, y_i)` in A, and A may be
replaced by the triangular factor R of its QR decomposition, which has no more rows than columns.
The folds weigh rows differently, but rows that are drawn alike, for training and for being held
out, have weights that are multiples of each other: in group g, :math:`s_{ik} = a_i S_{gk}` and
:math:`v_{ik} = a_i V_{gk}`. So an R for each group, with the weights S and V, makes every fold's
inner objective and outer loss what they are. Cross-validation has as many groups as folds.

R comes from the rows and not from their products, which would square the condition number, and is
updated block by block, so that X is never copied as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Vector = NDArray[np.float64]

# A search makes about so many products of each entry of X with each fold's outputs.
PRODUCTS = 40
# Numbers in a block of rows: what the cache holds.
BLOCK = 1 << 17
# Shares of weights that differ by less are the same but for rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class CompressedRows:
    """Rows that stand for more, with the arrays that belong to them.

    Attributes
    ----------
    X : ndarray of shape (n_rows, n_columns), float64
        The last column is the intercept's, if there is one.
    y : ndarray of shape (n_rows, n_outputs)
    train_weight : ndarray of shape (n_rows, n_folds) or (n_rows, n_folds, n_outputs)
    test_weight : ndarray of shape (n_rows, n_folds)
    """

    X: Array
    y: Array
    train_weight: Array
    test_weight: Array

    @classmethod
    def of(
        cls, X: Any, y: Vector, train_weight: Array, test_weight: Array, *, fit_intercept: bool
    ) -> Self | None:
        """Return the compressed rows, or None where they would cost more than they save."""
        if hasattr(X, "tocsr"):
            return None
        n, m = len(y), y.size // len(y)
        n_columns = X.shape[1] + int(fit_intercept) + m
        # A final fit, which holds no rows out, is over after a few products.
        products = PRODUCTS * int(test_weight.any(axis=0).sum()) * m
        if n_columns >= products:
            return None
        weight = np.hstack([train_weight.reshape(n, -1), test_weight])
        groups, size = _proportional(weight)
        kept = sum(min(rows.size, n_columns) for rows in groups)
        # The factorisation makes as many products of an entry as there are columns.
        if n_columns >= (1.0 - kept / n) * products:
            return None
        parts, scale = (X, np.ones((n, int(fit_intercept))), y.reshape(n, m)), np.sqrt(size)
        factors = [_triangle(parts, rows, scale) for rows in groups]
        X, y = np.split(np.concatenate(factors), [-m], axis=1)
        first = np.repeat([rows[0] for rows in groups], [len(R) for R in factors])
        own = weight[first] / size[first, None]
        train, test = np.split(own, [-test_weight.shape[1]], axis=1)
        return cls(X, y, train.reshape(-1, *train_weight.shape[1:]), test)


def _proportional(weight: Array) -> tuple[list[NDArray[np.intp]], Vector]:
    """Group rows whose weights are multiples of each other, and measure the weights of each row.

    Rows without weights are in no group.
    """
    mean = np.full(len(weight), 1.0 / len(weight)) @ weight
    unit = np.divide(1.0, mean, out=np.zeros_like(mean), where=mean > 0.0)
    # Random sums of a row's weights, in units of the first, tell it from those of other groups.
    random = np.random.default_rng(0).random((unit.size, 3))
    size, *marks = (weight @ (unit[:, None] * random)).T
    used = np.flatnonzero(size)
    used = used[np.argsort(marks[0][used] / size[used], kind="stable")]
    steps = [np.abs(np.diff(mark[used] / size[used])) for mark in marks]
    # What is not a number is like no other.
    alike = np.maximum(*steps) <= ROUNDING
    return np.split(used, np.flatnonzero(~alike) + 1), size


def _triangle(parts: tuple[Array, ...], rows: NDArray[np.intp], scale: Vector) -> Array:
    """Return R of the scaled rows of some matrices side by side."""
    n_columns = sum(part.shape[1] for part in parts)
    step = max(BLOCK // n_columns, 4 * n_columns)
    R = np.empty((0, n_columns))
    for begin in range(0, rows.size, step):
        chosen = rows[begin : begin + step]
        block = np.hstack([part[chosen] for part in parts]) * scale[chosen, None]
        R = np.asarray(np.linalg.qr(np.concatenate([R, block]), mode="r"))
    return R
