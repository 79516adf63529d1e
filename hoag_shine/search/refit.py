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
from ..problems.pool import shared_passes
from ..utils.interrupts import Interrupts, Threads
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
    shared : bool
        Whether the folds have the design matrix and the classes of ``whole``, and so its variables.
    n_jobs : int, optional
        Threads that share the passes over X, as joblib counts them.
    """

    def __init__(
        self,
        data: FoldedData,
        whole: DesignGroup,
        tol: float,
        *,
        shared: bool,
        n_jobs: int | None = None,
    ) -> None:
        self.data = data
        self.whole = whole
        self.tol = tol
        self.shared = shared
        self.n_jobs = n_jobs

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
            for design in data.designs
            for weights in [training_weights(design)]
            for k in range(len(weights))
        ]
        whole = self.whole.model.training_weight(
            self.whole.y, np.ones(len(self.whole.y)), self.whole.weight
        ).sum(axis=0)
        return float(np.log(np.mean(whole) / np.mean(folds)))

    def fit(self, theta: Vector, solutions: Sequence[Solution]) -> Solution:
        """Fit, starting from the mean of the folds' solutions if they have as many columns."""
        start = self._mean(solutions)
        with (
            Threads(self.n_jobs, self.problem.most_threads, Interrupts()) as threads,
            shared_passes([self.problem], threads),
        ):
            return fit(
                self.problem,
                theta,
                start,
                tol=result_accuracy(self.tol, self.problem.n_params),
                initial=self._estimate(theta, solutions),
            )

    def _estimate(self, theta: Vector, solutions: Sequence[Solution]) -> InverseHessian | None:
        """Return a fold's estimate of the inverse Hessian, which lacks only the held-out rows."""
        if not (solutions and self.shared):
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
        if not solutions:
            return None
        if self.shared:
            return np.asarray(np.mean([s.w for s in solutions], axis=0))
        whole, designs = self.whole, self.data.design_of_fold
        if any(d.X.shape[1] != whole.X.shape[1] or d.model is not whole.model for d in designs):
            return None
        ws = [d.inner.expand(s.w) for d, s in zip(designs, solutions, strict=False)]
        return whole.inner.restrict(np.mean(ws, axis=0))

    def estimator(self, value: Any, solution: Solution, *, by_output: bool) -> Any:
        """Return the whole fitted estimator."""
        model = fitted_model(self.whole, value, solution, by_output=by_output)
        self.data.model.note_training(model, self.whole.X, self.whole.y)
        made_by = self.whole.transformers
        return model if made_by is None else made_by.assemble(model)


def fitted_model(design: DesignGroup, value: Any, solution: Solution, *, by_output: bool) -> Any:
    """Return the linear model with the coefficients of a solution."""
    w, dtype = design.inner.expand(solution.w), design.X.dtype
    model = design.model.fitted(value, w, solution.n_iter, dtype, by_output=by_output)
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(design.seen, name):
            setattr(model, name, getattr(design.seen, name))
    return model
