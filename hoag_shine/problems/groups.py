"""Which coefficients share a penalty: what ``penalty=`` of :class:`ShineCV` may say."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..linalg.precision import SUM_ROUNDING
from ..linalg.streams import moments
from ..utils.validation import shown

# The label of columns without a penalty, beside None.
UNPENALISED = -1
# The group of variables that a model does not have: they stay at zero.
FIXED = -2


@dataclass(frozen=True)
class Groups:
    """A partition of the coefficients.

    Attributes
    ----------
    names : tuple
        The name of each hyperparameter.
    of_coefficient : ndarray of shape (n_features, n_outputs), dtype intp
        For each coefficient the index of its hyperparameter, or -1 for no penalty. An axis of
        length 1 stands for one along which the index is the same.
    """

    names: tuple[Hashable, ...]
    of_coefficient: NDArray[np.intp]


def coefficient_groups(
    penalty: Any,
    n_features: int,
    feature_names: Any = None,
    output_names: Sequence[Hashable] = (0,),
) -> Groups:
    """Return the groups that ``penalty`` describes.

    Parameters
    ----------
    penalty : {"shared", "feature", "output"}, array-like of shape (n_features,), or dict
        One penalty for all coefficients; one for each column; one for each target or class; the
        label of each column's group, with None or
        -1 for no penalty; or ``{name: columns}``, where columns are an integer, a slice, a mask, a
        list of integers, or one or several feature names, and the name None means no penalty. The
        ``output_indices_`` of a fitted :class:`~sklearn.compose.ColumnTransformer` have that form.
    n_features : int
    feature_names : array-like of shape (n_features,), optional
    output_names : sequence, default=(0,)
        The names of the targets or classes that have coefficients of their own.

    Raises
    ------
    ValueError, TypeError
        Where the groups are not a partition of the columns, or no column is penalised.
    """
    if isinstance(penalty, str):
        if penalty == "shared":
            return Groups(("shared",), np.zeros((1, 1), dtype=np.intp))
        if penalty == "output":
            return Groups(tuple(output_names), np.arange(len(output_names), dtype=np.intp)[None, :])
        if penalty == "feature":
            names = range(n_features) if feature_names is None else map(str, feature_names)
            return Groups(tuple(names), np.arange(n_features, dtype=np.intp)[:, None])
        raise ValueError(
            f"penalty must be 'shared', 'feature', 'output', a label for each column or a dict of "
            f"columns, got {shown(penalty)}."
        )
    if isinstance(penalty, Mapping):
        _check_labels(list(penalty))
        return _from_labels(_labels(penalty, n_features, feature_names))
    labels = np.asarray(penalty, dtype=object)
    if labels.shape != (n_features,):
        raise ValueError(
            f"penalty must have a label for each of the {n_features} columns of X, but its shape "
            f"is {labels.shape}."
        )
    _check_labels(list(labels))
    return _from_labels(list(labels))


def _check_labels(labels: Sequence[Any]) -> None:
    """Raise for labels that cannot name groups: without a hash, or not equal to themselves."""
    for label in labels:
        try:
            good = bool({label} and label == label)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ValueError(
                "penalty must have names, numbers or None as labels of its groups, got "
                f"{shown(label)}."
            )


def _labels(columns: Mapping[Any, Any], n_features: int, feature_names: Any) -> list[Any]:
    """Return the group's name of each column, after checking that every column has one."""
    labels: list[Any] = [None] * n_features
    times = np.zeros(n_features, dtype=int)
    for name, chosen in columns.items():
        for column in _indices(name, chosen, n_features, feature_names):
            labels[column] = name
            times[column] += 1
    if (times != 1).any():
        wrong = np.flatnonzero(times != 1)
        raise ValueError(
            f"penalty must put every column of X into exactly one group; columns {wrong[:5]} are "
            f"in {times[wrong[:5]]} groups. Columns under the name None have no penalty."
        )
    return labels


def _indices(name: Any, chosen: Any, n_features: int, feature_names: Any) -> NDArray[np.intp]:
    positions = np.arange(n_features, dtype=np.intp)
    wanted = [chosen] if isinstance(chosen, str | int) else chosen
    if not isinstance(wanted, slice):
        wanted = np.asarray(wanted)
        if wanted.dtype.kind in "UO":
            wanted = _named(name, wanted, feature_names)
        if wanted.size == 0:
            return positions[:0]
    try:
        return np.atleast_1d(positions[wanted])
    except (IndexError, TypeError) as error:
        raise ValueError(f"penalty[{name!r}] does not fit {n_features} columns: {error}.") from None


def _named(name: Any, wanted: NDArray[Any], feature_names: Any) -> NDArray[np.intp]:
    if feature_names is None:
        raise ValueError(
            f"penalty[{name!r}] has names of columns, but X has none: pass a DataFrame or indices."
        )
    position = {feature: i for i, feature in enumerate(feature_names)}
    unknown = [feature for feature in wanted if feature not in position]
    if unknown:
        raise ValueError(f"penalty[{name!r}] names columns that X does not have: {unknown}.")
    return np.array([position[feature] for feature in wanted], dtype=np.intp)


def _from_labels(labels: list[Any]) -> Groups:
    penalised = [label for label in labels if not _is_unpenalised(label)]
    names = tuple(dict.fromkeys(penalised))
    if not names:
        raise ValueError("penalty leaves every column without a penalty: there is nothing to tune.")
    index = {name: i for i, name in enumerate(names)}
    of_column = [UNPENALISED if _is_unpenalised(label) else index[label] for label in labels]
    return Groups(names, np.array(of_column, dtype=np.intp)[:, None])


def log_units(groups: Groups, X: Any) -> NDArray[np.float64]:
    """Return the logarithm of each penalty's unit, less their mean.

    The unit of a penalty is the mean variance of its columns: in other units of measurement, the
    penalty with the same effect is larger by the square of the unit. Penalties that do not belong
    to different columns have the same unit.

    Parameters
    ----------
    groups : Groups
        Of the columns of X.
    X : ndarray, CSR matrix or PartedMatrix of shape (n_rows, n_columns)
    """
    own, n = groups.of_coefficient[:, 0], len(groups.names)
    if len(own) == 1 or n == 1:
        return np.zeros(n)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, variance = moments(X)
        # A constant column may have a variance that is rounding of its mean.
        used = (own >= 0) & (variance > np.square(SUM_ROUNDING * mean)) & np.isfinite(variance)
    counts = np.bincount(own[used], minlength=n)
    sums = np.bincount(own[used], variance[used], minlength=n)
    # A group without a column of finite positive variance has no unit of its own: it gets the mean.
    known = (counts > 0) & (sums > 0.0) & np.isfinite(sums)
    units = np.zeros(n)
    units[known] = np.log(sums[known] / counts[known])
    return np.where(known, units - units[known].mean(), 0.0) if known.any() else units


def _is_unpenalised(label: Any) -> bool:
    return label is None or (not isinstance(label, str) and bool(label == UNPENALISED))
