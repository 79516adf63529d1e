"""Matrices in parts: what reads its rows in blocks, again in every pass, is one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.sparsefuncs import mean_variance_axis

from ..utils.ahead import ahead
from ..utils.validation import check_indices
from .design import Design, Matrix, Part, in_memory_design
from .row_blocks import RowBlocks

Vector = NDArray[np.float64]
Prepare = Callable[[Any], Any]


class PartedMatrix(Matrix):
    """A matrix whose parts are never in one array: rows cannot be picked, and no copy is made.

    Attributes
    ----------
    dtype : dtype
        float32 or float64.
    """

    dtype: np.dtype[Any]

    def __init__(self, shape: tuple[int, int], facts: Facts) -> None:
        self._facts = facts
        self.is_sparse = facts.is_sparse
        super().__init__(shape, facts.n_bytes, facts.n_stored)

    @property
    def range_of_columns(self) -> tuple[float, float]:
        return self._facts.smallest, self._facts.largest

    @property
    def gram_cost(self) -> float:
        return self._facts.gram_multiplications / self.n_stored

    def moments(self) -> tuple[Vector, Vector]:
        """Return the mean and the variance of each column, in a pass."""
        parts = (part.design.matrix for part in self.parts())
        return merged_moments((matrix.shape[0], *moments(matrix)) for matrix in parts)

    def product(self, w: NDArray[Any]) -> NDArray[Any]:
        """Return the product with a vector, in a pass."""
        return np.concatenate([part.design.matrix @ w for part in self.parts()])


class StreamedMatrix(PartedMatrix):
    """A matrix whose rows come in blocks, each of which is in memory for as long as it is used.

    A thread reads the next block while the last one is worked on. The first pass is made at once,
    to validate the rows and to learn what is known of a matrix in memory without reading it.

    Parameters
    ----------
    source : RowBlocks
    check : callable
        Returns a block validated: as a finite ndarray or CSR matrix.

    Attributes
    ----------
    dtype : dtype
        float32 or float64.

    Raises
    ------
    RuntimeError
        In any pass, if the source fails, or does not give the rows that it promises.
    ValueError
        If a block is not valid.
    """

    def __init__(self, source: RowBlocks, check: Prepare) -> None:
        self._source = source
        self._shape = int(source.shape[0]), int(source.shape[1])
        single = np.dtype(source.dtype) == np.float32
        self.dtype = np.dtype(np.float32 if single else np.float64)
        # Whether all CSR blocks had sorted indices without repetition in the first pass.
        self._canonical = True
        facts = Facts()
        for part in self._read(partial(self._checked, check)):
            facts = facts.with_part(part)
        super().__init__(self._shape, facts)

    def parts(self) -> StreamedMatrix:
        return self

    def __iter__(self) -> Iterator[Part]:
        """Read the rows once more."""
        return self._read(self._again)

    def _read(self, prepare: Prepare) -> Iterator[Part]:
        return ahead(partial(self._parts, prepare))

    def _parts(self, prepare: Prepare) -> Iterator[Part]:
        """Make the parts, in the thread that reads."""
        first = 0
        for block in self._blocks():
            block = as_csr(block) if _is_sparse(block) else block
            matrix = prepare(block)
            self._check_shape(matrix.shape, first)
            if matrix.shape[0]:
                part = Part(first, in_memory_design(matrix), _stored_bytes(block))
                first = part.rows.stop
                yield part
                del part  # or it would be kept until the next one is there
            del block, matrix
        if first < self._shape[0]:
            raise RuntimeError(
                f"X ended after {first} of {self._shape[0]} rows: row_blocks() must give all of "
                "them each time that it is called."
            )

    def _blocks(self) -> Iterator[Any]:
        """Ask the source for its blocks, and say what failed."""
        n = 0
        try:
            for block in self._source.row_blocks():
                n += block.shape[0]
                yield block
                del block
        except MemoryError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"X could not be read beyond row {n} of {self._shape[0]}: {error}"
            ) from error

    def _checked(self, check: Prepare, block: Any) -> Any:
        """Return a block of the first pass."""
        matrix = check(block).astype(self.dtype, copy=False)
        if _is_sparse(matrix):
            self._canonical &= bool(matrix.has_canonical_format)
        return matrix

    def _again(self, block: Any) -> Any:
        """Return a block of a later pass."""
        if not _is_sparse(block):
            return np.asarray(block, dtype=self.dtype)
        matrix = block.astype(self.dtype, copy=False)
        if self._canonical:
            matrix.has_canonical_format = True  # to look takes time
        return matrix

    def _check_shape(self, shape: tuple[int, ...], first: int) -> None:
        n_rows, n_columns = self._shape
        if len(shape) != 2 or shape[1] != n_columns:
            raise RuntimeError(
                f"X has {n_columns} columns by its shape, but the block that begins at row {first} "
                f"is of shape {shape}."
            )
        if first + shape[0] > n_rows:
            raise RuntimeError(
                f"X has {n_rows} rows by its shape, but row_blocks() gives more: "
                f"{first + shape[0]} or more."
            )


class Facts(NamedTuple):
    """What is known of the parts that have been read."""

    n_bytes: int = 0
    n_stored: int = 0
    gram_multiplications: float = 0.0
    smallest: float = np.inf
    largest: float = 0.0
    is_sparse: bool = False

    def with_part(self, part: Part) -> Facts:
        design: Design = part.design
        cost = design.gram_cost * design.n_stored
        return self.with_facts(
            Facts(design.n_bytes, design.n_stored, cost, *design.range_of_columns, design.is_sparse)
        )

    def with_facts(self, other: Facts) -> Facts:
        return Facts(
            self.n_bytes + other.n_bytes,
            self.n_stored + other.n_stored,
            self.gram_multiplications + other.gram_multiplications,
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
            self.is_sparse or other.is_sparse,
        )


def moments(matrix: Any) -> tuple[Vector, Vector]:
    """Return the mean and the variance of each column of a matrix, in parts or not."""
    if isinstance(matrix, PartedMatrix):
        return matrix.moments()
    if _is_sparse(matrix):
        mean, variance = mean_variance_axis(matrix, axis=0)
        return np.asarray(mean, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    # Column by column: no copy of all.
    variance = np.array([np.var(column, dtype=np.float64) for column in matrix.T])
    return matrix.mean(axis=0, dtype=np.float64), variance


def merged_moments(parts: Iterable[tuple[int, Vector, Vector]]) -> tuple[Vector, Vector]:
    """Return the mean and the variance of all rows, given number, mean and variance of parts."""
    n, mean, variance = 0, np.zeros(()), np.zeros(())
    for own, own_mean, own_variance in parts:
        share = own / (n + own)
        # The variance of both: their own ones, and that of their means.
        between = share * (1.0 - share) * np.square(own_mean - mean)
        variance = (1.0 - share) * variance + share * own_variance + between
        mean, n = mean + share * (own_mean - mean), n + own
    return mean, variance


def _is_sparse(matrix: Any) -> bool:
    """Whether a matrix is one of SciPy's sparse ones."""
    return bool(sparse.issparse(matrix))


def as_csr(block: Any) -> Any:
    """Return a sparse block as CSR; its indices are checked in each pass, since files change."""
    check_indices(block)
    return block.tocsr()


def _stored_bytes(block: Any) -> int:
    if _is_sparse(block):
        return int(block.data.nbytes + block.indices.nbytes + block.indptr.nbytes)
    return int(np.asarray(block).nbytes)
