"""Fitted linear models in safetensors files, which hold numbers and text and cannot run code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.validation import check_is_fitted

from ._version import __version__

ESTIMATORS: dict[str, type[BaseEstimator]] = {
    cls.__name__: cls for cls in (LogisticRegression, Ridge)
}
FORMAT = "hoag_shine linear model"


def save_model(
    estimator: LogisticRegression | Ridge,
    path: str | os.PathLike[str],
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Save what a fitted linear model needs to predict.

    Parameters
    ----------
    estimator : LogisticRegression or Ridge
        Fitted, for instance the ``best_estimator_`` of a search.
    path : str or path-like
        File to write; one that exists is replaced.
    notes : mapping of str to JSON values, optional
        Anything to be kept with the model, for instance how it was tuned.

    Raises
    ------
    TypeError
        If the estimator is of another class, or its classes or the notes have no form in JSON.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    OSError
        If the file cannot be written.

    Notes
    -----
    The file is in the safetensors format: arrays ``coef`` and ``intercept``, and JSON texts
    ``format``, ``version``, ``estimator``, ``params``, ``classes`` and ``notes``.
    """
    name = type(estimator).__name__
    if ESTIMATORS.get(name) is not type(estimator):
        raise TypeError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}.")
    check_is_fitted(estimator)
    header = {
        "format": FORMAT,
        "version": __version__,
        "estimator": name,
        "params": _json_params(estimator),
        "classes": np.asarray(getattr(estimator, "classes_", [])).tolist(),
        "notes": dict(notes or {}),
    }
    # safetensors takes the memory of an array to be in C order without looking.
    tensors = {
        "coef": np.array(estimator.coef_, order="C"),
        "intercept": np.array(estimator.intercept_, order="C"),
    }
    texts = {key: json.dumps(value) for key, value in header.items()}
    Path(path).write_bytes(save(tensors, metadata=texts))


def load_model(
    path: str | os.PathLike[str],
) -> tuple[LogisticRegression | Ridge, dict[str, Any]]:
    """Load a model that :func:`save_model` has written.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    estimator : LogisticRegression or Ridge
        Ready to predict.
    notes : dict
        What was saved with it.

    Raises
    ------
    ValueError
        If the file is not such a model.
    OSError
        If the file is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
            coef, intercept = file.get_tensor("coef"), file.get_tensor("intercept")
        return _rebuild(header, coef, intercept), header["notes"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is not a model saved by hoag_shine: {error}.") from error


def _json_params(estimator: BaseEstimator) -> dict[str, Any]:
    """Return the parameters that were changed from their defaults, if JSON has a form for them."""
    defaults = type(estimator)().get_params()
    return {
        key: value
        for key, value in estimator.get_params().items()
        if isinstance(value, bool | int | float | str) and value != defaults[key]
    }


def _rebuild(header: Mapping[str, Any], coef: Any, intercept: Any) -> LogisticRegression | Ridge:
    if header.get("format") != FORMAT:
        raise ValueError("it does not say that it is one")
    n_classes = len(header["classes"])
    n_outputs = len(coef) if coef.ndim == 2 else 1
    if (
        coef.ndim not in (1, 2)
        or intercept.size not in (1, n_outputs)
        or n_classes not in (0, max(n_outputs, 2))
    ):
        raise ValueError(
            f"{n_classes} classes, coefficients of shape {coef.shape} and an intercept of shape "
            f"{intercept.shape} do not go together"
        )
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise ValueError("it has coefficients that are not finite")
    estimator = ESTIMATORS[header["estimator"]](**header["params"])
    estimator.coef_ = coef
    estimator.intercept_ = intercept if intercept.ndim else float(intercept)
    estimator.n_features_in_ = coef.shape[-1]
    if n_classes:
        estimator.classes_ = np.asarray(header["classes"])
    return estimator
