"""Tables from CSV and Parquet files as matrices, with columns of text as one-hot columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from ..utils.files import reading

Table = dict[str, NDArray[Any]]
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


def is_table(name: str) -> bool:
    """Whether a file's name says that it is a table."""
    return name.lower().endswith(SUFFIXES)


def read_table(source: str | os.PathLike[str] | IO[bytes]) -> Table:
    """Read a table by pandas or, without it, by polars.

    Parameters
    ----------
    source : str, path-like or file
        A file open for reading is CSV.

    Returns
    -------
    table : dict of str -> ndarray of shape (n_rows,)
        float64 for numbers and truth values, with NaN for what is missing, and otherwise objects:
        strings, with None for what is missing.

    Raises
    ------
    ValueError
        If the file is no such table, or a column holds neither numbers nor text.
    OSError
        If it cannot be opened.
    ImportError
        If there is neither pandas nor polars.
    """
    reader = next((name for name in ("pandas", "polars") if find_spec(name)), None)
    if reader is None:
        raise ImportError(
            "CSV and Parquet files are read by pandas or polars: install one of both."
        )
    named = isinstance(source, str | os.PathLike)
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "standard input"
    if named and not Path(name).is_file():
        raise FileNotFoundError(f"There is no file {name!r}.")
    with reading(name, "a table"):
        columns = _by_pandas(source, name) if reader == "pandas" else _by_polars(source, name)
        if not columns or not len(next(iter(columns.values()))):
            raise ValueError("it has no rows")
        return columns


def _by_pandas(source: Any, name: str) -> Table:
    import pandas as pd

    if name.lower().endswith(".parquet"):
        frame = pd.read_parquet(source)
    else:
        frame = pd.read_csv(source, sep="\t" if ".tsv" in name.lower() else ",", index_col=False)
    table: Table = {}
    for column in frame.columns:
        values, kind = frame[column], frame[column].dtype
        # With values missing, truth values are objects.
        truth = (
            pd.api.types.is_object_dtype(kind)
            and pd.api.types.infer_dtype(values, skipna=True) == "boolean"
        )
        if truth:
            values = values.astype("boolean")
        if truth or pd.api.types.is_bool_dtype(kind) or pd.api.types.is_numeric_dtype(kind):
            table[str(column)] = values.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            table[str(column)] = _texts(str(column), values.astype(object).tolist())
    return table


def _by_polars(source: Any, name: str) -> Table:
    import polars as pl

    if name.lower().endswith(".parquet"):
        frame = pl.read_parquet(source)
    else:
        frame = pl.read_csv(source, separator="\t" if ".tsv" in name.lower() else ",")
    table: Table = {}
    for column in frame.get_columns():
        if column.dtype.is_numeric() or column.dtype == pl.Boolean:
            table[column.name] = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        else:
            table[column.name] = _texts(column.name, column.to_list())
    return table


def is_number(kind: Any) -> bool:
    """Whether a type of pyarrow's is one of numbers or truth values."""
    types = import_module("pyarrow").types
    return bool(types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind))


def arrow_column(name: str, values: Any) -> NDArray[Any]:
    """Return a column of pyarrow's as :func:`read_table` does."""
    if not is_number(values.type):
        return _texts(name, values.to_pylist())
    numbers = values.cast("float64", safe=False).fill_null(np.nan)
    column: NDArray[Any] = numbers.to_numpy(zero_copy_only=False)
    return column


def _texts(name: str, values: Sequence[Any]) -> NDArray[Any]:
    """Return strings, with None for what is missing."""
    cells = [None if _missing(v) else str(v) if isinstance(v, bool) else v for v in values]
    odd = next((v for v in cells if not isinstance(v, str | None)), None)
    if odd is not None:
        raise ValueError(
            f"its column {name!r} holds {type(odd).__name__}s, and only numbers and text can be "
            "used: convert it or leave it out"
        )
    return np.array(cells, dtype=object)


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or value != value


class TableEncoder:
    """Makes a matrix of a table: numbers as they are, text as a column for each category.

    Missing numbers become the median of their column, missing texts a category of their own, by
    scikit-learn's ``SimpleImputer`` and ``OneHotEncoder``. A category that did not occur in the fit
    has no column.

    Parameters
    ----------
    columns : dict of str -> float or list of str
        For each column of numbers its median, for each column of text its categories.
    """

    def __init__(self, columns: Mapping[str, float | list[str]]) -> None:
        if not columns:
            raise ValueError("The table has no columns beside the target.")
        self.columns = dict(columns)
        self._numbers = [name for name, known in columns.items() if not isinstance(known, list)]
        self._texts = [name for name in columns if name not in self._numbers]
        if self._texts:
            categories: Any = [np.array(columns[name], dtype=object) for name in self._texts]
            sample = np.array([[known[0] for known in categories]], dtype=object)
            self._encoder = OneHotEncoder(categories=categories, handle_unknown="ignore")
            self._encoder.fit(sample)

    @classmethod
    def fit(cls, table: Table) -> Self:
        """Return what the columns of a table hold."""
        columns: dict[str, float | list[str]] = {}
        for name, values in table.items():
            if values.dtype == object:
                columns[name] = sorted({"" if v is None else v for v in values})
            else:
                if not np.isfinite(values[~np.isnan(values)]).all():
                    raise ValueError(f"The column {name!r} has numbers that are not finite.")
                fill = SimpleImputer(strategy="median", keep_empty_features=True)
                columns[name] = float(fill.fit(values[:, None]).statistics_[0])
        return cls(columns)

    @property
    def n_columns(self) -> int:
        """Number of columns of the matrix."""
        return sum(len(known) if isinstance(known, list) else 1 for known in self.columns.values())

    def transform(self, table: Table) -> Any:
        """Return a matrix of shape (n_rows, n_columns): CSR if there is text, else dense.

        Raises
        ------
        ValueError
            If the table lacks a column, or has text for numbers or numbers for text.
        """
        absent = [name for name in self.columns if name not in table]
        if absent:
            raise ValueError(f"DATA has no column {', '.join(map(repr, absent[:5]))}.")
        for name in self._numbers:
            if table[name].dtype == object:
                raise ValueError(f"The column {name!r} of DATA must hold numbers.")
        parts = [np.where(np.isnan(v := table[n]), self.columns[n], v) for n in self._numbers]
        n_rows = len(table[next(iter(self.columns))])
        dense = np.column_stack(parts) if parts else np.empty((n_rows, 0))
        if not self._texts:
            return dense
        cells = [[_category(v) for v in table[name]] for name in self._texts]
        hot = self._encoder.transform(np.array(cells, dtype=object).T)
        return sparse.csr_matrix(sparse.hstack([sparse.csr_matrix(dense), hot]))


def _category(value: Any) -> str:
    """Return the category of a cell; a number in a column of text becomes text again."""
    return "" if value is None else value if isinstance(value, str) else f"{value:g}"


def take_column(table: MutableMapping[str, NDArray[Any]], name: str, option: str) -> NDArray[Any]:
    """Remove a column from a table and return it."""
    if name not in table:
        raise ValueError(f"{option} {name!r} is none of the columns: {_some(list(table))}.")
    return table.pop(name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
