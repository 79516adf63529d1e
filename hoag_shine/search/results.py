"""The history of a search in the layout of GridSearchCV, and the choice of one of its rows."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ..outer.hoag import HoagResult
from ..utils.warn import warn
from .scoring import CRITERION, Scores

Array = NDArray[np.float64]


def results_table(result: HoagResult, scores: Scores, *, lowest: bool) -> dict[str, Any]:
    """Return ``cv_results_``: a row for each outer iteration.

    ``lowest`` says that the result has the lowest criterion.
    """
    history = result.history
    params = [record["params"] for record in history]
    (name,) = params[0]
    n_splits = len(history[0]["fold_criteria"])
    times = {
        "fit": np.array([record["seconds"] for record in history]),
        "score": np.array(scores.seconds),
    }
    table: dict[str, Any] = {}
    for kind, seconds in times.items():
        # Folds advance together: each gets its share.
        table |= {f"mean_{kind}_time": seconds / n_splits, f"std_{kind}_time": 0.0 * seconds}
    table |= {f"param_{name}": _param_column([p[name] for p in params]), "params": params}
    test, train = scores.columns(np.array([record["fold_criteria"] for record in history]))
    for metric, values in test.items():
        table |= _score_columns(f"test_{metric}", values)
        table[f"rank_test_{metric}"] = _ranks(values.mean(axis=1))
        if metric in train:
            table |= _score_columns(f"train_{metric}", train[metric])
    # The criterion is ranked as the search sees it: corrected, with the inner error against it.
    pessimistic = np.array([record["criterion"] + record["error"] for record in history])
    if lowest:
        pessimistic[result.best_index] = -np.inf
    table[f"rank_test_{criterion_name(test)}"] = _ranks(-pessimistic)
    return table


def criterion_name(columns: Mapping[str, Any]) -> str:
    """Return what the criterion is called among the scores."""
    return CRITERION if CRITERION in columns else "score"


def warn_of_missing_scores(refit: Any, table: Mapping[str, Any], lost: Collection[str]) -> None:
    """Warn of scores that are not numbers, and say what is taken if ``refit`` cannot choose."""
    undecided = isinstance(refit, str) and not np.isfinite(table[f"mean_test_{refit}"]).any()
    if not lost and not undecided:
        return
    advice = "look at what the scorer computes"
    if undecided:
        advice += f"; refit={refit!r} has nothing to choose by, so the lowest loss is taken"
    names = ", ".join(sorted({*lost, refit} if undecided else lost))
    warn(f"Some test scores are not numbers ({names}): {advice}.")


def select(refit: Any, table: Mapping[str, Any], result: HoagResult) -> int:
    """Return the row that ``refit`` asks for: by the criterion, by a score or by a function."""
    if callable(refit):
        index = refit(table)
        if isinstance(index, bool) or not isinstance(index, numbers.Integral):
            raise TypeError(f"refit must return the integer index of a row, got {index!r}.")
        row = int(index)
        if not 0 <= row < len(table["params"]):
            raise IndexError(
                f"refit must return an index from 0 to {len(table['params']) - 1}, got {row}."
            )
        return row
    if isinstance(refit, str) and np.isfinite(table[f"mean_test_{refit}"]).any():
        return int(table[f"rank_test_{refit}"].argmin())
    return result.best_index


def _ranks(means: Array) -> NDArray[np.int32]:
    """Return 1 for the largest; what is not known comes last."""
    # The places in sorted order are ranked, and not the means: older releases of SciPy take
    # infinities of both signs for NaN. NaN comes last here.
    _, places = np.unique(-means, return_inverse=True)
    return np.asarray(rankdata(places, method="min"), dtype=np.int32)


def _param_column(values: list[Any]) -> Any:
    """Return a parameter's column as GridSearchCV has it: of objects, unless of numbers."""
    if np.ndim(values[0]) == 0:
        return np.ma.masked_array(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return np.ma.masked_array(column)


def _score_columns(name: str, scores: Array) -> dict[str, Array]:
    """Return per-split, mean and standard deviation columns of scores (n_rows, n_splits)."""
    columns = {f"split{k}_{name}": scores[:, k] for k in range(scores.shape[1])}
    # The squares of scores beyond 1e154 are not finite: divide by the largest first.
    size = np.maximum(np.abs(scores).max(axis=1), np.finfo(np.float64).tiny)
    with np.errstate(invalid="ignore"):
        deviation = (scores / size[:, None]).std(axis=1) * size
    deviation[np.isinf(size)] = np.inf
    return columns | {f"mean_{name}": scores.mean(axis=1), f"std_{name}": deviation}
