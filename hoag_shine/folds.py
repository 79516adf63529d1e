"""From what a user passes to ``fit`` to the inner problems of the folds: validation and weights."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils.validation import _check_sample_weight, validate_data

from .estimators import Model, as_model
from .groups import UNPENALISED, Groups, coefficient_groups
from .problems.linear import LinearProblems
from .problems.penalties import L2Penalty

Vector = NDArray[np.float64]
Array = NDArray[np.float64]
Splits = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


@dataclass(frozen=True)
class Data:
    """Validated data.

    Attributes
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features), float32 or float64
    y : ndarray of shape (n_samples,) or (n_samples, n_targets), float64
        Targets, or codes of the classes.
    weight : ndarray of shape (n_samples,), float64
    """

    X: Any
    y: Vector
    weight: Vector


def validate(owner: BaseEstimator, model: Model, X: Any, y: Any, sample_weight: Any) -> Data:
    """Check X, y and the weights, and note the features of X on ``owner``."""
    if y is None:
        raise ValueError("y must be given: the labels or targets to learn.")
    X, y = validate_data(
        owner,
        X,
        y,
        accept_sparse="csr",
        dtype=[np.float64, np.float32],
        y_numeric=not model.classifier,
        multi_output=model.multi_output,
        ensure_min_samples=2,
    )
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    return Data(X, model.encode(y), weight)


def _rows(part: Any, n_samples: int) -> NDArray[np.intp]:
    """Return the rows of one part of a fold, which may be indices or a mask."""
    part = np.asarray(part)
    try:
        rows = np.arange(n_samples)[part if part.size else part.astype(np.intp)]
    except IndexError as error:
        raise ValueError(
            "cv must give the rows of a fold as indices or masks that fit the "
            f"{n_samples} samples, got {part!r}: {error}."
        ) from error
    return np.asarray(rows, dtype=np.intp)


def split(model: Model, data: Data, cv: Any, groups: Any, random_state: Any) -> Splits:
    """Return the (train, test) indices of every fold, after checking that each can be used."""
    if random_state is not None and (cv is None or isinstance(cv, numbers.Integral)):
        kind = StratifiedKFold if model.classifier else KFold
        cv = kind(5 if cv is None else int(cv), shuffle=True, random_state=random_state)
    splitter = check_cv(cv, data.y, classifier=model.classifier)
    splits = [
        (_rows(train, len(data.y)), _rows(test, len(data.y)))
        for train, test in splitter.split(data.X, data.y, groups)
    ]
    if not splits:
        raise ValueError("cv has no folds: at least one (train, test) split is needed.")
    for k, (train, test) in enumerate(splits):
        problem = model.check_fold(data.y[train], data.weight[train])
        if not data.weight[test].any():
            problem = "its held-out rows are empty or have no weight"
        if problem is not None:
            raise ValueError(
                f"Fold {k} of cv cannot be used, because {problem}: use fewer folds, stratified "
                "ones, or other weights."
            )
    return splits


def problems_of(model: Model, data: Data, splits: Splits, groups: Groups) -> LinearProblems:
    """Return the inner problems of all folds, which share X."""
    shape = len(data.y), len(splits)
    train_weight, test_weight = np.zeros(shape), np.zeros(shape)
    for k, (train, test) in enumerate(splits):
        # A row drawn more than once, as by a bootstrap, counts as often.
        drawn = np.bincount(train, minlength=len(data.y)) * data.weight
        train_weight[:, k] = model.training_weight(data.y, drawn)
        held_out = np.bincount(test, minlength=len(data.y)) * data.weight
        test_weight[:, k] = held_out / held_out.sum() / model.n_averaged
    return _linear_problems(model, data, groups, train_weight, test_weight)


def whole_problem(model: Model, data: Data, groups: Groups) -> LinearProblems:
    """Return the problem of the final fit: all rows train, none is held out."""
    train_weight = model.training_weight(data.y, data.weight)[:, None]
    return _linear_problems(model, data, groups, train_weight, np.zeros_like(train_weight))


def _linear_problems(
    model: Model, data: Data, groups: Groups, train_weight: Array, test_weight: Array
) -> LinearProblems:
    return LinearProblems(
        data.X,
        model.targets(data.y),
        model.loss,
        penalty_of(model, groups, data.X.shape[1]),
        train_weight,
        test_weight,
        fit_intercept=model.estimator.fit_intercept,
    )


def penalty_of(model: Model, groups: Groups, n_features: int) -> L2Penalty:
    """Return the penalty of groups of coefficients, over all variables in their flat layout."""
    shape = n_features, model.n_outputs
    intercepts = np.full((int(model.estimator.fit_intercept), model.n_outputs), UNPENALISED)
    of_variable = np.concatenate([np.broadcast_to(groups.of_coefficient, shape), intercepts])
    return L2Penalty(of_variable.ravel(), model.penalty_scale)


def fold_problems(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    cv: Any = None,
    penalty: Any = "shared",
    sample_weight: Any = None,
    groups: Any = None,
    random_state: Any = None,
) -> LinearProblems:
    """Return the bilevel problem that :class:`ShineCV` solves, to give to :func:`hoag` oneself.

    Parameters
    ----------
    estimator : LogisticRegression, Ridge or GeneralizedLinear
    X : array-like or sparse matrix of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
    cv, penalty, random_state
        As in :class:`ShineCV`.
    sample_weight, groups : array-like of shape (n_samples,), optional
        As in :meth:`ShineCV.fit`.

    Returns
    -------
    problems : LinearProblems
        Its theta is the logarithm of alpha; alpha is 1/C for LogisticRegression.

    Raises
    ------
    ValueError, TypeError
        For bad input; the message names the argument.
    """
    model = as_model(estimator)
    owner = BaseEstimator()
    data = validate(owner, model, X, y, sample_weight)
    names = getattr(owner, "feature_names_in_", None)
    splits = split(model, data, cv, groups, random_state)
    groups_ = coefficient_groups(penalty, data.X.shape[1], names, model.output_names)
    return problems_of(model, data, splits, groups_)
