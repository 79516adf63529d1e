"""Data that stay in files, for ``hoag-shine tune --memory``.

An svmlight file is converted once, into the arrays of a CSR matrix in a folder beside it. The
folder's name has the time and the size of the file that it was made of, so that one that is there
belongs to the file as it is now. It is made under another name and then renamed: what was
interrupted, or did not fit on the disk, is never taken for data.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..datasets import MAX_COLUMNS, svmlight_blocks
from ..linalg.row_blocks import (
    BLOCKS_HELD,
    READ_BYTES,
    CSRBlocks,
    is_small,
    parquet_file,
)
from ..utils.files import reading
from .tables import Table, TableEncoder, arrow_column, is_number, is_table

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
# Memory beside the program and the blocks, in bytes.
# Why: a search of 32,561 x 123 CSR data took 165 MB at the most, when all loops were compiled.
SPARE_BYTES = 200_000_000
# Copies of the numbers in a block of a table, while a matrix is made of them.
# Why: a fact of how it is made: the column, its part of the dense matrix, and a CSR matrix of that,
# which takes twice as much.
COPIES_OF_TABLE = 4
# Seconds after which a conversion that writes nothing counts as ended.
# Why: by judgement: it writes every second, and for minutes at most on a disk that hangs.
SECONDS_WITHOUT_WRITING = 3600.0
# Bytes of the header of a file of NumPy's.
# Why: a fact of the format: a multiple of 64, and 64 are too few for a shape.
HEADER_BYTES = 128
FACTS = "facts.json"
KINDS = {"data": "<f8", "indices": "<i4", "indptr": "<i8", "y": "<f8"}


# --- the limit ----------------------------------------------------------------------------------


def check_can_stay(name: str) -> None:
    """Raise for data that cannot be read in blocks."""
    known = Path(name).is_file() and (not is_table(name) or name.lower().endswith(".parquet"))
    if not known:
        raise ValueError(
            "--memory leaves DATA in its file, which must be one of svmlight, .parquet or .npy; "
            f"{name!r} is none."
        )


def memory_size(text: str) -> int:
    """Return a number of bytes from text such as ``2GB`` or ``512MiB``."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([A-Za-z]+)", text.strip())
    if found is None or found[2].upper() not in UNITS:
        raise ArgumentTypeError(f"give a number and a unit, such as 500MB, 2GB or 1.5GiB: {text!r}")
    return int(float(found[1]) * UNITS[found[2].upper()])


