"""Passes over the rows of X, and the arrays that they work on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..linalg import kernels
from ..linalg.costs import LONG_VECTOR_NUMBERS, WORKSPACE_NUMBERS
from ..linalg.design import Block, Design, Matrix, Part, Strip, as_design, most_rows
from ..linalg.threads import one_blas_thread
from .pool import CALLER, Pool

Vector = NDArray[np.float64]
Array = NDArray[np.float64]
T = TypeVar("T")
# Returns a value that is summed over the blocks, and an array over the rows of the block.
OfBlock = Callable[[Block], tuple[Any, Array]]

# Multiplications of a product forwards from which on threads share a pass.
# Why: they take some milliseconds, and to hand work to threads takes some tenths of one. With
# 10,000 x 100 and five folds, 5e6, a second core saved a sixth of a search.
SHARED_MULTIPLICATIONS = 4e6
# Most groups of blocks with sums of their own.
# Why: by judgement: 16 threads share them evenly, and to add them up takes next to no time.
MAX_GROUPS = 32


class Passes:
    """X in blocks of rows, for linear models of several folds and outputs.

    A *pass* is a function of a block of rows, called for all blocks; its sums are made in the order
    of the rows, so that they do not depend on where it runs. Nothing else loops over the rows.
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
    pool : Pool
        The threads that share a pass; the caller alone by default.
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
        self._n_columns = n_folds * n_outputs
        self._most_rows = most_rows(self._n_columns)
        self.pool: Pool = CALLER
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

    def blocks(self) -> Iterator[Block]:
        """Read X block by block, in the order of the rows."""
        with closing(self.parts()) as parts:
            for part in parts:
                for block in part.blocks:
                    yield from block.pieces(self._most_rows)

    def each(self, function: Callable[[Block], None], *, cost: float) -> None:
        """Call a function for each block, which writes to the rows of the block alone.

        ``cost`` is its share of a pass.
        """
        with self._limited_blas():
            for blocks in self._together():
                self._run(function, blocks)
        self.n_spent += cost

    def add_up(self, function: OfBlock, G: Array, *, cost: float, squared: bool = False) -> Any:
        """Call a function for each block, and add up what it returns.

        It returns a value and an array over the rows of the block, whose transposed product is
        added to G; the sum of the values is returned.
        """
        total: Any = 0.0
        # It does not depend on the number of threads, since it decides how sums are rounded.
        own = self.most_threads > 1 and self.design.own_sums
        add = self._by_groups if own else self._by_strips
        with self._limited_blas():
            for value in add(function, G, squared):
                total = total + value
        self.n_spent += cost
        return total

    def _limited_blas(self) -> AbstractContextManager[None]:
        """Return a context in which BLAS has one thread, in passes that threads may share.

        Also where there is only one: BLAS rounds differently with other numbers of threads.
        """
        return one_blas_thread() if self.most_threads > 1 else nullcontext()

    def _by_groups(self, function: OfBlock, G: Array, squared: bool) -> Iterator[Any]:
        """Add transposed products, of which each group of blocks has a sum of its own."""

        def own(blocks: list[Block]) -> tuple[list[Any], Array]:
            values, product = [], self.design.zeros(len(G), G.shape[1], G.dtype)
            for block in blocks:
                value, U = function(block)
                self.add_backward(block, U, product, squared=squared)
                values.append(value)
            return values, product

        groups_of_blocks = self._groups(MAX_GROUPS)
        for groups in self._at_a_time(groups_of_blocks, self.n_variables * self._n_columns):
            for values, product in self._run(own, groups):
                G += product
                yield from values

    def _by_strips(self, function: OfBlock, G: Array, squared: bool) -> Iterator[Any]:
        """Add transposed products, the columns of X of one thread beside those of another.

        Each adds one block after the other, so that all sums are made in the order of the rows.
        """
        for blocks in self._together():
            values, Us = zip(*self._run(function, blocks), strict=True)
            self._add_strips(blocks, Us, G, squared)
            yield from values

    def _add_strips(
        self, blocks: Sequence[Block], Us: Sequence[Array], G: Array, squared: bool
    ) -> None:
        def add(strip: Strip | None) -> None:
            for block, U in zip(blocks, Us, strict=True):
                self.add_backward(block, U, G, strip, squared=squared)

        self._run(add, blocks[0].design.strips(self.pool.n if len(blocks) > 1 else 1))

    def _groups(self, most: int) -> list[list[Block]]:
        """Return groups of neighbouring blocks, however many threads there are."""
        blocks = list(self.blocks())
        n = min(len(blocks), most)
        ends = [i * len(blocks) // n for i in range(n + 1)]
        return [blocks[i:j] for i, j in pairwise(ends)]

    def _together(self) -> Iterator[Sequence[Block]]:
        """Return the blocks in the order of the rows, as many at a time as threads may share.

        One thread takes a block at a time, which is in the cache when it is multiplied backwards.
        """
        if self.pool.n == 1 or self.most_threads == 1:
            yield from ([block] for block in self.blocks())
            return
        blocks = list(self.blocks())
        # What blocks leave until they are added up is an array over their rows.
        longest = max(block.rows.stop - block.rows.start for block in blocks)
        yield from self._at_a_time(blocks, longest * self._n_columns)

    def _at_a_time(self, items: Sequence[T], numbers: int) -> Iterator[Sequence[T]]:
        """Return items, as many at a time as threads may share; each leaves an array."""
        most = 1 if self.pool.n == 1 else max(self.pool.n, WORKSPACE_NUMBERS // numbers)
        yield from (items[i : i + most] for i in range(0, len(items), most))

    def run(self, function: Callable[..., T], items: Sequence[Any]) -> list[T]:
        """Call a function for some items, by threads if these share passes."""
        with self._limited_blas():
            return self._run(function, items)

    def _run(self, function: Callable[..., T], items: Sequence[Any]) -> list[T]:
        if len(items) == 1 or self.most_threads == 1:
            return list(map(function, items))
        settings = np.geterr()  # threads do not inherit them

        def call(item: Any) -> T:
            with np.errstate(**settings):
                return function(item)

        found: list[T] = self.pool.run(call, items)
        return found

    @cached_property
    def most_threads(self) -> int:
        """Threads that may share a pass: one unless X is in memory and a pass takes long."""
        long = self.design.n_stored * self._n_columns >= SHARED_MULTIPLICATIONS
        shared = long and isinstance(self.design, Design)
        return max(1, len(list(self.blocks()))) if shared else 1

    def portions(self) -> Iterator[slice]:
        """Return all rows, as many at a time as in a block, for work that does not read X."""
        for block in self.design.blocks:
            for first in range(block.start, block.stop, self._most_rows):
                yield slice(first, min(first + self._most_rows, block.stop))

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

    def add_backward(
        self,
        block: Block,
        U: Array,
        G: Array,
        strip: Strip | None = None,
        *,
        squared: bool = False,
    ) -> None:
        """Add the transposed product of :meth:`forward`, or a strip of it, to G."""
        U = U.reshape(len(U), -1)
        block.design.add_rmatmul(block.own, U, G, strip, squared=squared)

    def grams(self, U: Array) -> Array:
        """Return X' diag(u) X for each column u of U, with the intercept's column of ones.

        Of shape (n_columns of U, n_variables, n_variables), in half a pass.
        """
        # X'diag(u)X in the upper left, X'u and the sum of u in the last row and column.
        p, m = self.n_features, U.shape[1]
        if not m:
            return np.empty((0, self.n_variables, self.n_variables))
        H = np.zeros((m, self.n_variables, self.n_variables))
        columns = self.design.zeros(p, m)
        with self._limited_blas():
            for lower, product in self._gram_sums(U):
                for own, sums in zip(H, lower, strict=True):
                    own[:p, :p] += sums
                columns += product
        self.n_spent += 0.5
        for own in H:
            # CSR designs add the lower triangle alone.
            own[:p, :p] = np.tril(own[:p, :p]) + np.tril(own[:p, :p], -1).T
        if self.fit_intercept:
            H[:, p, :p] = H[:, :p, p] = columns[:, :m].T
            H[:, p, p] = U.sum(axis=0)
        return H

    def _gram_sums(self, U: Array) -> Iterator[tuple[Array, Array]]:
        """Return the products of groups of rows with X, of which the first are lower triangles."""
        p, m = self.n_features, U.shape[1]

        def sums(blocks: Iterable[Block]) -> tuple[Array, Array]:
            G, columns = np.zeros((m, p, p)), self.design.zeros(p, m)
            for block in blocks:
                own = U[block.rows]
                for u, lower in zip(own.T, G, strict=True):
                    block.design.add_gram(block.own, u, lower)
                if self.fit_intercept:
                    block.design.add_rmatmul(block.own, own, columns)
            return G, columns

        if self.most_threads == 1:
            yield sums(self.blocks())
            return
        # However many threads there are: the numbers of groups decide how sums are rounded.
        n = int(np.clip(WORKSPACE_NUMBERS // (m * p * p), 1, MAX_GROUPS))
        for groups in self._at_a_time(self._groups(n), m * p * p):
            yield from self._run(sums, groups)

    # --- the arrays of several folds --------------------------------------------------------------

    def pack(self, V: Array, dtype: Any = np.float64) -> Array:
        """Return the rows of V as columns, without the variables fixed at zero."""
        W = self._buffer("variables", len(V), dtype)
        V = self.free_part(V)
        self._by_variables(lambda own: kernels.pack(V, self.n_outputs, W, own.start, own.stop))
        return W

    def free_part(self, V: Array) -> Array:
        """Return vectors without the variables fixed at zero."""
        return V if self.free is None else V * self.free

    def unpack(self, G: Array, n_folds: int) -> Array:
        """Return the columns of G as rows, without the variables fixed at zero."""
        V = np.empty((n_folds, self.n_variables * self.n_outputs))
        self._by_variables(lambda own: kernels.unpack(G, self.n_outputs, V, own.start, own.stop))
        if self.free is not None:
            V *= self.free
        return V

    def zeros(self, n_folds: int, dtype: Any = np.float64) -> Array:
        """Return columns of zeros to which transposed products are added."""
        G = self._buffer("transposed product", n_folds, dtype)
        self._by_variables(lambda own: G[own].fill(0.0))
        return G

    def each_vector(self, function: Callable[..., T], *sequences: Iterable[Any]) -> list[T]:
        """Call a function for vectors of all variables, by threads if the vectors are long."""
        items = list(zip(*sequences, strict=True))
        if self._long:
            return self._run(lambda item: function(*item), items)
        return [function(*item) for item in items]

    @property
    def _long(self) -> bool:
        """Whether vectors of all variables are long."""
        return bool(self.n_variables * self.n_outputs >= LONG_VECTOR_NUMBERS)

    def _by_variables(self, function: Callable[[slice], None]) -> None:
        """Call a function for portions of the rows of columns, one for each thread."""
        ends = [self.n_variables * i // self.pool.n for i in range(self.pool.n + 1)]
        parts = [slice(i, j) for i, j in pairwise(ends)]
        self._run(function, parts if self._long else [slice(0, self.n_variables)])

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
