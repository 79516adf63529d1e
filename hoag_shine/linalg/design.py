"""The data matrix, read in blocks of rows that fit into the processor's cache.

A pass multiplies each block forwards and, while it is still in the cache, backwards. Arithmetic is
float64. A matrix may be *stored* in float32, and products are made in float32 where single
precision is enough: sixteen columns then take the time of eight. There are two layouts, dense and
CSR, each a small class, with one interface.

A matrix that is not in memory comes in *parts*, each of which is: see
:mod:`~hoag_shine.linalg.streams`. One that is in memory has a single part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from . import kernels
from .simd import n_lanes

Array = NDArray[np.float64]
Vector = NDArray[np.float64]

# Bytes of X in a block of rows, which is multiplied forwards and then backwards.
# Why: with 2 MiB instead of 1, a search on text took a few per cent less; dense blocks of that size
# are those that BLAS is fastest with.
BLOCK_BYTES = 1 << 21
# Most numbers of an array over the rows of a block and the columns of a product.
# Why: a pass over 20,000 rows with 200 classes and five folds makes several such arrays at a time,
# of which each would take 160 MB; at 8 MiB they are no more than the cache holds.
MAX_BLOCK_NUMBERS = 1 << 20
# Products in single precision are made of columns of X whose largest entries are of at most this
# size, and at least its inverse; of vectors whose norm is between the squares of these.
# Why: float32 holds sizes from 1e-38 to 3e38. A product of an entry, a weight and a vector's entry,
# each within these limits, is between 1e-24 and 1e24, and its sums stay in the range, too.
MODERATE_SIZE = 1e6
# Largest ratio of the sizes of two columns with which solves may be led in single precision.
# Why: with columns of digits between e**-7 and e**7, a search ended 2 % above the optimum, and knew
# that it was uncertain; with 0 to 255 in each, as with standardised columns, none was worse.
MAX_COLUMN_RATIO = 1e3
# Most columns of a dense product that the compiled loops make; BLAS makes those with more.
# Why: with five columns the loops take half the time that OpenBLAS takes, with 22 columns of X as
# with 2,000; beyond 32 BLAS is the faster one.
MAX_COMPILED_COLUMNS = 32
# Entries of a block of rows, for each column, from which on every block has sums of its own.
# Why: to add these up then takes a small part of the time of the products.
OWN_SUMS_ENTRIES = 64
Rows = NDArray[np.intp]


def most_rows(n_columns: int) -> int:
    """Return how many rows a block may have for a product of ``n_columns`` columns."""
    return max(64, MAX_BLOCK_NUMBERS // n_columns)


class Matrix:
    """What is known of a matrix, wherever it is.

    Attributes
    ----------
    shape : tuple of int
    n_bytes, n_stored : int
        The size of the stored entries, and their number, at least 1.
    step : int
        Rows that fit into the cache.
    blocks : list of slice
        All rows, ``step`` at a time.
    own_sums : bool
        Whether it costs little to sum up transposed products by blocks, and then these sums.
    is_sparse : bool
        Whether zeros are not stored.
    """

    is_sparse: bool = False

    def __init__(self, shape: tuple[int, int], n_bytes: int, n_stored: int) -> None:
        self.shape = shape
        self.n_bytes, self.n_stored = n_bytes, max(n_stored, 1)
        n_rows = shape[0]
        self.step = step = max(64, n_rows * BLOCK_BYTES // max(n_bytes, 1))
        self.blocks = [slice(i, min(i + step, n_rows)) for i in range(0, n_rows, step)]
        in_block = self.n_stored / max(len(self.blocks), 1)
        self.own_sums = in_block >= OWN_SUMS_ENTRIES * shape[1]

    def parts(self) -> Iterable[Part]:
        """Return the parts of the matrix in the order of their rows; it can be asked for again."""
        raise NotImplementedError

    def width(self, k: int, dtype: Any = np.float64) -> int:
        """Return the number of columns that arrays of k columns are padded to: whole vectors."""
        lanes = n_lanes(dtype)
        return 1 if k == 1 else -(-k // lanes) * lanes

    def zeros(self, n_rows: int, k: int, dtype: Any = np.float64) -> Array:
        """Return an array for products: zeros of shape (n_rows, width(k, dtype))."""
        width, lanes = self.width(k, dtype), n_lanes(dtype)
        # It begins at a multiple of 64 bytes, so that every vector of a row is a line of the cache.
        buffer = np.zeros(n_rows * width + lanes, dtype)
        first = -(buffer.ctypes.data // buffer.itemsize) % lanes
        return buffer[first : first + n_rows * width].reshape(n_rows, width)

    @cached_property
    def single(self) -> Any:
        """The dtype of products where single precision is enough: float32, if X fits its range."""
        # Twice as many columns fit into a line of the cache. A column out of range would be lost;
        # an entry that is small beside others of its column adds nothing to what they make of it.
        smallest, largest = self.range_of_columns
        moderate = smallest >= 1.0 / MODERATE_SIZE and largest <= MODERATE_SIZE
        return np.float32 if moderate else np.float64

    @property
    def even(self) -> bool:
        """Whether the columns are of sizes that single precision does not confuse."""
        smallest, largest = self.range_of_columns
        return largest <= MAX_COLUMN_RATIO * smallest

    @property
    def range_of_columns(self) -> tuple[float, float]:
        """The columns' largest magnitudes: the smallest of these that is not zero, and the largest.

        Infinity and zero if there is none.
        """
        raise NotImplementedError

    @property
    def gram_cost(self) -> float:
        """Multiplications for a Gram matrix, divided by those for a product with a vector."""
        raise NotImplementedError


class Design(Matrix):
    """A matrix in memory, and products with its rows.

    Attributes
    ----------
    matrix : ndarray or CSR matrix
    """

    matrix: Any

    def parts(self) -> Iterable[Part]:
        return (Part(0, self),)

    def matmul(self, block: slice, W: Array, k: int) -> Array:
        """Return ``X[block] @ W[:, :k]``, of W's dtype; W was made by :meth:`zeros`.

        If W has one row more than X has columns, X counts as having a last column of ones.
        """
        raise NotImplementedError

    def add_rmatmul(
        self,
        block: slice,
        U: Array,
        G: Array,
        strip: Strip | None = None,
        *,
        squared: bool = False,
    ) -> None:
        """Add ``X[block].T @ U`` to the first columns of G, which was made by :meth:`zeros`.

        G may have a row for a column of ones, too. Of a strip, the rows of G that are its columns
        are added to. With ``squared``, the entries of X are squared first.
        """
        raise NotImplementedError

    def faster_in_single(self, k: int) -> bool:
        """Whether products with k columns take less time in single precision."""
        return False

    def strips(self, n: int) -> Sequence[Strip | None]:
        """Split the columns into at most n strips of about as many entries; None is all of them."""
        return [None]

    def add_rows(self, rows: Rows, U: Array, G: Array) -> None:
        """Add ``X[rows].T @ U`` to G, of shape (n_columns or one more, m); rows ascend."""
        raise NotImplementedError

    def add_gram(self, block: slice, u: Vector, G: Array) -> None:
        """Add the lower triangle of ``X[block].T @ diag(u) @ X[block]`` to G."""
        raise NotImplementedError

    @cached_property
    def range_of_columns(self) -> tuple[float, float]:
        sizes = self._column_sizes()
        return float(sizes[sizes > 0.0].min(initial=np.inf)), float(sizes.max(initial=0.0))

    def _column_sizes(self) -> Vector:
        """Return the largest magnitude in each column."""
        raise NotImplementedError


class Strip(NamedTuple):
    """Consecutive columns of a CSR matrix.

    Attributes
    ----------
    starts, ends : ndarray of shape (n_rows,)
        Where the entries of each row start and end.
    last : bool
        Whether a column of ones, after the last one, belongs to it.
    """

    starts: NDArray[Any]
    ends: NDArray[Any]
    last: bool


class Part:
    """Consecutive rows of a matrix that are in memory.

    Parameters
    ----------
    first : int
        The number of rows before them.
    design : Design
        The rows.
    n_bytes : int, default=0
        What was read for it.

    Attributes
    ----------
    rows : slice
        These rows among all.
    blocks : list of Block
        Those of the design.
    """

    def __init__(self, first: int, design: Design, n_bytes: int = 0) -> None:
        self.design = design
        self.n_bytes = n_bytes
        self.rows = slice(first, first + design.shape[0])
        self.blocks = [
            Block(slice(first + own.start, first + own.stop), design, own) for own in design.blocks
        ]


class Block(NamedTuple):
    """Rows that fit into the cache.

    Attributes
    ----------
    rows : slice
        Among all rows of the matrix: those of arrays that have a value for each row.
    design : Design
        Where they are.
    own : slice
        The same rows among those of the design.
    """

    rows: slice
    design: Design
    own: slice

    def pieces(self, n_rows: int) -> Iterator[Block]:
        """Split the block into blocks of at most ``n_rows`` rows."""
        for first in range(self.own.start, self.own.stop, n_rows):
            last, moved = min(first + n_rows, self.own.stop), self.rows.start - self.own.start
            yield Block(slice(first + moved, last + moved), self.design, slice(first, last))


class DenseDesign(Design):
    """A numpy array in C or Fortran order, float32 or float64."""

    def __init__(self, X: NDArray[Any]) -> None:
        super().__init__(X.shape, 8 * X.size, X.size)
        self._X = self.matrix = X

    def matmul(self, block: slice, W: Array, k: int) -> Array:
        X, p = self._X[block], self.shape[1]
        if _few(k):
            Z = np.empty((len(X), k), W.dtype)
            kernels.dense_matmul(X, W, Z)
            return Z
        Z = X.astype(W.dtype, copy=False) @ W[:p, :k]
        if len(W) > p:
            Z += W[p, :k]
        return np.asarray(Z)

    def add_rmatmul(
        self,
        block: slice,
        U: Array,
        G: Array,
        strip: Strip | None = None,
        *,
        squared: bool = False,
    ) -> None:
        X, (k, p) = self._X[block], (U.shape[1], self.shape[1])
        X = np.square(X, dtype=G.dtype) if squared else X
        if _few(k):
            kernels.dense_rmatmul(X, np.ascontiguousarray(U, G.dtype), G)
            return
        G[:p, :k] += X.T.astype(G.dtype, copy=False) @ U
        if len(G) > p:
            G[p, :k] += np.ones(len(U)) @ U  # BLAS sums columns faster than numpy

    def faster_in_single(self, k: int) -> bool:
        # BLAS takes half the time; the compiled loops have columns of one vector most often.
        return k > MAX_COMPILED_COLUMNS

    def add_rows(self, rows: Rows, U: Array, G: Array) -> None:
        if U.shape[1] == 1 and self._X.flags.c_contiguous:
            kernels.dense_add_rows(self._X, unsigned(rows), U[:, 0], G[:, 0])
            return
        p = self.shape[1]
        for first in range(0, len(rows), self.step):
            some = slice(first, first + self.step)
            G[:p] += self._X[rows[some]].astype(G.dtype, copy=False).T @ U[some]
        if len(G) > p:
            G[p] += np.ones(len(U)) @ U

    def add_gram(self, block: slice, u: Vector, G: Array) -> None:
        X = self._X[block].astype(np.float64, copy=False)
        if u.min(initial=0.0) < 0.0:
            G += (X.T * u) @ X
            return
        # numpy recognises a matrix times its own transpose and has BLAS make one triangle of it.
        root = X.T * np.sqrt(u)
        G += root @ root.T

    def _column_sizes(self) -> Vector:
        if self._X.flags.c_contiguous:
            sizes = np.zeros(self.shape[1])
            kernels.dense_column_sizes(self._X, sizes)
            return sizes
        highest, lowest = self._X.max(axis=0, initial=0.0), self._X.min(axis=0, initial=0.0)
        return np.asarray(np.maximum(highest, -lowest), dtype=np.float64)

    @property
    def gram_cost(self) -> float:
        # Products of matrices run several times faster than those with a vector.
        return self.shape[1] / 8


class CSRDesign(Design):
    """A CSR matrix, float32 or float64."""

    is_sparse = True

    def __init__(self, X: sparse.csr_array[Any]) -> None:
        if not X.has_canonical_format:
            # An entry may be stored in parts, whose squares do not add up to its square.
            X = X.copy()
            X.sum_duplicates()
        super().__init__(X.shape, X.data.nbytes + X.indices.nbytes, X.data.size)
        self.matrix = X
        self._csr = X.data, unsigned(X.indices), unsigned(X.indptr)
        self._split: dict[int, Sequence[Strip]] = {}

    def matmul(self, block: slice, W: Array, k: int) -> Array:
        Z = np.empty((block.stop - block.start, k), W.dtype)
        kernels.csr_matmul(*self._rows(block), W, self.shape[1], Z)
        return Z

    def add_rmatmul(
        self,
        block: slice,
        U: Array,
        G: Array,
        strip: Strip | None = None,
        *,
        squared: bool = False,
    ) -> None:
        data, indices, starts, ends = self._rows(block)
        p = self.shape[1]
        if strip is not None:
            starts, ends = strip.starts[block], strip.ends[block]
            G = G if strip.last else G[:p]
        if squared:
            # A choice in the kernel's loop makes it slower: 15 % on 20news, 40 % on a9a.
            first, last = int(starts[0]), int(ends[-1])
            data, indices = np.square(data[first:last], dtype=np.float64), indices[first:last]
            starts, ends = starts - starts[0], ends - starts[0]
        U = np.ascontiguousarray(U, G.dtype)
        apart = None if strip is None else True
        kernels.csr_rmatmul(data, indices, starts, ends, U, G, p, apart)

    def strips(self, n: int) -> Sequence[Strip | None]:
        if n == 1:
            return [None]
        if n not in self._split:
            _, indices, indptr = self._csr
            # Column c ends a strip where the entries up to it are an equal share.
            entries = np.cumsum(np.bincount(indices, minlength=self.shape[1]))
            shares = np.arange(1, n) * (indices.size / n)
            ends = [*self._ends(np.unique(np.searchsorted(entries, shares) + 1)), indptr[1:]]
            starts = [indptr[:-1], *ends]
            self._split[n] = [
                Strip(a, b, b is ends[-1]) for a, b in zip(starts, ends, strict=False)
            ]
        return self._split[n]

    def _ends(self, columns: NDArray[Any]) -> list[NDArray[Any]]:
        """Return where the entries of each row end that are before some columns."""
        _, indices, indptr = self._csr
        ends = np.empty((len(columns), self.shape[0]), indptr.dtype)
        kernels.csr_ends(indices, indptr, unsigned(columns), ends)
        return list(ends)

    def add_rows(self, rows: Rows, U: Array, G: Array) -> None:
        kernels.csr_add_rows(*self._rows(rows), U, G, self.shape[1])

    def add_gram(self, block: slice, u: Vector, G: Array) -> None:
        data, indices, indptr = self._csr
        kernels.csr_add_gram(data, indices, indptr[block.start : block.stop + 1], u, G)

    def _column_sizes(self) -> Vector:
        sizes = np.zeros(self.shape[1])
        kernels.csr_column_sizes(*self._csr[:2], sizes)
        return sizes

    def _rows(
        self, rows: slice | Rows
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return data and indices of X, and where some of its rows start and end."""
        data, indices, indptr = self._csr
        return data, indices, indptr[:-1][rows], indptr[1:][rows]

    @property
    def gram_cost(self) -> float:
        lengths = np.diff(self._csr[2]).astype(np.float64)
        return float(lengths @ lengths / max(lengths.sum(), 1.0) / 2.0)


def _few(k: int) -> bool:
    """Whether the compiled loops make a product of k columns; BLAS makes one column, and many."""
    return 1 < k <= MAX_COMPILED_COLUMNS


def unsigned(a: NDArray[Any]) -> NDArray[Any]:
    """Return a view as unsigned integers of the same size."""
    return a.view(f"u{a.dtype.itemsize}")


def as_design(X: Any) -> Matrix:
    """Wrap a validated matrix, unless it is a :class:`Matrix` already."""
    return X if isinstance(X, Matrix) else in_memory_design(X)


def in_memory_design(X: Any) -> DenseDesign | CSRDesign:
    """Wrap a matrix in memory: CSR as it is, other formats converted, arrays as they are."""
    return CSRDesign(X.tocsr()) if hasattr(X, "tocsr") else DenseDesign(X)
