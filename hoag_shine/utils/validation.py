"""Validation of arguments: arrays by scikit-learn, and what scikit-learn does not check."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn import config_context, get_config
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _check_sample_weight, validate_data

from .text import shortened
from .warn import warn

# What scikit-learn takes for an argument that is not there.
NOT_GIVEN = "no_validation"


def validated(estimator: Any, X: Any = NOT_GIVEN, y: Any = NOT_GIVEN, **options: Any) -> Any:
    """Call scikit-learn's ``validate_data``, without a warning before its error.

    It sums all numbers to see whether they are finite, and the sum of opposite infinities would
    warn.
    """
    check_indices(X)
    given = {"X": X, "y": y}
    names = [n for n, v in given.items() if not (isinstance(v, str) and v == NOT_GIVEN)]
    with naming(*names), np.errstate(invalid="ignore"):
        return validate_data(estimator, X, y, **options)


def flat(y: Any) -> Any:
    """Return a y of one column as a vector, and warn once where scikit-learn would each time."""
    if sparse.issparse(y) or not (shape := getattr(y, "shape", None)):
        return y
    if len(shape) != 2 or shape[1] != 1:
        return y
    warn(
        "A column-vector y was passed when a 1d array was expected: pass y.ravel() instead, or the "
        "column of the data frame.",
        DataConversionWarning,
    )
    return _safe_indexing(y, 0, axis=1)


def in_memory(data: Any) -> Any:
    """Return what a Dask collection holds, with its names; anything else as it is."""
    return data.compute() if hasattr(data, "__dask_graph__") else data


def numpy_only() -> AbstractContextManager[Any]:
    """Have scikit-learn convert arrays of other libraries, whatever ``array_api_dispatch`` says."""
    dispatches = get_config().get("array_api_dispatch", False)
    return config_context(array_api_dispatch=False) if dispatches else nullcontext()


@contextmanager
def naming(*names: str) -> Iterator[None]:
    """Make errors within name one of the arguments, if they do not already."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        text = str(error)
        if not isinstance(error, OverflowError) and any(
            re.search(rf"\b{name}\b", text) for name in names
        ):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{' or '.join(names)} cannot be used: {text}") from error


def check_weight(sample_weight: Any, X: Any) -> NDArray[np.float64]:
    """Return the weights of the rows of X, ones for None."""
    with naming("sample_weight"):
        if isinstance(sample_weight, complex | np.complexfloating):  # scikit-learn checks arrays
            raise ValueError("complex numbers are no weights.")
        weight = np.asarray(
            _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        )
        if not np.isfinite(weight).all():  # scikit-learn does not check a single number
            raise ValueError(f"it must be finite, got {shown(sample_weight)}.")
    return weight


def check_indices(X: Any) -> None:
    """Refuse a compressed sparse matrix that points outside of itself, into foreign memory.

    Raises
    ------
    ValueError
        If an index of X is out of range, or its index pointer does not ascend.
    """
    if not sparse.issparse(X) or getattr(X, "format", None) not in ("csr", "csc"):
        return
    X = cast(Any, X)
    size = X.shape[1 if X.format == "csr" else 0]
    indices, indptr = X.indices, X.indptr
    check_pointers(indptr, indices.size)
    used = indices[: indptr[-1]]
    if used.size and not (used.min() >= 0 and used.max() < size):
        raise ValueError(
            f"X is a sparse matrix of shape {X.shape} with indices from {used.min()} to "
            f"{used.max()}: they must be from 0 to {size - 1}."
        )


def check_pointers(indptr: NDArray[Any], n_entries: int) -> None:
    """Refuse an index pointer of a sparse matrix that does not ascend within its entries."""
    if indptr[0] != 0 or indptr[-1] > n_entries or (np.diff(indptr) < 0).any():
        raise ValueError(
            "X is a sparse matrix with a broken indptr, which must rise from 0 to at most "
            f"{n_entries}, the number of stored entries: build it again, e.g. from coordinates."
        )


def shown(value: Any) -> str:
    """Return a value as messages show it: shortened, and even if its ``repr`` fails."""
    try:
        text = repr(value)
    except ValueError:  # as that of integers of more than 4,300 digits
        text = f"a {type(value).__name__}"
    return shortened(text)


def check_number(name: str, value: Any, expected: str = "a positive number") -> float:
    """Return a real number as a float.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is one that a float cannot hold.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {expected}, got {shown(value)}.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"{name} must be {expected} that a float can hold, positive and finite; "
            f"got {shown(value)}."
        ) from None


def check_positive(name: str, value: Any, *, finite: bool = True, zero: bool = False) -> float:
    """Return the value as a float if it is a positive number, and finite unless that is allowed."""
    number = check_number(name, value)
    if not (number > 0.0 or (zero and number == 0.0)) or (finite and number == np.inf):
        wanted = ("at least 0" if zero else "positive") + (" and finite" if finite else "")
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}.")
    return number


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> None:
    """Raise unless the value is an integer of at least ``least``, and at most ``most``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a positive integer, got {shown(value)}.")
    if int(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(value)}.")
    if most is not None and int(value) > most:
        raise ValueError(f"{name} must be at most {most}, got {shown(value)}.")


def check_flag(name: str, value: Any) -> None:
    """Raise unless the value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}.")


def check_option(name: str, value: Any, options: Sequence[str]) -> None:
    """Raise unless the value is one of some words."""
    if not (isinstance(value, str) and value in options):
        wanted = " or ".join(map(repr, options))
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}.")


def check_function(name: str, value: Any) -> None:
    """Raise unless the value is None or can be called."""
    if not (value is None or callable(value)):
        raise TypeError(f"{name} must be a function or None, got {shown(value)}.")


def check_n_jobs(value: Any) -> None:
    """Raise unless the value is a number of threads as joblib counts them."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"n_jobs must be None or an integer, got {shown(value)}.")
    if value == 0:
        raise ValueError("n_jobs must not be 0: give a number of threads, or -1 for all cores.")


def check_seed(name: str, value: Any) -> np.random.RandomState:
    """Return the random numbers of a seed, as scikit-learn understands it."""
    try:
        return cast(np.random.RandomState, check_random_state(value))
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            f"{name} must be None, an integer from 0 to {2**32 - 1} or a RandomState, "
            f"got {shown(value)}."
        ) from None


def check_vector(name: str, value: Any, size: int | None = None) -> NDArray[np.float64]:
    """Return a copy of finite numbers as a vector of that size, a single one as a vector of one."""
    wanted = "finite numbers in a row" if size is None else f"{size} finite numbers in a row"
    try:
        vector = np.array(value, dtype=np.float64, ndmin=1)
    except (TypeError, ValueError, OverflowError):
        vector = np.array([np.nan])
    if vector.ndim != 1 or size not in (None, vector.size) or not np.isfinite(vector).all():
        raise ValueError(f"{name} must hold {wanted}, got {shown(value)}.")
    return vector
