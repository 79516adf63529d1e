"""``LinearSVC``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..problems.losses import SquaredHingeLoss
from .base import Vector
from .classes import ClassifierModel, InverseStrength, intercept_penalty


class LinearSVCModel(InverseStrength, ClassifierModel):
    r"""``LinearSVC`` with squared hinge loss and L2 penalty, of more classes one against the rest.

    As in liblinear, the intercept is penalised like a coefficient, by
    :math:`b^2 / (2 \, \mathtt{intercept\_scaling}^2)`.
    """

    loss = SquaredHingeLoss()

    def _check_options(self) -> None:
        options = {"penalty": "l2", "loss": "squared_hinge", "multi_class": "ovr"}
        for name, only in options.items():
            found = getattr(self.estimator, name)
            if found != only:
                raise ValueError(
                    f"estimator has {name}={found!r}, but LinearSVC can be tuned only with "
                    f"{name}={only!r}, its default."
                )
        self.intercept_penalty = intercept_penalty(self.estimator)

    def encode(self, y: NDArray[Any]) -> Vector:
        codes = super().encode(y)
        self.n_averaged = self.n_outputs
        return codes

    def targets(self, y: Vector) -> Vector:
        return self.signs(y)

    def training_weight(self, y: Vector, times: Vector, weight: Vector) -> Vector:
        if self.n_outputs == 1:
            return super().training_weight(y, times, weight)
        # liblinear gives a class its weight only where it stands against the rest.
        drawn = times * weight
        ones = np.ones((len(y), self.n_outputs))
        ones[np.arange(len(y)), y.astype(int)] = self.class_weights(y, drawn)[y.astype(int)]
        return np.asarray(drawn[:, None] * ones)

    def _set_fitted(
        self, fitted: Any, coef: NDArray[Any], intercept: NDArray[Any], n_iter: int
    ) -> None:
        fitted.classes_ = self.classes_
        fitted.coef_ = coef
        fitted.intercept_ = intercept if self.estimator.fit_intercept else 0.0
        fitted.n_iter_ = n_iter
