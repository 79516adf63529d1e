"""From a model and data to inner problems, and the fit of one on all rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from ..inner import Solution, Status, minimize_lbfgs
from ..inner.factorised import only_solution
from ..linalg.clusters import ClusterMatrix
from ..linalg.streams import PartedMatrix
from ..problems.base import Problem
from ..problems.clusters import ClusterProblems
from ..problems.direct import MAX_ITERATED_FOLDS, MAX_KEPT_NUMBERS
from ..problems.fold_weights import FoldWeights, as_fold_weights
from ..problems.groups import UNPENALISED, Groups
from ..problems.held_out import HeldOut
from ..problems.linear import LinearProblems
from ..problems.penalties import GroupedPenalty
from ..problems.presolve.rows import CompressedRows
from ..utils.warn import warn
from .base import Model, Vector

Array = NDArray[np.float64]


@np.errstate(over="ignore", invalid="ignore")  # checked where it matters
def linear_problems(
    model: Model, X: Any, y: Vector, groups: Groups, weights: FoldWeights, held_out: HeldOut
) -> LinearProblems:
    """Return the inner problems of a model on rows that all folds share.

    Parameters
    ----------
    model : Model
    X : ndarray, CSR matrix or PartedMatrix of shape (n_samples, n_features)
        Validated, float32 or float64.
    y : ndarray of shape (n_samples,) or (n_samples, n_targets), float64
        As encoded by the model.
    groups : Groups
        Of the columns of X.
    weights : FoldWeights
        Of the rows in the training losses.
    held_out : HeldOut
    """
    y = model.targets(y)
    penalty = penalty_of(model, groups, X.shape[1])
    intercept, n_folds = model.fit_intercept, len(weights)
    rows = None
    if n_folds <= MAX_ITERATED_FOLDS and _may_be_compressed(X, model, len(y) * n_folds, held_out):
        arrays = weights[:], held_out.dense(len(y), n_folds)
        rows = CompressedRows.of(X, y, model.loss, *arrays, fit_intercept=intercept)
        weights = as_fold_weights(arrays[0])
    if rows is None:
        kind = ClusterProblems if isinstance(X, ClusterMatrix) else LinearProblems
        return kind(X, y, model.loss, penalty, weights, held_out, fit_intercept=intercept)
    return LinearProblems(
        rows.X,
        rows.y,
        model.loss,
        penalty,
        rows.train_weight,
        rows.test_weight,
        fit_intercept=rows.fit_intercept,
        n_samples=len(y),
    )


def _may_be_compressed(X: Any, model: Model, n_weights: int, held_out: HeldOut) -> bool:
    """Whether fewer rows could be worth what it takes to find them."""
    if isinstance(X, PartedMatrix):
        return model.loss.quadratic and not X.is_sparse
    # A final fit takes too few products for it to pay. With many folds, few rows have proportional
    # weights.
    return bool(held_out.rows.size) and n_weights <= MAX_KEPT_NUMBERS


def whole_problem(model: Model, X: Any, y: Vector, weight: Vector, groups: Groups) -> Problem:
    """Return the problem of the final fit: all rows train, none is held out."""
    own = FoldWeights(1, lambda _: model.training_weight(y, np.ones(len(y)), weight))
    return linear_problems(model, X, y, groups, own, HeldOut.of(np.zeros((len(y), 1))))[0]


def penalty_of(model: Model, groups: Groups, n_features: int) -> GroupedPenalty:
    """Return the penalty of groups of coefficients, over all variables in their flat layout.

    An intercept that an estimator penalises belongs to the group of its output's coefficients, if
    these are of one group, and otherwise to none.
    """
    shape = n_features, model.n_outputs
    coefficients = np.broadcast_to(groups.of_coefficient, shape)
    intercepts = np.full((int(model.fit_intercept), model.n_outputs), UNPENALISED)
    if model.intercept_penalty and len(groups.of_coefficient) == 1:
        intercepts[:] = groups.of_coefficient
    of_variable = model.arrange(np.concatenate([coefficients, intercepts]))
    scale = np.full(of_variable.shape, model.penalty_scale)
    scale[n_features:] *= model.intercept_penalty
    return GroupedPenalty(of_variable.ravel(), scale.ravel(), model.penalty)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def fit(
    problem: Problem,
    theta: Vector,
    start: Vector | None = None,
    *,
    tol: float,
    max_iter: int = 1000,
    initial: Callable[[Vector], Vector] | None = None,
) -> Solution:
    """Solve an inner problem until the gradient's norm is ``tol`` of that at zero.

    Parameters
    ----------
    problem : Problem
    theta : ndarray of shape (n_hyperparameters,)
    start : ndarray of shape (n_params,), optional
        Where to start; zero by default.
    tol : float
    max_iter : int, default=1000
    initial : callable, optional
        As in :func:`~hoag_shine.minimize_lbfgs`.

    Raises
    ------
    ValueError
        If the numbers are too large to compute with.
    """
    direct = getattr(problem, "direct", None)
    if direct is not None:
        try:
            solution = only_solution(direct, theta, start, max_iter)
        except FloatingPointError:
            _check_finite(finite=False)
    else:
        zero = np.zeros(problem.n_params)
        scale = float(np.linalg.norm(problem.value_and_grad(zero, theta)[1]))
        _check_finite(bool(np.isfinite(scale)))
        solution = minimize_lbfgs(
            problem, theta, start, tol=tol * scale, max_iter=max_iter, initial=initial
        )
    finite = np.isfinite(solution.w).all() and np.isfinite(solution.value)
    _check_finite(bool(finite) and solution.status is not Status.NON_FINITE)
    return solution


def _check_finite(finite: bool) -> None:
    if not finite:
        raise ValueError(
            "The fit is not finite, because X, y or sample_weight have numbers too large to "
            "compute with: scale them."
        )


def warn_unless_converged(solution: Solution, what: str, advice: str) -> None:
    """Warn that a fit is not accurate, and say what to do."""
    if not solution.converged:
        text = f"{what} did not converge, because {solution.status.value}: {advice}."
        warn(text, ConvergenceWarning)
