"""Fitted linear models in safetensors files, which hold numbers and text and cannot run code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from ._version import __version__
from .estimators.registry import MODELS
from .problems import losses
from .problems.losses import Loss

ESTIMATORS: dict[str, Any] = {cls.__name__: cls for cls in MODELS}
OWN_LOSSES: dict[str, type[Loss]] = {name: getattr(losses, name) for name in losses.__all__}
FORMAT = "hoag_shine linear model"


def save_model(
    estimator: Any, path: str | os.PathLike[str], notes: Mapping[str, Any] | None = None
) -> None:
    """Save what a fitted linear model needs to predict.

    Parameters
    ----------
    estimator : estimator
        One that can be tuned, fitted, for instance the ``best_estimator_`` of a search.
    path : str or path-like
        File to write; one that exists is replaced.
    notes : mapping of str to JSON values, optional
        Anything to be kept with the model, for instance how it was tuned.

    Raises
    ------
    TypeError
        If the estimator is of another class, or its classes or the notes have no form in JSON.
    ValueError
        If it is a classifier of several labels for each sample.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    OSError
        If the file cannot be written.

    Notes
    -----
    The file is in the safetensors format: arrays ``coef`` and ``intercept``, and JSON texts
    ``format``, ``version``, ``estimator``, ``params``, ``classes``, ``loss`` and ``notes``. Of a
    loss of one's own it holds the name alone.
    """
    name = type(estimator).__name__
    if ESTIMATORS.get(name) is not type(estimator):
        raise TypeError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}.")
    check_is_fitted(estimator)
    binarizer = getattr(estimator, "_label_binarizer", None)
    if binarizer is not None and binarizer.y_type_.startswith("multilabel"):
        raise ValueError("estimator has several labels for each sample, and only one can be saved.")
    header = {
        "format": FORMAT,
        "version": __version__,
        "estimator": name,
        "params": _json_params(estimator),
        "classes": np.asarray(getattr(estimator, "classes_", [])).tolist(),
        "loss": _json_loss(getattr(estimator, "loss", None)),
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
    path: str | os.PathLike[str], *, loss: Loss | None = None
) -> tuple[Any, dict[str, Any]]:
    """Load a model that :func:`save_model` has written.

    Parameters
    ----------
    path : str or path-like
    loss : Loss, optional
        The loss of a :class:`~hoag_shine.GeneralizedLinear`, if it is none of hoag_shine's own.
        Nothing is imported because a file names it.

    Returns
    -------
    estimator : estimator
        Ready to predict.
    notes : dict
        What was saved with it.

    Raises
    ------
    ValueError
        If the file is not such a model, or of another loss.
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
        estimator = _rebuild(header, coef, intercept)
        notes = dict(header["notes"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is not a model saved by hoag_shine: {error}.") from error
    if loss is not None or header.get("loss") is not None:
        estimator.set_params(loss=_loss(header.get("loss"), loss))
    return estimator, notes


def _json_params(estimator: Any) -> dict[str, Any]:
    """Return the parameters that were changed from their defaults, if JSON has a form for them."""
    defaults = type(estimator)().get_params()
    return {
        key: value
        for key, value in estimator.get_params(deep=False).items()
        if isinstance(value, bool | int | float | str) and value != defaults[key]
    }


def _json_loss(loss: Any) -> dict[str, Any] | None:
    """Return the class of a loss, and its parameters if it is one of the library's."""
    if not isinstance(loss, Loss):
        return None
    name = type(loss).__name__
    own = OWN_LOSSES.get(name) is type(loss)
    params = {key: getattr(loss, key) for key in signature(type(loss)).parameters} if own else None
    return {"class": name, "params": params}


def _loss(saved: Any, given: Loss | None) -> Loss:
    """Return the loss that a file names: one of the library's, or the one that is given."""
    name = saved.get("class") if isinstance(saved, dict) else None
    params = saved.get("params") if isinstance(saved, dict) else None
    if given is not None:
        if type(given).__name__ != name:
            raise ValueError(f"loss is {given!r}, but the model was saved with {name or 'none'}.")
        return given
    if params is None or name not in OWN_LOSSES:
        raise ValueError(
            f"The model was saved with a loss {name!r}, which is none of hoag_shine's own: pass it "
            "as loss."
        )
    try:
        return OWN_LOSSES[name](**params)
    except TypeError as error:
        raise ValueError(
            f"The model was saved with a {name} that cannot be made: {error}."
        ) from error


def _rebuild(header: Mapping[str, Any], coef: Any, intercept: Any) -> Any:
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
    if isinstance(estimator, RidgeClassifier):
        estimator._label_binarizer = LabelBinarizer().fit(header["classes"])
    if n_classes and not isinstance(getattr(type(estimator), "classes_", None), property):
        estimator.classes_ = np.asarray(header["classes"])
    if hasattr(estimator, "_get_loss"):  # scikit-learn's generalized linear models
        estimator._base_loss = estimator._get_loss()
    return estimator
