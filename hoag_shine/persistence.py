"""Fitted linear models in safetensors files, which hold numbers and text and cannot run code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.base import is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from ._version import __version__
from .estimators.generalized_linear import GeneralizedLinear
from .estimators.registry import MODELS
from .problems import losses
from .problems.losses import Loss
from .problems.penalties import L2, Penalty
from .utils.files import reading
from .utils.warn import warn

ESTIMATORS: dict[str, Any] = {cls.__name__: cls for cls in MODELS}
OWN_LOSSES: dict[str, type[Loss]] = {name: getattr(losses, name) for name in losses.__all__}
FORMAT, FORMAT_VERSION = "hoag_shine linear model", 3
# The texts of a file of version 1, which had no checksum; later ones have more.
TEXTS = {"format", "version", "estimator", "params", "classes", "loss", "notes"}
CHECKSUM = "sha256"
MORE_TEXTS = {2: {"format_version", CHECKSUM}, 3: {"format_version", CHECKSUM, "feature_names"}}


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
        If the estimator is of another class, such as a pipeline, or its classes or the notes have
        no form in JSON.
    ValueError
        If it is a classifier of several labels for each sample, its penalty is one of the user's,
        its coefficients are not finite, or the notes are nested too deeply.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    OSError
        If the file cannot be written.

    Notes
    -----
    The file is in the safetensors format: arrays ``coef`` and ``intercept``, and JSON texts
    ``format``, ``format_version``, ``version``, ``estimator``, ``params``, ``classes``, ``loss``,
    ``feature_names``, ``notes`` and ``sha256``, a checksum of all the others. Of a loss of your own
    it holds the name alone.

    Pipelines, a ``TransformedTargetRegressor`` and whole searches cannot be saved in it: `skops
    <https://skops.readthedocs.io>`_ saves these, also in files that run no code.
    """
    name = type(estimator).__name__
    if ESTIMATORS.get(name) is not type(estimator):
        _refuse(estimator)
    check_is_fitted(estimator)
    binarizer = getattr(estimator, "_label_binarizer", None)
    if binarizer is not None and binarizer.y_type_.startswith("multilabel"):
        raise ValueError("estimator has several labels for each sample, and only one can be saved.")
    penalty = getattr(estimator, "penalty", None)
    if isinstance(penalty, Penalty) and penalty != L2():
        raise ValueError(
            f"estimator has the penalty {penalty!r}, for which the format has no place: save it by "
            "skops.io.dump."
        )
    coef, intercept = _array(estimator.coef_), _array(estimator.intercept_)
    try:
        _check_arrays(coef, intercept)
    except ValueError as error:
        raise ValueError(f"estimator cannot be saved: {error}.") from None
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "estimator": name,
        "params": _json_params(estimator),
        "classes": np.asarray(getattr(estimator, "classes_", [])).tolist(),
        "loss": _json_loss(getattr(estimator, "loss", None)),
        "feature_names": np.asarray(getattr(estimator, "feature_names_in_", [])).tolist(),
        "notes": dict(notes or {}),
    }
    try:
        texts = {key: json.dumps(value) for key, value in header.items()}
    except RecursionError:
        raise ValueError("notes are nested too deeply to be saved.") from None
    texts[CHECKSUM] = json.dumps(_checksum(texts, coef, intercept))
    Path(path).write_bytes(save({"coef": coef, "intercept": intercept}, metadata=texts))


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
        If the file is not such a model, is damaged, was written by a later version of hoag_shine
        that has another format, or is of another loss.
    OSError
        If the file is missing or cannot be read.

    Warns
    -----
    UserWarning
        If the file is of the first version of the format, which had no checksum.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    with reading(path, "a model saved by hoag_shine"):
        texts, coef, intercept = _read(path)
        header = {key: json.loads(text) for key, text in texts.items() if key != CHECKSUM}
        estimator = _rebuild(header, coef, intercept)
        notes: dict[str, Any] = _of_type(dict, "notes", header["notes"])
    if CHECKSUM not in texts:
        warn(
            f"{str(path)!r} was saved by an early hoag_shine without a checksum, so that damage to "
            "it would not be seen: save it again."
        )
    if loss is not None or header["loss"] is not None:
        _set_loss(estimator, _loss(header["loss"], loss))
    return estimator, notes


def _refuse(estimator: Any) -> NoReturn:
    """Raise, and say how the estimator can be saved otherwise."""
    if hasattr(estimator, "best_estimator_"):
        raise TypeError(
            f"estimator is a fitted {type(estimator).__name__}: save its best_estimator_, or all "
            "of it by skops.io.dump."
        )
    if isinstance(estimator, Pipeline | TransformedTargetRegressor):
        raise TypeError(
            f"estimator is a {type(estimator).__name__}, and this format holds a linear model "
            "alone: save it by skops.io.dump, whose files run no code either."
        )
    raise TypeError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}.")


def _read(path: Path) -> tuple[dict[str, str], Any, Any]:
    """Return the texts and arrays of a file, after checking that all is as it was saved."""
    with safe_open(path, framework="numpy") as file:
        texts: dict[str, str] = file.metadata() or {}
        _check_format(texts)
        if sorted(file.keys()) != ["coef", "intercept"]:
            raise ValueError(f"it holds the arrays {sorted(file.keys())}")
        coef, intercept = file.get_tensor("coef"), file.get_tensor("intercept")
    if CHECKSUM in texts:
        saved = texts[CHECKSUM]
        others = {key: text for key, text in texts.items() if key != CHECKSUM}
        if saved != json.dumps(_checksum(others, coef, intercept)):
            raise ValueError("it is damaged, since its SHA-256 is another")
    return texts, coef, intercept


