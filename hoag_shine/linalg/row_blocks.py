"""Data that are read in blocks of rows: files, and whatever else gives its rows again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import IO, Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..utils.validation import check_count, check_pointers

# Bytes in a block that is read at a time.
# Why: by judgement: reading is then as fast as a disk is, and four of them take 128 MiB.
READ_BYTES = 1 << 25
# Blocks that are in memory at the same time: one is worked on, one is ready, one is being read, and
# one may be a copy in another type.
# Why: a fact of how blocks are read ahead.
BLOCKS_HELD = 4
# Bytes to read at a time of each column of a Parquet file.
# Why: 100 columns of a row group of a million rows then take 0.2 GB to read and not 1 GB, in less
# time; buffers of 256 KiB are no faster.
PARQUET_BUFFER_BYTES = 1 << 16
# Libraries whose arrays are read when they are indexed.
READ_WHEN_INDEXED = ("h5py", "zarr")

Read = Callable[[int, int], NDArray[Any]]


@runtime_checkable
class RowBlocks(Protocol):
    """What :class:`ShineCV` needs of an X that is not in memory.

    An object with these attributes and this method is all that it takes; there is no base class.

    Attributes
    ----------
    shape : tuple of int
        Numbers of rows and columns.
    dtype : dtype
        float32 is kept; anything else becomes float64, block by block.
    feature_names : sequence of str, optional
        Names of the columns.
    """

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> Any: ...

    def row_blocks(self) -> Iterator[Any]:
        """Return the rows from the first to the last, in blocks.

        It is called for each pass over the data, some 70 times in a search, and has to return the
        same rows each time. A thread calls it, one at a time.

        Yields
        ------
        block : ndarray or CSR matrix of shape (n, n_columns)
            Of any n; some MiB are best. It must not change afterwards.
        """


class ArrayBlocks:
    """The rows of an array that is read when it is indexed.

    Parameters
    ----------
    X : array of shape (n_rows, n_columns)
        A :class:`numpy.memmap` in C or Fortran order, a data set of h5py, an array of zarr, or
        anything else with ``shape`` and ``dtype`` whose ``X[i:j]`` are rows.
    block_bytes : int, default=33554432
        Bytes to read at a time. Whole chunks are read where X has chunks.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype

    Raises
    ------
    ValueError
        If X does not have two axes, or no numbers.
    """

    def __init__(self, X: Any, *, block_bytes: int = READ_BYTES) -> None:
        check_count("block_bytes", block_bytes)
        self._X = X
        self.shape = _shape(X)
        self.dtype = _numbers(X.dtype)
        n_rows, n_columns = self.shape
        rows = max(1, block_bytes // max(n_columns * self.dtype.itemsize, 1))
        chunks = getattr(X, "chunks", None)
        if chunks and isinstance(chunks[0], int):  # a chunk is read as a whole
            rows = max(1, rows // chunks[0]) * chunks[0]
        self._edges = [*range(0, n_rows, rows), n_rows]

    def row_blocks(self) -> Iterator[NDArray[Any]]:
        """Return the rows in blocks.

        Yields
        ------
        block : ndarray of shape (n, n_columns)
        """
        with _reading(self._X) as read:
            for first, stop in zip(self._edges, self._edges[1:], strict=False):
                yield read(first, stop)


class CSRBlocks:
    """The rows of a CSR matrix whose arrays are read when they are indexed.

    A :class:`scipy.sparse.csr_array` of memory-mapped arrays is taken as it is; this class is for
    arrays of h5py or zarr, and where SciPy would make copies: of indices of 64 bits that would fit
    into 32, and of 32 bits beside an ``indptr`` of 64.

    Parameters
    ----------
    data, indices : array of shape (n_entries,)
        :class:`numpy.memmap`, arrays of h5py or zarr, ...
    indptr : array of shape (n_rows + 1,)
        Where each row begins; kept in memory.
    shape : tuple of int
        Numbers of rows and columns.
    block_bytes : int, default=33554432
        Bytes to read at a time, or a row if that has more.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype

    Raises
    ------
    ValueError
        If the arrays do not belong together.
    """

    def __init__(
        self,
        data: Any,
        indices: Any,
        indptr: Any,
        shape: tuple[int, int],
        *,
        block_bytes: int = READ_BYTES,
    ) -> None:
        check_count("block_bytes", block_bytes)
        self._data, self._indices = data, indices
        self._indptr = np.array(indptr[:], dtype=np.int64)
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype = _numbers(data.dtype)
        if len(self._indptr) != self.shape[0] + 1:
            raise ValueError(
                f"indptr must have {self.shape[0] + 1} numbers, one more than X has rows, but it "
                f"has {len(self._indptr)}."
            )
        if len(data) != len(indices):
            raise ValueError(
                "data and indices must have a number for each entry, but they have "
                f"{len(data)} and {len(indices)}: look at their dtypes."
            )
        check_pointers(self._indptr, len(data))
        entry = self.dtype.itemsize + np.dtype(indices.dtype).itemsize
        self._edges = _edges(self._indptr, max(1, block_bytes // entry))

    def row_blocks(self) -> Iterator[sparse.csr_array[Any]]:
        """Return the rows in blocks.

        Yields
        ------
        block : csr_array of shape (n, n_columns)
        """
        with ExitStack() as stack:
            data, indices = (
                stack.enter_context(_reading(array)) for array in (self._data, self._indices)
            )
            for first, stop in zip(self._edges, self._edges[1:], strict=False):
                starts = self._indptr[first : stop + 1]
                entries = int(starts[0]), int(starts[-1])
                arrays = data(*entries), indices(*entries), starts - starts[0]
                yield sparse.csr_array(arrays, shape=(stop - first, self.shape[1]))


class ParquetBlocks:
    """The rows of Parquet files, of numeric columns. It needs the extra ``pyarrow``.

    Parameters
    ----------
    path : str, path-like or list of these
        A file, several, or a folder, whose files are read in the order of their names.
    columns : list of str, optional
        The columns to read, and their order; all by default.
    block_bytes : int, default=33554432
        Bytes in a block. For each column, some megabytes of the file are in memory beside it.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
        float32 if that is the type of all columns, else float64. A missing value is NaN.
    feature_names : list of str

    Raises
    ------
    ImportError
        Without pyarrow.
    ValueError
        If a column is not of numbers.
    """

    def __init__(
        self,
        path: str | PathLike[str] | Sequence[str | PathLike[str]],
        columns: Sequence[str] | None = None,
        *,
        block_bytes: int = READ_BYTES,
    ) -> None:
        check_count("block_bytes", block_bytes)
        self._paths = _parquet_paths(path)
        files = [parquet_file(path) for path in self._paths]
        schema = files[0].schema_arrow
        self.feature_names = list(schema.names if columns is None else columns)
        kinds = [_column_type(schema, name) for name in self.feature_names]
        self.dtype = np.dtype(np.float32 if set(kinds) == {np.dtype("f4")} else np.float64)
        self.shape = sum(file.metadata.num_rows for file in files), len(kinds)
        self._rows = max(1, block_bytes // max(self.dtype.itemsize * len(kinds), 1))

    def row_blocks(self) -> Iterator[NDArray[Any]]:
        """Return the rows in blocks.

        Yields
        ------
        block : ndarray of shape (n, n_columns)
        """
        for path in self._paths:
            batches = parquet_file(path).iter_batches(self._rows, columns=self.feature_names)
            for batch in batches:
                block = np.empty((batch.num_rows, self.shape[1]), self.dtype)
                for j, name in enumerate(self.feature_names):
                    block[:, j] = batch.column(name).to_numpy(zero_copy_only=False)
                yield block


class MappedBlocks:
    """Blocks of rows, each changed by a function when it is read.

    Parameters
    ----------
    source : RowBlocks
    function : callable
        Returns a block with as many rows, as ndarray, CSR matrix or data frame.
    n_columns : int
        Of what the function returns.
    dtype : dtype
    feature_names : list of str, optional
    """

    def __init__(
        self,
        source: RowBlocks,
        function: Callable[[Any], Any],
        n_columns: int,
        dtype: Any,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        self._source, self._function = source, function
        self.shape, self.dtype = (int(source.shape[0]), n_columns), dtype
        self.feature_names = feature_names

    def row_blocks(self) -> Iterator[Any]:
        """Return the rows in blocks.

        Yields
        ------
        block : ndarray, CSR matrix or data frame of shape (n, n_columns)
        """
        return map(self._function, self._source.row_blocks())


def as_row_blocks(X: Any) -> RowBlocks | None:
    """Return what gives the blocks of an X that is not in memory; None for one that is.

    What is mapped or stored and takes no more memory than the blocks would counts as in memory.
    """
    if isinstance(X, RowBlocks):
        return X
    if sparse.issparse(X):
        X = cast(Any, X)
        if X.format != "csr" or _mapping(X.data) is None or is_small(X.data.nbytes):
            return None
        return CSRBlocks(X.data, X.indices, X.indptr, X.shape)
    stored = type(X).__module__.partition(".")[0] in READ_WHEN_INDEXED and hasattr(X, "shape")
    mapped = isinstance(X, np.ndarray) and _mapping(X) is not None and X.dtype.kind in "biuf"
    if not (stored or mapped) or len(X.shape) != 2 or is_small(X.nbytes):
        return None
    return ArrayBlocks(X)


def is_small(n_bytes: int) -> bool:
    """Whether data take no more memory than the blocks of larger ones would."""
    return n_bytes <= BLOCKS_HELD * READ_BYTES


def _shape(X: Any) -> tuple[int, int]:
    if len(X.shape) != 2:
        raise ValueError(f"X must have two axes, rows and columns, but its shape is {X.shape}.")
    return int(X.shape[0]), int(X.shape[1])


def _numbers(dtype: Any) -> np.dtype[Any]:
    known: np.dtype[Any] = np.dtype(dtype)
    if known.kind not in "biuf":
        raise ValueError(f"X must hold real numbers, but its dtype is {known}.")
    return known


def _edges(indptr: NDArray[np.int64], n_entries: int) -> list[int]:
    """Return where blocks of rows begin and end, each of at most ``n_entries``, or of one row."""
    edges, n_rows = [0], len(indptr) - 1
    # Rows without entries take memory, too: that of their numbers in indptr.
    places = indptr + np.arange(n_rows + 1)
    while edges[-1] < n_rows:
        first = edges[-1]
        stop = int(np.searchsorted(places, places[first] + n_entries, side="right")) - 1
        edges.append(max(stop, first + 1))
    return edges


# --- memory maps ----------------------------------------------------------------------------------


def _mapping(array: Any) -> np.memmap[Any, Any] | None:
    """Return the memory map beneath an array, if there is one."""
    found = None
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and getattr(array, "_mmap", None) is not None:
            found = array
        array = array.base
    return found


@contextmanager
def _reading(array: Any) -> Iterator[Read]:
    """Give a function that reads ``array[first:stop]``.

    A memory map is read by way of its file: where that has become shorter, the map would end the
    process, and a read says so.
    """
    mapping = _mapping(array)
    if mapping is None:
        yield lambda first, stop: np.asarray(array[first:stop])
    elif mapping.filename is None or mapping.mode == "c" or not _in_order(array):
        yield partial(_from_map, mapping, array)
    else:
        place = mapping.offset + array.ctypes.data - mapping.ctypes.data
        with Path(mapping.filename).open("rb") as file:
            yield partial(_from_file, file, place, array)


def _in_order(array: NDArray[Any]) -> bool:
    return bool(array.flags.c_contiguous or array.flags.f_contiguous)


def _from_map(
    mapping: np.memmap[Any, Any], array: NDArray[Any], first: int, stop: int
) -> NDArray[Any]:
    """Copy from the map: of what has no file by itself, such as a private copy of it."""
    whole = mapping.offset + mapping.nbytes
    file = cast(Any, mapping)._mmap
    if (size := file.size()) < whole:
        raise EOFError(_cut(mapping.filename, whole, size))
    return np.array(array[first:stop])


def _from_file(
    file: IO[bytes], place: int, array: NDArray[Any], first: int, stop: int
) -> NDArray[Any]:
    """Read rows of an array that begins at some place of a file."""
    by_rows, size = array.flags.c_contiguous, array.itemsize
    shape = stop - first, *array.shape[1:]
    out: NDArray[Any] = np.empty(shape, array.dtype, order="C" if by_rows else "F")
    if by_rows:
        n_columns = int(np.prod(array.shape[1:]))
        _fill(file, place + first * n_columns * size, out)
        return out
    for j in range(array.shape[1]):
        _fill(file, place + (j * len(array) + first) * size, out[:, j])
    return out


def _fill(file: IO[bytes], place: int, out: NDArray[Any]) -> None:
    """Read an array that is contiguous."""
    file.seek(place)
    n_read = file.readinto(out.reshape(-1).view(np.uint8))  # type: ignore[attr-defined]
    if n_read < out.nbytes:
        raise EOFError(_cut(file.name, place + out.nbytes, place + n_read))


def _cut(name: Any, wanted: int, size: int) -> str:
    return (
        f"its file {name} ends after {size} bytes, before byte {wanted} of X: it has been cut or "
        "written anew"
    )


# --- Parquet --------------------------------------------------------------------------------------


def _parquet_paths(path: Any) -> list[Path]:
    """Return the files, in order."""
    if not isinstance(path, str | PathLike):
        return [Path(one) for one in path]
    path = Path(path)
    if not path.is_dir():
        return [path]
    paths = sorted(path.glob("**/*.parquet"))
    if not paths:
        raise ValueError(f"path must have files that end in .parquet, but {path} has none.")
    return paths


def parquet_file(path: Path) -> Any:
    """Open a Parquet file by pyarrow."""
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise ImportError(
            "Parquet files need pyarrow: pip install 'hoag-shine[pyarrow]'."
        ) from None
    # Without a buffer, the columns of a row group are read as a whole.
    return parquet.ParquetFile(path, pre_buffer=False, buffer_size=PARQUET_BUFFER_BYTES)


def _column_type(schema: Any, name: str) -> np.dtype[Any]:
    """Return the type of a column's numbers."""
    if name not in schema.names:
        raise ValueError(f"columns has {name!r}, which is no column of the file.")
    kind = schema.field(name).type
    try:
        dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        dtype = np.dtype(object)
    if dtype.kind not in "biuf":
        raise ValueError(
            f"column {name!r} is of {kind}, not of numbers: name those that are by columns=."
        )
    return dtype
