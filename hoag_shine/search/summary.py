"""What a search has found, in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    TweedieRegressor,
)
from sklearn.svm import LinearSVC

from ..estimators.registry import as_model
from ..outer.history import standard_error
from ..outer.steps import Outcome
from ..utils.text import bytes_text
from .pipelines import PipelineParts

LOSS_NAMES: dict[type, str] = {
    LogisticRegression: "log-loss",
    LinearSVC: "squared hinge loss",
    Ridge: "mean squared error",
    RidgeClassifier: "mean squared error",
    HuberRegressor: "Huber loss",
    PoissonRegressor: "deviance",
    GammaRegressor: "deviance",
    TweedieRegressor: "deviance",
}
# Most penalties that have a line each; more are told as a range.
# Why: by judgement; a summary is read at a glance.
MAX_LINES = 6


def loss_name(estimator: Any) -> str:
    """Return what the loss of an estimator, or of the one at the end of a pipeline, is called."""
    cls = type(PipelineParts(estimator).model)
    known = (LOSS_NAMES[base] for base in cls.__mro__ if base in LOSS_NAMES)
    return next(known, f"loss of {cls.__name__}")


def spread(value: Any, form: str = "{:.4g}", between: str = " to ") -> str:
    """Return a number, or the smallest and the largest of several."""
    values = np.atleast_1d(value)
    ends = (form.format(end) for end in (values.min(), values.max()))
    return between.join(dict.fromkeys(ends))


def certified(search: Any) -> tuple[float, float]:
    """Return the ends of the certified interval, in units of the estimator's one penalty."""
    model = as_model(PipelineParts(search.estimator).model)
    ends = [float(model.value(end)[0]) for end in search.certificate_.interval]
    return min(ends), max(ends)


def summary(search: Any) -> str:
    """Return what :meth:`ShineCV.summary` says."""
    rows = summary_rows(search)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def summary_rows(search: Any) -> list[tuple[str, str]]:
    """Return the lines of a summary, each a name and what it says."""
    return [
        ("estimator", type(PipelineParts(search.estimator).model).__name__),
        *_penalties(search),
        _loss(search),
        ("outcome", _outcome(search)),
        ("still to gain", _gain(search)),
        ("cost", _cost(search)),
    ]


def _ends(search: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the records of the start and of the result."""
    return search.history_[0], search.history_[search.best_index_]


def _penalties(search: Any) -> list[tuple[str, str]]:
    ((parameter, last),) = search.best_params_.items()
    first = _ends(search)[0]["params"][parameter]
    names = search.penalty_names_
    if np.ndim(last) == 0 or len(names) > MAX_LINES:
        number = "" if np.ndim(last) == 0 else f" ({len(names):,} penalties)"
        return [(parameter, f"{spread(first)} -> {spread(last)}{number}")]
    lines = zip(names, np.ravel(first), np.ravel(last), strict=True)
    return [(f"{parameter} of {name}", f"{a:.4g} -> {b:.4g}") for name, a, b in lines]


def _loss(search: Any) -> tuple[str, str]:
    first, last = _ends(search)
    text = f"{first['criterion']:.5g} -> {last['criterion']:.5g}"
    if search.n_splits_ > 1:
        error = standard_error(last["fold_criteria"])
        text += f", standard error {error:.3g} ({search.n_splits_} folds)"
    return f"held-out {loss_name(search.estimator)}", text


def _outcome(search: Any) -> str:
    outcome = search.outcome_
    known = outcome is Outcome.CONVERGED
    return "converged" if known else f"{outcome.name.lower().replace('_', ' ')}: {outcome.value}"


def _gain(search: Any) -> str:
    certificate = search.certificate_
    if not np.isfinite(certificate.gain):
        return "not known"
    text = f"at most {certificate.gain:.2g}"
    if certificate.value > 0.0:
        text += f", {100.0 * certificate.gain / certificate.value:.2g} %"
    if np.ndim(next(iter(search.best_params_.values()))) == 0:
        (parameter,) = search.best_params_
        low, high = certified(search)
        text += f", for {parameter.rpartition('__')[2]} from {low:.4g} to {high:.4g}"
    if not np.array_equal(certificate.theta, _ends(search)[1]["theta"]):
        text += ", below the lowest loss"
    return f"{text} ({'certain' if certificate.certain else 'estimated'})"


def _cost(search: Any) -> str:
    history = search.history_
    passes = sum(record["data_passes"] for record in history)
    seconds = sum(record["seconds"] for record in history) + getattr(search, "refit_time_", 0.0)
    spent = np.format_float_positional(seconds, precision=2, fractional=False, trim="-")
    moved = bytes_moved(history)
    return f"{len(history)} iterations, {passes:.4g} passes over the data{moved}, {spent} s"


def bytes_moved(history: Sequence[Mapping[str, Any]]) -> str:
    """Say how much was read that is not in memory, and sent on a cluster: ``, 2.53 GB read``."""
    totals = {verb: sum(record[f"bytes_{verb}"] for record in history) for verb in ("read", "sent")}
    return "".join(f", {bytes_text(n)} {verb}" for verb, n in totals.items() if n)