def _check_format(texts: Mapping[str, str]) -> None:
    """Refuse files of another kind or version.

    Only a file with exactly the texts of the first version may lack a checksum, so that damage to a
    later file cannot make it look like one.
    """
    if texts.get("format") != json.dumps(FORMAT):
        raise ValueError("it does not say that it is one")
    if set(texts) == TEXTS:
        return
    version = texts.get("format_version", "none")
    known = {json.dumps(number): more for number, more in MORE_TEXTS.items()}
    if version not in known:
        raise ValueError(
            f"the version of its format is {version[:20]}, and hoag_shine {__version__} reads "
            f"versions 1 to {FORMAT_VERSION}"
        )
    if set(texts) != TEXTS | known[version]:
        raise ValueError(f"its texts are {', '.join(sorted(texts))[:200]}")


def _checksum(texts: Mapping[str, str], coef: Any, intercept: Any) -> str:
    """Return the SHA-256 of all that a file holds, however safetensors lays it out."""
    arrays = [np.asarray(a, a.dtype.newbyteorder("<")) for a in (coef, intercept)]
    digest = hashlib.sha256()
    description = [sorted(texts.items()), [(a.dtype.str, a.shape) for a in arrays]]
    digest.update(json.dumps(description).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _array(values: Any) -> Any:
    # safetensors takes it for granted that the memory of an array is in C order.
    array = np.array(values, order="C")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _json_params(estimator: Any) -> dict[str, Any]:
    """Return the parameters that are not at their defaults, if JSON can hold them."""
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
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The model was saved with a {name} that cannot be made: {str(error).rstrip('.')}."
        ) from error


def _set_loss(estimator: Any, loss: Loss) -> None:
    if not isinstance(estimator, GeneralizedLinear):
        raise ValueError(f"The model is a {type(estimator).__name__}, which takes no loss.")
    estimator.set_params(loss=loss)


def _rebuild(header: Mapping[str, Any], coef: Any, intercept: Any) -> Any:
    cls = ESTIMATORS[_of_type(str, "estimator", header["estimator"])]
    estimator = cls(**_of_type(dict, "params", header["params"]))
    classes = _of_type(list, "classes", header["classes"])
    _check_arrays(coef, intercept)
    _check_classes(classes, estimator, coef)
    estimator.coef_ = coef
    estimator.intercept_ = intercept if intercept.ndim else float(intercept)
    estimator.n_features_in_ = coef.shape[-1]
    names = _of_type(list, "feature names", header.get("feature_names", []))
    if names:
        if len(names) != coef.shape[-1] or any(type(name) is not str for name in names):
            raise ValueError(f"its feature names must be {coef.shape[-1]} texts")
        estimator.feature_names_in_ = np.asarray(names, dtype=object)
    if isinstance(estimator, RidgeClassifier):
        estimator._label_binarizer = LabelBinarizer().fit(classes)
    if classes and not isinstance(getattr(type(estimator), "classes_", None), property):
        estimator.classes_ = np.asarray(classes)
    if hasattr(estimator, "_get_loss"):  # scikit-learn's generalized linear models
        estimator._base_loss = estimator._get_loss()
    return estimator


def _of_type(wanted: type, name: str, value: Any) -> Any:
    if not isinstance(value, wanted):
        raise ValueError(f"its {name} must be a {wanted.__name__}, not {type(value).__name__}")
    return value


def _check_arrays(coef: Any, intercept: Any) -> None:
    """Refuse arrays that no fit can have made."""
    n_outputs = len(coef) if coef.ndim == 2 else 1
    if (
        coef.ndim not in (1, 2)
        or intercept.ndim > 1
        or coef.size == 0
        or intercept.size not in (1, n_outputs)
    ):
        raise ValueError(
            f"coefficients of shape {coef.shape} and an intercept of shape {intercept.shape} do "
            "not go together"
        )
    if coef.dtype.kind != "f" or intercept.dtype.kind != "f":
        raise ValueError(f"its coefficients are {coef.dtype}, and its intercept {intercept.dtype}")
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise ValueError("it has coefficients that are not finite")


def _check_classes(classes: list[Any], estimator: Any, coef: Any) -> None:
    """Refuse classes unless they match the coefficients, ascend, and are all of one type."""
    if not is_classifier(estimator):
        if classes:
            raise ValueError(f"a {type(estimator).__name__} has no classes")
        return
    n_outputs = len(coef) if coef.ndim == 2 else 1
    if len(classes) != (2 if n_outputs == 1 else n_outputs):
        raise ValueError(
            f"{len(classes)} classes and coefficients of shape {coef.shape} do not go together"
        )
    kind = type(classes[0])
    if kind not in (bool, int, float, str) or any(type(c) is not kind for c in classes):
        raise ValueError("its classes must be numbers, or texts, and all of one type")
    # Also false for NaN.
    if not all(a < b for a, b in pairwise(classes)):
        raise ValueError("its classes must be in ascending order, each once")