@contextmanager
def limited(n_bytes: int | None) -> Iterator[None]:
    """Have this process get no more memory than that. Files that are mapped do not count.

    Only Linux keeps to it; elsewhere, what stays in files is the same.

    Raises
    ------
    ValueError
        If the program itself would not fit.
    """
    if n_bytes is None or sys.platform != "linux":
        yield
        return
    import resource

    words = Path("/proc/self/status").read_text(encoding="ascii").split()
    used = 1024 * int(words[words.index("VmData:") + 1])
    least = used + BLOCKS_HELD * READ_BYTES + SPARE_BYTES
    if n_bytes < least:
        raise ValueError(
            f"--memory must be at least {least / 1e6:.0f}MB, which the program and four blocks of "
            "rows take."
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


# --- svmlight -----------------------------------------------------------------------------------


def stored_svmlight(path: Path, say: Callable[[str], Any]) -> tuple[Any, NDArray[np.float64], bool]:
    """Return the rows of an svmlight file, its labels, and whether its first column is 0.

    Parameters
    ----------
    path : Path
    say : callable
        Told that the file is being converted.

    Returns
    -------
    X : CSRBlocks or CSR matrix
        In memory if it takes no more there than the blocks would.
    y : ndarray of shape (n_samples,), float64
    zero_based : bool

    Raises
    ------
    ValueError
        If the file is not svmlight's, or changes while it is converted.
    OSError
        If it cannot be read, or its conversion cannot be written.
    """
    folder = _folder_of(path)
    found = _open(folder)
    if found is None:
        say(f"converting {path} to {folder.name}, which is kept for the next time")
        _convert(path, folder)
        found = _open(folder)
        if found is None:
            raise ValueError(f"{str(folder)!r} has been changed since it was made: try again.")
    return found


def _folder_of(path: Path) -> Path:
    """Return where the conversion of a file, as it is now, is or will be."""
    known = path.stat()
    return path.with_name(f"{path.name}.{known.st_mtime_ns:x}-{known.st_size:x}.csr")


def _open(folder: Path) -> tuple[Any, NDArray[np.float64], bool] | None:
    """Return what a conversion holds, or None if it is not there, or has been cut."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="ascii"))
        data, indices, indptr, y = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in KINDS
        )
        shape = len(indptr) - 1, int(facts["n_columns"])
        X: Any = CSRBlocks(data, indices, indptr, shape)
        zero_based = bool(facts["zero_based"])
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    if is_small(data.nbytes):
        X = sparse.csr_matrix((np.array(data), np.array(indices), np.array(indptr)), shape)
    return X, np.array(y), zero_based


def _convert(path: Path, folder: Path) -> None:
    """Write the conversion of a file, or nothing, and remove those of what the file was before."""
    oldest = time.time() - SECONDS_WITHOUT_WRITING
    _remove(path, r"\.csr\.partial-\d+", lambda one: _written(one) < oldest)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        _write(path, partial)
        if _folder_of(path) != folder:
            raise ValueError(f"{str(path)!r} has changed while it was converted: try again.")
        _install(partial, folder)
    except OSError as error:
        raise OSError(
            f"{str(path)!r} could not be converted in the folder {str(path.parent)!r}, where it "
            f"takes 12 bytes for each number: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _remove(path, r"\.csr", lambda one: one != folder)


def _write(path: Path, partial: Path) -> None:
    """Write the arrays of the matrix, block by block."""
    first, n_columns, n_entries = MAX_COLUMNS, 0, 0
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_Growing(partial / f"{name}.npy", kind))
            for name, kind in KINDS.items()
        }
        files["indptr"].append(np.zeros(1))
        for X, y in svmlight_blocks(path, READ_BYTES):
            files["data"].append(X.data)
            files["indices"].append(X.indices)
            files["indptr"].append(X.indptr[1:] + n_entries)
            files["y"].append(y)
            first = min(first, int(X.indices.min(initial=first)))
            n_entries, n_columns = n_entries + X.nnz, max(n_columns, X.shape[1])
    if not n_entries:
        raise ValueError(f"{str(path)!r} has no rows, or no columns.")
    zero_based = first == 0
    if not zero_based:
        _subtract_one(partial / "indices.npy")
    facts = {"zero_based": zero_based, "n_columns": n_columns - (not zero_based)}
    (partial / FACTS).write_text(json.dumps(facts), encoding="ascii")


class _Growing:
    """A file of NumPy's with an array that is written in parts."""

    def __init__(self, path: Path, kind: str) -> None:
        self._file, self._kind, self._n = path.open("wb"), np.dtype(kind), 0
        self._file.write(bytes(HEADER_BYTES))

    def __enter__(self) -> Self:
        return self

    def append(self, values: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values, self._kind).data)
        self._n += len(values)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file as file:
            if kind is not None:
                return
            header = BytesIO()
            facts = {"descr": self._kind.str, "fortran_order": False, "shape": (self._n,)}
            np.lib.format.write_array_header_1_0(header, facts)
            assert header.tell() == HEADER_BYTES
            file.seek(0)
            file.write(header.getvalue())
            file.flush()
            os.fsync(file.fileno())  # renamed before it is on the disk, it could be empty later


