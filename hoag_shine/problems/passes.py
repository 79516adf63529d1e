"""Passes over the rows of X, and the arrays that they work on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..linalg import kernels
from ..linalg.design import Block, Matrix, Part, as_design, most_rows

Vector = NDArray[np.float64]
Array = NDArray[np.float64]


class Passes:
    """X in blocks of rows, for linear models of several folds and outputs.

    A *pass* is a function of a block of rows, called for one block after the other in the order of
    the rows, so that its sums do not depend on where it runs. Nothing else loops over the rows.
    Where X is, in memory or in a file, its :class:`~hoag_shine.linalg.design.Matrix` knows.

    The variables of several folds are packed into the columns of one array: the outputs of the
    first fold, then those of the next. An array of linear predictors is of shape (sample, fold,
    output).

    Parameters
    ----------
    X : ndarray, CSR matrix or Matrix of shape (n_samples, n_features), float32 or float64
    n_outputs : int
    fit_intercept : bool
    free : ndarray of bool, shape (n_params,), or None
        Variables that are not fixed at zero; None if all are free.
    n_folds : int

    Attributes
    ----------
    n_spent : float
        Passes so far: 1 for reading X forwards and backwards, a half for one of the two.
    n_bytes_read : int
        Bytes read so far from where X is, if that is not memory.
    """

    def __init__(
        self, X: Any, n_outputs: int, fit_intercept: bool, free: Any, n_folds: int
    ) -> None:
        self._X = X
        self.n_features = X.shape[1]
        self.n_outputs = n_outputs
        self.fit_intercept = fit_intercept
        self.n_variables = self.n_features + int(fit_intercept)  # of an output
        self.free = free
        self._most_rows = most_rows(n_folds * n_outputs)
        self.n_spent = 0.0
        self.n_bytes_read = 0
        self._buffers: dict[str, Array] = {}

    @cached_property
    def design(self) -> Matrix:
        """X, read in blocks of rows."""
        return as_design(self._X)

    @cached_property
    def _parts(self) -> Iterable[Part]:
        return self.design.parts()

    def parts(self) -> Generator[Part]:
        """Read the parts of X one after the other; to be closed by who does not read them all."""
        for part in self._parts:
            self.n_bytes_read += part.n_bytes
            yield part
            del part  # or it would be kept until the next one is there

    def each(self, function: Callable[[Block], None], *, cost: float) -> None:
        """Call a function for each block; ``cost`` is its share of a pass."""
        with closing(self.parts()) as parts:
            for part in parts:
                for block in part.blocks:
                    for piece in block.pieces(self._most_rows):
                        function(piece)
        self.n_spent += cost

    def portions(self) -> Iterator[slice]:
        """Return all rows, as many at a time as in a block, for work that does not read X."""
        for block in self.design.blocks:
            for first in range(block.start, block.stop, self._most_rows):
                yield slice(first, min(first + self._most_rows, block.stop))

    def total(self, function: Callable[[Block], Array], *, cost: float) -> Array:
        """Sum what a function returns for each block."""
        total = np.zeros(())

        def add(block: Block) -> None:
            nonlocal total
            total = total + function(block)

        self.each(add, cost=cost)
        return total

    def predict(self, V: Array) -> Array:
        """Return the linear predictors at the rows of V, (sample, row, output)."""
        W, Z = self.pack(V), np.empty((self.design.shape[0], len(V), self.n_outputs))

        def forward(block: Block) -> None:
            Z[block.rows] = self.forward(block, W, len(V))

        self.each(forward, cost=0.5)
        return Z

    def forward(self, block: Block, W: Array, n_folds: int) -> Array:
        """Return the linear predictors of a block of rows, (sample, fold, output)."""
        Z = block.design.matmul(block.own, W, n_folds * self.n_outputs)
        return Z.reshape(-1, n_folds, self.n_outputs)

    def add_backward(self, block: Block, U: Array, G: Array, *, squared: bool = False) -> None:
        """Add the transposed product of :meth:`forward` to G."""
        block.design.add_rmatmul(block.own, U.reshape(len(U), -1), G, squared=squared)

    def gram(self, u: Vector) -> Array:
        """Return X' diag(u) X, with the intercept's column of ones."""
        # X'diag(u)X in the upper left, X'u and the sum of u in the last row and column.
        p = self.n_features
        H, G = np.zeros((self.n_variables, self.n_variables)), np.zeros((p, p))

        def add(block: Block) -> None:
            own = u[block.rows]
            block.design.add_gram(block.own, own, G)
            if self.fit_intercept:
                block.design.add_rmatmul(block.own, own[:, None], H[p:, :p].T)

        self.each(add, cost=0.5)
        H[:p, :p] = np.tril(G) + np.tril(G, -1).T  # CSR designs add the lower triangle alone
        H[:p, p:] = H[p:, :p].T
        H[p:, p:] = u.sum()
        return H

    # --- the arrays of several folds --------------------------------------------------------------

    def pack(self, V: Array, dtype: Any = np.float64) -> Array:
        """Return the rows of V as columns, without the variables fixed at zero."""
        W = self._buffer("variables", len(V), dtype)
        kernels.pack(V if self.free is None else V * self.free, self.n_outputs, W)
        return W

    def unpack(self, G: Array, n_folds: int) -> Array:
        """Return the columns of G as rows, without the variables fixed at zero."""
        V = np.empty((n_folds, self.n_variables * self.n_outputs))
        kernels.unpack(G, self.n_outputs, V)
        if self.free is not None:
            V *= self.free
        return V

    def zeros(self, n_folds: int, dtype: Any = np.float64) -> Array:
        """Return columns of zeros to which transposed products are added."""
        G = self._buffer("transposed product", n_folds, dtype)
        G.fill(0.0)
        return G

    def stack(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return memory for vectors of all variables."""
        n, n_params = int(np.prod(shape)), self.n_variables * self.n_outputs
        known = self._buffers.get("vectors")
        if known is None or len(known) < n or known.dtype != dtype:
            known = self._buffers["vectors"] = np.empty((n, n_params), dtype)
        return known[:n].reshape(*shape, n_params)

    def _buffer(self, name: str, n_folds: int, dtype: Any) -> Array:
        """Return an array of columns; those beyond the folds' outputs are not used.

        The same memory is returned as long as its shape is the same: to fetch new memory takes as
        long as to fill it.
        """
        k = n_folds * self.n_outputs
        known, wanted = self._buffers.get(name), (self.n_variables, self.design.width(k, dtype))
        if known is None or known.shape != wanted or known.dtype != dtype:
            self._buffers.pop(name, None)
            known = self._buffers[name] = self.design.zeros(self.n_variables, k, dtype)
        return known
