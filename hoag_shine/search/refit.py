"""The final fit, and any other fit of a search: coefficients become estimators here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..estimators.fit import fit, whole_problem
from ..folds import FoldedData, Part, training_weights
from ..groups import Groups
from ..inner.lbfgs import Solution
from ..tolerances import FLOOR

Vector = NDArray[np.float64]

# The final gradient's norm, relative to that at zero, where digits are cheap: up to so many
# variables. With more, they would cost as much as the whole search.
TIGHT = 1e-6
FEW = 10_000


class Refit:
    """Fits to all rows.

    Parameters
    ----------
    data : FoldedData
    whole : Part
        All rows.
    groups : Groups
        Of the columns of ``whole``.
    tol : float
        That of the search; its square bounds the final gradient's norm, relative to that at zero.
    """

    def __init__(self, data: FoldedData, whole: Part, groups: Groups, tol: float) -> None:
        self.data = data
        self.whole = whole
        self.problem = whole_problem(data.model, whole.X, whole.y, whole.weight, groups)
        self.tol = tol

    def per_sample_shift(self) -> float:
        """Return what keeps the penalty per training weight, added to log alpha."""
        data = self.data
        folds = [w for part in data.parts for w in training_weights(data.model, part).sum(axis=0)]
        whole = data.model.training_weight(
            self.whole.y, np.ones(len(self.whole.y)), self.whole.weight
        ).sum(axis=0)
        return float(np.log(np.mean(whole) / np.mean(folds)))

    def fit(self, theta: Vector, solutions: Sequence[Solution]) -> Solution:
        """Fit, starting from the mean of the folds' solutions if they have as many columns."""
        ws = [s.w for s in solutions if s.w.size == self.problem.n_params]
        start = np.mean(ws, axis=0) if ws and len(ws) == len(solutions) else None
        tol = min(TIGHT, self.tol**2) if self.problem.n_params <= FEW else self.tol**2
        return fit(self.problem, theta, start, tol=max(tol, FLOOR))

    def estimator(self, value: Any, solution: Solution, *, by_output: bool) -> Any:
        """Return the whole fitted estimator."""
        model = fitted_model(self.data, self.whole, value, solution, by_output=by_output)
        self.data.model.note_training(model, self.whole.X, self.whole.y)
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
