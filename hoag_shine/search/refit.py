"""The final fit, and any other fit of a search: coefficients become estimators here."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from ..folds import FoldedData, Part, training_weights, whole_problem
from ..groups import Groups
from ..inner.lbfgs import Solution, minimize_lbfgs

Vector = NDArray[np.float64]

# The final fit's gradient norm, relative to that at zero.
REFIT_TOLERANCE = 1e-6


class Refit:
    """Fits to all rows.

    Parameters
    ----------
    data : FoldedData
    whole : Part
        All rows.
    groups : Groups
        Of the columns of ``whole``.
    """

    def __init__(self, data: FoldedData, whole: Part, groups: Groups) -> None:
        self.data = data
        self.whole = whole
        self.problem = whole_problem(data.model, whole, groups)[0]

    def per_sample_shift(self) -> float:
        """Return what keeps the penalty per training weight, added to log alpha."""
        data = self.data
        folds = [w for part in data.parts for w in training_weights(data.model, part).sum(axis=0)]
        total = data.model.training_weight(self.whole.y, self.whole.weight).sum()
        return float(np.log(total / np.mean(folds)))

    def fit(self, theta: Vector, solutions: Sequence[Solution]) -> Solution:
        """Fit, starting from the mean of the folds' solutions if they have as many columns."""
        zero = np.zeros(self.problem.n_params)
        scale = float(np.linalg.norm(self.problem.value_and_grad(zero, theta)[1]))
        alike = all(s.w.size == zero.size for s in solutions)
        w = np.mean([s.w for s in solutions], axis=0) if alike else zero
        return minimize_lbfgs(self.problem, theta, w, tol=REFIT_TOLERANCE * scale)

    def estimator(self, value: Any, solution: Solution, *, by_output: bool) -> Any:
        """Return the whole fitted estimator."""
        model = fitted_model(self.data, self.whole, value, solution, by_output=by_output)
        return self.data.chain.assemble(self.whole.transformers, model)


def fitted_model(
    data: FoldedData, part: Part, value: Any, solution: Solution, *, by_output: bool
) -> Any:
    """Return the linear model with the coefficients of a solution."""
    w, dtype = solution.w, part.X.dtype
    model = data.model.fitted(value, w, solution.n_iter, dtype, by_output=by_output)
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(part.seen, name):
            setattr(model, name, getattr(part.seen, name))
    return model


def warn_unless_converged(solution: Solution) -> None:
    """Say that the final fit is not accurate."""
    if not solution.converged:
        warnings.warn(
            f"The final fit did not converge, because {solution.status.value}: scale the "
            "features or raise the smallest penalty in bounds.",
            ConvergenceWarning,
            stacklevel=4,
        )
