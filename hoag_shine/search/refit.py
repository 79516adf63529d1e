"""The final fit, and how the coefficients of any fit become an estimator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..estimators.fit import fit, whole_problem
from ..inner import Solution
from ..inner.inverse_hessian import InverseHessian
from ..outer.tolerances import result_accuracy
from ..problems.base import Problem
from .folds import DesignGroup, FoldedData, training_weights

Vector = NDArray[np.float64]


class Refit:
    """Fits to all rows.

    Parameters
    ----------
    data : FoldedData
    whole : DesignGroup
        All rows, presolved.
    tol : float
        That of the search. The final gradient falls to the share of its norm at zero to which the
        criterion is known.
    """

    def __init__(self, data: FoldedData, whole: DesignGroup, tol: float) -> None:
        self.data = data
        self.whole = whole
        self.tol = tol

    @cached_property
    def problem(self) -> Problem:
        """The problem of the final fit, made when it is first needed, to save memory."""
        X, groups = self.whole.inner.X, self.whole.inner.groups
        return whole_problem(self.whole.model, X, self.whole.y, self.whole.weight, groups)

    def per_sample_shift(self) -> float:
        """Return what to add to log alpha to keep the penalty per training weight the same."""
        data = self.data
        folds = [
            weights[k : k + 1].sum(axis=0)[0]
            for part in data.parts
            for weights in [training_weights(part)]
            for k in range(len(weights))
        ]
        whole = self.whole.model.training_weight(
            self.whole.y, np.ones(len(self.whole.y)), self.whole.weight
        ).sum(axis=0)
        return float(np.log(np.mean(whole) / np.mean(folds)))

    def fit(self, theta: Vector, solutions: Sequence[Solution]) -> Solution:
        """Fit, starting from the mean of the folds' solutions if they have as many columns."""
        start = self._mean(solutions)
        return fit(
            self.problem,
            theta,
            start,
            tol=result_accuracy(self.tol, self.problem.n_params),
            initial=self._estimate(theta, solutions),
        )

    def _estimate(self, theta: Vector, solutions: Sequence[Solution]) -> InverseHessian | None:
        """Return a fold's estimate of the inverse Hessian, which lacks only the held-out rows."""
        if not (solutions and self.data.part_of_fold[0] is self.whole):
            return None
        estimate = solutions[0].inverse_hessian
        if not isinstance(estimate, InverseHessian):
            return None
        estimate = estimate.copy()
        estimate.set_penalty(self.problem.penalty_hessian(theta))
        estimate.use_median_scale()
        return estimate

    def _mean(self, solutions: Sequence[Solution]) -> Vector | None:
        """Return the mean of the folds' solutions, where they have the columns of the whole."""
        parts = self.data.part_of_fold
        if all(part is self.whole for part in parts):
            ws = [s.w for s in solutions]
            return np.mean(ws, axis=0) if ws else None
        ws = [part.inner.expand(s.w) for part, s in zip(parts, solutions, strict=False)]
        alike = [
            part.X.shape[1] == self.whole.X.shape[1] and part.model is self.whole.model
            for part in parts
        ]
        return self.whole.inner.restrict(np.mean(ws, axis=0)) if ws and all(alike) else None

    def estimator(self, value: Any, solution: Solution, *, by_output: bool) -> Any:
        """Return the whole fitted estimator."""
        model = fitted_model(self.whole, value, solution, by_output=by_output)
        self.data.model.note_training(model, self.whole.X, self.whole.y)
        made_by = self.whole.transformers
        return model if made_by is None else made_by.assemble(model)


def fitted_model(part: DesignGroup, value: Any, solution: Solution, *, by_output: bool) -> Any:
    """Return the linear model with the coefficients of a solution."""
    w, dtype = part.inner.expand(solution.w), part.X.dtype
    model = part.model.fitted(value, w, solution.n_iter, dtype, by_output=by_output)
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(part.seen, name):
            setattr(model, name, getattr(part.seen, name))
    return model
