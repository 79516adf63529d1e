"""Validation of arrays: scikit-learn's, and what it takes on trust."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from scipy import sparse
from sklearn.utils.validation import validate_data


def validated(
    estimator: Any, X: Any = "no_validation", y: Any = "no_validation", **options: Any
) -> Any:
    """Call scikit-learn's ``validate_data``, without a warning before its error.

    It sums all numbers to see whether they are finite, and the sum of two infinities warns.
    """
    check_indices(X)
    with np.errstate(invalid="ignore"):
        return validate_data(estimator, X, y, **options)


def check_indices(X: Any) -> None:
    """Refuse a compressed sparse matrix that points outside of itself, into foreign memory.

    Raises
    ------
    ValueError
        If X has a column or row that it has not, or its index pointer is none.
    """
    if not sparse.issparse(X) or getattr(X, "format", None) not in ("csr", "csc"):
        return
    X = cast(Any, X)
    size = X.shape[1 if X.format == "csr" else 0]
    indices, indptr = X.indices, X.indptr
    if indptr[0] != 0 or indptr[-1] > indices.size or (np.diff(indptr) < 0).any():
        raise ValueError(
            "X is a sparse matrix with a broken indptr, which must rise from 0 to at most "
            f"{indices.size}, the number of stored entries: build it anew, e.g. from coordinates."
        )
    used = indices[: indptr[-1]]
    if used.size and not (used.min() >= 0 and used.max() < size):
        raise ValueError(
            f"X is a sparse matrix of shape {X.shape} with indices from {used.min()} to "
            f"{used.max()}: they must be from 0 to {size - 1}."
        )