def _subtract_one(path: Path) -> None:
    """Have the columns begin with 0."""
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES)
        while part := file.read(READ_BYTES // 4 * 4):
            file.seek(-len(part), os.SEEK_CUR)
            file.write((np.frombuffer(part, KINDS["indices"]) - 1).data)
        file.flush()
        os.fsync(file.fileno())


def _install(partial: Path, folder: Path) -> None:
    """Give a conversion its name; another process may have made the same meanwhile."""
    if folder.exists() and _open(folder) is None:
        shutil.rmtree(folder)
    try:
        partial.rename(folder)
    except OSError:
        if _open(folder) is None:
            raise


def _remove(path: Path, ending: str, wanted: Callable[[Path], bool]) -> None:
    """Remove folders that are conversions of a file, by their names."""
    named = re.compile(re.escape(path.name) + r"\.[0-9a-f]+-[0-9a-f]+" + ending)
    for one in path.parent.iterdir():
        if named.fullmatch(one.name) and wanted(one):
            shutil.rmtree(one, ignore_errors=True)


def _written(folder: Path) -> float:
    """Return when something was last written into a folder."""
    times = [folder.stat().st_mtime]
    for one in folder.iterdir():
        with suppress(OSError):
            times.append(one.stat().st_mtime)
    return max(times)


# --- arrays and Parquet -------------------------------------------------------------------------


def load_array(name: str, *, mapped: bool) -> NDArray[Any]:
    """Return the array of a file of NumPy's."""
    if not Path(name).is_file():
        raise FileNotFoundError(f"There is no file {name!r}.")
    with reading(name, "an array of NumPy"):
        array: NDArray[Any] = np.load(name, mmap_mode="r" if mapped else None, allow_pickle=False)
        return array


class ParquetColumns(MutableMapping[str, NDArray[Any]]):
    """The columns of a Parquet file, each read when it is asked for; they can be left out.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with reading(path, "a Parquet file"):
            file = parquet_file(Path(path))
            schema, self.n_rows = file.schema_arrow, file.metadata.num_rows
            if not self.n_rows:
                raise ValueError("it has no rows")
        index = (schema.pandas_metadata or {}).get("index_columns", [])  # no columns to pandas
        self._names = [name for name in schema.names if name not in index]

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return arrow_column(name, self._read(name))

    def __setitem__(self, name: str, values: Any) -> None:
        raise TypeError("the columns of a file cannot be changed.")

    def __delitem__(self, name: str) -> None:
        self._names.remove(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _read(self, name: str) -> Any:
        with reading(self._path, "a Parquet file"):
            return parquet_file(Path(self._path)).read(columns=[name])[name]

    def encoder(self) -> TableEncoder:
        """Return what makes a matrix of the columns, which are read one by one."""
        columns: dict[str, float | list[str]] = {}
        for name in self._names:
            values = self._read(name)
            if not is_number(values.type):
                values = values.unique()  # all that counts of texts
            columns |= TableEncoder.fit({name: arrow_column(name, values)}).columns
        return TableEncoder(columns)


class TableBlocks:
    """The rows of a Parquet file as a matrix, made by an encoder block by block.

    Parameters
    ----------
    path : str
    encoder : TableEncoder
    n_rows : int

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    """

    def __init__(self, path: str, encoder: TableEncoder, n_rows: int) -> None:
        self._path, self._encoder = path, encoder
        self.shape, self.dtype = (n_rows, encoder.n_columns), np.dtype(np.float64)
        self._rows = max(1, READ_BYTES // (COPIES_OF_TABLE * 8 * len(encoder.columns)))

    def row_blocks(self) -> Iterator[Any]:
        """Return the rows in blocks.

        Yields
        ------
        block : ndarray or CSR matrix of shape (n, n_columns)
        """
        names = list(self._encoder.columns)
        for batch in parquet_file(Path(self._path)).iter_batches(self._rows, columns=names):
            table: Table = {name: arrow_column(name, batch.column(name)) for name in names}
            yield self._encoder.transform(table)
